//! What can go wrong with the state on disk.

use std::path::PathBuf;

use rbuild_fs::PathError;
use rbuild_image::{ChainId, Digest};

use crate::SnapshotId;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call on a file failed.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The store was written by a later rbuild.
    #[error(
        "could not open the store at `{}`: it has layout version {found} and this rbuild knows up to {known}; \
         use a newer rbuild, or give another folder with --root", root.display()
    )]
    NewerLayout {
        /// Root of the store.
        root: PathBuf,
        /// What its `version` file says.
        found: u32,
        /// [`crate::LAYOUT_VERSION`].
        known: u32,
    },
    /// The folder holds something else.
    #[error(
        "could not open `{}` as a store: it has no version file but holds `{found}`; \
         give an empty folder or a store with --root", root.display()
    )]
    NotAStore {
        /// The folder given.
        root: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The bytes are not those that the digest names. Nothing of them was kept.
    #[error("blob {expected} is not what it should be: its bytes have the digest {actual}")]
    DigestMismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// There is no such snapshot under this id map.
    #[error("the store has no snapshot {0}")]
    NoSnapshot(SnapshotId),
    /// There is no such base layer under this id map.
    #[error("the store has no layer with the diff ID {0}")]
    NoLayer(ChainId),
    /// There is no such blob.
    #[error("the store has no blob {0}")]
    NoBlob(Digest),
    /// A document of the store does not parse, or could not be written as JSON.
    #[error("could not read `{}` as a record of the store", path.display())]
    Damaged {
        /// The document.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A name given by the caller cannot be a file name.
    #[error("could not use `{name}` as the name of {what}")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
    },
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;
