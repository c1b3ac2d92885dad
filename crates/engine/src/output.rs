//! Where the result goes: the store under its tags, archives, folders, registries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rayon::prelude::*;
use rbuild_image::layout::{
    BlobSource, DockerArchiveWriter, ImageWriter, LayoutWriter, NamedManifest, OciArchiveWriter, write_sorted,
};
use rbuild_image::{Descriptor, Digest, Index, Manifest, MediaType, Reference};
use rbuild_layer::{Compression, ExportOptions, FlatOptions, export_tree, write_flat, write_flat_folders};
use rbuild_store::{Blob, ImageRecord, Resource, Store};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::build::Builder;
use crate::cancel::Cancellable;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, Phase, StepNumber};
use crate::image::{Image, ImageLayer, Origin};
use crate::images::{Images, registry_failure};
use crate::packing::{compressed, recompressed};
use crate::platforms::folder_name;
use crate::request::{CompressionChoice, Destination, Output};
use crate::stored::{forget_built, keep_list};

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

/// Keeps the image in the store under its names; returns its ID.
pub(crate) fn keep(store: &Store, image: &Image, tags: &[Reference]) -> Result<Digest> {
    if tags.is_empty() {
        return Ok(image.id());
    }
    let names: Vec<String> = tags.iter().map(Reference::to_string).collect();
    keep_as(store, image, &image.store_manifest(store)?, &[], &names)
}

/// The same with a manifest made by the caller, more that the image keeps, and names of any form.
pub(crate) fn keep_as(
    store: &Store,
    image: &Image,
    manifest: &Manifest,
    more: &[Resource],
    names: &[String],
) -> Result<Digest> {
    let fault = || "could not write the image to the store".to_owned();
    let config = store.put_blob(&image.config_bytes).explain(FailureKind::Environment, fault)?;
    let manifest = store.put_blob(&manifest.to_bytes()).explain(FailureKind::Environment, fault)?;
    let mut keeps = vec![Resource::Blob(config.digest.clone()), Resource::Blob(manifest.digest.clone())];
    keeps.extend_from_slice(more);
    keeps.extend(kept_by(store, image));
    for name in names {
        let record = ImageRecord {
            reference: name.clone(),
            manifest: Some(manifest.digest.clone()),
            image_id: config.digest.clone(),
            created: rbuild_fs::Timestamp::now().seconds,
            keeps: keeps.clone(),
            session: String::new(),
        };
        store.set_tag(record).explain(FailureKind::Environment, fault)?;
        forget_built(store, name)?;
    }
    Ok(config.digest)
}

/// The layers that a name keeps.
pub(crate) fn kept_by(store: &Store, image: &Image) -> Vec<Resource> {
    let layer = |layer: &ImageLayer| match layer {
        ImageLayer::Snapshot(id) => Some(Resource::Snapshot(*id)),
        // A base layer's blob is kept where it is here already; it can be fetched again where it is not.
        ImageLayer::Blob { descriptor, .. } => store
            .has_blob(&descriptor.digest)
            .unwrap_or(false)
            .then(|| Resource::Blob(descriptor.digest.clone())),
    };
    image.layers.iter().filter_map(layer).collect()
}

/// Packs layers and sends them out.
pub(crate) struct Exporter<'a> {
    pub(crate) images: &'a Images<'a>,
    pub(crate) number: StepNumber,
    pub(crate) annotations: &'a std::collections::BTreeMap<String, String>,
}

/// An image with every layer as a blob.
pub(crate) struct Packed {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    /// In the order of the layers.
    sources: Vec<PackedLayer>,
}

pub(crate) struct PackedLayer {
    descriptor: Descriptor,
    blob: PackedBlob,
    /// The repository that has it, too: a registry may take it over from there.
    origin: Option<Arc<Reference>>,
}

/// What leaves together: one image, or one for each platform under an index.
pub(crate) struct Bundle<'i> {
    images: Vec<(&'i Image, Packed)>,
    index: Option<(Descriptor, Vec<u8>)>,
}

enum PackedBlob {
    Here(Blob),
    /// A base layer that was never needed here; it may not have to be fetched at all.
    Remote(Origin),
}

