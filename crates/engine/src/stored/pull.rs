//! From a registry into the store.

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use rbuild_image::{Digest, Platform, Reference};
use rbuild_registry::ResolvedImage;
use rbuild_store::Resource;

use super::{ORIGINAL, Transfers};
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::{Event, Steps};
use crate::image::{Image, ImageLayer, Origin};
use crate::images::{Images, registry_failure};
use crate::output::keep_as;

/// An image that is here now.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Its name in full.
    pub reference: Reference,
    /// What the name means at the registry: digest of the index, else of the manifest.
    pub digest: Digest,
    /// The image ID.
    pub id: Digest,
    /// The name meant another image here before, or none.
    pub is_new: bool,
}

impl Transfers<'_> {
    /// Fetches an image with all of its layers, unpacks them, and names it.
    ///
    /// # Errors
    /// The registry's, or what can't be written.
    pub fn pull(&self, name: &str, platform: &Platform) -> Result<Pulled> {
        let candidates = self.client.candidates(name).map_err(|error| {
            Failure::new(FailureKind::Usage, format!("invalid reference format: `{name}`")).caused_by(error)
        })?;
        let steps = Steps::default();
        let images = Images::outside_a_build(self.client, self.store, self.events, &steps, platform.clone());
        let mut last = None;
        for reference in candidates {
            let number = steps.announce(self.events, &format!("[internal] load metadata for {reference}"));
            let started = Instant::now();
            match self.client.resolve(&reference, platform) {
                Ok(resolved) => {
                    self.events.event(Event::Done { step: number, took: started.elapsed() });
                    return self.take(&images, &reference, &resolved);
                }
                Err(error) => {
                    let failure = registry_failure(&reference, error);
                    self.events.event(Event::Failed { step: number, message: &failure.to_string() });
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(FailureKind::Usage, "the image has no name").into()))
    }

    /// Fetches all tags of a repository.
    ///
    /// # Errors
    /// The same; a name with a tag or digest; a repository without tags.
    pub fn pull_all(&self, name: &str, platform: &Platform) -> Result<Vec<Pulled>> {
        let usage = || format!("invalid reference format: `{name}`");
        let repository = Reference::parse(name).explain(FailureKind::Usage, usage)?;
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains([':', '@']) {
            let message = format!("could not pull all tags of `{name}`: it names one");
            return Err(Failure::new(FailureKind::Usage, message).into());
        }
        let tags = self.client.tags(&repository).map_err(|error| registry_failure(&repository, error))?;
        if tags.is_empty() {
            let message = format!("the repository `{}` has no tags", repository.familiar_name());
            return Err(Failure::new(FailureKind::Registry, message).into());
        }
        let pull = |tag: &String| self.pull(&format!("{}:{tag}", repository.repository()), platform);
        tags.iter().map(pull).collect()
    }

    fn take(&self, images: &Images<'_>, reference: &Reference, resolved: &ResolvedImage) -> Result<Pulled> {
        let fault = || "could not write the image to the store".to_owned();
        let origin = Origin::Registry(Arc::new(reference.clone()));
        let image = Image::of_documents(&resolved.manifest, resolved.config_bytes.clone(), &origin)?;
        images.unpack(&image.stack())?;
        self.fetch_missing(images, &image)?;
        let original =
            self.store.put_blob(&resolved.manifest_bytes).explain(FailureKind::Environment, fault)?;
        let mut manifest = image.store_manifest(self.store)?;
        manifest.annotations.insert(ORIGINAL.to_owned(), original.digest.to_string());
        let mut keeps = vec![Resource::Blob(original.digest)];
        keeps.extend(image.chain().into_iter().map(Resource::Layer));
        let by_digest = reference.repository_digest(resolved.digest());
        // As for Docker, a tag beside a digest only says what the digest was.
        let by_tag = reference.digest().is_none().then(|| reference.to_string());
        let named = by_tag.clone().unwrap_or_else(|| by_digest.to_string());
        let before = self.store.tag(&named).explain(FailureKind::Environment, fault)?;
        let names: Vec<String> = by_tag.into_iter().chain([by_digest.to_string()]).collect();
        let id = keep_as(self.store, &image, &manifest, &keeps, &names)?;
        self.store.finish_build().explain(FailureKind::Environment, fault)?;
        let is_new = before.is_none_or(|before| before.image_id != id);
        Ok(Pulled { reference: reference.clone(), digest: resolved.digest().clone(), id, is_new })
    }

    /// Layers that are unpacked here although their blob is gone: who pulls an image wants to have it whole.
    fn fetch_missing(&self, images: &Images<'_>, image: &Image) -> Result<()> {
        let fault = || "could not read the store".to_owned();
        let mut missing = Vec::new();
        for layer in &image.layers {
            let ImageLayer::Blob { descriptor, origin, .. } = layer else { continue };
            if !self.store.has_blob(&descriptor.digest).explain(FailureKind::Environment, fault)? {
                missing.push((descriptor, origin));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let number = images.steps.announce(self.events, "[internal] fetch layers");
        let started = Instant::now();
        missing
            .par_iter()
            .try_for_each(|(descriptor, origin)| images.blob(descriptor, origin, number).map(drop))?;
        self.events.event(Event::Done { step: number, took: started.elapsed() });
        Ok(())
    }
}
