//! Images between registries, layouts and archives, past the store: blobs stream from one to the other.
//!
//! An index is copied whole, with every image and attestation in it, and keeps its digest; so does an image. Only OCI layouts take
//! Docker's documents in OCI's words, because other tools refuse them there.

mod location;
mod source;
mod stream;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use rbuild_image::layout::{BlobSource, Content, NamedManifest};
use rbuild_image::{
    ANNOTATION_REF_NAME, Descriptor, Document, Index, MAX_DOCUMENT, Manifest, MediaType, MediaTypeExt,
    Platform, Reference, select_manifest,
};
use rbuild_registry::Client;

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, StepNumber, Steps};
use crate::images::registry_failure;
use crate::output::{as_oci, write_layout};
use source::Source;

pub use location::Location;

/// Everything of an image or index that is copied: documents with the outermost last, and blobs.
#[derive(Default)]
struct Load<'s> {
    documents: Vec<(Descriptor, Vec<u8>)>,
    /// Each with where it comes from.
    blobs: Vec<(Descriptor, &'s Source)>,
}

/// Copies an image, or all of an index unless `platform` chooses one image of it; returns what the destination has now.
///
/// # Errors
/// What the registries say, or what is wrong with the archives.
pub fn copy(
    client: &Arc<Client>,
    from: &Location,
    to: &Location,
    platform: Option<&Platform>,
    events: &dyn EventSink,
) -> Result<Descriptor> {
    let steps = Steps::default();
    let number = steps.announce(events, &format!("copying {from} to {to}"));
    let started = Instant::now();
    let result = copy_in(client, from, to, platform, &|event| events.event(event), number);
    match &result {
        Ok(_) => events.event(Event::Done { step: number, took: started.elapsed() }),
        Err(error) => events.event(Event::Failed { step: number, message: &error.to_string() }),
    }
    result
}

/// The manifest or index at a place, as it is there.
///
/// # Errors
/// What the registry says, or what is wrong with the archive.
pub fn document(client: &Arc<Client>, location: &Location) -> Result<(Descriptor, Vec<u8>)> {
    Source::open(client, location)?.root()
}

/// An image that is not in the store.
#[derive(Debug)]
pub struct Inspected {
    /// Its name, where it has one: with the manifest's digest.
    pub name: Option<Reference>,
    /// The manifest.
    pub manifest: Manifest,
    /// The config as it is: its digest is the image ID.
    pub config_bytes: Vec<u8>,
}

/// Reads manifest and config of an image, of an index the one for the platform; none of its layers.
///
/// # Errors
/// What the registry says, or what is wrong with the archive.
pub fn inspect(client: &Arc<Client>, location: &Location, platform: &Platform) -> Result<Inspected> {
    let source = Source::open(client, location)?;
    let (descriptor, bytes) = choose(&source, Some(platform))?;
    let fault = || format!("could not read `{location}`");
    let manifest = Manifest::parse(&bytes).explain(FailureKind::Build, fault)?;
    if manifest.config.size > MAX_DOCUMENT {
        let message = format!("could not read `{location}`: its config has more than {MAX_DOCUMENT} bytes");
        return Err(Failure::new(FailureKind::Build, message).into());
    }
    let mut config_bytes = Vec::new();
    source.blob(&manifest.config)?.read_to_end(&mut config_bytes).explain(FailureKind::Build, fault)?;
    let name = source.reference().map(|reference| reference.repository_digest(&descriptor.digest));
    Ok(Inspected { name, manifest, config_bytes })
}

