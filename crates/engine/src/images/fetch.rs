//! Blobs: into the store, from wherever they are.

use std::io::{self, Write};

use rbuild_executor::Cancel;
use rbuild_image::layout::LayoutReader;
use rbuild_image::{Descriptor, Digest};
use rbuild_registry::BlobSink;
use rbuild_store::{Blob, PartialBlob, PartialSlot};

use crate::cancel::Cancellable;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, StepNumber};
use crate::image::Origin;

use super::{Images, registry_failure};

impl Images<'_> {
    /// The blob of a base image or a shared cache, fetched where the store does not have it.
    pub(crate) fn blob(&self, descriptor: &Descriptor, origin: &Origin, number: StepNumber) -> Result<Blob> {
        let fetched = self.fetch_blob(descriptor, origin, number);
        fetched.inspect_err(|error| self.distant.failed(&descriptor.digest, error))
    }

    fn fetch_blob(&self, descriptor: &Descriptor, origin: &Origin, number: StepNumber) -> Result<Blob> {
        let fault = || format!("could not store the blob {}", descriptor.digest);
        let partial =
            match self.store.partial_blob(&descriptor.digest).explain(FailureKind::Environment, fault)? {
                PartialSlot::Complete(blob) => return Ok(blob),
                PartialSlot::Partial(partial) => partial,
            };
        match origin {
            Origin::Registry(reference) => {
                let item = descriptor.digest.short().to_owned();
                let progress = |current| {
                    self.events.event(Event::Progress {
                        step: number,
                        item: &item,
                        current,
                        total: descriptor.size,
                    });
                };
                let mut sink = Sink(partial, self.cancel);
                self.client.blob(reference, descriptor, &mut sink, &progress).map_err(|error| match self
                    .is_cancelled()
                {
                    true => BuildError::Cancelled,
                    false => registry_failure(reference, error),
                })?;
                sink.0.finish().explain(FailureKind::Registry, fault)
            }
            Origin::Layout(path) => {
                let mut partial = partial;
                let layout = LayoutReader::open(path).explain(FailureKind::Build, fault)?;
                let mut reader = layout.blob(&descriptor.digest).explain(FailureKind::Build, fault)?;
                partial.restart().explain(FailureKind::Environment, fault)?;
                io::copy(&mut reader, &mut partial).explain(FailureKind::Build, fault)?;
                partial.finish().explain(FailureKind::Build, fault)
            }
            Origin::Store => {
                let message = format!(
                    "the blob {} is gone from the store, and nothing says where to fetch it",
                    descriptor.digest
                );
                Err(Failure::new(FailureKind::Environment, message).into())
            }
        }
    }
}

/// Takes a download into the store, until it is not wanted any more.
struct Sink<'a>(PartialBlob, Option<&'a Cancel>);

impl BlobSink for Sink<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        Cancellable(&mut self.0, self.1).write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.restart()
    }

    fn digest(&self) -> Option<Digest> {
        Some(self.0.digest())
    }
}
