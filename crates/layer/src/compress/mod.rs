//! Compression in parallel blocks of fixed size: the same bytes whatever the number of cores.
//!
//! A gzip stream is a row of members, a zstd stream one of frames, which RFC 1952 and RFC 8878 let every decoder expect
//! (and stargz layers have taught them to).

mod gzip;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use rbuild_image::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

use crate::LayerError;
use crate::hashing::digest_of;

/// How a layer's bytes are stored or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// gzip, level 0 to 9.
    Gzip {
        /// libdeflate's scale: as zlib's, with other sizes at the same level.
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
    /// The fastest gzip level whose output stays within 3 % of `gzip -6` over programs and sources (`/usr/lib/python3`
    /// and gcc, measured with libdeflate 1.26: level 1 +6.4 %, 2 +2.7 %, 3 +1.5 %; level 2 takes a third more time than 1).
    pub const DEFAULT_GZIP: Self = Self::Gzip { level: 2 };
    /// zstd's own default.
    pub const DEFAULT_ZSTD: Self = Self::Zstd { level: 3 };

    /// The name under which compressed forms of a diff ID are remembered: another encoder, level or block
    /// size gives other bytes, and so another name.
    pub fn id(&self) -> String {
        match self {
            Self::Gzip { level } => format!("gzip-{level}-libdeflate1.26-{}k", GZIP_BLOCK >> 10),
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
    let mut running: VecDeque<Receiver<Encoded>> = VecDeque::with_capacity(window);
    let collect = |running: &mut VecDeque<Receiver<Encoded>>, sink: &mut HashedWriter<'_>| {
        let encoded = running.pop_front().map(wait).transpose()?;
        encoded.map_or(Ok(()), |encoded| sink.write(&encoded?))
    };

    while let Some(block) = source.next()? {
        if running.len() == window {
            collect(&mut running, &mut sink)?;
        }
        let (sender, receiver) = sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone only when the whole operation has failed.
            let _ = sender.send(encoder.encode(block));
        });
        running.push_back(receiver);
    }
    while !running.is_empty() {
        collect(&mut running, &mut sink)?;
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

/// A block in its encoded form.
type Encoded = Result<Vec<u8>, LayerError>;

/// Cuts a stream into blocks.
struct BlockReader<'a> {
    read: &'a mut dyn Read,
    block_size: usize,
    hasher: Sha256,
    size: u64,
    ended: bool,
}

impl<'a> BlockReader<'a> {
    fn new(read: &'a mut dyn Read, block_size: usize) -> Self {
        Self { read, block_size, hasher: Sha256::new(), size: 0, ended: false }
    }

    /// The next block; an empty stream has one empty block, so that every format gets its end mark.
    fn next(&mut self) -> Result<Option<Vec<u8>>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = Vec::with_capacity(self.block_size);
        self.read.take(self.block_size as u64).read_to_end(&mut block).map_err(LayerError::Read)?;
        self.ended = block.len() < self.block_size;
        if block.is_empty() && self.size > 0 {
            return Ok(None);
        }
        self.hasher.update(&block);
        self.size += block.len() as u64;
        Ok(Some(block))
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
    Gzip(u32),
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
            Compression::Gzip { level } => Ok(Self::Gzip(level)),
            Compression::Zstd { level } => Ok(Self::Zstd(level)),
            Compression::None => Ok(Self::Copy),
        }
    }

    fn encode(self, block: Vec<u8>) -> Encoded {
        match self {
            Self::Gzip(level) => gzip::members(&block, level),
            Self::Zstd(level) => zstd::bulk::compress(&block, level),
            Self::Copy => Ok(block),
        }
        .map_err(LayerError::Write)
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
    fn gzip_members_have_no_time_or_name() {
        let (out, _) = in_pool(2, Compression::DEFAULT_GZIP, &sample(2 * GZIP_BLOCK));
        // RFC 1952: deflate, no flags, no time; the extra flags and the operating system are the encoder's.
        assert_eq!(out[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn wrong_levels_are_errors() {
        for compression in [Compression::Gzip { level: 10 }, Compression::Zstd { level: 23 }] {
            assert!(compress(&mut &b"x"[..], &compression, &mut Vec::new()).is_err());
        }
    }
}
