//! The shared cache: results of steps that other machines have made, and ours for them.
//!
//! The result of a step is an *entry*, found under a tag that is worked out from the step's cache key and the chain ID of
//! the layers it stands on ([`entry`] has the documents). So any number of builders add entries at once and none takes
//! another's away; a reader asks for the keys it needs and for nothing else; and layers of one builder are never put on
//! layers of another that are not the same. Where two have made the same step, the first entry counts: who comes second
//! takes it over ([`export`]), so that all go on from the same layers.
//!
//! The layer of a hit stays where it is until somebody must see its files. What is then not to be had, or is not what its
//! entry says, ends the attempt, and the build begins again without the shared cache: what it did is kept in the store.
//! Nothing here makes a build fail: what goes wrong is told as a warning.

mod ahead;
mod entry;
mod export;
mod inline;
mod mounts;
mod place;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_image::{Descriptor, Digest, MediaType};
use rbuild_store::{BlobDescriptor, CacheKey, DistantLayer};

use self::ahead::{READERS, ReadAhead};
use self::entry::{Entry, content_tag, step_tag};
use self::inline::InlineEntries;
use self::place::Place;
use crate::Tools;
use crate::error::BuildError;
use crate::event::{Event, EventSink};
use crate::image::ImageLayer;
use crate::request::BuildRequest;
use crate::state::{Rootfs, StageState};

pub(crate) use self::inline::{add_inline, strip_inline};

/// One step on the way to a state, for those who want its result as well.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) key: CacheKey,
    /// Its layer's position in the state.
    pub(crate) layer: usize,
    /// When it ran, in seconds since 1970.
    pub(crate) created: i64,
    /// It was carried out although there was a result: the new one replaces that.
    pub(crate) anew: bool,
    /// Which place had the result; none for one of this machine.
    pub(crate) origin: Option<String>,
    /// Its layer becomes part of the image.
    pub(crate) kept: bool,
    /// What was asked about trees to work out its key, in this order.
    pub(crate) contents: Vec<TreeContent>,
}

/// What a selection in a tree that never changes holds, for other machines that do not have the tree.
#[derive(Debug, Clone)]
pub(crate) struct TreeContent {
    pub(crate) rootfs: Rootfs,
    pub(crate) selection: String,
    pub(crate) digest: Digest,
}

/// The shared caches of one build.
pub(crate) struct SharedCache<'a> {
    tools: Tools<'a>,
    events: &'a dyn EventSink,
    request: &'a BuildRequest,
    imports: Vec<Import>,
    pub(crate) distant: Arc<DistantBlobs>,
    /// Cache mounts that commands of this build have used.
    mounts: Mutex<BTreeSet<String>>,
    /// The stages that were built.
    stages: Mutex<Vec<Arc<StageState>>>,
}

/// A place to read from.
struct Import {
    place: Place,
    ahead: ReadAhead,
    /// What the image of that name itself says of its layers, read when first asked.
    inline: OnceLock<InlineEntries>,
    /// It failed, and is not asked again.
    is_off: AtomicBool,
}

/// A hit.
pub(crate) struct Hit {
    pub(crate) layer: DistantLayer,
    pub(crate) created: i64,
}

/// Blobs that shared caches have named, and whether one of them was not to be had.
#[derive(Debug, Default)]
pub(crate) struct DistantBlobs {
    named: Mutex<BTreeSet<Digest>>,
    failure: Mutex<Option<String>>,
}

impl DistantBlobs {
    /// The blob could not be had, or was not what it should be: remembered if a shared cache had named it.
    pub(crate) fn failed(&self, digest: &Digest, error: &BuildError) {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).contains(digest);
        if named && !matches!(error, BuildError::Cancelled) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(error.to_string());
        }
    }

    /// Why layers of shared caches cannot be relied on in this build.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn name(&self, digest: &Digest) {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone());
    }
}

impl<'a> SharedCache<'a> {
    pub(crate) fn new(request: &'a BuildRequest, tools: Tools<'a>, events: &'a dyn EventSink) -> Self {
        let import = |place| Import {
            place: Place::new(place),
            ahead: ReadAhead::default(),
            inline: OnceLock::new(),
            is_off: AtomicBool::new(false),
        };
        SharedCache {
            tools,
            events,
            request,
            imports: request.cache.from.iter().map(import).collect(),
            distant: Arc::default(),
            mounts: Mutex::default(),
            stages: Mutex::default(),
        }
    }

    /// The same for another attempt: what has failed stays known.
    pub(crate) fn again(self) -> Self {
        let new = SharedCache::new(self.request, self.tools, self.events);
        SharedCache { distant: self.distant, ..new }
    }

