//! An image as the engine sees it: its documents, and for each layer where its bytes can be had.

use std::path::PathBuf;
use std::sync::Arc;

use rbuild_image::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Reference, chain_id,
};
use rbuild_store::{SnapshotId, Store, chain_on};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::state::Rootfs;

/// On a layer of a manifest in the store: the snapshot whose changes it is. Such a layer is listed uncompressed, and
/// no blob of it exists before it leaves the store.
const SNAPSHOT: &str = "dev.rbuild.snapshot";
/// On a base layer of a manifest in the store: the repository that has the blob.
const ORIGIN: &str = "dev.rbuild.origin";

/// A base image, or an image of the store.
#[derive(Debug)]
pub(crate) struct Image {
    /// What it says of itself.
    pub(crate) config: ImageConfig,
    /// The same as stored; their digest is the image ID.
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) layers: Vec<ImageLayer>,
}

/// Layers from the bottom up of which every diff ID is known; their files may be elsewhere still.
#[derive(Debug)]
pub(crate) struct LayerStack {
    pub(crate) layers: Vec<ImageLayer>,
    /// The name of each layer's tree: the chain of diff IDs up to it, because folders that a layer only implies take
    /// their owner and mode from the layers below.
    pub(crate) chain: Vec<ChainId>,
    /// What it is called in progress lines.
    pub(crate) label: String,
}

impl LayerStack {
    /// A stack of layers with their diff IDs.
    pub(crate) fn new<'d>(
        layers: Vec<ImageLayer>,
        diff_ids: impl IntoIterator<Item = &'d DiffId>,
        label: String,
    ) -> Self {
        let mut chain: Vec<ChainId> = Vec::with_capacity(layers.len());
        for diff_id in diff_ids {
            let next = chain_on(chain_text(&chain), diff_id);
            chain.push(next);
        }
        LayerStack { layers, chain, label }
    }

    /// The same with one layer more.
    pub(crate) fn with(&self, layer: ImageLayer, diff_id: &DiffId) -> Self {
        let mut chain = self.chain.clone();
        chain.push(chain_on(chain_text(&chain), diff_id));
        LayerStack { layers: [self.layers.as_slice(), &[layer]].concat(), chain, label: self.label.clone() }
    }

    /// Identifies the root file system for cache keys: its layers' content, whatever the image is called.
    pub(crate) fn key(&self) -> &str {
        chain_text(&self.chain)
    }
}

/// The chain ID on top, `scratch` where there is none.
fn chain_text(chain: &[ChainId]) -> &str {
    chain.last().map_or("scratch", |chain| chain.0.as_str())
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub(crate) enum ImageLayer {
    /// A blob as its base image has it; it goes into new images unchanged.
    Blob { diff_id: DiffId, descriptor: Box<Descriptor>, origin: Origin },
    /// What a step changed.
    Snapshot(SnapshotId),
}

/// Where the blobs of a base image can be fetched when the store does not have them.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Registry(Arc<Reference>),
    Layout(Arc<PathBuf>),
    /// Nowhere else.
    Store,
}

impl Origin {
    /// Whose fault it is that a layer is not what it should be.
    pub(crate) fn fault(&self) -> FailureKind {
        match self {
            Origin::Registry(_) => FailureKind::Registry,
            Origin::Layout(_) => FailureKind::Build,
            Origin::Store => FailureKind::Environment,
        }
    }
}

impl Image {
    /// Reads manifest and config as a registry or a layout gave them.
    pub(crate) fn of_documents(manifest: &Manifest, config_bytes: Vec<u8>, origin: &Origin) -> Result<Image> {
        let config = ImageConfig::parse(&config_bytes)
            .explain(FailureKind::Build, || "could not understand the image's config".to_owned())?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let message = format!(
                "could not use the image: its config names {} layers, its manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            );
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        let layers = diff_ids.iter().zip(&manifest.layers);
        let layers =
            layers.map(|(diff_id, descriptor)| ImageLayer::of(diff_id, descriptor, origin)).collect();
        Ok(Image { config, config_bytes, layers })
    }

    /// The manifest under which the store keeps the image: base layers as they came, new ones as snapshots.
    pub(crate) fn store_manifest(&self, store: &Store) -> Result<Manifest> {
        let config = Descriptor::of(MediaType::ImageConfig, &self.config_bytes);
        let layers = self.layers.iter().map(|layer| layer.store_descriptor(store)).collect::<Result<_>>()?;
        Ok(Manifest::new(MediaType::ImageManifest, config, layers))
    }

    /// The root file system of a container of the image.
    pub(crate) fn rootfs(&self) -> Rootfs {
        match self.layers.last() {
            None => Rootfs::Empty,
            Some(ImageLayer::Snapshot(id)) => Rootfs::Snapshot(*id),
            Some(ImageLayer::Blob { .. }) => Rootfs::Layers(Arc::new(self.stack())),
        }
    }

    /// Its layers as something to unpack.
    pub(crate) fn stack(&self) -> LayerStack {
        LayerStack::new(self.layers.clone(), &self.config.rootfs.diff_ids, self.label())
    }

    /// Identifies the root file system for cache keys: its layers' content, whatever the image is called.
    pub(crate) fn rootfs_key(&self) -> String {
        match chain_id(&self.config.rootfs.diff_ids) {
            Some(chain) => chain.0.to_string(),
            None => "scratch".to_owned(),
        }
    }

    /// The name of each layer's tree: the chain of diff IDs up to it, because folders that a layer only implies take
    /// their owner and mode from the layers below.
    pub(crate) fn chain(&self) -> Vec<ChainId> {
        let diff_ids = &self.config.rootfs.diff_ids;
        (1..=diff_ids.len()).filter_map(|length| chain_id(&diff_ids[..length])).collect()
    }

    /// The image ID.
    pub(crate) fn id(&self) -> Digest {
        Digest::sha256_of(&self.config_bytes)
    }
}

impl ImageLayer {
    fn of(diff_id: &DiffId, descriptor: &Descriptor, origin: &Origin) -> ImageLayer {
        let annotation = |name| descriptor.annotations.get(name);
        if let Some(id) =
            annotation(SNAPSHOT).and_then(|id| id.parse().ok()).filter(|_| matches!(origin, Origin::Store))
        {
            return ImageLayer::Snapshot(id);
        }
        let origin = match (origin, annotation(ORIGIN).and_then(|origin| Reference::parse(origin).ok())) {
            (Origin::Store, Some(reference)) => Origin::Registry(Arc::new(reference)),
            (origin, _) => origin.clone(),
        };
        let mut descriptor = descriptor.clone();
        descriptor.annotations.remove(ORIGIN);
        descriptor.annotations.remove(SNAPSHOT);
        ImageLayer::Blob { diff_id: diff_id.clone(), descriptor: Box::new(descriptor), origin }
    }

    fn store_descriptor(&self, store: &Store) -> Result<Descriptor> {
        match self {
            ImageLayer::Blob { descriptor, origin, .. } => {
                let mut descriptor = Descriptor::clone(descriptor);
                if let Origin::Registry(reference) = origin {
                    descriptor.annotations.insert(ORIGIN.to_owned(), reference.repository());
                }
                Ok(descriptor)
            }
            ImageLayer::Snapshot(id) => {
                let (diff_id, size) = crate::packing::layer_of(store, id)?;
                let mut descriptor = Descriptor::new(MediaType::ImageLayer, diff_id.0, size);
                descriptor.annotations.insert(SNAPSHOT.to_owned(), id.to_string());
                Ok(descriptor)
            }
        }
    }
}
