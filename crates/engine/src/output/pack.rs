//! An image with every layer as a blob, ready to leave.

use std::sync::Arc;

use rbuild_image::layout::{BlobSource, Content};
use rbuild_image::{Descriptor, Index, Manifest, MediaType, Reference};
use rbuild_layer::Compression;
use rbuild_store::Blob;

use crate::error::{Explain, FailureKind, Result};
use crate::event::StepNumber;
use crate::image::{Image, ImageLayer, Origin};
use crate::images::Images;
use crate::packing::{compressed, recompressed};
use crate::request::CompressionChoice;
use crate::side_by_side::side_by_side;

/// Packs layers and sends them out.
pub(crate) struct Exporter<'a> {
    pub(crate) images: &'a Images<'a>,
    pub(crate) number: StepNumber,
    pub(crate) annotations: &'a std::collections::BTreeMap<String, String>,
}

/// An image with every layer as a blob.
pub(crate) struct Packed {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    /// In the order of the layers.
    pub(super) sources: Vec<PackedLayer>,
}

pub(crate) struct PackedLayer {
    pub(super) descriptor: Descriptor,
    pub(super) blob: PackedBlob,
    /// The repository that has it, too: a registry may take it over from there.
    pub(super) origin: Option<Arc<Reference>>,
}

/// What leaves together: one image, or one for each platform under an index.
pub(crate) struct Bundle<'i> {
    pub(super) images: Vec<(&'i Image, Packed)>,
    pub(super) index: Option<(Descriptor, Vec<u8>)>,
}

pub(super) enum PackedBlob {
    Here(Blob),
    /// A base layer that was never needed here; it may not have to be fetched at all.
    Remote(Origin),
}

impl Exporter<'_> {
    /// The images with their layers as blobs, and the index over them.
    pub(crate) fn bundle<'i>(
        &self,
        images: &'i [Image],
        choice: &CompressionChoice,
        fetch: bool,
    ) -> Result<Bundle<'i>> {
        let images: Vec<(&Image, Packed)> = images
            .iter()
            .map(|image| Ok((image, self.pack(image, choice, fetch)?)))
            .collect::<Result<_>>()?;
        let index = (images.len() > 1).then(|| {
            let entries = images.iter().map(|(_, packed)| packed.descriptor.clone()).collect();
            let bytes = Index::new(MediaType::ImageIndex, entries).to_bytes();
            (Descriptor::of(MediaType::ImageIndex, &bytes), bytes)
        });
        Ok(Bundle { images, index })
    }

    /// Every layer as a blob; base layers as they came, unless another compression is forced. `fetch` says that blobs which are
    /// not here are needed.
    pub(crate) fn pack(&self, image: &Image, choice: &CompressionChoice, fetch: bool) -> Result<Packed> {
        let sources = side_by_side(&image.layers, |layer| self.pack_layer(layer, choice, fetch))?;
        let config = Descriptor::of(MediaType::ImageConfig, &image.config_bytes);
        let layers = sources.iter().map(|layer| layer.descriptor.clone()).collect();
        let mut manifest = Manifest::new(MediaType::ImageManifest, config, layers);
        manifest.annotations = self.annotations.clone();
        let manifest_bytes = manifest.to_bytes();
        let mut descriptor = Descriptor::of(MediaType::ImageManifest, &manifest_bytes);
        descriptor.platform = Some(image.config.platform());
        Ok(Packed { manifest, manifest_bytes, descriptor, sources })
    }

    /// The image under the very manifest that a registry gave it: its digest stays. `None` where a layer is another one.
    pub(crate) fn pack_as(
        &self,
        image: &Image,
        manifest_bytes: Vec<u8>,
        fetch: bool,
    ) -> Result<Option<Packed>> {
        let manifest = Manifest::parse(&manifest_bytes)
            .explain(FailureKind::Environment, || "could not read a manifest of the store".to_owned())?;
        let as_it_came = CompressionChoice { compression: Compression::None, force: false };
        if manifest.layers.len() != image.layers.len()
            || image.layers.iter().any(|layer| matches!(layer, ImageLayer::Snapshot(_)))
        {
            return Ok(None);
        }
        let mut sources = side_by_side(&image.layers, |layer| self.pack_layer(layer, &as_it_came, fetch))?;
        for (source, descriptor) in sources.iter_mut().zip(&manifest.layers) {
            if source.descriptor.digest != descriptor.digest {
                return Ok(None);
            }
            source.descriptor = descriptor.clone();
        }
        let media_type = manifest.media_type.clone().unwrap_or(MediaType::ImageManifest);
        let mut descriptor = Descriptor::of(media_type, &manifest_bytes);
        descriptor.platform = Some(image.config.platform());
        Ok(Some(Packed { manifest, manifest_bytes, descriptor, sources }))
    }

    pub(crate) fn pack_layer(
        &self,
        layer: &ImageLayer,
        choice: &CompressionChoice,
        fetch: bool,
    ) -> Result<PackedLayer> {
        let store = self.images.store;
        let fault = || "could not read the store".to_owned();
        match layer {
            ImageLayer::Snapshot(id) => {
                let blob = compressed(store, id, &choice.compression, self.images.cancel)?;
                Ok(PackedLayer::of(layer_type(&choice.compression), blob))
            }
            ImageLayer::Blob { diff_id, descriptor, origin } => {
                let here = store.blob(&descriptor.digest).explain(FailureKind::Environment, fault)?;
                let blob = match here {
                    Some(blob) => blob,
                    None if fetch || choice.force => self.images.blob(descriptor, origin, self.number)?,
                    None => {
                        let (descriptor, blob) = (as_oci(descriptor), PackedBlob::Remote(origin.clone()));
                        return Ok(PackedLayer { descriptor, blob, origin: registry_of(origin) });
                    }
                };
                let (is, wanted) = (as_oci(descriptor).media_type, layer_type(&choice.compression));
                // A plain layer comes from an archive: no registry has it in this form.
                let plain = is == MediaType::ImageLayer && registry_of(origin).is_none();
                if is != wanted && (choice.force || plain) {
                    let blob = recompressed(store, diff_id, &blob, &choice.compression)?;
                    return Ok(PackedLayer::of(wanted, blob));
                }
                let (descriptor, blob) = (as_oci(descriptor), PackedBlob::Here(blob));
                Ok(PackedLayer { descriptor, blob, origin: registry_of(origin) })
            }
        }
    }
}

