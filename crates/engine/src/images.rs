//! Images by name: from the store, a registry, or an OCI layout; and their layers, fetched and unpacked when a step must
//! see the files.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_executor::Cancel;
use rbuild_fs::{FileSidecar, Journal, Root};
use rbuild_image::layout::LayoutReader;
use rbuild_image::{ChainId, Descriptor, DiffId, Digest, Manifest, MediaType, Platform, Reference};
use rbuild_layer::{
    AppliedLayer, LayerError, WriteOptions, apply_layer, decompress_sniffed, settle_layer, write_layer,
};
use rbuild_registry::{BlobSink, Client, ErrorKind};
use rbuild_store::{
    Blob, LayerInfo, LayerSlot, MemoLinks, NewLayer, Parent, PartialBlob, PartialSlot, Resource, SnapshotId,
    Store,
};

use crate::Tools;
use crate::cancel::Cancellable;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, StepNumber, Steps};
use crate::image::{Image, ImageLayer, LayerStack, Origin};
use crate::request::{BuildRequest, NamedContext};
use crate::shared_cache::DistantBlobs;
use crate::state::Rootfs;
use crate::stored::built_for;

/// Memo kind: what a name meant when it was last looked up, for a platform.
const RESOLVED: &str = "resolved";
/// Layers that are fetched and unpacked at the same time.
const SIDE_BY_SIDE: usize = 4;

/// What came of looking for an image: none yet, the image, or why there is none.
type Found = Arc<Mutex<Option<std::result::Result<Arc<Image>, Failure>>>>;

/// Finds images and brings their files here.
pub(crate) struct Images<'a> {
    pub(crate) client: &'a Client,
    pub(crate) store: &'a Store,
    pub(crate) events: &'a dyn EventSink,
    pub(crate) steps: &'a Steps,
    /// Platform of images whose name says nothing else.
    pub(crate) platform: Platform,
    /// Ask the registry also for what the store has.
    pub(crate) pull: bool,
    /// Ends downloads; none outside a build, where Ctrl-C ends the process.
    pub(crate) cancel: Option<&'a Cancel>,
    /// Whether steps say for which platform they are.
    several: bool,
    found: Arc<Mutex<BTreeMap<(String, String), Found>>>,
    unpacking: Arc<Mutex<BTreeMap<ChainId, Arc<Mutex<bool>>>>>,
    /// What became of layers that a shared cache named.
    pub(crate) distant: Arc<DistantBlobs>,
}

impl<'a> Images<'a> {
    pub(crate) fn new(
        request: &BuildRequest,
        tools: Tools<'a>,
        events: &'a dyn EventSink,
        steps: &'a Steps,
    ) -> Self {
        let platform = request.platform.clone();
        let images = Images::outside_a_build(tools.client, tools.store, events, steps, platform);
        let several = request.is_for_several();
        Images { pull: request.cache.pull, cancel: Some(tools.cancel), several, ..images }
    }

    /// The same with what another one, for another platform, has found and will find.
    pub(crate) fn sharing(self, other: &Images<'_>) -> Self {
        Images {
            found: other.found.clone(),
            unpacking: other.unpacking.clone(),
            distant: other.distant.clone(),
            ..self
        }
    }

    /// The same; what becomes of the layers that shared caches have named is told there.
    pub(crate) fn trusting(self, distant: &Arc<DistantBlobs>) -> Self {
        Images { distant: distant.clone(), ..self }
    }

    /// For commands that bring images here or away without building.
    pub(crate) fn outside_a_build(
        client: &'a Client,
        store: &'a Store,
        events: &'a dyn EventSink,
        steps: &'a Steps,
        platform: Platform,
    ) -> Self {
        let (found, unpacking) = Default::default();
        Images {
            client,
            store,
            events,
            steps,
            platform,
            pull: false,
            cancel: None,
            several: false,
            found,
            unpacking,
            distant: Arc::default(),
        }
    }

