//! Indexes put together from images that are elsewhere (`rbuild manifest`): kept in the store until they are pushed.

use std::sync::Arc;

use rbuild_image::{Descriptor, Digest, Document, ImageConfig, Index, MediaType, Platform, Reference};
use rbuild_registry::Client;
use rbuild_store::{ImageRecord, Resource, Store};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::EventSink;
use crate::image::Image;
use crate::images::{read_blob, registry_failure};
use crate::output::{keep, kept_by};
use crate::relay::{self, Location, copy};

/// Before the reference in the store's name of an index. Names of images have no space.
const PREFIX: &str = "list ";
/// On an entry of an index in the store: the image as the user named it.
const SOURCE: &str = "dev.rbuild.source";

/// An index that is being put together.
#[derive(Debug, Clone)]
pub struct ImageList {
    /// Its name.
    pub name: Reference,
    index: Index,
}

impl ImageList {
    /// An index without images.
    #[must_use]
    pub fn new(name: Reference) -> ImageList {
        ImageList { name, index: Index::new(MediaType::ImageIndex, Vec::new()) }
    }

    /// The one of this name in the store.
    ///
    /// # Errors
    /// There is none.
    pub fn find(store: &Store, name: &Reference) -> Result<ImageList> {
        let fault = || "could not read the store".to_owned();
        let record = store.tag(&key(name)).explain(FailureKind::Environment, fault)?;
        let digest = record.and_then(|record| record.manifest).ok_or_else(|| {
            let failure =
                Failure::new(FailureKind::Build, format!("no index `{}` was begun", name.familiar()));
            failure.help(format!("begin it with `rbuild manifest create {} IMAGE…`", name.familiar()))
        })?;
        let index = Index::parse(&read_blob(store, &digest)?).explain(FailureKind::Environment, fault)?;
        Ok(ImageList { name: name.clone(), index })
    }

    /// Adds an image of a registry, a layout or an archive: of an index all of its images, else the one, for the platform that its
    /// config names.
    ///
    /// # Errors
    /// What the registry says, or what is wrong with the archive.
    pub fn add(&mut self, client: &Arc<Client>, image: &str) -> Result<()> {
        let location = Location::parse(image)?.absolute();
        let (descriptor, bytes) = relay::document(client, &location)?;
        let document = Document::parse(&descriptor.media_type, &bytes)
            .explain(FailureKind::Build, || format!("could not understand the manifest of `{image}`"))?;
        let entries = match document {
            Document::Index(index) => index.manifests,
            Document::Manifest(_) => {
                let pinned = location.with_digest(&descriptor.digest);
                let inspected = relay::inspect(client, &pinned, &Platform::host())?;
                let config = ImageConfig::parse(&inspected.config_bytes)
                    .explain(FailureKind::Build, || {
                        format!("could not understand the config of `{image}`")
                    })?;
                vec![Descriptor { platform: Some(config.platform()), ..descriptor }]
            }
        };
        for mut entry in entries {
            entry.annotations.insert(SOURCE.to_owned(), source_text(&location));
            self.index.manifests.retain(|known| known.digest != entry.digest && !replaces(&entry, known));
            self.index.manifests.push(entry);
        }
        Ok(())
    }

