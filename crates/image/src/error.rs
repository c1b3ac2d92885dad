//! What can be wrong with a document, and how it is said.

use std::io;
use std::path::PathBuf;

use crate::{Digest, Platform};

/// The result of this crate's functions.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// What can be wrong with an image's documents or the layout they lie in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A digest's text breaks the grammar of the OCI image specification (descriptor.md, "Digests").
    #[error("invalid digest `{text}`: {reason}")]
    Digest {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An image reference breaks distribution's grammar.
    #[error("invalid image reference `{text}`: {reason}")]
    Reference {
        /// The text as given.
        text: String,
        /// What is wrong with it, as a sentence.
        reason: String,
    },
    /// A platform specifier can't be understood.
    #[error("invalid platform `{text}`: {reason}")]
    Platform {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A document is not the JSON that it should be.
    #[error("could not read the {document}")]
    Document {
        /// `image config`, `manifest`, `index`…
        document: &'static str,
        /// Where the JSON is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A document is JSON, but breaks a rule of its specification.
    #[error("could not use the {document}: {reason}")]
    Invalid {
        /// `image config`, `manifest`, `index`…
        document: &'static str,
        /// Which rule.
        reason: String,
    },
    /// The index offers nothing for the platform.
    #[error("no image for platform {wanted}; the index offers {}", list(.offered))]
    NoPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// What the index has.
        offered: Vec<Platform>,
    },
    /// Content is not what its digest says.
    #[error("content of {expected} is altered: its digest is {actual}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: Box<Digest>,
        /// The digest of what was read.
        actual: Box<Digest>,
    },
    /// Content is shorter or longer than its descriptor says.
    #[error("content of {digest} has {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Box<Digest>,
        /// Size in the descriptor.
        expected: u64,
        /// Bytes seen (at least; reading stops at the first byte too many).
        actual: u64,
    },
    /// A layout or an archive is not what it should be.
    #[error("could not use the image layout `{path}`: {reason}")]
    Layout {
        /// The directory or archive.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file or stream could not be read or written.
    #[error("could not {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "no platform at all".to_owned();
    }
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}
