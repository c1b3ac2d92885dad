//! Compression in parallel blocks of fixed size: the same bytes whatever the number of cores.
//!
//! A gzip stream is one member. Its blocks are deflated side by side, each with the 32 KiB before it as
//! dictionary and a sync flush after it, so that the pieces join to one deflate stream (the way `pigz` took).
//! A zstd stream is a row of independent frames, which RFC 8878 allows every decoder to expect.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use flate2::{Compress, Crc, FlushCompress, Status};
use rbuild_image::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

use crate::LayerError;
use crate::hashing::digest_of;

/// How a layer's bytes are stored or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// gzip, level 0 to 9.
    Gzip {
        /// zlib's scale; zlib-rs gives other sizes than zlib at the same level.
        level: u32,
    },
    /// zstd, level 1 to 22.
    Zstd {
        /// zstd's own scale.
        level: i32,
    },
    /// Bytes as they are.
    None,
}

impl Compression {
    /// The fastest gzip level whose output stays within 3 % of `gzip -6` over sources, noise and binaries together
    /// (measured with zlib-rs 0.6: level 3 +2.7 %, 4 +1.8 %, 5 +1.0 %; binaries alone +5.7, +4.1, +2.7 %, where
    /// level 5 takes twice as long as 4).
    pub const DEFAULT_GZIP: Self = Self::Gzip { level: 4 };
    /// zstd's own default.
    pub const DEFAULT_ZSTD: Self = Self::Zstd { level: 3 };

    /// The name under which compressed forms of a diff ID are remembered: another encoder, level or block
    /// size gives other bytes, and so another name.
    pub fn id(&self) -> String {
        match self {
            Self::Gzip { level } => format!("gzip-{level}-zlibrs0.6-{}k", GZIP_BLOCK >> 10),
            Self::Zstd { level } => format!("zstd-{level}-1.5-{}k", ZSTD_BLOCK >> 10),
            Self::None => "none".to_owned(),
        }
    }

    /// What the OCI media type of a layer ends in: `+gzip`, `+zstd` or nothing.
    pub fn media_type_suffix(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "+gzip",
            Self::Zstd { .. } => "+zstd",
            Self::None => "",
        }
    }

    fn block_size(self) -> usize {
        match self {
            Self::Zstd { .. } => ZSTD_BLOCK,
            Self::Gzip { .. } | Self::None => GZIP_BLOCK,
        }
    }
}

/// What one pass over a layer found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Digest of the bytes written.
    pub digest: Digest,
    /// Number of bytes written.
    pub size: u64,
    /// Digest of the bytes read.
    pub diff_id: DiffId,
    /// Number of bytes read.
    pub diff_size: u64,
}

const GZIP_BLOCK: usize = 512 << 10;
/// Larger than gzip's: frames share nothing, so a small one would cost size.
const ZSTD_BLOCK: usize = 4 << 20;
/// The reach of deflate's back references (RFC 1951 section 2).
const DEFLATE_WINDOW: usize = 32 << 10;
/// RFC 1952: deflate, no flags, no time, no extra flags, operating system unknown.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses `read` into `out`, hashing both sides. Blocks are compressed on rayon's current pool; memory
/// is bounded by two blocks per core.
///
/// # Errors
/// [`LayerError::Read`] and [`LayerError::Write`].
pub fn compress(
    read: &mut dyn Read,
    compression: &Compression,
    out: &mut dyn Write,
) -> Result<Compressed, LayerError> {
    let mut sink = HashedWriter { out, hasher: Sha256::new(), size: 0 };
    let mut source = BlockReader::new(read, compression.block_size());
    let encoder = Encoder::new(*compression)?;
    let window = 2 * rayon::current_num_threads();
    let mut crc = Crc::new();
    let mut running: VecDeque<Receiver<Encoded>> = VecDeque::with_capacity(window);
    let mut collect = |running: &mut VecDeque<Receiver<Encoded>>, sink: &mut HashedWriter<'_>| {
        let encoded = running.pop_front().map(wait).transpose()?;
        encoded.map_or(Ok(()), |encoded| {
            crc.combine(&encoded.crc);
            sink.write(&encoded.bytes?)
        })
    };

    if let Compression::Gzip { .. } = compression {
        sink.write(&GZIP_HEADER)?;
    }
    while let Some(block) = source.next()? {
        if running.len() == window {
            collect(&mut running, &mut sink)?;
        }
        let (sender, receiver) = sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone only when the whole operation has failed.
            let _ = sender.send(encoder.encode(&block));
        });
        running.push_back(receiver);
    }
    while !running.is_empty() {
        collect(&mut running, &mut sink)?;
    }
    if let Compression::Gzip { .. } = compression {
        sink.write(&crc.sum().to_le_bytes())?;
        // RFC 1952: the size modulo 2^32.
        sink.write(&(source.size as u32).to_le_bytes())?;
    }
    sink.out.flush().map_err(LayerError::Write)?;
    Ok(Compressed {
        digest: digest_of(sink.hasher),
        size: sink.size,
        diff_id: DiffId(digest_of(source.hasher)),
        diff_size: source.size,
    })
}