    /// Changes the platform of an image that was added.
    ///
    /// # Errors
    /// The image was not added.
    pub fn annotate(&mut self, image: &str, change: impl Fn(&mut Platform)) -> Result<()> {
        let wanted = source_text(&Location::parse(image)?.absolute());
        let is_it = |entry: &&mut Descriptor| {
            entry.annotations.get(SOURCE) == Some(&wanted) || wanted.ends_with(&format!("@{}", entry.digest))
        };
        let mut entries = self.index.manifests.iter_mut().filter(is_it).peekable();
        if entries.peek().is_none() {
            let message = format!("`{image}` is not in the index `{}`", self.name.familiar());
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        entries.for_each(|entry| change(entry.platform.get_or_insert_with(Platform::host)));
        Ok(())
    }

    /// Keeps it in the store.
    ///
    /// # Errors
    /// What can't be written.
    pub fn keep(&self, store: &Store) -> Result<()> {
        let fault = || "could not write the index to the store".to_owned();
        let blob = store.put_blob(&self.index.to_bytes()).explain(FailureKind::Environment, fault)?;
        let record = ImageRecord {
            reference: key(&self.name),
            manifest: Some(blob.digest.clone()),
            image_id: blob.digest.clone(),
            created: rbuild_fs::Timestamp::now().seconds,
            keeps: vec![Resource::Blob(blob.digest)],
            session: String::new(),
        };
        store.set_tag(record).explain(FailureKind::Environment, fault)
    }

    /// Forgets it; says whether there was one.
    ///
    /// # Errors
    /// What can't be removed.
    pub fn forget(store: &Store, name: &Reference) -> Result<bool> {
        store
            .remove_tag(&key(name))
            .explain(FailureKind::Environment, || "could not write to the store".to_owned())
    }

    /// The index as it is pushed.
    #[must_use]
    pub fn document(&self) -> Index {
        let mut index = self.index.clone();
        for entry in &mut index.manifests {
            entry.annotations.remove(SOURCE);
        }
        index
    }

    /// Sends it to a registry, or writes it to a layout or an archive of one, with its images.
    ///
    /// # Errors
    /// The registry's, what can't be written; an index without images; a place that takes none.
    pub fn push(&self, client: &Arc<Client>, to: &Location, events: &dyn EventSink) -> Result<Digest> {
        if self.index.manifests.is_empty() {
            let message = format!("could not push `{}`: it holds no image", self.name.familiar());
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        if !self.index.manifests.iter().all(|entry| entry.annotations.contains_key(SOURCE)) {
            let name = self.name.familiar();
            let failure =
                Failure::new(FailureKind::Usage, format!("could not push `{name}`: it was built here"));
            return Err(failure.help(format!("`rbuild push {name}` sends it with its images")).into());
        }
        match to {
            Location::Registry(to) => self.push_to_registry(client, to, events),
            Location::DockerArchive { .. } => {
                let message = format!("could not push an index to `{to}`: such an archive holds one image");
                Err(Failure::new(FailureKind::Usage, message)
                    .help("push it to `oci-archive:FILE`, `oci:DIR` or a registry")
                    .into())
            }
            Location::Oci { .. } | Location::OciArchive { .. } => {
                let places = self.index.manifests.iter().map(place_of).collect::<Result<Vec<_>>>()?;
                relay::gather(client, self.document(), &places, to, events).map(|written| written.digest)
            }
        }
    }

    /// Images of other repositories are copied (mounted, on the same registry) to that of `to` first.
    fn push_to_registry(
        &self,
        client: &Arc<Client>,
        to: &Reference,
        events: &dyn EventSink,
    ) -> Result<Digest> {
        for entry in &self.index.manifests {
            let source = place_of(entry)?;
            let is_there =
                matches!(&source, Location::Registry(known) if known.repository() == to.repository());
            if !is_there {
                let to = Location::Registry(to.repository_digest(&entry.digest));
                copy(client, &source, &to, None, events)?;
            }
        }
        let bytes = self.document().to_bytes();
        client.push_manifest(to, &MediaType::ImageIndex, &bytes).map_err(|error| registry_failure(to, error))
    }
}

/// Keeps what was built for several platforms: the index under each name, and this machine's image, else the first, as what
/// the name means where one image is wanted. Returns the index's digest.
pub(crate) fn keep_list(store: &Store, images: &[Image], tags: &[Reference]) -> Result<Digest> {
    let fault = || "could not write the index to the store".to_owned();
    let (mut entries, mut keeps) = (Vec::new(), Vec::new());
    for image in images {
        let bytes = image.store_manifest(store)?.to_bytes();
        let mut entry = Descriptor::of(MediaType::ImageManifest, &bytes);
        entry.platform = Some(image.config.platform());
        entries.push(entry);
        if !tags.is_empty() {
            let manifest = store.put_blob(&bytes).explain(FailureKind::Environment, fault)?;
            let config = store.put_blob(&image.config_bytes).explain(FailureKind::Environment, fault)?;
            keeps.extend([Resource::Blob(manifest.digest), Resource::Blob(config.digest)]);
            keeps.extend(kept_by(store, image));
        }
    }
    let bytes = Index::new(MediaType::ImageIndex, entries).to_bytes();
    let digest = Digest::sha256_of(&bytes);
    let host = Platform::host();
    let ours = images.iter().find(|image| image.config.platform().satisfies(&host)).or(images.first());
    if let (Some(ours), false) = (ours, tags.is_empty()) {
        keep(store, ours, tags)?;
        store.put_blob(&bytes).explain(FailureKind::Environment, fault)?;
        keeps.push(Resource::Blob(digest.clone()));
    }
    for tag in tags {
        let record = ImageRecord {
            reference: key(tag),
            manifest: Some(digest.clone()),
            image_id: digest.clone(),
            created: rbuild_fs::Timestamp::now().seconds,
            keeps: keeps.clone(),
            session: String::new(),
        };
        store.set_tag(record).explain(FailureKind::Environment, fault)?;
    }
    Ok(digest)
}

/// What a build for several platforms made under a name.
struct Built {
    record: ImageRecord,
    entries: Vec<Descriptor>,
}

impl Built {
    /// `None` also for an index of registries' images that a user puts together.
    fn find(store: &Store, name: &str) -> Result<Option<Built>> {
        let fault = || "could not read the store".to_owned();
        let record = store.tag(&format!("{PREFIX}{name}")).explain(FailureKind::Environment, fault)?;
        let Some(record) = record else { return Ok(None) };
        let Some(digest) = &record.manifest else { return Ok(None) };
        let index = Index::parse(&read_blob(store, digest)?).explain(FailureKind::Environment, fault)?;
        let entries = index.manifests;
        let ours = !entries.is_empty() && entries.iter().all(|entry| !entry.annotations.contains_key(SOURCE));
        Ok(ours.then_some(Built { record, entries }))
    }
}

/// The images that were built here under a name for several platforms; none where it is one image.
pub(super) fn built(store: &Store, name: &str) -> Result<Vec<Image>> {
    let entries = Built::find(store, name)?.map_or_else(Vec::new, |built| built.entries);
    entries.iter().map(|entry| Image::from_store(store, &entry.digest)).collect()
}

/// The manifest of what was built here under a name for a platform, where it was built for several.
pub(crate) fn built_for(store: &Store, name: &str, platform: &Platform) -> Result<Option<Digest>> {
    let entries = Built::find(store, name)?.map_or_else(Vec::new, |built| built.entries);
    let fits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|known| known.satisfies(platform));
    Ok(entries.iter().find(fits).map(|entry| entry.digest.clone()))
}

/// A name means another image now, or none: what was built under it for other platforms goes with it.
pub(crate) fn forget_built(store: &Store, name: &str) -> Result<()> {
    if Built::find(store, name)?.is_none() {
        return Ok(());
    }
    let gone = store.remove_tag(&format!("{PREFIX}{name}"));
    gone.explain(FailureKind::Environment, || "could not write to the store".to_owned()).map(drop)
}

/// Another name means all platforms, too.
pub(super) fn name_built(store: &Store, source: &str, target: &Reference) -> Result<()> {
    let Some(built) = Built::find(store, source)? else { return Ok(()) };
    let record = ImageRecord { reference: key(target), session: String::new(), ..built.record };
    store.set_tag(record).explain(FailureKind::Environment, || "could not write to the store".to_owned())
}

/// Where the image of an entry is.
fn place_of(entry: &Descriptor) -> Result<Location> {
    let noted = entry.annotations.get(SOURCE).map(String::as_str).unwrap_or_default();
    Ok(Location::parse(noted)?.with_digest(&entry.digest))
}

/// How an entry's place is noted.
fn source_text(location: &Location) -> String {
    match location {
        Location::Registry(reference) => reference.to_string(),
        archive => archive.to_string(),
    }
}

fn key(name: &Reference) -> String {
    format!("{PREFIX}{name}")
}

/// A new image for the same platform, from the same name, takes the place of the old one.
fn replaces(new: &Descriptor, old: &Descriptor) -> bool {
    let from = |entry: &Descriptor| entry.annotations.get(SOURCE).cloned();
    from(new) == from(old) && new.platform == old.platform && !new.is_attestation()
}
