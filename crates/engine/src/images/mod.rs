//! Images by name: from the store, a registry, or an OCI layout; and their layers, fetched and unpacked when a step must
//! see the files.

mod documents;
mod failure;
mod fetch;
mod find;
mod unpack;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_executor::Cancel;
use rbuild_image::{ChainId, Platform, Reference};
use rbuild_registry::Client;
use rbuild_store::Store;

use crate::Tools;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, Steps};
use crate::image::Image;
use crate::request::{BuildRequest, NamedContext};
use crate::shared_cache::DistantBlobs;

pub(crate) use documents::{diff_id_of, read_blob};
pub(crate) use failure::registry_failure;
pub(crate) use unpack::open_tree;

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
            | NamedContext::Url(_)
            | NamedContext::Unpacked(_) => Ok(None),
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
}
