//! Giving results to a shared cache.
//!
//! The first entry for a step counts. Where a place has another result than ours, made by somebody who was faster, that one
//! is taken over by a build that also reads from there: the store's record of the step then names the layer there, and the
//! next build here goes on from it. What
//! follows in our stage stands on layers that nobody will look for, and stays here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rbuild_image::{DiffId, Digest, Manifest, Reference};
use rbuild_store::{BlobDescriptor, CacheResult, DistantLayer, MemoLinks, NewRecord, Parent, chain_on};
use serde::{Deserialize, Serialize};

use super::ahead::MOST;
use super::entry::{Entry, content_manifest, content_tag, parse_content, step_tag};
use super::place::{Place, put_blob};
use super::{Made, SharedCache};
use crate::error::{BuildError, Explain, FailureKind};
use crate::event::Event;
use crate::image::ImageLayer;
use crate::images::Images;
use crate::output::{Exporter, PackedLayer};
use crate::packing::layer_of;
use crate::request::{CacheExport, CacheTarget, Output};
use crate::side_by_side::side_by_side;
use crate::state::{Rootfs, StageState};

/// Memo kind: what a place is known to have, and since when.
const EXPORTED: &str = "exported";
/// So long, in seconds, that is believed without asking: the place's own collection may have taken it since.
const BELIEVED: i64 = 24 * 3600;

type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Serialize, Deserialize)]
struct Exported {
    what: String,
    at: i64,
}

/// An entry to be added.
struct Addition<'s> {
    tag: String,
    made: &'s Made,
    below: String,
    diff_id: DiffId,
    layer: &'s ImageLayer,
    /// What was asked for after it.
    next: Vec<String>,
}

/// What the place may lack.
#[derive(Default)]
struct Lacking<'s> {
    steps: Vec<Addition<'s>>,
    /// Tags of steps that were looked at.
    seen: BTreeSet<String>,
    /// What selections hold, by tag: a machine without these trees need not bring them there to know.
    contents: BTreeMap<String, Digest>,
}

/// What a place has under a step's tag.
enum There {
    Nothing,
    TheSame,
    Another(Box<Entry>),
}

/// One export.
struct Export<'e, 'a> {
    cache: &'e SharedCache<'a>,
    options: &'e CacheExport,
    place: Place,
    /// The place was made ready for documents.
    ready: Mutex<bool>,
    exporter: Exporter<'e>,
    /// Repositories that may have layers of this build already.
    mounts: Vec<Reference>,
}

impl SharedCache<'_> {
    /// Gives what this build did to the caches that the request names.
    pub(crate) fn export(&self, images: &Images<'_>) {
        let nothing = Default::default();
        for options in &self.request.cache.to {
            let CacheTarget::Place(place) = &options.to else { continue };
            let place = Place::new(place);
            let number = images.steps.announce(self.events, &format!("exporting cache to {}", place.shown()));
            let started = Instant::now();
            let exporter = Exporter { images, number, annotations: &nothing };
            let export = Export {
                cache: self,
                options,
                place,
                ready: Mutex::default(),
                exporter,
                mounts: self.pushed_to(),
            };
            match export.run() {
                Ok(note) => {
                    self.events.event(Event::Note { step: number, text: &note });
                    self.events.event(Event::Done { step: number, took: started.elapsed() });
                }
                Err(why) => {
                    self.warn(&format!("could not export the cache to {}: {why}", export.place.shown()));
                    self.events.event(Event::Failed { step: number, message: &why });
                }
            }
        }
        self.export_mounts(images);
    }

    /// Keeps in mind that a place has this, so that an export does not ask.
    pub(super) fn note_there(&self, place: &Place, tag: &str, what: &str) -> Result<()> {
        let exported = Exported { what: what.to_owned(), at: rbuild_fs::Timestamp::now().seconds };
        let noted =
            self.tools.store.put_memo(EXPORTED, &memo_key(place, tag), &exported, &MemoLinks::default());
        noted.map_err(|error| error.to_string())
    }

    fn pushed_to(&self) -> Vec<Reference> {
        let names = self.request.outputs.iter().filter_map(|output| match output {
            Output::Registry { names, .. } => Some(names.clone()),
            _ => None,
        });
        names.flatten().collect()
    }
}

