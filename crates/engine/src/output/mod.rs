//! Where the result goes: the store under its tags, archives, folders, registries.

mod archive;
mod destination;
mod files;
mod keep;
mod pack;
mod push;

use std::time::Instant;

use rbuild_image::{Descriptor, Digest, Reference};
use rbuild_layer::Compression;

use crate::build::Builder;
use crate::error::{BuildError, Failure, FailureKind, Result};
use crate::event::{Event, Phase};
use crate::image::Image;
use crate::request::{CompressionChoice, Output};
use crate::stored::keep_list;

pub use archive::ArchiveKind;
pub(crate) use archive::write_layout;
pub(crate) use destination::{into_destination, place};
pub(crate) use keep::{keep, keep_as, kept_by};
pub(crate) use pack::{Bundle, Exporter, Packed, PackedLayer, as_oci};

/// One thing that was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// `oci`, `docker`, `local`, `tar`, `registry`.
    pub kind: &'static str,
    /// File, folder or image name.
    pub place: String,
    /// The manifest, where one was written; the index over several.
    pub manifest: Option<Descriptor>,
}

/// Writes the images, one for each platform, to every output, and names them in the store. With what was written comes the
/// digest by which the result is known: the image ID, or the index's digest.
pub(crate) fn write_all(builder: &Builder<'_>, images: &[Image]) -> Result<(Digest, Vec<Written>)> {
    let number = builder.announce("exporting to image");
    let started = Instant::now();
    let exporter = Exporter { images: &builder.images, number, annotations: &builder.request.annotations };
    let result = (|| {
        let mut written = Vec::new();
        for output in &builder.request.outputs {
            written.push(match output {
                Output::Local(path) => builder.write_local(images, path)?,
                Output::Tar(to) => builder.write_tar(images, to)?,
                other => exporter.write(images, other)?,
            });
        }
        builder.bring_what_has_no_name(images, number)?;
        let kept = match images {
            [image] => keep(builder.store, image, &builder.request.tags)?,
            images => keep_list(builder.store, images, &builder.request.tags)?,
        };
        let index = written.iter().find_map(|written| written.manifest.as_ref()).filter(|_| images.len() > 1);
        let id = index.map_or(kept, |index| index.digest.clone());
        for tag in &builder.request.tags {
            builder.events.event(Event::Note { step: number, text: &format!("naming to {tag}") });
        }
        builder.events.event(Event::Note { step: number, text: &format!("image {id}") });
        Ok((id, written))
    })();
    match result {
        Ok(written) => {
            builder.events.event(Event::Done { step: number, took: started.elapsed() });
            Ok(written)
        }
        // Whatever broke off then broke off because of that.
        Err(_) if builder.cancel.is_cancelled() => {
            builder.events.event(Event::Cancelled { step: number });
            Err(BuildError::Cancelled)
        }
        Err(error) => {
            builder.events.event(Event::Failed { step: number, message: &BuildError::to_string(&error) });
            Err(error)
        }
    }
}

impl Exporter<'_> {
    fn write(&self, images: &[Image], output: &Output) -> Result<Written> {
        match output {
            Output::Oci { to, names, compression } => {
                let bundle = self.bundle(images, compression, true)?;
                self.write_archive(&bundle, ArchiveKind::Oci, to, names)?;
                Ok(Written { kind: "oci", place: place(to), manifest: bundle.descriptor().cloned() })
            }
            Output::Docker { to, names } => {
                let choice = CompressionChoice { compression: Compression::DEFAULT_GZIP, force: false };
                let bundle = self.bundle(images, &choice, true)?;
                self.write_archive(&bundle, ArchiveKind::Docker, to, names)?;
                Ok(Written { kind: "docker", place: place(to), manifest: bundle.descriptor().cloned() })
            }
            Output::Registry { names, compression } => {
                if names.is_empty() {
                    let failure = Failure::new(FailureKind::Usage, "could not push: the image has no name");
                    return Err(failure.help("name it with `-t REGISTRY/NAME:TAG`").into());
                }
                let bundle = self.bundle(images, compression, false)?;
                let place = names.iter().map(Reference::to_string).collect::<Vec<_>>().join(",");
                let began = Instant::now();
                self.push_bundle(&bundle, names)?;
                let (phase, took) = (Phase::Push, began.elapsed());
                self.images.events.event(Event::Spent { phase, name: &place, began, took });
                Ok(Written { kind: "registry", place, manifest: bundle.descriptor().cloned() })
            }
            Output::Local(_) | Output::Tar(_) => {
                Err(Failure::new(FailureKind::Usage, "these outputs hold no image").into())
            }
        }
    }
}
