//! Compression in parallel blocks of fixed size: the same bytes whatever the number of cores.
//!
//! A gzip stream is a row of members, a zstd stream one of frames, which RFC 1952 and RFC 8878 let every decoder expect
//! (and stargz layers have taught them to).

mod gzip;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use rbuild_image::DiffId;
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
/// Bytes of blocks under way at most.
const MEMORY: usize = 32 << 20;
/// Bytes read at a time.
const READ: usize = 256 << 10;

/// Compresses `read` into `out`, hashing what is read.
///
/// # Errors
/// [`LayerError::Read`] and [`LayerError::Write`].
pub fn compress(
    read: &mut dyn Read,
    compression: &Compression,
    out: &mut (dyn Write + Send),
) -> Result<Compressed, LayerError> {
    let mut buffer = vec![0; READ];
    compress_with(compression, out, |tar| {
        loop {
            match read.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => tar.write_all(&buffer[..count]).map_err(LayerError::Write)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
    })
}

/// Compresses what `produce` writes into `out`, hashing it. `produce` runs on this thread, blocks are compressed on
/// rayon's current pool, and one thread more hashes and writes; a few blocks a core are held in memory, 32 MiB at most.
///
/// # Errors
/// Those of `produce`, and [`LayerError::Write`].
pub fn compress_with(
    compression: &Compression,
    out: &mut (dyn Write + Send),
    produce: impl FnOnce(&mut dyn Write) -> Result<(), LayerError>,
) -> Result<Compressed, LayerError> {
    let encoder = Encoder::new(*compression)?;
    let block_size = compression.block_size();
    let window = (2 * rayon::current_num_threads()).min(MEMORY / block_size).max(2);
    let (running, blocks) = sync_channel(window);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| collect(blocks, out));
        let mut tar = BlockWriter { encoder, block: Vec::new(), block_size, blocks: 0, running };
        let produced = produce(&mut tar).and_then(|()| tar.finish().map_err(LayerError::Write));
        while !collector.is_finished() && work_meanwhile() {}
        let collected = collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        produced.map(|()| collected)
    })
}

/// A block on its way: its bytes for the digest, and where its encoded form will come from.
struct Running {
    block: Arc<Vec<u8>>,
    encoded: Receiver<Encoded>,
}

/// A block in its encoded form.
type Encoded = io::Result<Vec<u8>>;

/// Hashes blocks and writes their encoded forms, in order.
fn collect(blocks: Receiver<Running>, out: &mut dyn Write) -> Result<Compressed, LayerError> {
    let mut plain = Sha256::new();
    let (mut diff_size, mut size) = (0, 0);
    for Running { block, encoded } in blocks {
        plain.update(&*block);
        diff_size += block.len() as u64;
        let gone = || LayerError::Write(io::Error::other("a compression thread ended early"));
        let encoded = encoded.recv().map_err(|_| gone())?.map_err(LayerError::Write)?;
        size += encoded.len() as u64;
        out.write_all(&encoded).map_err(LayerError::Write)?;
    }
    out.flush().map_err(LayerError::Write)?;
    Ok(Compressed { size, diff_id: DiffId(digest_of(plain)), diff_size })
}

/// Cuts what is written into blocks and has them encoded.
struct BlockWriter {
    encoder: Encoder,
    block: Vec<u8>,
    block_size: usize,
    /// Blocks begun so far.
    blocks: u64,
    running: SyncSender<Running>,
}

impl BlockWriter {
    /// The last block; an empty stream has one empty block, so that every format gets its end mark.
    fn finish(mut self) -> io::Result<()> {
        if self.block.is_empty() && self.blocks > 0 { Ok(()) } else { self.begin() }
    }

    fn begin(&mut self) -> io::Result<()> {
        let block = Arc::new(std::mem::take(&mut self.block));
        self.blocks += 1;
        let (sender, encoded) = sync_channel(1);
        let (encoder, bytes) = (self.encoder, block.clone());
        rayon::spawn(move || {
            // The receiver is gone only when the whole operation has failed.
            let _ = sender.send(encoder.encode(&bytes));
        });
        self.send(Running { block, encoded })
    }

    /// Waits for room.
    fn send(&self, mut running: Running) -> io::Result<()> {
        // What stopped the other side is its own error.
        let stopped = || io::Error::from(io::ErrorKind::BrokenPipe);
        loop {
            running = match self.running.try_send(running) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(stopped()),
                Err(TrySendError::Full(unsent)) => unsent,
            };
            if !work_meanwhile() {
                return self.running.send(running).map_err(|_| stopped());
            }
        }
    }
}

/// Encodes a block on a thread of the pool: a pool whose threads all wait would stand still. Other threads, which may wait,
/// get `false` at once.
fn work_meanwhile() -> bool {
    if rayon::current_thread_index().is_none() {
        return false;
    }
    if rayon::yield_now() != Some(rayon::Yield::Executed) {
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            self.block.reserve_exact(self.block_size);
        }
        let room = (self.block_size - self.block.len()).min(bytes.len());
        self.block.extend_from_slice(&bytes[..room]);
        if self.block.len() == self.block_size {
            self.begin()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

    fn encode(self, block: &[u8]) -> Encoded {
        match self {
            Self::Gzip(level) => gzip::members(block, level),
            Self::Zstd(level) => zstd::bulk::compress(block, level),
            Self::Copy => Ok(block.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rbuild_image::Digest;

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
