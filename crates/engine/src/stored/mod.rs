//! Images that the store has under a name: listed, found, named, removed; fetched, sent, read from and written to archives.
//!
//! One image of the store is one image ID, whatever its names. Names are records of the store ([`rbuild_store::ImageRecord`]):
//!
//! ```text
//! docker.io/library/app:1.0              a tag
//! docker.io/library/app@sha256:…         what a registry calls it: set by pull and push, Docker's "repo digest"
//! sha256:<image ID>                      an image that was loaded without a name
//! list docker.io/library/app:1.0         a manifest list being put together (`rbuild manifest`), or what a build
//!                                        for several platforms made; the tag is this machine's, else the first
//! ```

mod archive;
mod list;
mod lists;
mod names;
mod pull;
mod push;

use rbuild_image::{Descriptor, Digest, ImageConfig, Manifest, Reference};
use rbuild_registry::Client;
use rbuild_store::{ImageRecord, Store};

use crate::event::EventSink;
use crate::image::Image;

pub use crate::output::ArchiveKind;
pub use archive::Loaded;
pub use list::{find, list};
pub use lists::ImageList;
pub(crate) use lists::{built_for, forget_built, keep_list};
pub use names::{Removed, remove, tag};
pub use pull::Pulled;
pub use push::PushedImage;

/// On the manifest of a pulled image: the digest of the manifest as the registry has it.
const ORIGINAL: &str = "dev.rbuild.original";

/// An image of the store with all of its names.
#[derive(Debug)]
pub struct StoredImage {
    /// The image ID.
    pub id: Digest,
    /// Its tags, sorted.
    pub tags: Vec<Reference>,
    /// What registries call it, `repository@digest`, sorted.
    pub digests: Vec<Reference>,
    /// When it got its latest name, in seconds since 1970.
    pub named: i64,
    /// The manifest as the store keeps it.
    pub manifest_bytes: Vec<u8>,
    /// Its layers, base first.
    pub layers: Vec<StoredLayer>,
    pub(crate) manifest: Manifest,
    pub(crate) image: Image,
    pub(crate) record: ImageRecord,
    /// All names as the store has them.
    pub(crate) names: Vec<String>,
}

/// A layer as the store has it.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    /// Length of its tar; of the blob, where the layer was never unpacked here.
    pub size: u64,
    /// The manifest's entry.
    pub descriptor: Descriptor,
}

impl StoredImage {
    /// The image config.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.image.config
    }

    /// The image config as it is stored: its digest is the image ID.
    #[must_use]
    pub fn config_bytes(&self) -> &[u8] {
        &self.image.config_bytes
    }

    /// Bytes of all layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Digest of the manifest that a registry gave, where one did.
    fn original(&self) -> Option<Digest> {
        self.manifest.annotations.get(ORIGINAL)?.parse().ok()
    }
}

/// Brings images here and away.
#[derive(Clone, Copy)]
pub struct Transfers<'a> {
    /// Where they are kept.
    pub store: &'a Store,
    /// Talks to registries.
    pub client: &'a Client,
    /// Is told what is done.
    pub events: &'a dyn EventSink,
}

impl std::fmt::Debug for Transfers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").field("store", &self.store).finish_non_exhaustive()
    }
}