fn copy_in(
    client: &Arc<Client>,
    from: &Location,
    to: &Location,
    platform: Option<&Platform>,
    tell: &(dyn Fn(Event<'_>) + Sync),
    number: StepNumber,
) -> Result<Descriptor> {
    let source = Source::open(client, from)?;
    // docker load takes one image only.
    let host = Platform::host();
    let platform = platform.or(matches!(to, Location::DockerArchive { .. }).then_some(&host));
    let mut load = Load::default();
    let (root, bytes) = choose(&source, platform)?;
    let in_oci_words = matches!(to, Location::Oci { .. } | Location::OciArchive { .. });
    let root = load.add(&source, root, bytes, in_oci_words)?;
    load.each_once();
    match to {
        Location::Registry(reference) => push(client, &load, reference, tell, number)?,
        archive => write(&load, &root, archive)?,
    }
    Ok(root)
}

/// Writes an index to a layout or an archive of one, with its images, which are where `places` says, in the index's order.
/// Returns the index as it is there.
///
/// # Errors
/// What the registries say, what is wrong with the archives, what can't be written.
pub(crate) fn gather(
    client: &Arc<Client>,
    mut index: Index,
    places: &[Location],
    to: &Location,
    events: &dyn EventSink,
) -> Result<Descriptor> {
    Steps::default().carry_out(events, &format!("writing {to}"), || {
        let open = |place| Source::open(client, place);
        let sources = places.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut load = Load::default();
        for (entry, source) in index.manifests.iter_mut().zip(&sources) {
            let (_, bytes) = source.root()?;
            *entry = load.add(source, entry.clone(), bytes, true)?;
        }
        let bytes = index.to_bytes();
        let root = Descriptor::of(MediaType::ImageIndex, &bytes);
        load.documents.push((root.clone(), bytes));
        load.each_once();
        write(&load, &root, to)?;
        Ok(root)
    })
}

/// What is to be copied: the source's document, or the one in it that suits the platform.
fn choose(source: &Source, platform: Option<&Platform>) -> Result<(Descriptor, Vec<u8>)> {
    let (mut descriptor, mut bytes) = source.root()?;
    let Some(platform) = platform else { return Ok((descriptor, bytes)) };
    let fault = || format!("could not choose an image for {platform}");
    for _ in 0..3 {
        match Document::parse(&descriptor.media_type, &bytes).explain(FailureKind::Build, fault)? {
            Document::Manifest(_) => return Ok((descriptor, bytes)),
            Document::Index(index) => {
                descriptor = select_manifest(&index, platform).explain(FailureKind::Build, fault)?.clone();
                bytes = source.document(&descriptor)?;
            }
        }
    }
    Err(Failure::new(FailureKind::Build, "the image's indexes are nested too deep").into())
}

impl<'s> Load<'s> {
    /// What several images share is copied once.
    fn each_once(&mut self) {
        let mut seen = BTreeSet::new();
        self.blobs.retain(|(blob, _)| seen.insert(blob.digest.clone()));
        self.documents.retain(|(document, _)| seen.insert(document.digest.clone()));
    }

    /// Adds a document and all that it points to; returns the document's descriptor as it is written.
    fn add(
        &mut self,
        source: &'s Source,
        descriptor: Descriptor,
        bytes: Vec<u8>,
        in_oci_words: bool,
    ) -> Result<Descriptor> {
        let fault = || format!("could not understand the manifest {}", descriptor.digest);
        let document = Document::parse(&descriptor.media_type, &bytes).explain(FailureKind::Build, fault)?;
        let docker = in_oci_words && descriptor.media_type.is_docker();
        let (written, bytes) = match document {
            Document::Manifest(manifest) => {
                // Foreign layers stay where their descriptor says.
                let layers = manifest.layers.iter().filter(|layer| !layer.media_type.is_foreign_layer());
                let blobs = [&manifest.config].into_iter().chain(layers);
                self.blobs.extend(blobs.map(|blob| (blob.clone(), source)));
                if docker { manifest_in_oci_words(manifest, &descriptor) } else { (descriptor, bytes) }
            }
            Document::Index(mut index) => {
                let mut changed = docker;
                for child in &mut index.manifests {
                    let bytes = source.document(child)?;
                    let written = self.add(source, child.clone(), bytes, in_oci_words)?;
                    changed |= written.digest != child.digest;
                    *child = written;
                }
                if changed { index_in_oci_words(index, &descriptor) } else { (descriptor, bytes) }
            }
        };
        self.documents.push((written.clone(), bytes));
        Ok(written)
    }
}

fn manifest_in_oci_words(mut manifest: Manifest, old: &Descriptor) -> (Descriptor, Vec<u8>) {
    manifest.media_type = Some(MediaType::ImageManifest);
    if manifest.config.media_type.is_docker() {
        manifest.config.media_type = MediaType::ImageConfig;
    }
    manifest.layers.iter_mut().for_each(|layer| *layer = as_oci(layer));
    let bytes = manifest.to_bytes();
    (renewed(old, MediaType::ImageManifest, &bytes), bytes)
}

fn index_in_oci_words(mut index: Index, old: &Descriptor) -> (Descriptor, Vec<u8>) {
    index.media_type = Some(MediaType::ImageIndex);
    let bytes = index.to_bytes();
    (renewed(old, MediaType::ImageIndex, &bytes), bytes)
}

fn renewed(old: &Descriptor, media_type: MediaType, bytes: &[u8]) -> Descriptor {
    let new = Descriptor::of(media_type, bytes);
    Descriptor { platform: old.platform.clone(), annotations: old.annotations.clone(), ..new }
}

/// Blobs several at a time, then documents from the inside out, the outermost under the name.
fn push(
    client: &Arc<Client>,
    load: &Load<'_>,
    to: &Reference,
    tell: &(dyn Fn(Event<'_>) + Sync),
    number: StepNumber,
) -> Result<()> {
    let failed = |error| match registry_failure(to, error) {
        crate::BuildError::Failed(mut failure) => {
            failure.message = format!("could not copy to `{}`", to.familiar());
            crate::BuildError::Failed(failure)
        }
        other => other,
    };
    load.blobs.par_iter().try_for_each(|(blob, source)| {
        let mounts: Vec<Reference> = source.reference().cloned().into_iter().collect();
        let item = blob.digest.short();
        let progress = |current| tell(Event::Progress { step: number, item, current, total: blob.size });
        // What the source said when a blob could not be read is more than "could not read".
        let cause = Mutex::new(None);
        let open = || {
            source.blob(blob).map_err(|error| {
                let said = error.to_string();
                *cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                io::Error::other(said)
            })
        };
        let pushed = client.push_blob(to, blob, &open, &mounts, &progress);
        match (pushed, cause.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(failed(error)),
        }
    })?;
    let Some(((root, root_bytes), inner)) = load.documents.split_last() else { return Ok(()) };
    for (descriptor, bytes) in inner {
        let name = to.repository_digest(&descriptor.digest);
        client.push_manifest(&name, &descriptor.media_type, bytes).map_err(failed)?;
    }
    client.push_manifest(to, &root.media_type, root_bytes).map_err(failed).map(drop)
}

fn write(load: &Load<'_>, root: &Descriptor, to: &Location) -> Result<()> {
    let Some((kind, file)) = to.file() else { return Ok(()) };
    let mut blobs: Vec<BlobSource<'_>> = Vec::new();
    for (descriptor, bytes) in &load.documents {
        blobs.push(BlobSource { descriptor: descriptor.clone(), content: Content::Bytes(bytes.clone()) });
    }
    for (descriptor, source) in &load.blobs {
        let open = move || source.blob(descriptor).map_err(|error| io::Error::other(error.to_string()));
        blobs.push(BlobSource { descriptor: descriptor.clone(), content: Content::Stream(Box::new(open)) });
    }
    write_layout(&blobs, &[named(root, to)], kind, &file, None)
}

/// The name in the archive: in OCI layouts any word, in docker archives an image's name.
pub(crate) fn named(root: &Descriptor, to: &Location) -> NamedManifest {
    let mut descriptor = root.clone();
    let name = to.archive().and_then(|(_, name)| name);
    let full = name.and_then(|name| Reference::parse(name).ok());
    let is_full =
        matches!(to, Location::DockerArchive { .. }) || name.is_some_and(|name| name.contains(['/', ':']));
    match (full, name) {
        (Some(full), _) if is_full => NamedManifest { descriptor, names: vec![full] },
        (_, Some(name)) => {
            descriptor.annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_owned());
            NamedManifest { descriptor, names: Vec::new() }
        }
        (_, None) => NamedManifest { descriptor, names: Vec::new() },
    }
}
