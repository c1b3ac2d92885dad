//! Why a copy failed.

use rbuild_fs::{PathError, RootfsPath};

use crate::LayerError;

/// Why sources could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A file operation in the source or the destination.
    #[error(transparent)]
    Path(#[from] PathError),
    /// An archive that `ADD` unpacks.
    #[error(transparent)]
    Archive(#[from] LayerError),
    /// A file would replace a directory.
    #[error("cannot replace to directory {0} with file")]
    FileOverDirectory(RootfsPath),
    /// A directory would replace a file or a symbolic link.
    #[error("cannot copy to non-directory: {0}")]
    NotADirectory(RootfsPath),
}