fn said(error: BuildError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Export<'_, '_> {
    fn run(&self) -> Result<String> {
        let stages = self.cache.stages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lacking = Lacking::default();
        for state in &stages {
            self.look_through(state, &mut lacking)?;
        }
        let Lacking { steps, seen, contents } = lacking;
        side_by_side(&steps, |addition| self.add(addition))?;
        let contents = Vec::from_iter(contents);
        let added = side_by_side(&contents, |(tag, digest)| self.add_content(tag, digest))?;
        let added = added.into_iter().filter(|added| *added).count();
        Ok(format!("{} of {} steps added, {added} selections", steps.len(), seen.len()))
    }

    /// What of a stage the place lacks.
    fn look_through<'s>(&self, state: &'s StageState, lacking: &mut Lacking<'s>) -> Result<()> {
        let wanted: Vec<&Made> = state.made.iter().filter(|made| self.options.max || made.kept).collect();
        let Some(last) = wanted.last() else { return Ok(()) };
        let diff_ids = self.diff_ids(&state.layers[..=last.layer])?;
        let mut chains = vec!["scratch".to_owned()];
        for diff_id in &diff_ids {
            let next = chain_on(&chains[chains.len() - 1], diff_id).0.to_string();
            chains.push(next);
        }
        let asked = self.asked(&wanted, &chains, &mut lacking.contents)?;
        for (at, made) in wanted.into_iter().enumerate() {
            let (below, diff_id) = (chains[made.layer].clone(), diff_ids[made.layer].clone());
            let tag = step_tag(&made.key, &below);
            if !lacking.seen.insert(tag.clone()) || made.origin.as_deref() == Some(&self.place.origin()) {
                continue;
            }
            match self.there(&tag, made, &below, &diff_id)? {
                There::TheSame => {}
                // What stands on our result nobody else will look for.
                There::Another(entry) if !self.replaces(made) => {
                    return if self.is_read() { self.take_over(made, &below, &entry) } else { Ok(()) };
                }
                There::Nothing | There::Another(_) => {
                    let next = asked[at + 1..].iter().flatten().take(MOST).cloned().collect();
                    let layer = &state.layers[made.layer];
                    lacking.steps.push(Addition { tag, made, below, diff_id, layer, next });
                }
            }
        }
        Ok(())
    }

    /// The tags that are asked for to find each of these steps.
    fn asked(
        &self,
        steps: &[&Made],
        chains: &[String],
        contents: &mut BTreeMap<String, Digest>,
    ) -> Result<Vec<Vec<String>>> {
        let asked = steps.iter().map(|made| {
            let mut tags = Vec::new();
            for content in made.contents.iter().filter(|_| self.options.max) {
                let tag = content_tag(&self.chain_of(&content.rootfs)?, &content.selection);
                contents.insert(tag.clone(), content.digest.clone());
                tags.push(tag);
            }
            tags.push(step_tag(&made.key, &chains[made.layer]));
            Ok(tags)
        });
        asked.collect()
    }

    fn diff_ids(&self, layers: &[ImageLayer]) -> Result<Vec<DiffId>> {
        let diff_id = |layer: &ImageLayer| match layer {
            ImageLayer::Blob { diff_id, .. } => Ok(diff_id.clone()),
            ImageLayer::Snapshot(id) => {
                layer_of(self.cache.tools.store, id).map(|(diff_id, _)| diff_id).map_err(said)
            }
        };
        side_by_side(layers, diff_id)
    }

    /// A step that was carried out although there was a result, or because the place's own was no good.
    fn replaces(&self, made: &Made) -> bool {
        made.anew || self.cache.distant.failure().is_some()
    }

    fn there(&self, tag: &str, made: &Made, below: &str, diff_id: &DiffId) -> Result<There> {
        if !self.replaces(made) && self.is_exported(tag, diff_id.0.as_str())? {
            return Ok(There::TheSame);
        }
        let Some(bytes) = self.place.get(self.cache.tools.client, tag)? else { return Ok(There::Nothing) };
        match Entry::parse(&bytes, &made.key, below) {
            Ok(entry) if entry.diff_id == *diff_id => {
                self.note_exported(tag, diff_id.0.as_str())?;
                Ok(There::TheSame)
            }
            Ok(entry) => Ok(There::Another(Box::new(entry))),
            Err(_) => Ok(There::Nothing),
        }
    }

    /// Whether this build takes from the place as well: only then does its result become ours.
    fn is_read(&self) -> bool {
        self.cache.imports.iter().any(|import| import.place.shown() == self.place.shown())
    }

    /// From now on the place's result is ours.
    fn take_over(&self, made: &Made, below: &str, entry: &Entry) -> Result<()> {
        let store = self.cache.tools.store;
        let known = store.cache_record(&made.key).map_err(|error| error.to_string())?;
        let Some(record) = known else { return Ok(()) };
        let descriptor = BlobDescriptor {
            media_type: entry.descriptor.media_type.to_string(),
            digest: entry.descriptor.digest.clone(),
            size: entry.descriptor.size,
        };
        let layer = DistantLayer {
            below: below.to_owned(),
            diff_id: entry.diff_id.clone(),
            descriptor,
            origin: self.place.origin(),
        };
        let new = NewRecord {
            parts: record.parts,
            lineage: record.lineage,
            result: CacheResult::Layer(Box::new(layer)),
            diff_id: Some(entry.diff_id.clone()),
            created: entry.created,
            created_by: record.created_by,
            log: None,
        };
        store.put_cache_record(new).map(drop).map_err(|error| error.to_string())
    }

    fn add(&self, addition: &Addition<'_>) -> Result<()> {
        let Addition { tag, made, below, diff_id, layer, next } = addition;
        let packed = self.exporter.pack_layer(layer, &self.options.compression, false).map_err(said)?;
        self.send(&packed)?;
        let entry = Entry {
            diff_id: diff_id.clone(),
            descriptor: packed.descriptor().clone(),
            created: made.created,
            next: next.clone(),
        };
        self.put(tag, &entry.manifest(&made.key, below))?;
        self.note_exported(tag, diff_id.0.as_str())
    }

    fn put(&self, tag: &str, manifest: &Manifest) -> Result<()> {
        let client = self.cache.tools.client;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ready {
            self.place.make_ready(client)?;
            *ready = true;
        }
        drop(ready);
        self.place.put(client, tag, manifest)
    }

    fn send(&self, packed: &PackedLayer) -> Result<()> {
        match &self.place {
            Place::Registry(reference) => {
                self.exporter.send_layer(packed, reference, &self.mounts).map_err(said)
            }
            Place::Folder(path) => put_blob(path, packed.descriptor(), || self.exporter.open_layer(packed))
                .explain(FailureKind::Environment, || format!("could not write to `{}`", path.display()))
                .map_err(said),
        }
    }

    /// Adds what a selection holds; says whether the place lacked it.
    fn add_content(&self, tag: &str, digest: &Digest) -> Result<bool> {
        if self.is_exported(tag, digest.as_str())? {
            return Ok(false);
        }
        let there = self.place.get(self.cache.tools.client, tag)?;
        let lacks = there.and_then(|bytes| parse_content(&bytes).ok()).as_ref() != Some(digest);
        if lacks {
            self.put(tag, &content_manifest(digest))?;
        }
        self.note_exported(tag, digest.as_str())?;
        Ok(lacks)
    }

    /// The chain ID of a tree, whatever form it has here.
    fn chain_of(&self, rootfs: &Rootfs) -> Result<String> {
        let Rootfs::Snapshot(top) = rootfs else {
            return Ok(match rootfs {
                Rootfs::Layers(stack) => stack.key().to_owned(),
                _ => "scratch".to_owned(),
            });
        };
        let snapshots = self.cache.tools.store.chain(top).map_err(|error| error.to_string())?;
        let base = match snapshots.last().map(rbuild_store::Snapshot::parent) {
            Some(Parent::Layers(layers)) => layers.last().map(|chain| chain.0.to_string()),
            _ => None,
        };
        let layers: Vec<ImageLayer> =
            snapshots.iter().rev().map(|snapshot| ImageLayer::Snapshot(snapshot.id)).collect();
        let diff_ids = self.diff_ids(&layers)?;
        let base = base.unwrap_or_else(|| "scratch".to_owned());
        Ok(diff_ids.iter().fold(base, |chain, diff_id| chain_on(&chain, diff_id).0.to_string()))
    }

    fn is_exported(&self, tag: &str, what: &str) -> Result<bool> {
        let key = memo_key(&self.place, tag);
        let known: Option<Exported> =
            self.cache.tools.store.memo(EXPORTED, &key).map_err(|error| error.to_string())?;
        let now = rbuild_fs::Timestamp::now().seconds;
        Ok(known.is_some_and(|known| known.what == what && (0..BELIEVED).contains(&(now - known.at))))
    }

    fn note_exported(&self, tag: &str, what: &str) -> Result<()> {
        self.cache.note_there(&self.place, tag, what)
    }
}

fn memo_key(place: &Place, tag: &str) -> String {
    format!("{} {tag}", place.shown())
}
