//! Content digests of files that have not changed since they were last read.
//!
//! A file is known again by its path, device, inode, size, mtime, ctime and mode, as in git's index. Such a match can
//! lie only where a file changed within the tick of the clock in which it was read ("racily clean" in git's words),
//! so a digest is kept only if mtime and ctime were older than the *reading* by [`RACE_MARGIN`].
//!
//! A context of a million files has a million records, so they are small: of the path, and of what the file is known
//! again by, there is a hash of 16 bytes each. Whoever could find two files with the same hash could as well choose what
//! is in them.
//!
//! The file: the line `rbuild-stat-cache 2`, then the records one after the other: hash of the path (16 bytes), hash of the
//! metadata (16 bytes), day of last use (u32, little-endian), digest (32 bytes); at the end the SHA-256 of all before. It
//! is replaced as a whole by a rename, so that of two processes the last one wins and no reader sees a part. What does not
//! add up is no cache, and everything is read anew.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rbuild_fs::{Durable, Meta, PathError, Timestamp, atomic_write};
use sha2::{Digest as _, Sha256};

/// First line of the file.
const MAGIC: &[u8] = b"rbuild-stat-cache 2\n";

/// How much older than its reading a file must be, in seconds: FAT counts in 2 s, everything else is finer.
const RACE_MARGIN: i64 = 2;

/// Days after which a record that nobody used is dropped.
const KEPT_DAYS: u32 = 30;

/// When a file's reading began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Timestamp);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Timestamp::now())
    }
}

/// Half of a SHA-256.
type Hash = [u8; 16];

/// Bytes of a record in the file.
const RECORD: usize = 16 + 16 + 4 + 32;

fn hash(bytes: &[u8]) -> Hash {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    std::array::from_fn(|at| digest[at])
}

fn hash_of_path(path: &Path) -> Hash {
    hash(path.as_os_str().as_bytes())
}

/// Of all by which an unchanged file is known.
fn hash_of_meta(meta: &Meta) -> Hash {
    let Meta { device, inode, size, mtime, ctime, mode, .. } = meta;
    let numbers = [*device, *inode, *size, mtime.seconds as u64, ctime.seconds as u64];
    let small = [mtime.nanos, ctime.nanos, *mode];
    let bytes = numbers.map(u64::to_le_bytes).into_iter().flatten();
    hash(&Vec::from_iter(bytes.chain(small.map(u32::to_le_bytes).into_iter().flatten())))
}

#[derive(Clone, Copy, Debug)]
struct Record {
    meta: Hash,
    day: u32,
    digest: [u8; 32],
}

/// Content digests of files, by path and metadata. Shared between threads; see the module's description.
#[derive(Debug, Default)]
pub struct StatCache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the hash of the path.
    records: HashMap<Hash, Record>,
    dirty: bool,
}

impl StatCache {
    /// Reads a cache; one that is missing, damaged or of another version is empty.
    pub fn load(file: impl AsRef<Path>) -> Self {
        let records = fs::read(file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { inner: Mutex::new(Inner { records, dirty: false }) }
    }

    /// Writes the cache if it changed, without records unused for 30 days.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<(), PathError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.dirty {
            return Ok(());
        }
        let oldest = today().saturating_sub(KEPT_DAYS);
        inner.records.retain(|_, record| record.day >= oldest);
        atomic_write(file, &encode(&inner.records), Durable::No)?;
        inner.dirty = false;
        Ok(())
    }

    /// How many files are known.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).records.len()
    }

    /// Whether no file is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content digest of an unchanged file.
    pub(crate) fn get(&self, path: &Path, meta: &Meta) -> Option<[u8; 32]> {
        let (path, known) = (hash_of_path(path), hash_of_meta(meta));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        let record = inner.records.get_mut(&path).filter(|record| record.meta == known)?;
        let today = today();
        if record.day != today {
            record.day = today;
            inner.dirty = true;
        }
        Some(record.digest)
    }

    /// Keeps the content digest of a file that was read from then on, unless it may have changed unseen.
    pub(crate) fn put(&self, path: &Path, meta: &Meta, digest: [u8; 32], read: Stopwatch) {
        if meta.mtime.max(meta.ctime).seconds.saturating_add(RACE_MARGIN) >= read.0.seconds {
            return;
        }
        let (path, record) = (hash_of_path(path), Record { meta: hash_of_meta(meta), day: today(), digest });
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.records.insert(path, record);
        inner.dirty = true;
    }
}

