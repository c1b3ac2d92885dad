//! Reading tar entries from a stream nobody vouches for: ustar, PAX, GNU long names and all four sparse forms.
//!
//! Headers are taken apart by the `tar` crate; the order of things is ours, so that no header can make us
//! allocate more than [`MAX_EXTENSION`], and so that a PAX size always beats the header's
//! (RUSTSEC-2026-0068: two readers that disagree on a size see two different archives).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rbuild_fs::Timestamp;

use crate::LayerError;
use crate::entry::{Entry, EntryKind, xattrs_of};
use crate::tar_writer::BLOCK;

/// Largest extension header (names, PAX records, maps of sparse files), in bytes; Go's limit.
const MAX_EXTENSION: u64 = 1 << 20;
const BUFFER: usize = 256 << 10;

/// A piece of a sparse file that has data.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    length: u64,
}

/// PAX records in their order; sparse form 0.0 repeats keys.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What extension headers said of the entry that follows them.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Records,
}

impl Extensions {
    /// The last non-empty value of a key; an empty one takes a record back (POSIX pax).
    fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.records.iter().rev().find(|(name, _)| name == key.as_bytes())?;
        Some(&found.1[..]).filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str) -> Result<Option<u64>, LayerError> {
        self.get(key).map(|text| decimal(text, key)).transpose()
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

/// A tar archive as a stream of entries.
pub(crate) struct TarReader<R> {
    reader: R,
    /// Content of the current entry that is still in the stream.
    remaining: u64,
    /// Filling behind that content.
    padding: u64,
    /// Where the content of the current, sparse file goes.
    segments: Option<Vec<Segment>>,
    /// Content on its way to a file.
    buffer: Vec<u8>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, remaining: 0, padding: 0, segments: None, buffer: Vec::new() }
    }

    /// The next entry; its content not yet read is skipped. `None` at the end mark or the end of the stream.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return if extended {
                    Err(LayerError::damaged("it ends after an extension header"))
                } else {
                    Ok(None)
                };
            };
            match header.entry_type().as_byte() {
                b'x' => extensions.records = parse_records(&self.extension(&header)?)?,
                b'L' => extensions.long_path = Some(until_nul(self.extension(&header)?)),
                b'K' => extensions.long_link = Some(until_nul(self.extension(&header)?)),
                // A global header tells of the archive, a volume header of the tape; Docker ignores both.
                b'g' | b'V' => {
                    self.extension(&header)?;
                    continue;
                }
                _ => return self.entry(&header, &extensions).map(Some),
            }
            extended = true;
        }
    }

    /// Writes the current file's content into an empty file, leaving holes where the archive has them.
    pub(crate) fn write_content(&mut self, entry: &Entry, file: &File) -> Result<(), ContentError> {
        let whole = [Segment { offset: 0, length: self.remaining }];
        let sparse = self.segments.take();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        for segment in sparse.as_deref().unwrap_or(&whole) {
            let end = segment.offset + segment.length;
            let mut at = segment.offset;
            while at < end {
                let want = buffer.len().min(usize::try_from(end - at).unwrap_or(BUFFER));
                self.read_exact(&mut buffer[..want]).map_err(ContentError::Archive)?;
                self.remaining -= want as u64;
                file.write_all_at(&buffer[..want], at).map_err(ContentError::File)?;
                at += want as u64;
            }
        }
        if sparse.is_some() {
            file.set_len(entry.size).map_err(ContentError::File)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Reads on to the very end, behind the end mark too, so that the whole stream has been digested.
    pub(crate) fn drain(&mut self) -> Result<(), LayerError> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop).map_err(LayerError::Read)
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        let amount = self.remaining + self.padding;
        (self.remaining, self.padding, self.segments) = (0, 0, None);
        let skipped =
            io::copy(&mut self.reader.by_ref().take(amount), &mut io::sink()).map_err(LayerError::Read)?;
        if skipped == amount { Ok(()) } else { Err(cut()) }
    }

    /// The next header block; `None` at an empty block or the end of the stream.
    fn header(&mut self) -> Result<Option<tar::Header>, LayerError> {
        let mut header = tar::Header::new_old();
        let bytes = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        check_sum(&header)?;
        Ok(Some(header))
    }

    fn extension(&mut self, header: &tar::Header) -> Result<Vec<u8>, LayerError> {
        let size = header.entry_size().map_err(|error| LayerError::damaged(error.to_string()))?;
        if size > MAX_EXTENSION {
            return Err(LayerError::damaged(format!("an extension header of {size} bytes")));
        }
        let mut body = vec![0; size as usize];
        self.read_exact(&mut body)?;
        self.padding = padding_of(size);
        Ok(body)
    }

    fn entry(&mut self, header: &tar::Header, extensions: &Extensions) -> Result<Entry, LayerError> {
        let damaged = |error: io::Error| LayerError::damaged(error.to_string());
        let path = extensions.get("path").map(<[u8]>::to_vec).or_else(|| extensions.long_path.clone());
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions.get("linkpath").map(<[u8]>::to_vec).or_else(|| extensions.long_link.clone());
        let link =
            link.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default();
        let kind = kind_of(header, &path, link)?;
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode().map_err(damaged)? & 0o7777,
            uid: id(extensions.number("uid")?, header.uid().map_err(damaged)?)?,
            gid: id(extensions.number("gid")?, header.gid().map_err(damaged)?)?,
            size: 0,
            mtime: mtime_of(header, extensions)?,
            xattrs: xattrs_of(extensions.records.iter().map(|(key, value)| (key, value))),
        };
        // Only files have content: Go, and so every registry's user, ignores a size elsewhere.
        if entry.kind == EntryKind::File {
            let in_header = header.entry_size().map_err(damaged)?;
            self.remaining = extensions.number("size")?.unwrap_or(in_header);
            self.padding = padding_of(self.remaining);
            entry.size = self.remaining;
            self.sparse(header, extensions, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads the map of a sparse file in any of the forms that GNU tar has written
    /// (GNU tar manual, "Storing Sparse Files").
    fn sparse(
        &mut self,
        header: &tar::Header,
        extensions: &Extensions,
        entry: &mut Entry,
    ) -> Result<(), LayerError> {
        let (segments, real_size) = if header.entry_type().is_gnu_sparse() {
            self.old_sparse(header)?
        } else if extensions.get("GNU.sparse.major") == Some(b"1") {
            (self.sparse_1_0()?, extensions.number("GNU.sparse.realsize")?.unwrap_or(0))
        } else if extensions.has("GNU.sparse.map") || extensions.has("GNU.sparse.numblocks") {
            (sparse_0(extensions)?, extensions.number("GNU.sparse.size")?.unwrap_or(0))
        } else {
            return Ok(());
        };
        if let Some(name) = extensions.get("GNU.sparse.name") {
            entry.path = name.to_vec();
        }
        check_segments(&segments, real_size, self.remaining)?;
        entry.size = real_size;
        self.segments = Some(segments);
        Ok(())
    }

    /// The old GNU form: four pieces in the header, more in blocks that follow it.
    fn old_sparse(&mut self, header: &tar::Header) -> Result<(Vec<Segment>, u64), LayerError> {
        let damaged = |error: io::Error| LayerError::damaged(error.to_string());
        let gnu = header.as_gnu().ok_or_else(|| LayerError::damaged("a sparse file without a GNU header"))?;
        let mut segments = Vec::new();
        let mut add = |pieces: &[tar::GnuSparseHeader]| -> Result<(), LayerError> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let (offset, length) = (piece.offset().map_err(damaged)?, piece.length().map_err(damaged)?);
                segments.push(Segment { offset, length });
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut extended = gnu.is_extended();
        let mut blocks = 0;
        while extended {
            blocks += 1;
            if blocks * BLOCK as u64 > MAX_EXTENSION {
                return Err(LayerError::damaged("a sparse file with too many pieces"));
            }
            let mut more = tar::GnuExtSparseHeader::new();
            self.read_exact(more.as_mut_bytes())?;
            add(&more.sparse)?;
            extended = more.is_extended();
        }
        Ok((segments, gnu.real_size().map_err(damaged)?))
    }

    /// PAX form 1.0: the map is text at the head of the content, filled up to a block.
    fn sparse_1_0(&mut self) -> Result<Vec<Segment>, LayerError> {
        let mut text = TextBlocks { reader: self, block: [0; BLOCK], at: BLOCK, read: 0 };
        let count = text.number()?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let (offset, length) = (text.number()?, text.number()?);
            segments.push(Segment { offset, length });
        }
        Ok(segments)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        self.reader.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut(),
            _ => LayerError::Read(error),
        })
    }
}