    /// The image that a Dockerfile calls `name`, each looked up once in a build.
    pub(crate) fn by_name(&self, name: &str, platform: Option<&str>) -> Result<Arc<Image>> {
        let platform = match platform {
            Some(text) => Platform::parse(text)
                .explain(FailureKind::Build, || format!("could not understand the platform `{text}`"))?,
            None => self.platform.clone(),
        };
        let candidates = self.candidates(name)?;
        self.once(name, &platform, || self.look_up(&candidates, &platform))
    }

    /// The image of a named context; `None` for `scratch`.
    pub(crate) fn of_context(&self, context: &NamedContext) -> Result<Option<Arc<Image>>> {
        match context {
            NamedContext::Scratch
            | NamedContext::Directory { .. }
            | NamedContext::Git { .. }
            | NamedContext::Url(_) => Ok(None),
            NamedContext::Image(reference) => {
                let name = reference.to_string();
                let candidates = [reference.clone()];
                self.once(&name, &self.platform, || self.look_up(&candidates, &self.platform)).map(Some)
            }
            NamedContext::OciLayout { path, tag, digest } => {
                let name = format!("oci-layout://{} {tag:?} {digest:?}", path.display());
                self.once(&name, &self.platform, || self.of_layout(path, tag.as_deref(), digest.as_ref()))
                    .map(Some)
            }
        }
    }

    fn candidates(&self, name: &str) -> Result<Vec<Reference>> {
        self.client.candidates(name).map_err(|error| {
            Failure::new(FailureKind::Build, format!("invalid reference format: `{name}`"))
                .caused_by(error)
                .into()
        })
    }

    fn once(
        &self,
        name: &str,
        platform: &Platform,
        find: impl FnOnce() -> Result<Arc<Image>>,
    ) -> Result<Arc<Image>> {
        let key = (name.to_owned(), platform.to_string());
        let slot = self.found.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*slot {
            return found.clone().map_err(BuildError::from);
        }
        let found = find();
        // A registry that said no is not asked again by the next stage.
        *slot = match &found {
            Ok(image) => Some(Ok(image.clone())),
            Err(BuildError::Failed(failure)) => Some(Err((**failure).clone())),
            Err(_) => None,
        };
        found
    }