/// Waits for a block; on a thread of the pool it works meanwhile, else a pool of one thread would stand still.
fn wait(receiver: Receiver<Encoded>) -> Result<Encoded, LayerError> {
    let gone = || LayerError::Write(io::Error::other("a compression thread ended early"));
    if rayon::current_thread_index().is_none() {
        return receiver.recv().map_err(|_| gone());
    }
    loop {
        match receiver.try_recv() {
            Ok(encoded) => return Ok(encoded),
            Err(TryRecvError::Disconnected) => return Err(gone()),
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A block of input with what its encoding depends on.
struct Block {
    bytes: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    last: bool,
}

struct Encoded {
    bytes: Result<Vec<u8>, LayerError>,
    crc: Crc,
}

/// Cuts a stream into blocks, one ahead so that the last one is known as such.
struct BlockReader<'a> {
    read: &'a mut dyn Read,
    block_size: usize,
    hasher: Sha256,
    size: u64,
    before: Option<Arc<Vec<u8>>>,
    ahead: Option<Arc<Vec<u8>>>,
    started: bool,
}

impl<'a> BlockReader<'a> {
    fn new(read: &'a mut dyn Read, block_size: usize) -> Self {
        Self { read, block_size, hasher: Sha256::new(), size: 0, before: None, ahead: None, started: false }
    }

    /// The next block; an empty stream has one empty block, so that every format gets its end mark.
    fn next(&mut self) -> Result<Option<Block>, LayerError> {
        if !self.started {
            self.started = true;
            self.ahead = Some(self.fill()?);
        }
        let Some(bytes) = self.ahead.take() else { return Ok(None) };
        if bytes.len() == self.block_size {
            self.ahead = Some(self.fill()?).filter(|next| !next.is_empty());
        }
        let before = self.before.replace(Arc::clone(&bytes));
        Ok(Some(Block { bytes, before, last: self.ahead.is_none() }))
    }

    fn fill(&mut self) -> Result<Arc<Vec<u8>>, LayerError> {
        let mut bytes = Vec::with_capacity(self.block_size);
        self.read.take(self.block_size as u64).read_to_end(&mut bytes).map_err(LayerError::Read)?;
        self.hasher.update(&bytes);
        self.size += bytes.len() as u64;
        Ok(Arc::new(bytes))
    }
}

struct HashedWriter<'a> {
    out: &'a mut dyn Write,
    hasher: Sha256,
    size: u64,
}

impl HashedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(LayerError::Write)
    }
}

#[derive(Clone, Copy)]
enum Encoder {
    Deflate(flate2::Compression),
    Zstd(i32),
    Copy,
}

impl Encoder {
    fn new(compression: Compression) -> Result<Self, LayerError> {
        let unknown = |level: &dyn std::fmt::Display| {
            LayerError::Write(io::Error::new(io::ErrorKind::InvalidInput, format!("no such level: {level}")))
        };
        match compression {
            Compression::Gzip { level } if level > 9 => Err(unknown(&level)),
            Compression::Zstd { level } if !(0..=22).contains(&level) => Err(unknown(&level)),
            Compression::Gzip { level } => Ok(Self::Deflate(flate2::Compression::new(level))),
            Compression::Zstd { level } => Ok(Self::Zstd(level)),
            Compression::None => Ok(Self::Copy),
        }
    }