impl PackedLayer {
    /// What the manifest says of it.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn of(media_type: MediaType, blob: Blob) -> PackedLayer {
        PackedLayer {
            descriptor: Descriptor::new(media_type, blob.digest.clone(), blob.size),
            blob: PackedBlob::Here(blob),
            origin: None,
        }
    }
}

impl Bundle<'_> {
    /// Of the index, else of the image.
    pub(crate) fn descriptor(&self) -> Option<&Descriptor> {
        let index = self.index.as_ref().map(|(descriptor, _)| descriptor);
        index.or_else(|| self.images.first().map(|(_, packed)| &packed.descriptor))
    }

    /// Each once: platforms may share layers.
    pub(super) fn blobs(&self) -> Vec<BlobSource<'_>> {
        let mut blobs: Vec<_> = self.images.iter().flat_map(|(image, packed)| packed.blobs(image)).collect();
        blobs.extend(self.index.as_ref().map(|(descriptor, bytes)| document(descriptor, bytes)));
        blobs
    }
}

/// A small blob that is at hand.
fn document<'s>(descriptor: &Descriptor, bytes: &[u8]) -> BlobSource<'s> {
    BlobSource { descriptor: descriptor.clone(), content: Content::Bytes(bytes.to_vec()) }
}

impl Packed {
    pub(crate) fn blobs<'s>(&'s self, image: &'s Image) -> Vec<BlobSource<'s>> {
        let mut blobs = vec![
            document(&self.descriptor, &self.manifest_bytes),
            document(&self.manifest.config, &image.config_bytes),
        ];
        blobs.extend(self.sources.iter().filter_map(|layer| match &layer.blob {
            PackedBlob::Here(blob) => Some(BlobSource {
                descriptor: layer.descriptor.clone(),
                content: Content::File(blob.path.clone()),
            }),
            PackedBlob::Remote(_) => None,
        }));
        blobs
    }
}

/// The repository that has a layer's blob.
fn registry_of(origin: &Origin) -> Option<Arc<Reference>> {
    match origin {
        Origin::Registry(reference) => Some(reference.clone()),
        Origin::Layout(_) | Origin::Store => None,
    }
}

fn layer_type(compression: &Compression) -> MediaType {
    match compression {
        Compression::Gzip { .. } => MediaType::ImageLayerGzip,
        Compression::Zstd { .. } => MediaType::ImageLayerZstd,
        Compression::None => MediaType::ImageLayer,
    }
}

/// A base layer's descriptor in an OCI manifest: Docker's media types have OCI's names there; the blob is the same.
pub(crate) fn as_oci(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.to_string().as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        _ => descriptor.media_type.clone(),
    };
    Descriptor { media_type, ..descriptor.clone() }
}
