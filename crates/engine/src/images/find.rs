//! What a name means: in the store, at a registry, in a layout.

use std::path::Path;
use std::sync::Arc;

use rbuild_image::layout::LayoutReader;
use rbuild_image::{Digest, Manifest, MediaType, Platform, Reference};
use rbuild_registry::ErrorKind;
use rbuild_store::{MemoLinks, Resource};

use crate::error::{Explain, FailureKind, Result};
use crate::event::Event;
use crate::image::{Image, Origin};
use crate::stored::built_for;

use super::{Images, registry_failure};

/// Memo kind: what a name meant when it was last looked up, for a platform.
const RESOLVED: &str = "resolved";

impl Images<'_> {
    /// The store first, as Docker does; the registry where the store has nothing, or `--pull` says so.
    pub(super) fn find(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>> {
        if (!self.pull || reference.digest().is_some())
            && let Some(image) = self.stored(reference, platform)?
        {
            return Ok(image);
        }
        match self.client.resolve(reference, platform) {
            Ok(resolved) => {
                let origin = Origin::Registry(Arc::new(reference.clone()));
                let image = Image::of_documents(&resolved.manifest, resolved.config_bytes.clone(), &origin)?;
                self.remember(reference, platform, &resolved.manifest_bytes, &resolved.config_bytes)?;
                Ok(Arc::new(image))
            }
            Err(error) if error.kind() == ErrorKind::Network && self.pull => {
                let Some(image) = self.stored(reference, platform)? else {
                    return Err(registry_failure(reference, error));
                };
                let text = format!("{error}; using `{}` as the store has it", reference.familiar());
                self.events.event(Event::Warning { text: &text });
                Ok(image)
            }
            Err(error) => Err(registry_failure(reference, error)),
        }
    }

    /// The image as the store has it: one that was built or loaded under this name, or what the name meant last time.
    fn stored(&self, reference: &Reference, platform: &Platform) -> Result<Option<Arc<Image>>> {
        let fault = || "could not read the store".to_owned();
        // With a digest a tag says nothing more; a pull notes the digest alone.
        let pinned = reference.digest().map(|digest| reference.repository_digest(digest));
        let name = pinned.as_ref().unwrap_or(reference).to_string();
        let tagged = self.store.tag(&name).explain(FailureKind::Environment, fault)?;
        if let Some(manifest) = tagged.and_then(|record| record.manifest) {
            let image = Image::from_store(self.store, &manifest)?;
            if image.config.platform().satisfies(platform) {
                return Ok(Some(Arc::new(image)));
            }
        }
        if let Some(manifest) = built_for(self.store, &name, platform)? {
            return Image::from_store(self.store, &manifest).map(Arc::new).map(Some);
        }
        let key = format!("{reference} {platform}");
        let known: Option<Digest> =
            self.store.memo(RESOLVED, &key).explain(FailureKind::Environment, fault)?;
        let Some(digest) = known else { return Ok(None) };
        let Some(blob) = self.store.blob(&digest).explain(FailureKind::Environment, fault)? else {
            return Ok(None);
        };
        let bytes = blob.read().explain(FailureKind::Environment, fault)?;
        let manifest = Manifest::parse(&bytes).explain(FailureKind::Environment, fault)?;
        let Some(config) =
            self.store.blob(&manifest.config.digest).explain(FailureKind::Environment, fault)?
        else {
            return Ok(None);
        };
        let config = config.read().explain(FailureKind::Environment, fault)?;
        let origin = Origin::Registry(Arc::new(reference.clone()));
        Image::of_documents(&manifest, config, &origin).map(Arc::new).map(Some)
    }

    fn remember(
        &self,
        reference: &Reference,
        platform: &Platform,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<()> {
        let fault = || "could not write to the store".to_owned();
        let manifest = self.store.put_blob(manifest).explain(FailureKind::Environment, fault)?;
        let config = self.store.put_blob(config).explain(FailureKind::Environment, fault)?;
        let keeps = vec![Resource::Blob(manifest.digest.clone()), Resource::Blob(config.digest)];
        let links = MemoLinks { keeps, about: Vec::new() };
        self.store
            .put_memo(RESOLVED, &format!("{reference} {platform}"), &manifest.digest, &links)
            .explain(FailureKind::Environment, fault)
    }

    pub(super) fn of_layout(
        &self,
        path: &Path,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<Arc<Image>> {
        let fault = || format!("could not read the OCI layout `{}`", path.display());
        let layout = LayoutReader::open(path).explain(FailureKind::Build, fault)?;
        let selector = digest.map(Digest::to_string).or_else(|| tag.map(str::to_owned));
        let mut descriptor = layout.find(selector.as_deref()).explain(FailureKind::Build, fault)?.clone();
        if matches!(descriptor.media_type, MediaType::ImageIndex)
            || descriptor.media_type.to_string().contains("manifest.list")
        {
            let bytes = layout.document(&descriptor).explain(FailureKind::Build, fault)?;
            let index = rbuild_image::Index::parse(&bytes).explain(FailureKind::Build, fault)?;
            descriptor = rbuild_image::select_manifest(&index, &self.platform)
                .explain(FailureKind::Build, fault)?
                .clone();
        }
        let (manifest, _) = layout.image(&descriptor).explain(FailureKind::Build, fault)?;
        let config = layout.document(&manifest.config).explain(FailureKind::Build, fault)?;
        Image::of_documents(&manifest, config, &Origin::Layout(Arc::new(path.to_owned()))).map(Arc::new)
    }
}