impl Exporter<'_> {
    fn write(&self, images: &[Image], output: &Output) -> Result<Written> {
        match output {
            Output::Oci { to, names, compression } => {
                let bundle = self.bundle(images, compression, true)?;
                self.write_archive(&bundle, to, names, "oci")?;
                Ok(Written { kind: "oci", place: place(to), manifest: bundle.descriptor().cloned() })
            }
            Output::Docker { to, names } => {
                let choice = CompressionChoice { compression: Compression::DEFAULT_GZIP, force: false };
                let bundle = self.bundle(images, &choice, true)?;
                self.write_archive(&bundle, to, names, "docker")?;
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

    /// The images with their layers as blobs, and the index over them.
    pub(crate) fn bundle<'i>(
        &self,
        images: &'i [Image],
        choice: &CompressionChoice,
        fetch: bool,
    ) -> Result<Bundle<'i>> {
        let images: Vec<(&Image, Packed)> = images
            .iter()
            .map(|image| Ok((image, self.pack(image, choice, fetch)?)))
            .collect::<Result<_>>()?;
        let index = (images.len() > 1).then(|| {
            let entries = images.iter().map(|(_, packed)| packed.descriptor.clone()).collect();
            let bytes = Index::new(MediaType::ImageIndex, entries).to_bytes();
            (Descriptor::of(MediaType::ImageIndex, &bytes), bytes)
        });
        Ok(Bundle { images, index })
    }

    /// Every layer as a blob; base layers as they came, unless another compression is forced. `fetch` says that blobs which are
    /// not here are needed.
    pub(crate) fn pack(&self, image: &Image, choice: &CompressionChoice, fetch: bool) -> Result<Packed> {
        let sources: Vec<PackedLayer> = image
            .layers
            .par_iter()
            .map(|layer| self.pack_layer(layer, choice, fetch))
            .collect::<Result<_>>()?;
        let config = Descriptor::of(MediaType::ImageConfig, &image.config_bytes);
        let layers = sources.iter().map(|layer| layer.descriptor.clone()).collect();
        let mut manifest = Manifest::new(MediaType::ImageManifest, config, layers);
        manifest.annotations = self.annotations.clone();
        let manifest_bytes = manifest.to_bytes();
        let mut descriptor = Descriptor::of(MediaType::ImageManifest, &manifest_bytes);
        descriptor.platform = Some(image.config.platform());
        Ok(Packed { manifest, manifest_bytes, descriptor, sources })
    }

    /// The image under the very manifest that a registry gave it: its digest stays. `None` where a layer is another one.
    pub(crate) fn pack_as(
        &self,
        image: &Image,
        manifest_bytes: Vec<u8>,
        fetch: bool,
    ) -> Result<Option<Packed>> {
        let manifest = Manifest::parse(&manifest_bytes)
            .explain(FailureKind::Environment, || "could not read a manifest of the store".to_owned())?;
        let as_it_came = CompressionChoice { compression: Compression::None, force: false };
        if manifest.layers.len() != image.layers.len()
            || image.layers.iter().any(|layer| matches!(layer, ImageLayer::Snapshot(_)))
        {
            return Ok(None);
        }
        let pack = |layer| self.pack_layer(layer, &as_it_came, fetch);
        let mut sources: Vec<PackedLayer> = image.layers.par_iter().map(pack).collect::<Result<_>>()?;
        for (source, descriptor) in sources.iter_mut().zip(&manifest.layers) {
            if source.descriptor.digest != descriptor.digest {
                return Ok(None);
            }
            source.descriptor = descriptor.clone();
        }
        let media_type = manifest.media_type.clone().unwrap_or(MediaType::ImageManifest);
        let mut descriptor = Descriptor::of(media_type, &manifest_bytes);
        descriptor.platform = Some(image.config.platform());
        Ok(Some(Packed { manifest, manifest_bytes, descriptor, sources }))
    }

    pub(crate) fn pack_layer(
        &self,
        layer: &ImageLayer,
        choice: &CompressionChoice,
        fetch: bool,
    ) -> Result<PackedLayer> {
        let store = self.images.store;
        let fault = || "could not read the store".to_owned();
        match layer {
            ImageLayer::Snapshot(id) => {
                let blob = compressed(store, id, &choice.compression, self.images.cancel)?;
                Ok(PackedLayer::of(layer_type(&choice.compression), blob))
            }
            ImageLayer::Blob { diff_id, descriptor, origin } => {
                let here = store.blob(&descriptor.digest).explain(FailureKind::Environment, fault)?;
                let blob = match here {
                    Some(blob) => blob,
                    None if fetch || choice.force => self.images.blob(descriptor, origin, self.number)?,
                    None => {
                        let (descriptor, blob) = (as_oci(descriptor), PackedBlob::Remote(origin.clone()));
                        return Ok(PackedLayer { descriptor, blob, origin: registry_of(origin) });
                    }
                };
                let (is, wanted) = (as_oci(descriptor).media_type, layer_type(&choice.compression));
                // A plain layer comes from an archive: no registry has it in this form.
                let plain = is == MediaType::ImageLayer && registry_of(origin).is_none();
                if is != wanted && (choice.force || plain) {
                    let blob = recompressed(store, diff_id, &blob, &choice.compression)?;
                    return Ok(PackedLayer::of(wanted, blob));
                }
                let (descriptor, blob) = (as_oci(descriptor), PackedBlob::Here(blob));
                Ok(PackedLayer { descriptor, blob, origin: registry_of(origin) })
            }
        }
    }

    fn write_archive(
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

    /// The images by digest, then the index under each name; a single image under each name at once.
    pub(crate) fn push_bundle(&self, bundle: &Bundle<'_>, names: &[Reference]) -> Result<()> {
        let Some((descriptor, bytes)) = &bundle.index else {
            return bundle.images.iter().try_for_each(|(image, packed)| self.push(image, packed, names));
        };
        for (image, packed) in &bundle.images {
            let by_digest = names.iter().map(|name| name.repository_digest(&packed.descriptor.digest));
            let repositories: BTreeSet<Reference> = by_digest.collect();
            self.push(image, packed, &Vec::from_iter(repositories))?;
        }
        for name in names {
            let pushed = self.images.client.push_manifest(name, &descriptor.media_type, bytes);
            pushed.map_err(|error| push_failure(name, error))?;
            let text = format!("pushed {name} {}", descriptor.digest);
            self.images.events.event(Event::Note { step: self.number, text: &text });
        }
        Ok(())
    }

    /// Blobs that a repository lacks, once for all of its tags, then the manifest under each name.
    pub(crate) fn push(&self, image: &Image, packed: &Packed, names: &[Reference]) -> Result<()> {
        let mut served: Vec<Reference> = Vec::new();
        for name in names {
            if !served.iter().any(|known| known.repository() == name.repository()) {
                self.push_blobs(image, packed, name, &served)?;
                served.push(name.clone());
            }
            let (client, media_type) = (self.images.client, &packed.descriptor.media_type);
            client
                .push_manifest(name, media_type, &packed.manifest_bytes)
                .map_err(|error| push_failure(name, error))?;
            let text = format!("pushed {name} {}", packed.descriptor.digest);
            self.images.events.event(Event::Note { step: self.number, text: &text });
        }
        Ok(())
    }

    /// Blobs that the registry lacks, several at a time; `served` are repositories that have them all by now.
    fn push_blobs(
        &self,
        image: &Image,
        packed: &Packed,
        name: &Reference,
        served: &[Reference],
    ) -> Result<()> {
        let client = self.images.client;
        self.images.events.event(Event::Note { step: self.number, text: &format!("pushing {name}") });
        let first = Mutex::new(BTreeSet::new());
        packed.sources.par_iter().try_for_each(|layer| {
            // The same layer twice in an image is sent once.
            if !first
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .insert(layer.descriptor.digest.clone())
            {
                return Ok(());
            }
            self.send_layer(layer, name, served)
        })?;
        let config = image.config_bytes.clone();
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(config.clone()))) };
        client
            .push_blob(name, &packed.manifest.config, &open, &[], &|_| {})
            .map_err(|error| push_failure(name, error))?;
        Ok(())
    }

    /// A layer for the repository of `name`: what `served` or its own origin has is taken over from there by the registry.
    pub(crate) fn send_layer(
        &self,
        layer: &PackedLayer,
        name: &Reference,
        served: &[Reference],
    ) -> Result<()> {
        let (item, total) = (layer.descriptor.digest.short(), layer.descriptor.size);
        let progress = |current| {
            self.images.events.event(Event::Progress { step: self.number, item, current, total });
        };
        let mounts: Vec<Reference> = served.iter().cloned().chain(layer.origin.as_deref().cloned()).collect();
        self.images
            .client
            .push_blob(name, &layer.descriptor, &|| self.open_layer(layer), &mounts, &progress)
            .map(drop)
            .map_err(|error| push_failure(name, error))
    }

    /// The bytes of a layer, brought here where they are not.
    pub(crate) fn open_layer(&self, layer: &PackedLayer) -> io::Result<Box<dyn Read + Send>> {
        match &layer.blob {
            PackedBlob::Here(blob) => Ok(Box::new(File::open(&blob.path)?)),
            PackedBlob::Remote(origin) => {
                let blob = self.images.blob(&layer.descriptor, origin, self.number);
                Ok(Box::new(File::open(&blob.map_err(|error| io::Error::other(error.to_string()))?.path)?))
            }
        }
    }
}

