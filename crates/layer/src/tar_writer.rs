//! Writing tar entries: POSIX ustar headers by hand, PAX records (POSIX.1-2001 `pax`) where ustar is too small.
//!
//! The bytes depend on the entry alone: no times but the entry's, no user or group names, records sorted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use crate::LayerError;
use crate::entry::{Entry, EntryKind, PAX_XATTR};

pub(crate) const BLOCK: usize = 512;
/// Length of the name and the link name fields.
const NAME: usize = 100;
/// Length of the prefix field.
const PREFIX: usize = 155;
/// Largest number of a 7-digit and of an 11-digit octal field.
const MAX_7: u64 = 0o777_7777;
const MAX_11: u64 = 0o777_7777_7777;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes entries to a stream; the caller writes each file's content after its entry.
#[derive(Debug)]
pub(crate) struct TarWriter<W> {
    out: W,
    /// Entries written so far.
    pub(crate) entries: u64,
    /// Bytes written so far.
    pub(crate) bytes: u64,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, bytes: 0 }
    }

    /// Writes an entry's headers. Exactly `entry.size` bytes of [`content`](Self::content) and one
    /// [`pad`](Self::pad) must follow.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let mut records = xattr_records(entry)?;
        let header = main_header(entry, &mut records);
        if !records.is_empty() {
            let body = encode_records(&records);
            self.put(pax_header(entry, body.len() as u64).as_bytes())?;
            self.put(&body)?;
            self.pad(body.len() as u64)?;
        }
        self.put(header.as_bytes())?;
        self.entries += 1;
        Ok(())
    }

    /// Writes a piece of the current file's content.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.put(bytes)
    }

    /// Fills the block up that content of `size` bytes ends in.
    pub(crate) fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let rest = (size % BLOCK as u64) as usize;
        if rest == 0 { Ok(()) } else { self.put(&ZEROS[rest..]) }
    }

    /// Writes the end mark, two empty blocks, and gives the stream back.
    pub(crate) fn finish(mut self) -> Result<(W, u64, u64), LayerError> {
        self.put(&ZEROS)?;
        self.put(&ZEROS)?;
        self.out.flush().map_err(LayerError::Write)?;
        Ok((self.out, self.entries, self.bytes))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(LayerError::Write)
    }
}

/// The entry's ustar header; what does not fit becomes a record.
fn main_header(entry: &Entry, records: &mut Records) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let path = match entry.kind {
        EntryKind::Directory if !entry.path.ends_with(b"/") => Cow::Owned([&entry.path[..], b"/"].concat()),
        _ => Cow::Borrowed(&entry.path),
    };
    set_path(&mut header, &path, records);
    header.set_entry_type(entry_type(&entry.kind));
    if let EntryKind::HardLink(target) | EntryKind::Symlink(target) = &entry.kind {
        set_link(&mut header, target, records);
    }
    if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } = entry.kind {
        set_device(&mut header, major, minor);
    }
    header.set_mode(entry.mode);
    header.set_uid(number(u64::from(entry.uid), MAX_7, "uid", records));
    header.set_gid(number(u64::from(entry.gid), MAX_7, "gid", records));
    header.set_size(number(entry.size, MAX_11, "size", records));
    header.set_mtime(mtime(entry.mtime.seconds, records));
    header.set_cksum();
    header
}