fn today() -> u32 {
    u32::try_from(Timestamp::now().seconds / 86_400).unwrap_or_default()
}

fn encode(records: &HashMap<Hash, Record>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + records.len() * RECORD + 32);
    bytes.extend(MAGIC);
    for (path, Record { meta, day, digest }) in records {
        bytes.extend(path);
        bytes.extend(meta);
        bytes.extend(day.to_le_bytes());
        bytes.extend(digest);
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<Hash, Record>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(body)[..] != sum[..] {
        return None;
    }
    let (records, []) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>() else { return None };
    records.iter().map(|record| decode_record(record)).collect()
}

fn decode_record(bytes: &[u8]) -> Option<(Hash, Record)> {
    let (path, bytes) = bytes.split_first_chunk()?;
    let (meta, bytes) = bytes.split_first_chunk()?;
    let (day, digest) = bytes.split_first_chunk()?;
    let record = Record { meta: *meta, day: u32::from_le_bytes(*day), digest: digest.try_into().ok()? };
    Some((*path, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_fs::FileKind;

    fn meta(mtime: i64) -> Meta {
        let mut meta = Meta::new(FileKind::File, 0o644, 0, 0, Timestamp::from_seconds(mtime));
        (meta.size, meta.device, meta.inode) = (5, 1, 2);
        meta
    }

    #[test]
    fn what_is_saved_is_loaded_and_any_change_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache");
        let cache = StatCache::load(&file);
        let path = Path::new("/x/a\nb");
        cache.put(path, &meta(1000), [7; 32], Stopwatch::start());
        cache.save(&file).unwrap();

        let cache = StatCache::load(&file);
        assert_eq!(cache.get(path, &meta(1000)), Some([7; 32]));
        assert_eq!(cache.get(Path::new("/x/other"), &meta(1000)), None);
        for change in [
            |meta: &mut Meta| meta.size += 1,
            |meta: &mut Meta| meta.inode += 1,
            |meta: &mut Meta| meta.device += 1,
            |meta: &mut Meta| meta.mtime.nanos += 1,
            |meta: &mut Meta| meta.ctime.nanos += 1,
            |meta: &mut Meta| meta.mode ^= 1,
        ] {
            let mut changed = meta(1000);
            change(&mut changed);
            assert_eq!(cache.get(path, &changed), None, "{changed:?}");
        }
    }

    #[test]
    fn a_file_as_young_as_its_reading_is_not_trusted() {
        let cache = StatCache::default();
        let now = Timestamp::now().seconds;
        for (age, kept) in [(0, 0), (1, 0), (2, 0), (-5, 0), (10, 1)] {
            cache.put(Path::new("f"), &meta(now - age), [0; 32], Stopwatch(Timestamp::from_seconds(now)));
            assert_eq!(cache.len(), kept, "age {age}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache");
        let cache = StatCache::default();
        cache.put(Path::new("f"), &meta(1), [0; 32], Stopwatch::start());
        cache.save(&file).unwrap();
        let whole = fs::read(&file).unwrap();
        for end in [0, 5, whole.len() - 1] {
            fs::write(&file, &whole[..end]).unwrap();
            assert!(StatCache::load(&file).is_empty());
        }
        let mut flipped = whole.clone();
        flipped[MAGIC.len() + 1] ^= 1;
        fs::write(&file, &flipped).unwrap();
        assert!(StatCache::load(&file).is_empty());
        fs::write(&file, &whole).unwrap();
        assert_eq!(StatCache::load(&file).len(), 1);
    }

    #[test]
    fn records_long_unused_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache");
        let cache = StatCache::default();
        cache.put(Path::new("old"), &meta(1), [0; 32], Stopwatch::start());
        cache.put(Path::new("new"), &meta(1), [0; 32], Stopwatch::start());
        cache.inner.lock().unwrap().records.get_mut(&hash_of_path(Path::new("old"))).unwrap().day -=
            KEPT_DAYS + 1;
        cache.save(&file).unwrap();
        assert_eq!(StatCache::load(&file).len(), 1);
    }
}
