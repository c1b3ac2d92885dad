//! Archives and layouts: out of the store and into it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rbuild_image::layout::{LayoutReader, NamedManifest};
use rbuild_image::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Digest, Document, MediaTypeExt, Platform,
    Reference, select_manifest,
};
use rbuild_layer::{Compression, Encoding, decompress_sniffed};
use rbuild_store::PartialSlot;

use super::{StoredImage, Transfers};
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::{Event, StepNumber, Steps};
use crate::image::{Image, ImageLayer, Origin};
use crate::images::Images;
use crate::output::{ArchiveKind, Exporter, Packed, keep_as, place, write_layout};
use crate::relay::{self, Location};
use crate::request::{CompressionChoice, Destination};

/// An image that came out of an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image ID.
    pub id: Digest,
    /// The names it got; without any it is there by its ID.
    pub names: Vec<Reference>,
}

impl Transfers<'_> {
    /// Writes images to one archive, each under the names given with it.
    ///
    /// # Errors
    /// A layer that must be fetched and can't be; what can't be written.
    pub fn save(
        &self,
        images: &[(StoredImage, Vec<Reference>)],
        kind: ArchiveKind,
        to: &Destination,
    ) -> Result<()> {
        let write_all = |exporter: &Exporter<'_>| {
            let packed = self.pack_all(exporter, images, kind)?;
            let named = |(packed, _, names): &(Packed, &Image, &[Reference])| NamedManifest {
                descriptor: packed.descriptor.clone(),
                names: names.to_vec(),
            };
            let manifests: Vec<NamedManifest> = packed.iter().map(named).collect();
            write(&packed, &manifests, kind, to)
        };
        self.exporting(&place(to), write_all)
    }

    /// Writes one image where skopeo's words say; a layout that is there already gains it. Returns the manifest's descriptor.
    ///
    /// # Errors
    /// The same; a place at a registry.
    pub fn save_at(&self, image: StoredImage, at: &Location) -> Result<Descriptor> {
        let Some((kind, to)) = at.file() else {
            let message = format!("could not write to `{at}`: it is at a registry");
            return Err(Failure::new(FailureKind::Usage, message).into());
        };
        let images = [(image, Vec::new())];
        self.exporting(&at.to_string(), |exporter| {
            let packed = self.pack_all(exporter, &images, kind)?;
            let descriptors: Vec<Descriptor> =
                packed.iter().map(|(packed, _, _)| packed.descriptor.clone()).collect();
            let manifests: Vec<NamedManifest> =
                descriptors.iter().map(|descriptor| relay::named(descriptor, at)).collect();
            write(&packed, &manifests, kind, &to)?;
            let none = || Failure::new(FailureKind::Environment, "nothing was written").into();
            descriptors.into_iter().next().ok_or_else(none)
        })
    }

    /// One step that ends with `work`.
    fn exporting<T>(&self, shown: &str, work: impl FnOnce(&Exporter<'_>) -> Result<T>) -> Result<T> {
        let steps = Steps::default();
        let finder = Images::outside_a_build(self.client, self.store, self.events, &steps, Platform::host());
        let number = steps.announce(self.events, &format!("exporting to {shown}"));
        let started = Instant::now();
        let annotations = BTreeMap::new();
        let result = work(&Exporter { images: &finder, number, annotations: &annotations });
        match &result {
            Ok(_) => self.events.event(Event::Done { step: number, took: started.elapsed() }),
            Err(error) => self.events.event(Event::Failed { step: number, message: &error.to_string() }),
        }
        result
    }

    fn pack_all<'i>(
        &self,
        exporter: &Exporter<'_>,
        images: &'i [(StoredImage, Vec<Reference>)],
        kind: ArchiveKind,
    ) -> Result<Vec<(Packed, &'i Image, &'i [Reference])>> {
        // docker load unpacks at once; an OCI archive mostly goes on to a registry.
        let compression = match kind {
            ArchiveKind::Docker => Compression::None,
            ArchiveKind::Oci => Compression::DEFAULT_GZIP,
        };
        let choice = CompressionChoice { compression, force: false };
        let pack = |(image, names): &'i (StoredImage, Vec<Reference>)| {
            let packed = match kind {
                ArchiveKind::Oci if image.has_oci_original() => self.pack(exporter, image, &choice, true)?,
                _ => exporter.pack(&image.image, &choice, true)?,
            };
            Ok((packed, &image.image, names.as_slice()))
        };
        images.iter().map(pack).collect()
    }

    /// Reads the images of an archive or layout into the store. `only` names one of them; of an image for several platforms
    /// the one for `platform` is taken.
    ///
    /// # Errors
    /// What is wrong with the archive; what can't be written.
    pub fn load(&self, path: &Path, only: Option<&str>, platform: &Platform) -> Result<Vec<Loaded>> {
        let fault = || format!("could not read the archive `{}`", path.display());
        let metadata = std::fs::metadata(path).explain(FailureKind::Build, fault)?;
        let shown = path.display().to_string();
        if metadata.is_dir() {
            return self.load_from(path, &shown, only, platform);
        }
        let file = std::fs::File::open(path).explain(FailureKind::Build, fault)?;
        let (encoding, mut content) = decompress_sniffed(file).explain(FailureKind::Build, fault)?;
        if encoding == Encoding::Plain && metadata.is_file() {
            return self.load_from(path, &shown, only, platform);
        }
        let spool = self.spool(&mut content, &shown)?;
        self.load_from(&spool.0, &shown, only, platform)
    }

    /// [`Transfers::load`] from a stream, such as standard input.
    ///
    /// # Errors
    /// The same.
    pub fn load_stream(&self, content: &mut (dyn Read + Send), platform: &Platform) -> Result<Vec<Loaded>> {
        let shown = "standard input";
        let fault = || "could not read the archive from standard input".to_owned();
        let (_, mut content) = decompress_sniffed(content).explain(FailureKind::Build, fault)?;
        let spool = self.spool(&mut content, shown)?;
        self.load_from(&spool.0, shown, None, platform)
    }

    fn load_from(
        &self,
        path: &Path,
        shown: &str,
        only: Option<&str>,
        platform: &Platform,
    ) -> Result<Vec<Loaded>> {
        let steps = Steps::default();
        let images = Images::outside_a_build(self.client, self.store, self.events, &steps, platform.clone());
        let number = steps.announce(self.events, &format!("loading {shown}"));
        let started = Instant::now();
        let result = self.load_images(&images, path, shown, only, number);
        match &result {
            Ok(_) => self.events.event(Event::Done { step: number, took: started.elapsed() }),
            Err(error) => self.events.event(Event::Failed { step: number, message: &error.to_string() }),
        }
        result
    }

    fn load_images(
        &self,
        images: &Images<'_>,
        path: &Path,
        shown: &str,
        only: Option<&str>,
        number: StepNumber,
    ) -> Result<Vec<Loaded>> {
        let fault = || format!("could not read the archive `{shown}`");
        let layout = LayoutReader::open(path).explain(FailureKind::Build, fault)?;
        let only = only.map(|only| layout.find(Some(only))).transpose().explain(FailureKind::Build, fault)?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for (digest, (descriptor, names)) in offered(&layout) {
            if only.is_some_and(|only| only.digest != digest) {
                continue;
            }
            let image = open_image(&layout, path, descriptor, &images.platform);
            let Some(image) = image.explain(FailureKind::Build, fault)? else { continue };
            let image = image?;
            for layer in &image.layers {
                if let ImageLayer::Blob { descriptor, .. } = layer {
                    let text = format!("{} {} bytes", descriptor.digest, descriptor.size);
                    self.events.event(Event::Note { step: number, text: &text });
                    take_blob(self.store, &layout, descriptor)?;
                }
            }
            images.unpack(&image.stack())?;
            loaded.push(self.name_loaded(&image, names)?);
        }
        if loaded.is_empty() {
            let message = format!("`{shown}` holds no image for {}", images.platform);
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        let fault = || "could not write to the store".to_owned();
        self.store.finish_build().explain(FailureKind::Environment, fault)?;
        Ok(loaded)
    }

    fn name_loaded(&self, image: &Image, names: Vec<Reference>) -> Result<Loaded> {
        let manifest = image.store_manifest(self.store)?;
        let keeps: Vec<_> = image.chain().into_iter().map(rbuild_store::Resource::Layer).collect();
        let texts: Vec<String> = match names.is_empty() {
            true => vec![image.id().to_string()],
            false => names.iter().map(Reference::to_string).collect(),
        };
        let id = keep_as(self.store, image, &manifest, &keeps, &texts)?;
        Ok(Loaded { id, names })
    }

    /// Keeps what `content` gives in a file of the store for as long as the value lives: archives are read by seeking.
    fn spool(&self, content: &mut dyn Read, shown: &str) -> Result<Spool> {
        let fault = || format!("could not read the archive `{shown}`");
        let spool = Spool(self.store.temporary("archive"));
        let mut file = std::fs::File::create_new(&spool.0).explain(FailureKind::Environment, fault)?;
        io::copy(content, &mut file).explain(FailureKind::Build, fault)?;
        file.flush().explain(FailureKind::Environment, fault)?;
        Ok(spool)
    }
}