/// The header before a block of records. Its name is only for readers that know no PAX.
fn pax_header(entry: &Entry, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let base = entry.path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or_default();
    let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    if let Some(ustar) = header.as_ustar_mut() {
        put_field(&mut ustar.name, &name);
    }
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn entry_type(kind: &EntryKind) -> tar::EntryType {
    match kind {
        EntryKind::File => tar::EntryType::Regular,
        EntryKind::HardLink(_) => tar::EntryType::Link,
        EntryKind::Symlink(_) => tar::EntryType::Symlink,
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::Fifo => tar::EntryType::Fifo,
        EntryKind::CharDevice { .. } => tar::EntryType::Char,
        EntryKind::BlockDevice { .. } => tar::EntryType::Block,
    }
}

fn set_path(header: &mut tar::Header, path: &[u8], records: &mut Records) {
    let (prefix, name) = split_path(path).unwrap_or_else(|| {
        records.insert(b"path".to_vec(), path.to_vec());
        (&[], &path[..NAME])
    });
    if let Some(ustar) = header.as_ustar_mut() {
        put_field(&mut ustar.prefix, prefix);
        put_field(&mut ustar.name, name);
    }
}

fn set_link(header: &mut tar::Header, target: &[u8], records: &mut Records) {
    if target.len() > NAME {
        records.insert(b"linkpath".to_vec(), target.to_vec());
    }
    if let Some(ustar) = header.as_ustar_mut() {
        put_field(&mut ustar.linkname, &target[..target.len().min(NAME)]);
    }
}

fn set_device(header: &mut tar::Header, major: u32, minor: u32) {
    // Linux numbers (12 and 20 bits) fit 7 octal digits.
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
    }
}

/// Where a path that is too long for the name field may be cut, as ustar joins the halves with a slash.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME {
        return Some((&[], path));
    }
    // The name must not be empty, so a directory's last slash is no place to cut.
    let first = path.len() - NAME - 1;
    let cut = path[..path.len() - 1].iter().skip(first).position(|byte| *byte == b'/')? + first;
    (cut > 0 && cut <= PREFIX).then(|| (&path[..cut], &path[cut + 1..]))
}

fn put_field(field: &mut [u8], value: &[u8]) {
    field[..value.len()].copy_from_slice(value);
}

fn number(value: u64, max: u64, key: &str, records: &mut Records) -> u64 {
    if value <= max {
        return value;
    }
    records.insert(key.as_bytes().to_vec(), value.to_string().into_bytes());
    0
}

fn mtime(seconds: i64, records: &mut Records) -> u64 {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds <= MAX_11 => seconds,
        _ => {
            records.insert(b"mtime".to_vec(), seconds.to_string().into_bytes());
            0
        }
    }
}

fn xattr_records(entry: &Entry) -> Result<Records, LayerError> {
    let mut records = Records::new();
    for (name, value) in &entry.xattrs {
        let name = name.as_bytes();
        if name.contains(&b'=') {
            let why = format!("a record's name cannot hold `{}`", String::from_utf8_lossy(name));
            return Err(LayerError::NotRepresentable { path: entry.name(), why });
        }
        records.insert([PAX_XATTR, name].concat(), value.clone());
    }
    Ok(records)
}

/// `LENGTH KEY=VALUE\n` each, where the length counts its own digits.
fn encode_records(records: &Records) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + digits(rest);
        if digits(length) != digits(rest) {
            length = rest + digits(length);
        }
        out.extend_from_slice(length.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_themselves() {
        for size in [1, 85, 86, 87, 88, 89, 90, 980, 981, 982, 985, 990, 9970, 9985] {
            let records = Records::from([(b"path".to_vec(), vec![b'x'; size])]);
            let body = encode_records(&records);
            let (length, _) = std::str::from_utf8(&body).unwrap().split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), body.len());
        }
    }

    #[test]
    fn long_paths_are_cut_at_a_slash_or_not_at_all() {
        let deep = [vec![b'd'; 120], b"/".to_vec(), vec![b'f'; 90]].concat();
        assert_eq!(split_path(&deep), Some((&deep[..120], &deep[121..])));
        let flat = vec![b'n'; 101];
        assert_eq!(split_path(&flat), None);
        let directory = [vec![b'n'; 101], b"/".to_vec()].concat();
        assert_eq!(split_path(&directory), None);
        let too_deep = [vec![b'd'; 160], b"/".to_vec(), vec![b'f'; 90]].concat();
        assert_eq!(split_path(&too_deep), None);
        let exact = [vec![b'd'; 155], b"/".to_vec(), vec![b'f'; 100]].concat();
        assert_eq!(split_path(&exact), Some((&exact[..155], &exact[156..])));
    }
}
