//! One entry of a tar archive, as this crate reads and writes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rbuild_fs::Timestamp;

/// What an entry makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    /// Another name of the file at this path, which is as it stands in the archive.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// An entry without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it stands in the archive: relative when written by us, anything when read.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// The low twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of content once unpacked (holes included); 0 for everything but files.
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    /// Extended attributes by full name (`user.note`).
    pub(crate) xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Entry {
    /// The path for messages.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Extended attributes in PAX records (the convention of star, kept by GNU tar, Go and libarchive).
pub(crate) const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// The xattrs among PAX records.
pub(crate) fn xattrs_of<'a>(
    records: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
) -> BTreeMap<OsString, Vec<u8>> {
    records
        .filter_map(|(key, value)| {
            let name = key.strip_prefix(PAX_XATTR)?;
            Some((OsString::from_vec(name.to_vec()), value.clone()))
        })
        .collect()
}

/// Bytes of a path as the type that file calls take.
pub(crate) fn as_os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
