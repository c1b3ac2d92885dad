//! Blocks as gzip members by libdeflate, which takes a whole buffer and is several times as fast as stream compressors.
//!
//! What no code makes smaller (compressed files, random bytes) is half of many images and the slowest input of every
//! compressor; it is recognised by its bytes' frequencies and stored, at the speed of a copy.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

/// The unit in which noise is looked for.
const UNIT: usize = 16 << 10;
/// Noise is stored as a member of its own from this length on: a member ends the reach of back references.
const LEAST_NOISE: usize = 4 * UNIT;
/// A member's header and trailer.
const FRAME: usize = 18;

/// The members of one block, joined.
///
/// # Errors
/// `InvalidInput` for a level that libdeflate does not have.
pub(super) fn members(block: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len() / 2 + FRAME);
    let mut squeeze = compressor(level)?;
    let mut store = compressor(0)?;
    for run in runs(block) {
        let with = if run.noise { &mut store } else { &mut squeeze };
        append(with, &block[run.start..run.end], &mut out)?;
    }
    Ok(out)
}

fn compressor(level: u32) -> io::Result<Compressor> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, format!("no such level: {level}"));
    let level = i32::try_from(level).ok().and_then(|level| CompressionLvl::new(level).ok());
    Ok(Compressor::new(level.ok_or_else(unknown)?))
}

fn append(compressor: &mut Compressor, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let begin = out.len();
    out.resize(begin + compressor.gzip_compress_bound(bytes.len()), 0);
    let written = compressor.gzip_compress(bytes, &mut out[begin..]).map_err(io::Error::other)?;
    out.truncate(begin + written);
    Ok(())
}

/// A part of a block that is stored as it is, or compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    noise: bool,
}

/// The block in runs, in order and without gaps; an empty block is one empty run, so that every stream has a member.
fn runs(block: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, unit) in block.chunks(UNIT).enumerate() {
        let start = number * UNIT;
        let unit = Run { start, end: start + unit.len(), noise: is_noise(unit) };
        extend(&mut runs, unit);
    }
    let mut joined = Vec::with_capacity(runs.len());
    for run in runs {
        extend(&mut joined, Run { noise: run.noise && run.end - run.start >= LEAST_NOISE, ..run });
    }
    if joined.is_empty() {
        joined.push(Run { start: 0, end: 0, noise: false });
    }
    joined
}

/// Appends a run, to the last one if that is of its kind.
fn extend(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.noise == run.noise => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Whether the bytes are spread so evenly that no code could save more than about one byte in eighty: the Rényi entropy
/// of order 2, which is never above Shannon's, is over 7.9 bits a byte. Bytes that repeat as a whole within a unit are
/// not noticed; they are rare, and then stored at their length.
fn is_noise(unit: &[u8]) -> bool {
    if unit.len() < UNIT / 4 {
        return false;
    }
    let mut counts = [0_u64; 256];
    unit.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    // 2^7.9 = 238.9
    squares * 239 < (unit.len() as u64).pow(2)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.to_le_bytes());
        }
        out.truncate(length);
        out
    }

    fn text(length: usize) -> Vec<u8> {
        b"fn main() { println!(\"a line of a program\"); }\n".iter().copied().cycle().take(length).collect()
    }

    fn back(members: &[u8]) -> Vec<u8> {
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(members).read_to_end(&mut back).unwrap();
        back
    }

    #[test]
    fn noise_is_told_from_all_else() {
        assert!(is_noise(&noise(UNIT)));
        assert!(is_noise(&noise(UNIT / 4)));
        assert!(!is_noise(&text(UNIT)));
        assert!(!is_noise(&[0; UNIT]));
        // Even spread, but of 64 values: base64 of noise.
        assert!(!is_noise(&noise(UNIT).iter().map(|byte| byte & 63).collect::<Vec<_>>()));
        // Its own compressed form is noise as well.
        assert!(is_noise(
            &zstd::bulk::compress(&noise(UNIT).iter().map(|b| b & 63).collect::<Vec<_>>(), 19).unwrap()
        ));
    }

    #[test]
    fn runs_cover_the_block_and_short_noise_stays_within_text() {
        let block = [text(3 * UNIT), noise(LEAST_NOISE), text(UNIT), noise(UNIT), text(100)].concat();
        let found: Vec<_> = runs(&block).iter().map(|run| (run.start, run.end, run.noise)).collect();
        assert_eq!(
            found,
            [(0, 3 * UNIT, false), (3 * UNIT, 7 * UNIT, true), (7 * UNIT, block.len(), false),]
        );
        assert_eq!(runs(&[]), [Run { start: 0, end: 0, noise: false }]);
    }

    #[test]
    fn members_hold_the_block() {
        for block in
            [Vec::new(), vec![7], noise(10 * UNIT), text(10 * UNIT), [noise(9 * UNIT), text(5)].concat()]
        {
            for level in [0, 1, 2, 9] {
                assert!(
                    back(&members(&block, level).unwrap()) == block,
                    "level {level}, {} bytes",
                    block.len()
                );
            }
        }
    }

    #[test]
    fn noise_grows_by_no_more_than_its_frame() {
        let stored = members(&noise(512 << 10), 2).unwrap();
        assert!(stored.len() <= (512 << 10) + 9 * 5 + FRAME, "{}", stored.len());
        assert!(members(&text(512 << 10), 2).unwrap().len() < 8 << 10);
    }

    #[test]
    fn unknown_levels_are_refused() {
        assert_eq!(members(b"x", 13).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