    /// Does the work, and meanwhile asks the registries ahead.
    pub(crate) fn asking_ahead<R>(&self, work: impl FnOnce() -> R) -> R {
        std::thread::scope(|scope| {
            let _ends = EndsReadAhead(&self.imports);
            for import in self.imports.iter().filter(|import| import.is_far()) {
                let get = |tag: &str| import.place.get(self.tools.client, tag).ok().flatten();
                (0..READERS).for_each(|_| drop(scope.spawn(move || import.ahead.read(get))));
            }
            work()
        })
    }

    /// The result of the step with this key on the layers `below`, if a place has one.
    pub(crate) fn find(&self, key: &CacheKey, below: &str) -> Option<Hit> {
        let tag = step_tag(key, below);
        let (entry, origin) = self.usable_imports().find_map(|import| {
            let known = || import.inline.get().and_then(|inline| inline.get(&tag).cloned());
            let asked = || self.ask(import, &tag, |bytes| Entry::parse(bytes, key, below));
            // An image is only asked what it says of its layers where there are no entries.
            let inline = || import.is_usable().then(|| import.inline(self).get(&tag).cloned())?;
            let entry = known().or_else(asked).or_else(inline)?;
            if import.is_far() {
                import.ahead.guess(&entry.next);
            }
            Some((entry, import.place.origin()))
        })?;
        let descriptor = BlobDescriptor {
            media_type: entry.descriptor.media_type.to_string(),
            digest: entry.descriptor.digest,
            size: entry.descriptor.size,
        };
        let layer = DistantLayer { below: below.to_owned(), diff_id: entry.diff_id, descriptor, origin };
        Some(Hit { layer, created: entry.created })
    }

    /// The layer of an entry as part of an image; nothing where its origin is not understood, or no layer of a shared cache
    /// is to be relied on any more.
    pub(crate) fn layer(&self, layer: &DistantLayer) -> Option<ImageLayer> {
        if self.distant.failure().is_some() {
            return None;
        }
        let origin = place::origin_of(&layer.origin)?;
        let BlobDescriptor { media_type, digest, size } = &layer.descriptor;
        self.distant.name(digest);
        let descriptor = Descriptor::new(MediaType::from(media_type.as_str()), digest.clone(), *size);
        Some(ImageLayer::Blob { diff_id: layer.diff_id.clone(), descriptor: Box::new(descriptor), origin })
    }

    /// What `selection` selects in the tree of the chain `chain`, if a place knows.
    pub(crate) fn content(&self, chain: &str, selection: &str) -> Option<Digest> {
        let tag = content_tag(chain, selection);
        self.usable_imports().find_map(|import| {
            let digest = self.ask(import, &tag, entry::parse_content)?;
            // An export that cannot know of it asks the place itself.
            let _ = self.note_there(&import.place, &tag, digest.as_str());
            Some(digest)
        })
    }

    /// Keeps a finished stage in mind, for the export at the end.
    pub(crate) fn note_stage(&self, state: &Arc<StageState>) {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).push(state.clone());
    }

    fn usable_imports(&self) -> impl Iterator<Item = &Import> {
        let usable = self.distant.failure().is_none();
        self.imports.iter().filter(move |import| usable && import.is_usable())
    }

    /// Asks one place. What fails is told once, and the place left alone from then on; a document that is wrong is passed over.
    fn ask<T>(
        &self,
        import: &Import,
        tag: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let read_ahead = import.ahead.take(tag).map(|bytes| Ok(Some(bytes)));
        match read_ahead.unwrap_or_else(|| import.place.get(self.tools.client, tag)) {
            Ok(bytes) => match parse(&bytes?) {
                Ok(found) => Some(found),
                Err(why) => {
                    self.warn(&format!("an entry of the cache {} is not used: {why}", import.place.shown()));
                    None
                }
            },
            Err(why) => {
                if !import.is_off.swap(true, Ordering::Relaxed) {
                    self.warn(&format!("the cache {} is not used: {why}", import.place.shown()));
                }
                None
            }
        }
    }

    fn warn(&self, text: &str) {
        self.events.event(Event::Warning { text });
    }
}

/// However the work ends, nothing more is read for it.
struct EndsReadAhead<'a>(&'a [Import]);

impl Drop for EndsReadAhead<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|import| import.ahead.close());
    }
}

impl Import {
    fn is_usable(&self) -> bool {
        !self.is_off.load(Ordering::Relaxed)
    }

    /// Whether an answer takes its time.
    fn is_far(&self) -> bool {
        matches!(self.place, Place::Registry(_))
    }

    fn inline(&self, cache: &SharedCache<'_>) -> &InlineEntries {
        self.inline.get_or_init(|| match &self.place {
            Place::Registry(reference) => {
                inline::read(cache.tools.client, reference, &cache.request.platform).unwrap_or_else(|why| {
                    cache.warn(&format!("the cache {} is only used in part: {why}", self.place.shown()));
                    InlineEntries::new()
                })
            }
            Place::Folder(_) => InlineEntries::new(),
        })
    }
}
