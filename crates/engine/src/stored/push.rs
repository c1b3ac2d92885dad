//! From the store to a registry.

use std::time::Instant;

use rbuild_image::{Descriptor, Platform, Reference};

use super::lists::built;
use super::{StoredImage, Transfers, names};
use crate::error::{Failure, FailureKind, Result};
use crate::event::{Event, Steps};
use crate::images::{Images, read_blob};
use crate::output::{Exporter, Packed};
use crate::request::CompressionChoice;

/// An image that is at a registry now.
#[derive(Debug, Clone)]
pub struct PushedImage {
    /// Where.
    pub reference: Reference,
    /// Its manifest.
    pub manifest: Descriptor,
}

impl Transfers<'_> {
    /// Sends an image under several names: its layers once for each repository. An image that a registry gave keeps its
    /// digest, unless another compression is forced.
    ///
    /// # Errors
    /// The registry's.
    pub fn push(
        &self,
        image: &StoredImage,
        to: &[Reference],
        choice: &CompressionChoice,
    ) -> Result<Vec<PushedImage>> {
        if let Some(name) = to.iter().find(|name| name.digest().is_some()) {
            let message = format!("could not push to `{}`: a digest is what a push gives", name.familiar());
            return Err(Failure::new(FailureKind::Usage, message).help("push to a tag").into());
        }
        let steps = Steps::default();
        let images = Images::outside_a_build(self.client, self.store, self.events, &steps, Platform::host());
        let number = steps.announce(self.events, &format!("pushing {}", list_of(to)));
        let started = Instant::now();
        let annotations = Default::default();
        let exporter = Exporter { images: &images, number, annotations: &annotations };
        match self.push_each(&exporter, image, to, choice) {
            Ok(pushed) => {
                self.events.event(Event::Done { step: number, took: started.elapsed() });
                Ok(pushed)
            }
            Err(error) => {
                self.events.event(Event::Failed { step: number, message: &error.to_string() });
                Err(error)
            }
        }
    }

    /// Names of what was built for several platforms get the index, the others the one image.
    fn push_each(
        &self,
        exporter: &Exporter<'_>,
        image: &StoredImage,
        to: &[Reference],
        choice: &CompressionChoice,
    ) -> Result<Vec<PushedImage>> {
        let (mut pushed, mut single) = (Vec::new(), Vec::new());
        for name in to {
            let images = built(self.store, &name.to_string())?;
            if images.is_empty() {
                single.push(name.clone());
                continue;
            }
            let bundle = exporter.bundle(&images, choice, false)?;
            exporter.push_bundle(&bundle, std::slice::from_ref(name))?;
            let manifest = bundle.descriptor().cloned();
            pushed.extend(manifest.map(|manifest| PushedImage { reference: name.clone(), manifest }));
        }
        if !single.is_empty() {
            let packed = self.pack(exporter, image, choice, false)?;
            exporter.push(&image.image, &packed, &single)?;
            for name in single {
                let by_digest = name.repository_digest(&packed.descriptor.digest);
                names::name(self.store, image, by_digest.to_string())?;
                pushed.push(PushedImage { reference: name, manifest: packed.descriptor.clone() });
            }
        }
        Ok(pushed)
    }

    /// The image as it leaves. `fetch`: with all blobs, also those that a registry has.
    pub(super) fn pack(
        &self,
        exporter: &Exporter<'_>,
        image: &StoredImage,
        choice: &CompressionChoice,
        fetch: bool,
    ) -> Result<Packed> {
        if let Some(original) = image.original().filter(|_| !choice.force) {
            let bytes = read_blob(self.store, &original)?;
            if let Some(packed) = exporter.pack_as(&image.image, bytes, fetch)? {
                return Ok(packed);
            }
        }
        exporter.pack(&image.image, choice, fetch)
    }
}

fn list_of(names: &[Reference]) -> String {
    names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ")
}