/// Which side of an unpacked file failed.
#[derive(Debug)]
pub(crate) enum ContentError {
    Archive(LayerError),
    File(io::Error),
}

/// Numbers, one a line, in whole blocks of the content.
struct TextBlocks<'a, R> {
    reader: &'a mut TarReader<R>,
    block: [u8; BLOCK],
    at: usize,
    read: u64,
}

impl<R: Read> TextBlocks<'_, R> {
    fn number(&mut self) -> Result<u64, LayerError> {
        let mut text = Vec::new();
        loop {
            if self.at == BLOCK {
                self.read += BLOCK as u64;
                if self.read > MAX_EXTENSION || self.reader.remaining < BLOCK as u64 {
                    return Err(LayerError::damaged("a sparse file's map that does not end"));
                }
                self.reader.read_exact(&mut self.block)?;
                self.reader.remaining -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&text, "GNU.sparse map"),
                _ => text.push(byte),
            }
        }
    }
}

fn cut() -> LayerError {
    LayerError::damaged("it ends in the middle of an entry")
}

fn padding_of(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn check_sum(header: &tar::Header) -> Result<(), LayerError> {
    let expected = header.cksum().map_err(|error| LayerError::damaged(error.to_string()))?;
    let (mut unsigned, mut signed) = (0_u32, 0_i32);
    for (at, byte) in header.as_bytes().iter().enumerate() {
        // The field itself counts as blanks.
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += u32::from(byte);
        signed += i32::from(byte as i8);
    }
    // Some old tars summed signed characters.
    if expected == unsigned || i64::from(expected) == i64::from(signed) {
        Ok(())
    } else {
        Err(LayerError::damaged("a header's checksum is wrong"))
    }
}

fn kind_of(header: &tar::Header, path: &[u8], link: Vec<u8>) -> Result<EntryKind, LayerError> {
    let device = |value: io::Result<Option<u32>>| {
        value.map(Option::unwrap_or_default).map_err(|error| LayerError::damaged(error.to_string()))
    };
    Ok(match header.entry_type().as_byte() {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink(link),
        b'2' => EntryKind::Symlink(link),
        b'3' => EntryKind::CharDevice {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        },
        b'4' => EntryKind::BlockDevice {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        },
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            let name = String::from_utf8_lossy(path);
            return Err(LayerError::damaged(format!("`{name}` is of unknown type {:?}", other as char)));
        }
    })
}

