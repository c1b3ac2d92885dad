//! What of a selection belongs in a cache key.
//!
//! In the digest of an entry: kind, mode, owner and group, size, link target, device numbers, the attributes that
//! images keep, and the content. Not in it: times, inodes, whether two names are hard links, and where the tree lies
//! on the host. In the digest of a selection, for each match: whether it is a file or a folder, a file's name at the
//! destination, and path and digest of each entry below. The folder itself is left out, since its contents are
//! copied and not it, and so is the path it has in the tree.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rayon::prelude::*;
use rbuild_fs::{FileKind, Meta, PathContext, PathError, RootfsPath};
use rbuild_image::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::ContextError;
use crate::select::{Entry, Match, Selection};
use crate::stat_cache::{StatCache, Stopwatch};
use crate::tree::Tree;

/// How much of a file is read at once; more is no faster.
const BLOCK: usize = 128 * 1024;

/// Digest of one file's kind, attributes and content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryDigest([u8; 32]);

impl EntryDigest {
    /// The bytes of the SHA-256.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for EntryDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for EntryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EntryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryDigest({self})")
    }
}

/// Digest of a selection, and what each of its files gave to it so that it can be said later *which* one changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentDigest {
    /// Of the whole selection.
    pub digest: Digest,
    /// Of each file, by its path in the tree (without leading `/`); folders whose contents are copied are not listed.
    /// Empty where there are more than [`MOST_LISTED`].
    pub entries: BTreeMap<PathBuf, EntryFacts>,
}

/// What one file gives to the digest of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFacts {
    /// Permission bits and the three special ones.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Digest of all else: kind, size, link target, device numbers, attributes, content.
    pub content: EntryDigest,
}

/// Of so many files a selection says what each gave to its digest; of more it would cost more memory than it is worth.
pub const MOST_LISTED: usize = 20_000;

impl Tree {
    /// The digest of a selection; see the module's description of what is in it. Files are read side by side on
    /// rayon's threads, each in blocks; with a cache only those are read that changed.
    pub fn digest(
        &self,
        selection: &Selection,
        cache: Option<&StatCache>,
    ) -> Result<ContentDigest, ContextError> {
        // The paths of a million files are not kept a second time.
        let mut found: Vec<(&Match, &Entry)> =
            Vec::with_capacity(selection.matches.iter().map(|found| found.entries.len()).sum());
        selection
            .matches
            .iter()
            .for_each(|each| found.extend(each.entries.iter().map(|entry| (each, entry))));
        let contents: Vec<EntryDigest> = found
            .par_iter()
            .map_init(
                || vec![0; BLOCK],
                |block, (found, entry)| {
                    self.content_of(&found.path.join(&entry.path), &entry.meta, cache, block)
                },
            )
            .collect::<Result<_, PathError>>()?;

        let mut whole = Sha256::new_with_prefix(b"rbuild-selection 2\n");
        let mut entries = BTreeMap::new();
        let is_listed = found.len() <= MOST_LISTED;
        let mut next = found.iter().zip(&contents);
        for found in &selection.matches {
            match found.is_dir() {
                true => whole.update(b"folder\n"),
                false => field(&mut whole, "file", found.name.as_bytes()),
            }
            for ((_, entry), content) in next.by_ref().take(found.entries.len()) {
                if entry.meta.is_dir() && entry.path.as_os_str().is_empty() {
                    continue;
                }
                field(&mut whole, "entry", entry.path.as_os_str().as_bytes());
                let Meta { mode, uid, gid, .. } = entry.meta;
                whole.update(format!("{mode:o} {uid} {gid}\n"));
                whole.update(content.0);
                if is_listed {
                    let path = found.path.join(&entry.path).relative().to_owned();
                    entries.insert(path, EntryFacts { mode, uid, gid, content: *content });
                }
            }
        }
        Ok(ContentDigest { digest: Digest::from_sha256(whole.finalize().into()), entries })
    }

    /// Everything of one entry that counts but mode and owner.
    fn content_of(
        &self,
        path: &RootfsPath,
        meta: &Meta,
        cache: Option<&StatCache>,
        block: &mut [u8],
    ) -> Result<EntryDigest, PathError> {
        let mut hash = Sha256::new_with_prefix(b"rbuild-entry 2\n");
        match &meta.kind {
            FileKind::File => {
                hash.update(format!("regular {}\n", meta.size));
                hash.update(self.content_digest(path, meta, cache, block)?);
            }
            FileKind::Directory => hash.update(b"directory\n"),
            FileKind::Symlink(target) => field(&mut hash, "link", target.as_os_str().as_bytes()),
            FileKind::Fifo => hash.update(b"fifo\n"),
            FileKind::Socket => hash.update(b"socket\n"),
            FileKind::CharDevice { major, minor } => hash.update(format!("char {major} {minor}\n")),
            FileKind::BlockDevice { major, minor } => hash.update(format!("block {major} {minor}\n")),
        }
        if meta.is_file() || meta.is_dir() {
            for (name, value) in self.xattrs(path)? {
                field(&mut hash, "xattr", name.as_bytes());
                field(&mut hash, "value", &value);
            }
        }
        Ok(EntryDigest(hash.finalize().into()))
    }

    fn content_digest(
        &self,
        path: &RootfsPath,
        meta: &Meta,
        cache: Option<&StatCache>,
        block: &mut [u8],
    ) -> Result<[u8; 32], PathError> {
        if meta.size == 0 {
            return Ok(Sha256::digest(b"").into());
        }
        let name = self.root().name_of(path);
        if let Some(known) = cache.and_then(|cache| cache.get(&name, meta)) {
            return Ok(known);
        }
        let stopwatch = Stopwatch::start();
        let digest = hash_file(&mut self.root().open_file(path)?, block).on("read", &name)?;
        if let Some(cache) = cache
            // A file written to meanwhile is not the one whose metadata we hold.
            && self.meta(path)?.as_ref() == Some(meta)
        {
            cache.put(&name, meta, digest, stopwatch);
        }
        Ok(digest)
    }
}

/// A tagged, length-prefixed field: no two lists of fields give the same bytes.
fn field(hash: &mut Sha256, tag: &str, bytes: &[u8]) {
    hash.update(format!("{tag} {}\n", bytes.len()));
    hash.update(bytes);
}

fn hash_file(file: &mut File, block: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    loop {
        match file.read(block) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(length) => hash.update(&block[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
