//! The store's own record of an image: what its names keep.

use rbuild_image::{Digest, Manifest, Reference};
use rbuild_store::{ImageRecord, Resource, Store};

use crate::error::{Explain, FailureKind, Result};
use crate::image::{Image, ImageLayer};
use crate::stored::forget_built;

/// Keeps the image in the store under its names; returns its ID.
pub(crate) fn keep(store: &Store, image: &Image, tags: &[Reference]) -> Result<Digest> {
    if tags.is_empty() {
        return Ok(image.id());
    }
    let names: Vec<String> = tags.iter().map(Reference::to_string).collect();
    keep_as(store, image, &image.store_manifest(store)?, &[], &names)
}

/// The same with a manifest made by the caller, more that the image keeps, and names of any form.
pub(crate) fn keep_as(
    store: &Store,
    image: &Image,
    manifest: &Manifest,
    more: &[Resource],
    names: &[String],
) -> Result<Digest> {
    let fault = || "could not write the image to the store".to_owned();
    let config = store.put_blob(&image.config_bytes).explain(FailureKind::Environment, fault)?;
    let manifest = store.put_blob(&manifest.to_bytes()).explain(FailureKind::Environment, fault)?;
    let mut keeps = vec![Resource::Blob(config.digest.clone()), Resource::Blob(manifest.digest.clone())];
    keeps.extend_from_slice(more);
    keeps.extend(kept_by(store, image));
    for name in names {
        let record = ImageRecord {
            reference: name.clone(),
            manifest: Some(manifest.digest.clone()),
            image_id: config.digest.clone(),
            created: rbuild_fs::Timestamp::now().seconds,
            keeps: keeps.clone(),
            session: String::new(),
        };
        store.set_tag(record).explain(FailureKind::Environment, fault)?;
        forget_built(store, name)?;
    }
    Ok(config.digest)
}

/// The layers that a name keeps.
pub(crate) fn kept_by(store: &Store, image: &Image) -> Vec<Resource> {
    let layer = |layer: &ImageLayer| match layer {
        ImageLayer::Snapshot(id) => Some(Resource::Snapshot(*id)),
        // A base layer's blob is kept where it is here already; it can be fetched again where it is not.
        ImageLayer::Blob { descriptor, .. } => store
            .has_blob(&descriptor.digest)
            .unwrap_or(false)
            .then(|| Resource::Blob(descriptor.digest.clone())),
    };
    image.layers.iter().filter_map(layer).collect()
}
