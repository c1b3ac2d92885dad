//! Images as files: OCI layouts (a directory or a tar) and `docker save` archives.
//!
//! ```text
//! oci-layout                  {"imageLayoutVersion":"1.0.0"}
//! index.json                  the manifests, named by annotations: `org.opencontainers.image.ref.name` (the tag),
//!                             `io.containerd.image.name` (the full name)
//! blobs/sha256/<hex>          manifests, configs and layers alike
//! manifest.json               docker archives only: configs, layers and names in Docker's older words
//! ```
//!
//! Reading trusts nothing: a blob is found by its digest only and checked against it while it is read, documents have a size limit, and no
//! name inside an archive becomes a path on this machine. Writing is deterministic: fixed modes, owner 0, time 0, and an order that
//! follows from the content.

mod archive;
mod docker;
mod reader;
mod writer;

pub use archive::{Archive, Part};
pub use reader::LayoutReader;
pub use writer::{BlobSource, Content, NamedManifest, Opened, write_folder};

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
