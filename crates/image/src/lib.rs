//! The OCI documents: references, digests, platforms, configs, manifests, and their layouts on disk.
//!
//! Everything here is a value: parsed from text or bytes that may be hostile, checked once, and written back
//! byte for byte the same on any machine ([`canonical_json`]). Docker's schema 2 documents are read beside the OCI ones;
//! keys that rbuild does not know are kept.
//!
//! Media types come from `oci-spec`. Its config, descriptor and index are not used: they drop unknown keys and Docker's fields,
//! write annotations and labels in random order, and spell `os.version` of a platform as `os_version`.

mod config;
mod digest;
mod error;
mod json;
pub mod layout;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod verify;

pub use config::{ContainerConfig, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use digest::{Algorithm, ChainId, DiffId, Digest, Digester, chain_id};
pub use error::{ImageError, Result};
pub use json::{canonical_json, parse_json};
pub use manifest::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Document, Index, MAX_DOCUMENT, Manifest,
    select_manifest,
};
pub use media_type::{LayerCompression, MediaTypeExt};
pub use oci_spec::image::MediaType;
pub use platform::Platform;
pub use reference::Reference;
pub use verify::VerifyingReader;
