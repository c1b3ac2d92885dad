//! Where everything lies. The only place that joins names to the root.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild_image::{ChainId, Digest};
use sha2::{Digest as _, Sha256};

use crate::{CacheKey, SnapshotId};

/// Longest escaped name used as it is; file systems stop at 255 bytes.
const LONGEST_NAME: usize = 180;

/// Folders that exist in every store.
pub(crate) const FOLDERS: [&str; 15] = [
    "blobs",
    "partial",
    "snapshots",
    "layers",
    "cache",
    "lineage",
    "memo",
    "tags",
    "mounts",
    "locks",
    "leases",
    "tmp",
    "undurable",
    "stat-cache",
    "containers",
];

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) id_map: String,
}

impl Layout {
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn gate(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let mut path = self.root.join("blobs");
        path.push(digest.algorithm().name());
        path.push(digest.hex());
        path
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots").join(&self.id_map)
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers").join(&self.id_map)
    }

    pub(crate) fn layer(&self, chain_id: &ChainId) -> PathBuf {
        self.layers().join(chain_id.0.hex())
    }

    pub(crate) fn layer_lock(&self, chain_id: &ChainId) -> PathBuf {
        self.root.join("locks").join(format!("{}-{}", self.id_map, chain_id.0.hex()))
    }

    /// Under each id map a step gives another snapshot.
    pub(crate) fn step_lock(&self, key: &CacheKey) -> PathBuf {
        self.root.join("locks").join(format!("step-{}-{key}", self.id_map))
    }

    pub(crate) fn cache_record(&self, key: &CacheKey) -> PathBuf {
        let hex = key.to_string();
        self.root.join("cache").join(&hex[..2]).join(format!("{hex}.json"))
    }

    pub(crate) fn lineage(&self, lineage: &str) -> PathBuf {
        self.root.join("lineage").join(format!("{}.json", sha256_hex(lineage.as_bytes())))
    }

    pub(crate) fn memo(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join("memo").join(kind).join(format!("{}.json", sha256_hex(key.as_bytes())))
    }

    pub(crate) fn tag(&self, reference: &str) -> PathBuf {
        self.root.join("tags").join(escape(reference))
    }

    pub(crate) fn mount(&self, id: &str) -> PathBuf {
        self.root.join("mounts").join(escape(id))
    }
}

/// Whether `name` may stand as one path component as it is.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+=@,".contains(&byte))
}

/// `text` as one path component: what is not a letter, digit, `.`, `_` or `-` becomes `%XX`; a long one is cut and
/// ends in its SHA-256, so that two texts never share a name.
pub(crate) fn escape(text: &str) -> String {
    let mut name = String::with_capacity(text.len() + 16);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if index == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => name.push(char::from(byte)),
            _ => _ = write!(name, "%{byte:02X}"),
        }
    }
    if name.is_empty() {
        return "%".to_owned();
    }
    if name.len() > LONGEST_NAME {
        name.truncate(LONGEST_NAME - 65);
        name = format!("{name}%{}", sha256_hex(text.as_bytes()));
    }
    name
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// Parent folder of a path that the layout made, which always has one.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_short_and_distinct() {
        assert_eq!(escape("docker.io/library/alpine:3.20"), "docker.io%2Flibrary%2Falpine%3A3.20");
        assert_eq!(escape("../x"), "%2E.%2Fx");
        assert_eq!(escape("."), "%2E");
        assert_eq!(escape(""), "%");
        let (one, two) = (format!("{}1", "a".repeat(400)), format!("{}2", "a".repeat(400)));
        assert!(escape(&one).len() <= 255);
        assert_ne!(escape(&one), escape(&two));
        assert_ne!(escape("%2F"), escape("/"));
        assert!(is_plain_name("100000x65536") && !is_plain_name("../a") && !is_plain_name(""));
    }
}
