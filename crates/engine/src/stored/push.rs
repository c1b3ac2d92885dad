//! From the store to a registry.

use std::time::Instant;

use rbuild_image::{Descriptor, Platform, Reference};

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
        let images =
            Images::outside_a_build(self.client, self.store, self.events, &steps, Platform::host());
        let number = steps.announce(self.events, &format!("pushing {}", list_of(to)));
        let started = Instant::now();
        let annotations = Default::default();
        let exporter = Exporter { images: &images, number, annotations: &annotations };
        let result = self.pack(&exporter, image, choice, false).and_then(|packed| {
            exporter.push(&image.image, &packed, to)?;
            Ok(packed)
        });
        let packed = match result {
            Ok(packed) => packed,
            Err(error) => {
                self.events.event(Event::Failed { step: number, message: &error.to_string() });
                return Err(error);
            }
        };
        for name in to {
            let by_digest = name.repository_digest(&packed.descriptor.digest);
            names::name(self.store, image, by_digest.to_string())?;
        }
        self.events.event(Event::Done { step: number, took: started.elapsed() });
        let pushed =
            |name: &Reference| PushedImage { reference: name.clone(), manifest: packed.descriptor.clone() };
        Ok(to.iter().map(pushed).collect())
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
