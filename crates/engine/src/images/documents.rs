//! Documents of the store: manifests, and the images that they describe.

use std::io::Read;

use rbuild_image::{DiffId, Digest, Manifest};
use rbuild_store::Store;

use crate::error::{Explain, FailureKind, Result};
use crate::image::{Image, ImageLayer, Origin};

/// Reads a whole blob of the store; for documents.
pub(crate) fn read_blob(store: &Store, digest: &Digest) -> Result<Vec<u8>> {
    let fault = || format!("could not read the blob {digest} of the store");
    let mut file = store.open_blob(digest).explain(FailureKind::Environment, fault)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).explain(FailureKind::Environment, fault)?;
    Ok(bytes)
}

impl Image {
    /// An image that was built here, pulled or loaded: by the digest of the manifest that the store keeps.
    pub(crate) fn from_store(store: &Store, manifest: &Digest) -> Result<Image> {
        let bytes = read_blob(store, manifest)?;
        let manifest = Manifest::parse(&bytes)
            .explain(FailureKind::Environment, || "could not read a manifest of the store".to_owned())?;
        let config = read_blob(store, &manifest.config.digest)?;
        Image::of_documents(&manifest, config, &Origin::Store)
    }

    /// A short name for progress lines.
    pub(crate) fn label(&self) -> String {
        self.layers
            .iter()
            .find_map(|layer| match layer {
                ImageLayer::Blob { origin: Origin::Registry(reference), .. } => Some(reference.to_string()),
                ImageLayer::Blob { origin: Origin::Layout(path), .. } => Some(path.display().to_string()),
                _ => None,
            })
            .unwrap_or_else(|| self.id().to_string())
    }
}

/// Diff IDs of an image's layers that are blobs.
pub(crate) fn diff_id_of(layer: &ImageLayer) -> Option<&DiffId> {
    match layer {
        ImageLayer::Blob { diff_id, .. } => Some(diff_id),
        ImageLayer::Snapshot(_) => None,
    }
}
