//! Archives and layouts.

use std::io::{self, Write};

use rbuild_image::layout::{
    DockerArchiveWriter, ImageWriter, LayoutWriter, NamedManifest, OciArchiveWriter, write_sorted,
};
use rbuild_image::{Descriptor, Reference};

use crate::cancel::Cancellable;
use crate::error::{Explain, FailureKind, Result};
use crate::request::Destination;

use super::{Bundle, Exporter, into_destination, place};

impl Exporter<'_> {
    pub(super) fn write_archive(
        &self,
        bundle: &Bundle<'_>,
        to: &Destination,
        names: &[Reference],
        kind: &str,
    ) -> Result<()> {
        let fault = || format!("could not write the {kind} archive to {}", place(to));
        let mut blobs = bundle.blobs();
        let named =
            |descriptor: &Descriptor| NamedManifest { descriptor: descriptor.clone(), names: names.to_vec() };
        let manifests: Vec<NamedManifest> = bundle.descriptor().map(named).into_iter().collect();
        let mut write = |writer: &mut dyn ImageWriter| write_sorted(writer, &mut blobs, &manifests);
        match (to, kind) {
            (Destination::Folder(path), _) => {
                let mut writer = LayoutWriter::create(path).explain(FailureKind::Environment, fault)?;
                write(&mut writer).explain(FailureKind::Environment, fault)
            }
            (to, "docker") => {
                self.write_to(to, |out| write(&mut DockerArchiveWriter::new(out)).map_err(io::Error::other))
            }
            (to, _) => {
                self.write_to(to, |out| write(&mut OciArchiveWriter::new(out)).map_err(io::Error::other))
            }
        }
    }

    fn write_to(&self, to: &Destination, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        into_destination(to, |out| write(&mut Cancellable(out, self.images.cancel)))
    }
}
