//! The one error type of this crate.

use std::io;

use rbuild_fs::PathError;

/// Why a layer could not be written, read or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file operation on the tree that is read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The stream that the layer comes from.
    #[error("could not read the layer")]
    Read(#[source] io::Error),
    /// The stream that the layer goes to.
    #[error("could not write the layer")]
    Write(#[source] io::Error),
    /// The bytes are no tar archive, or one that contradicts itself.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// One entry of an archive that could not be made.
    #[error("could not unpack `{entry}`")]
    Entry {
        /// The name in the archive.
        entry: String,
        /// What went wrong with it.
        #[source]
        source: Box<LayerError>,
    },
    /// A hard link whose target is neither in the archive nor below it.
    #[error("could not link to `{0}`: no such file in the layer or below it")]
    MissingLinkTarget(String),
    /// A tar stream cannot express this.
    #[error("could not store `{path}` in a tar archive: {why}")]
    NotRepresentable {
        /// The path in the root file system.
        path: String,
        /// What stands in the way.
        why: String,
    },
    /// A compressed stream in a form that is not supported.
    #[error("could not decompress media type `{0}`")]
    UnknownEncoding(String),
}

impl LayerError {
    pub(crate) fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged(why.into())
    }

    /// Says which entry of the archive an error belongs to.
    pub(crate) fn in_entry(self, name: &[u8]) -> Self {
        match self {
            Self::Read(_) | Self::Damaged(_) | Self::Entry { .. } => self,
            other => {
                let entry = String::from_utf8_lossy(name).into_owned();
                Self::Entry { entry, source: Box::new(other) }
            }
        }
    }
}