/// A file that is gone with the value.
#[derive(Debug)]
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        // The session's folder goes at its end in any case.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl StoredImage {
    fn has_oci_original(&self) -> bool {
        self.original().is_some() && self.manifest.layers.iter().all(|layer| !layer.media_type.is_docker())
    }
}

fn write(
    images: &[(Packed, &Image, &[Reference])],
    manifests: &[NamedManifest],
    kind: ArchiveKind,
    to: &Destination,
) -> Result<()> {
    let blobs: Vec<_> = images.iter().flat_map(|(packed, image, _)| packed.blobs(image)).collect();
    write_layout(&blobs, manifests, kind, to, None)
}

/// Each image of a layout once, with its names.
fn offered(layout: &LayoutReader) -> BTreeMap<Digest, (&Descriptor, Vec<Reference>)> {
    let mut images: BTreeMap<Digest, (&Descriptor, Vec<Reference>)> = BTreeMap::new();
    for descriptor in layout.index().manifests.iter().filter(|descriptor| !descriptor.is_attestation()) {
        let (_, names) = images.entry(descriptor.digest.clone()).or_insert((descriptor, Vec::new()));
        names.extend(name_of(descriptor).filter(|name| !names.contains(name)));
    }
    images
}

/// The full name as containerd and Docker write it, else the OCI annotation where that is a name and not only a tag.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key| descriptor.annotations.get(key);
    let full = annotation(ANNOTATION_IMAGE_NAME).and_then(|name| Reference::parse(name).ok());
    full.or_else(|| {
        let name = annotation(ANNOTATION_REF_NAME)?;
        name.contains(['/', ':']).then(|| Reference::parse(name).ok()).flatten()
    })
}