    fn encode(self, block: &Block) -> Encoded {
        let mut crc = Crc::new();
        let bytes = match self {
            Self::Deflate(level) => {
                crc.update(&block.bytes);
                deflate(block, level).map_err(LayerError::Write)
            }
            Self::Zstd(level) => zstd::bulk::compress(&block.bytes, level).map_err(LayerError::Write),
            Self::Copy => Ok(block.bytes.to_vec()),
        };
        Encoded { bytes, crc }
    }
}

/// One block as raw deflate, ending at a byte's border, so that the next block's bytes can follow.
fn deflate(block: &Block, level: flate2::Compression) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(level, false);
    if let Some(before) = &block.before {
        let from = before.len().saturating_sub(DEFLATE_WINDOW);
        state.set_dictionary(&before[from..]).map_err(io::Error::other)?;
    }
    let flush = if block.last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(block.bytes.len() / 2 + 1024);
    loop {
        let consumed = usize::try_from(state.total_in()).map_err(io::Error::other)?;
        let status =
            state.compress_vec(&block.bytes[consumed..], &mut out, flush).map_err(io::Error::other)?;
        let all_in = state.total_in() == block.bytes.len() as u64;
        // A flush is complete when zlib leaves room in the output (zlib manual, `deflate`).
        match status {
            Status::StreamEnd => return Ok(out),
            _ if all_in && !block.last && out.len() < out.capacity() => return Ok(out),
            _ => out.reserve(64 << 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::{Encoding, decompress_sniffed};

    /// Half words, half noise, from a fixed generator.
    fn sample(size: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut out = Vec::with_capacity(size);
        while out.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(3) {
                out.extend_from_slice(&state.to_le_bytes());
            } else {
                out.extend_from_slice(
                    ["layer ", "image ", "stage ", "fn main() {}\n"][(state >> 8) as usize % 4].as_bytes(),
                );
            }
        }
        out.truncate(size);
        out
    }

    fn in_pool(threads: usize, compression: Compression, bytes: &[u8]) -> (Vec<u8>, Compressed) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut out = Vec::new();
            let compressed = compress(&mut &bytes[..], &compression, &mut out).unwrap();
            (out, compressed)
        })
    }

    #[test]
    fn round_trips_with_equal_bytes_on_any_number_of_threads() {
        let sizes = [0, 1, GZIP_BLOCK, 2 * GZIP_BLOCK + 1];
        for size in sizes {
            let bytes = sample(size);
            for compression in [
                Compression::Gzip { level: 1 },
                Compression::Gzip { level: 6 },
                Compression::Zstd { level: 1 },
                Compression::None,
            ] {
                let (out, compressed) = in_pool(1, compression, &bytes);
                assert_eq!(
                    (&out, &compressed),
                    (&in_pool(3, compression, &bytes).0, &in_pool(3, compression, &bytes).1)
                );
                assert_eq!(compressed.size, out.len() as u64);
                assert_eq!(compressed.diff_size, size as u64);
                assert_eq!(compressed.digest, Digest::sha256_of(&out));
                assert_eq!(compressed.diff_id, DiffId(Digest::sha256_of(&bytes)));
                let (encoding, mut reader) = decompress_sniffed(&out[..]).unwrap();
                if compression != Compression::None {
                    assert_ne!(encoding, Encoding::Plain);
                }
                let mut back = Vec::new();
                reader.read_to_end(&mut back).unwrap();
                assert!(back == bytes, "{compression:?} of {size} bytes");
            }
        }
    }

    #[test]
    fn gzip_is_one_member_without_time_or_name() {
        let (out, _) = in_pool(2, Compression::DEFAULT_GZIP, &sample(2 * GZIP_BLOCK));
        assert_eq!(out[..10], GZIP_HEADER);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 2 * GZIP_BLOCK);
    }

    #[test]
    fn wrong_levels_are_errors() {
        for compression in [Compression::Gzip { level: 10 }, Compression::Zstd { level: 23 }] {
            assert!(compress(&mut &b"x"[..], &compression, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn incompressible_data_comes_through_the_growing_buffer() {
        let noise: Vec<u8> = sample(4 << 20)
            .chunks(16)
            .flat_map(|chunk| Digest::sha256_of(chunk).hex().as_bytes()[..16].to_vec())
            .collect();
        let (out, _) = in_pool(2, Compression::Gzip { level: 0 }, &noise);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
        assert!(back == noise);
    }
}