impl PackedLayer {
    /// What the manifest says of it.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn of(media_type: MediaType, blob: Blob) -> PackedLayer {
        PackedLayer {
            descriptor: Descriptor::new(media_type, blob.digest.clone(), blob.size),
            blob: PackedBlob::Here(blob),
            origin: None,
        }
    }
}

impl Bundle<'_> {
    /// Of the index, else of the image.
    pub(crate) fn descriptor(&self) -> Option<&Descriptor> {
        let index = self.index.as_ref().map(|(descriptor, _)| descriptor);
        index.or_else(|| self.images.first().map(|(_, packed)| &packed.descriptor))
    }

    /// Each once: platforms may share layers.
    fn blobs(&self) -> Vec<BlobSource<'_>> {
        let mut blobs: Vec<_> = self.images.iter().flat_map(|(image, packed)| packed.blobs(image)).collect();
        blobs.extend(self.index.as_ref().map(|(descriptor, bytes)| document(descriptor, bytes)));
        blobs.sort_by(|one, other| one.descriptor.digest.cmp(&other.descriptor.digest));
        blobs.dedup_by(|one, other| one.descriptor.digest == other.descriptor.digest);
        blobs
    }
}

/// A small blob that is at hand.
fn document<'s>(descriptor: &Descriptor, bytes: &'s [u8]) -> BlobSource<'s> {
    BlobSource {
        descriptor: descriptor.clone(),
        open: Box::new(move || Ok(Box::new(io::Cursor::new(bytes.to_vec())))),
    }
}