fn id(record: Option<u64>, header: u64) -> Result<u32, LayerError> {
    let id = record.unwrap_or(header);
    // The highest id means "no change" to chown(2).
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| LayerError::damaged(format!("an owner {id} that no file can have")))
}

fn mtime_of(header: &tar::Header, extensions: &Extensions) -> Result<Timestamp, LayerError> {
    let Some(text) = extensions.get("mtime") else {
        let seconds = header.mtime().map_err(|error| LayerError::damaged(error.to_string()))?;
        // Negative base-256 times come as huge numbers.
        return Ok(Timestamp { seconds: seconds as i64, nanos: 0 });
    };
    let wrong = || LayerError::damaged(format!("a time `{}`", String::from_utf8_lossy(text)));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let nanos: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| wrong())?;
    // -0.25 is a quarter before the epoch: the nanoseconds of a time count forwards.
    if whole.starts_with('-') && nanos > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(wrong)?;
        return Ok(Timestamp { seconds, nanos: 1_000_000_000 - nanos });
    }
    Ok(Timestamp { seconds, nanos })
}

/// Takes `LENGTH KEY=VALUE\n` records apart.
fn parse_records(mut body: &[u8]) -> Result<Records, LayerError> {
    let wrong = || LayerError::damaged("a PAX record is malformed");
    let mut records = Records::new();
    while !body.is_empty() {
        // Some writers fill the body up with zeros.
        if body.iter().all(|byte| *byte == 0) {
            break;
        }
        let blank = body.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = usize::try_from(decimal(&body[..blank], "record length")?).map_err(|_| wrong())?;
        let record = body.get(blank + 1..length).ok_or_else(wrong)?;
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let binary = key.starts_with(crate::entry::PAX_XATTR);
        if key.is_empty() || (!binary && value.contains(&0)) {
            return Err(wrong());
        }
        records.push((key.to_vec(), value.to_vec()));
        body = &body[length..];
    }
    Ok(records)
}

fn decimal(text: &[u8], what: &str) -> Result<u64, LayerError> {
    let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(text).ok().filter(|_| all_digits).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        LayerError::damaged(format!("`{}` as a number ({what})", String::from_utf8_lossy(text)))
    })
}

/// PAX forms 0.0 (repeated records) and 0.1 (one record with commas).
fn sparse_0(extensions: &Extensions) -> Result<Vec<Segment>, LayerError> {
    let mut numbers = Vec::new();
    if let Some(map) = extensions.get("GNU.sparse.map") {
        for part in map.split(|byte| *byte == b',') {
            numbers.push(decimal(part, "GNU.sparse.map")?);
        }
    } else {
        let keys: [&[u8]; 2] = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"];
        for (key, value) in &extensions.records {
            if keys[numbers.len() % 2] == key.as_slice() {
                numbers.push(decimal(value, "GNU.sparse.offset")?);
            }
        }
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

fn check_segments(segments: &[Segment], real_size: u64, stored: u64) -> Result<(), LayerError> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        let fits = next.is_some_and(|next| segment.offset >= end && next <= real_size);
        total = total.saturating_add(segment.length);
        if !fits || total > stored {
            return Err(LayerError::damaged("a sparse file's map contradicts its size"));
        }
        end = next.unwrap_or(end);
    }
    Ok(())
}