    fn look_up(&self, candidates: &[Reference], platform: &Platform) -> Result<Arc<Image>> {
        let mut last = None;
        for reference in candidates {
            let of = if self.several { format!("{platform} ") } else { String::new() };
            let number =
                self.steps.announce(self.events, &format!("[{of}internal] load metadata for {reference}"));
            let started = Instant::now();
            match self.find(reference, platform) {
                Ok(image) => {
                    self.events.event(Event::Done { step: number, took: started.elapsed() });
                    return Ok(image);
                }
                Err(error) => {
                    self.events.event(Event::Failed { step: number, message: &error.to_string() });
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(FailureKind::Build, "the image has no name").into()))
    }

    /// The store first, as Docker does; the registry where the store has nothing, or `--pull` says so.
    fn find(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>> {
        if (!self.pull || reference.digest().is_some())
            && let Some(image) = self.stored(reference, platform)?
        {
            return Ok(image);
        }
        match self.client.resolve(reference, platform) {
            Ok(resolved) => {
                let origin = Origin::Registry(Arc::new(reference.clone()));
                let image = Image::of_documents(&resolved.manifest, resolved.config_bytes.clone(), &origin)?;
                self.remember(reference, platform, &resolved.manifest_bytes, &resolved.config_bytes)?;
                Ok(Arc::new(image))
            }
            Err(error) if error.kind() == ErrorKind::Network && self.pull => {
                let Some(image) = self.stored(reference, platform)? else {
                    return Err(registry_failure(reference, error));
                };
                let text = format!("{error}; using `{}` as the store has it", reference.familiar());
                self.events.event(Event::Warning { text: &text });
                Ok(image)
            }
            Err(error) => Err(registry_failure(reference, error)),
        }
    }

    /// The image as the store has it: one that was built or loaded under this name, or what the name meant last time.
    fn stored(&self, reference: &Reference, platform: &Platform) -> Result<Option<Arc<Image>>> {
        let fault = || "could not read the store".to_owned();
        // With a digest a tag says nothing more; a pull notes the digest alone.
        let pinned = reference.digest().map(|digest| reference.repository_digest(digest));
        let name = pinned.as_ref().unwrap_or(reference).to_string();
        let tagged = self.store.tag(&name).explain(FailureKind::Environment, fault)?;
        if let Some(manifest) = tagged.and_then(|record| record.manifest) {
            let image = Image::from_store(self.store, &manifest)?;
            if image.config.platform().satisfies(platform) {
                return Ok(Some(Arc::new(image)));
            }
        }
        if let Some(manifest) = built_for(self.store, &name, platform)? {
            return Image::from_store(self.store, &manifest).map(Arc::new).map(Some);
        }
        let key = format!("{reference} {platform}");
        let known: Option<Digest> =
            self.store.memo(RESOLVED, &key).explain(FailureKind::Environment, fault)?;
        let Some(digest) = known else { return Ok(None) };
        let Some(blob) = self.store.blob(&digest).explain(FailureKind::Environment, fault)? else {
            return Ok(None);
        };
        let bytes = blob.read().explain(FailureKind::Environment, fault)?;
        let manifest = Manifest::parse(&bytes).explain(FailureKind::Environment, fault)?;
        let Some(config) =
            self.store.blob(&manifest.config.digest).explain(FailureKind::Environment, fault)?
        else {
            return Ok(None);
        };
        let config = config.read().explain(FailureKind::Environment, fault)?;
        let origin = Origin::Registry(Arc::new(reference.clone()));
        Image::of_documents(&manifest, config, &origin).map(Arc::new).map(Some)
    }

    fn remember(
        &self,
        reference: &Reference,
        platform: &Platform,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<()> {
        let fault = || "could not write to the store".to_owned();
        let manifest = self.store.put_blob(manifest).explain(FailureKind::Environment, fault)?;
        let config = self.store.put_blob(config).explain(FailureKind::Environment, fault)?;
        let keeps = vec![Resource::Blob(manifest.digest.clone()), Resource::Blob(config.digest)];
        let links = MemoLinks { keeps, about: Vec::new() };
        self.store
            .put_memo(RESOLVED, &format!("{reference} {platform}"), &manifest.digest, &links)
            .explain(FailureKind::Environment, fault)
    }

    fn of_layout(&self, path: &Path, tag: Option<&str>, digest: Option<&Digest>) -> Result<Arc<Image>> {
        let fault = || format!("could not read the OCI layout `{}`", path.display());
        let layout = LayoutReader::open(path).explain(FailureKind::Build, fault)?;
        let selector = digest.map(Digest::to_string).or_else(|| tag.map(str::to_owned));
        let mut descriptor = layout.find(selector.as_deref()).explain(FailureKind::Build, fault)?.clone();
        if matches!(descriptor.media_type, MediaType::ImageIndex)
            || descriptor.media_type.to_string().contains("manifest.list")
        {
            let bytes = layout.document(&descriptor).explain(FailureKind::Build, fault)?;
            let index = rbuild_image::Index::parse(&bytes).explain(FailureKind::Build, fault)?;
            descriptor = rbuild_image::select_manifest(&index, &self.platform)
                .explain(FailureKind::Build, fault)?
                .clone();
        }
        let (manifest, _) = layout.image(&descriptor).explain(FailureKind::Build, fault)?;
        let config = layout.document(&manifest.config).explain(FailureKind::Build, fault)?;
        Image::of_documents(&manifest, config, &Origin::Layout(Arc::new(path.to_owned()))).map(Arc::new)
    }

    /// The store's name for the tree of a state; a base image's layers are brought here first.
    pub(crate) fn parent(&self, rootfs: &Rootfs) -> Result<Parent> {
        match rootfs {
            Rootfs::Empty => Ok(Parent::None),
            Rootfs::Snapshot(id) => Ok(Parent::Snapshot(*id)),
            Rootfs::Layers(stack) => {
                self.unpack(stack)?;
                Ok(Parent::Layers(stack.chain.clone()))
            }
        }
    }

    /// Fetches and unpacks what is missing of the layers, several at a time.
    pub(crate) fn unpack(&self, stack: &LayerStack) -> Result<()> {
        let chain = &stack.chain;
        let Some(top) = chain.last() else { return Ok(()) };
        let slot = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(top.clone())
            .or_default()
            .clone();
        let mut done = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if *done {
            return Ok(());
        }
        let fault = || "could not read the store".to_owned();
        let mut missing = false;
        for id in chain {
            missing |= self.store.layer(id).explain(FailureKind::Environment, fault)?.is_none();
        }
        if missing {
            let number =
                self.steps.announce(self.events, &format!("[internal] fetch and unpack {}", stack.label));
            let started = Instant::now();
            match self.unpack_missing(stack, number) {
                Ok(()) => self.events.event(Event::Done { step: number, took: started.elapsed() }),
                Err(error) => {
                    let message = error.to_string();
                    self.events.event(match &error {
                        BuildError::Cancelled => Event::Cancelled { step: number },
                        _ => Event::Failed { step: number, message: &message },
                    });
                    return Err(error);
                }
            }
        }
        *done = true;
        Ok(())
    }

    /// The right to make each missing layer is taken from the bottom up before any is made. Builds that want the same
    /// layers then wait for each other along the chain; in any other order, two could each hold what the other waits for.
    fn unpack_missing(&self, stack: &LayerStack, number: StepNumber) -> Result<()> {
        let chain = &stack.chain;
        let fault = || "could not begin an unpacked layer".to_owned();
        let mut missing = Vec::new();
        for (height, (id, layer)) in chain.iter().zip(&stack.layers).enumerate() {
            match self.store.begin_layer(id).explain(FailureKind::Environment, fault)? {
                LayerSlot::Ready(_) => {}
                LayerSlot::New(new) => missing.push(Missing { height, new, layer }),
            }
        }
        let workers = SIDE_BY_SIDE.min(missing.len());
        let queue = Mutex::new(missing.into_iter());
        let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let applied = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(missing) = take() {
                        let (height, result) = (missing.height, self.apply(missing, number));
                        applied.lock().unwrap_or_else(PoisonError::into_inner).push((height, result));
                    }
                });
            }
        });
        // From the bottom up: what a layer only implies is known once those below it are.
        let mut applied = applied.into_inner().unwrap_or_else(PoisonError::into_inner);
        applied.sort_by_key(|(height, _)| *height);
        for (height, result) in applied {
            result?.settle(self.store, &chain[..height])?;
        }
        Ok(())
    }

    fn apply(&self, missing: Missing<'_>, number: StepNumber) -> Result<Unsettled> {
        let Missing { new, layer, .. } = missing;
        match layer {
            ImageLayer::Blob { diff_id, descriptor, origin } => self
                .apply_blob(new, diff_id, descriptor, origin, number)
                .inspect_err(|error| self.distant.failed(&descriptor.digest, error)),
            ImageLayer::Snapshot(id) => self.apply_snapshot(new, id),
        }
    }

    fn apply_blob(
        &self,
        new: NewLayer,
        diff_id: &DiffId,
        descriptor: &Descriptor,
        origin: &Origin,
        number: StepNumber,
    ) -> Result<Unsettled> {
        let fault = || format!("could not unpack the layer {}", descriptor.digest);
        let blob = self.blob(descriptor, origin, number)?;
        let file = Cancellable(blob.open().explain(FailureKind::Environment, fault)?, self.cancel);
        let root = open_tree(&new.fs(), &new.sidecar())?;
        let applied = decompress_sniffed(file)
            .map_err(LayerError::Read)
            .and_then(|(_, mut tar)| apply_layer(&mut tar, &root));
        if self.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let applied = applied.explain(origin.fault(), fault)?;
        if applied.diff_id != *diff_id {
            let message = format!("the layer {} is not what its image's config says", descriptor.digest);
            let cause = format!("its content is {}, the config says {}", applied.diff_id.0, diff_id.0);
            return Err(Failure::new(origin.fault(), message).caused_by(cause).into());
        }
        Ok(Unsettled { new, root, applied })
    }

    /// A snapshot under layers of a shared cache becomes a layer as they are: its tar is written and read at once.
    fn apply_snapshot(&self, new: NewLayer, id: &SnapshotId) -> Result<Unsettled> {
        let fault = || format!("could not make a layer of the snapshot {id}");
        let snapshot =
            self.store.snapshot(id).explain(FailureKind::Environment, fault)?.ok_or_else(|| {
                Failure::new(FailureKind::Environment, format!("snapshot {id} is gone from the store"))
            })?;
        let from = open_tree(&snapshot.fs(), &snapshot.sidecar())?;
        let root = open_tree(&new.fs(), &new.sidecar())?;
        let (mut reader, writer) = io::pipe().explain(FailureKind::Environment, fault)?;
        let applied = std::thread::scope(|scope| {
            let written = scope.spawn(move || {
                let mut buffered = io::BufWriter::with_capacity(256 << 10, writer);
                write_layer(&from, &WriteOptions::default(), &mut buffered)?;
                buffered.flush().map_err(LayerError::Write)
            });
            let applied = apply_layer(&mut Cancellable(&mut reader, self.cancel), &root);
            // A writer whose reader failed has only the pipe to complain of.
            drop(reader);
            match written.join() {
                Ok(written) => applied.and_then(|applied| written.map(|()| applied)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        Ok(Unsettled { new, root, applied: applied.explain(FailureKind::Environment, fault)? })
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(Cancel::is_cancelled)
    }

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

/// A layer that this process is to unpack, with so many layers below it.
struct Missing<'a> {
    height: usize,
    new: NewLayer,
    layer: &'a ImageLayer,
}

/// A layer whose entries are all there, before it is complete.
struct Unsettled {
    new: NewLayer,
    root: Root,
    applied: AppliedLayer,
}

impl Unsettled {
    fn settle(self, store: &Store, below: &[ChainId]) -> Result<()> {
        let Unsettled { new, root, applied } = self;
        let fault = || "could not complete an unpacked layer".to_owned();
        // An entry for the root is rare; without one the root of the layers below counts.
        if (applied.needs_settling() || !applied.has_root) && !below.is_empty() {
            let mounted = crate::steps::folding::tree(store, &Parent::Layers(below.to_vec()))?;
            let lower = crate::steps::mounted_root(&mounted)?;
            settle_layer(&root, &applied, &lower).explain(FailureKind::Environment, fault)?;
            if !applied.has_root {
                crate::steps::copy_root_folder(&lower, &root)?;
            }
        }
        let implied = applied.implied.iter().map(|path| path.relative().to_owned()).collect();
        let info = LayerInfo { size: applied.size, implied, ..LayerInfo::default() };
        new.commit(info).explain(FailureKind::Environment, fault)?;
        Ok(())
    }
}

/// A snapshot's or a layer's own directory, with the journal beside it.
pub(crate) fn open_tree(fs: &Path, sidecar: &Path) -> Result<Root> {
    let fault = || "could not open a tree of the store".to_owned();
    let sidecar = FileSidecar::open(PathBuf::from(sidecar)).explain(FailureKind::Environment, fault)?;
    let root = Root::open(fs).explain(FailureKind::Environment, fault)?;
    Ok(root.with_journal(Journal::with_sidecar(Arc::new(sidecar))))
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

/// What a registry said, in words for the user.
pub(crate) fn registry_failure(
    reference: &Reference,
    error: rbuild_registry::RegistryError,
) -> crate::BuildError {
    let name = reference.familiar();
    let help = match error.kind() {
        ErrorKind::NotFound if name == reference.to_string() => {
            Some("are repository and tag right?".to_owned())
        }
        ErrorKind::NotFound => Some(format!("is the name right? `{name}` means `{reference}`")),
        ErrorKind::Network if error.to_string().contains("certificate") => Some(format!(
            "put its authority into `~/.config/containers/certs.d/{}/ca.crt`, or into a folder that `--cert-dir` names",
            reference.domain()
        )),
        ErrorKind::Network => Some(format!(
            "can this machine reach `{}`? a proxy is named by HTTPS_PROXY, a mirror by registries.conf",
            reference.domain()
        )),
        ErrorKind::Unauthorized | ErrorKind::Denied => Some(format!(
            "log in with `rbuild login {}` or `docker login`; a repository that does not exist also answers so",
            reference.domain()
        )),
        ErrorKind::TooManyRequests => Some(rate_limit_help(reference.domain(), error.retry_after())),
        _ => None,
    };
    let mut failure =
        Failure::new(FailureKind::Registry, format!("could not get the image `{name}`")).caused_by(error);
    // A full disk has its own remedy.
    failure.help = failure.help.or(help);
    failure.into()
}

/// What helps against a limit of requests.
fn rate_limit_help(domain: &str, wait: Option<Duration>) -> String {
    let (login, mirror) = match domain {
        "docker.io" => (
            "log in with `rbuild login`: Docker Hub counts strangers by their address, accounts by themselves".to_owned(),
            "registries.conf, or `registry-mirrors` in Docker's daemon.json",
        ),
        other => (
            format!("log in with `rbuild login {other}`: accounts may ask more often than strangers"),
            "registries.conf",
        ),
    };
    let wait =
        wait.map(|wait| format!(", or wait {} minutes", wait.as_secs().div_ceil(60))).unwrap_or_default();
    format!("{login}; or name a mirror ({mirror}){wait}")
}

/// Reads a whole blob of the store; for documents.
pub(crate) fn read_blob(store: &Store, digest: &Digest) -> Result<Vec<u8>> {
    let fault = || format!("could not read the blob {digest} of the store");
    let mut file = store.open_blob(digest).explain(FailureKind::Environment, fault)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).explain(FailureKind::Environment, fault)?;
    Ok(bytes)
}

impl Image {
    /// An image that was built here, pulled or loaded: by the digest of the manifest that the store keeps.
    pub(crate) fn from_store(store: &Store, manifest: &Digest) -> Result<Image> {
        let bytes = read_blob(store, manifest)?;
        let manifest = Manifest::parse(&bytes)
            .explain(FailureKind::Environment, || "could not read a manifest of the store".to_owned())?;
        let config = read_blob(store, &manifest.config.digest)?;
        Image::of_documents(&manifest, config, &Origin::Store)
    }

    /// A short name for progress lines.
    pub(crate) fn label(&self) -> String {
        self.layers
            .iter()
            .find_map(|layer| match layer {
                ImageLayer::Blob { origin: Origin::Registry(reference), .. } => Some(reference.to_string()),
                ImageLayer::Blob { origin: Origin::Layout(path), .. } => Some(path.display().to_string()),
                _ => None,
            })
            .unwrap_or_else(|| self.id().to_string())
    }
}

/// Diff IDs of an image's layers that are blobs.
pub(crate) fn diff_id_of(layer: &ImageLayer) -> Option<&DiffId> {
    match layer {
        ImageLayer::Blob { diff_id, .. } => Some(diff_id),
        ImageLayer::Snapshot(_) => None,
    }
}