impl Packed {
    pub(crate) fn blobs<'s>(&'s self, image: &'s Image) -> Vec<BlobSource<'s>> {
        let mut blobs = vec![
            document(&self.descriptor, &self.manifest_bytes),
            document(&self.manifest.config, &image.config_bytes),
        ];
        blobs.extend(self.sources.iter().filter_map(|layer| match &layer.blob {
            PackedBlob::Here(blob) => Some(BlobSource {
                descriptor: layer.descriptor.clone(),
                open: Box::new(move || Ok(Box::new(File::open(&blob.path)?))),
            }),
            PackedBlob::Remote(_) => None,
        }));
        blobs
    }
}

impl Builder<'_> {
    /// Layers of a folder are taken into the store where a name keeps the image: nothing would tell later where they were.
    fn bring_what_has_no_name(&self, images: &[Image], number: StepNumber) -> Result<()> {
        let layers = images.iter().flat_map(|image| &image.layers).filter(|_| !self.request.tags.is_empty());
        for layer in layers {
            if let ImageLayer::Blob { descriptor, origin: origin @ Origin::Layout(_), .. } = layer {
                self.images.blob(descriptor, origin, number)?;
            }
        }
        Ok(())
    }

    /// The files of the one image, or of each in a folder of its platform.
    fn write_local(&self, images: &[Image], path: &Path) -> Result<Written> {
        let fault = || format!("could not write the files to `{}`", path.display());
        let options = ExportOptions { clamp: self.request.epoch, ..ExportOptions::default() };
        for image in images {
            let path = match images.len() {
                1 => path.to_owned(),
                _ => path.join(folder_name(&image.config.platform())),
            };
            let tree = self.final_tree(image)?;
            export_tree(tree.root(), &path, &options).explain(FailureKind::Environment, fault)?;
        }
        Ok(Written { kind: "local", place: path.display().to_string(), manifest: None })
    }

    fn write_tar(&self, images: &[Image], to: &Destination) -> Result<Written> {
        let options = FlatOptions { clamp: self.request.epoch, ..FlatOptions::default() };
        let trees = images.iter().map(|image| self.final_tree(image)).collect::<Result<Vec<_>>>()?;
        let folders = images.iter().map(|image| folder_name(&image.config.platform()));
        let folders: Vec<_> = folders.zip(trees.iter().map(|tree| tree.root())).collect();
        into_destination(to, |out| {
            let mut out = Cancellable(out, Some(self.cancel));
            let written = match &folders[..] {
                [(_, root)] => write_flat(root, &options, &mut out),
                folders => write_flat_folders(folders, &options, &mut out),
            };
            written.map(drop).map_err(io::Error::other)
        })?;
        Ok(Written { kind: "tar", place: place(to), manifest: None })
    }

    fn final_tree(&self, image: &Image) -> Result<std::sync::Arc<rbuild_context::Tree>> {
        match self.open(&crate::files::Files::Rootfs(image.rootfs()))? {
            crate::files::OpenFiles::Rootfs(tree) => Ok(tree),
            crate::files::OpenFiles::Folder(_) => {
                Err(Failure::new(FailureKind::Environment, "the image has no files").into())
            }
        }
    }
}