/// `None`: an index without an image for the platform.
fn open_image(
    layout: &LayoutReader,
    path: &Path,
    descriptor: &Descriptor,
    platform: &Platform,
) -> rbuild_image::Result<Option<Result<Image>>> {
    let mut descriptor = descriptor.clone();
    // An index in the index is what `docker save` of an image for several platforms writes; deeper there is nothing of use.
    for _ in 0..3 {
        let bytes = layout.document(&descriptor)?;
        match Document::parse(&descriptor.media_type, &bytes)? {
            Document::Manifest(manifest) => {
                let config = layout.document(&manifest.config)?;
                let origin = Origin::Layout(Arc::new(path.to_owned()));
                return Ok(Some(Image::of_documents(&manifest, config, &origin)));
            }
            Document::Index(index) => descriptor = select_manifest(&index, platform)?.clone(),
        }
    }
    Ok(None)
}

/// Copies a blob of an open layout into the store, digest checked.
fn take_blob(store: &rbuild_store::Store, layout: &LayoutReader, descriptor: &Descriptor) -> Result<()> {
    let fault = || format!("could not store the blob {}", descriptor.digest);
    let slot = store.partial_blob(&descriptor.digest).explain(FailureKind::Environment, fault)?;
    let PartialSlot::Partial(mut partial) = slot else { return Ok(()) };
    let mut reader = layout.blob(&descriptor.digest).explain(FailureKind::Build, fault)?;
    partial.restart().explain(FailureKind::Environment, fault)?;
    io::copy(&mut reader, &mut partial).explain(FailureKind::Build, fault)?;
    partial.finish().explain(FailureKind::Build, fault).map(drop)
}