/// The repository that has a layer's blob.
fn registry_of(origin: &Origin) -> Option<Arc<Reference>> {
    match origin {
        Origin::Registry(reference) => Some(reference.clone()),
        Origin::Layout(_) | Origin::Store => None,
    }
}

fn push_failure(name: &Reference, error: rbuild_registry::RegistryError) -> crate::BuildError {
    match registry_failure(name, error) {
        crate::BuildError::Failed(mut failure) => {
            failure.message = format!("could not push `{}`", name.familiar());
            crate::BuildError::Failed(failure)
        }
        other => other,
    }
}

/// Writes a file that appears whole or not at all, or standard output.
pub(crate) fn into_destination(
    to: &Destination,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let fault = || format!("could not write to {}", place(to));
    match to {
        Destination::Stdout => {
            let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
            write(&mut out).and_then(|()| out.flush()).explain(FailureKind::Environment, fault)
        }
        Destination::File(path) if is_special(path) => {
            let mut out = BufWriter::new(
                File::options().write(true).open(path).explain(FailureKind::Environment, fault)?,
            );
            write(&mut out).and_then(|()| out.flush()).explain(FailureKind::Environment, fault)
        }
        Destination::File(path) | Destination::Folder(path) => {
            let temporary = beside(path);
            let result = unfinished(&temporary).and_then(|file| {
                let mut out = BufWriter::with_capacity(1 << 20, &file);
                write(&mut out)?;
                out.flush()?;
                give_name(&file, &temporary)?;
                fs::rename(&temporary, path)
            });
            if result.is_err() {
                // What is left is ours alone; the error that matters is the first.
                let _ = fs::remove_file(&temporary);
            }
            result.explain(FailureKind::Environment, fault)
        }
    }
}

/// A file without a name, so that nothing is left if this process is killed; with the name `temporary` where the file
/// system has no such files (`O_TMPFILE`, Linux 3.11).
fn unfinished(temporary: &Path) -> io::Result<File> {
    let folder = match temporary.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(file.into()),
        Err(_) => File::create(temporary),
    }
}

/// Gives a file of [`unfinished`] its name, if it has none yet.
fn give_name(file: &File, temporary: &Path) -> io::Result<()> {
    if file.metadata()?.nlink() > 0 {
        return Ok(());
    }
    // An earlier process of this number may have been killed with the name taken.
    if let Err(error) = fs::remove_file(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, opened, CWD, temporary, AtFlags::SYMLINK_FOLLOW)?)
}

/// A pipe or device is written in place.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

pub(crate) fn place(to: &Destination) -> String {
    match to {
        Destination::File(path) | Destination::Folder(path) => path.display().to_string(),
        Destination::Stdout => "standard output".to_owned(),
    }
}

fn layer_type(compression: &Compression) -> MediaType {
    match compression {
        Compression::Gzip { .. } => MediaType::ImageLayerGzip,
        Compression::Zstd { .. } => MediaType::ImageLayerZstd,
        Compression::None => MediaType::ImageLayer,
    }
}

/// A base layer's descriptor in an OCI manifest: Docker's media types have OCI's names there; the blob is the same.
pub(crate) fn as_oci(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.to_string().as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        _ => descriptor.media_type.clone(),
    };
    Descriptor { media_type, ..descriptor.clone() }
}
