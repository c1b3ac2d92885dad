//! Cache mounts that travel: `--cache-mounts-to` and `--cache-mounts-from`.
//!
//! The files of a mount are one layer under the mount's own tag. Unlike a step's result they have no right state: the last
//! one that was given counts, and only a mount that is new here takes it.

use std::io::{self, Read};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Instant;

use rbuild_fs::Root;
use rbuild_image::{Descriptor, MediaType};
use rbuild_layer::{
    Compression, LayerError, WriteOptions, apply_layer, compress_with, decompress_sniffed, write_layer,
};
use rbuild_store::{Blob, Sharing};

use super::SharedCache;
use super::entry::{mount_manifest, mount_tag, parse_mount};
use super::place::{Place, origin_of, put_blob};
use crate::event::{Event, StepNumber};
use crate::images::Images;

type Result<T> = std::result::Result<T, String>;

impl SharedCache<'_> {
    /// Keeps in mind that a command of this build has used a cache mount.
    pub(crate) fn note_mount(&self, identity: &str) {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.to_owned());
    }

    /// Fills the empty folder of a new cache mount from the first place that has it; says whether one had.
    pub(crate) fn import_mount(
        &self,
        images: &Images<'_>,
        identity: &str,
        folder: &Path,
        step: StepNumber,
    ) -> bool {
        self.request.cache.mounts_from.iter().any(|place| {
            let place = Place::new(place);
            match self.import_from(&place, images, identity, folder, step) {
                Ok(found) => found,
                Err(why) => {
                    self.warn(&format!(
                        "the cache mount `{identity}` is not taken from {}: {why}",
                        place.shown()
                    ));
                    false
                }
            }
        })
    }

    fn import_from(
        &self,
        place: &Place,
        images: &Images<'_>,
        identity: &str,
        folder: &Path,
        step: StepNumber,
    ) -> Result<bool> {
        let Some(bytes) = place.get(self.tools.client, &mount_tag(identity))? else { return Ok(false) };
        let descriptor = parse_mount(&bytes)?;
        let origin = origin_of(&place.origin()).ok_or("its place has no name")?;
        let blob = images.blob(&descriptor, &origin, step).map_err(|error| error.to_string())?;
        let filled = fill(&blob, folder);
        if filled.is_err() {
            // Half a cache is worse than none: a tool may take it for whole.
            empty_out(folder)?;
        }
        filled.map_err(|error| error.to_string())?;
        let text = format!("cache mount {identity} from {}", place.shown());
        self.events.event(Event::Note { step, text: &text });
        Ok(true)
    }

    /// Gives the cache mounts that this build used to the places that the request names.
    pub(super) fn export_mounts(&self, images: &Images<'_>) {
        let identities = std::mem::take(&mut *self.mounts.lock().unwrap_or_else(PoisonError::into_inner));
        for place in &self.request.cache.mounts_to {
            let place = Place::new(place);
            let number =
                images.steps.announce(self.events, &format!("exporting cache mounts to {}", place.shown()));
            let started = Instant::now();
            for identity in &identities {
                let text = match self.export_mount(&place, identity) {
                    Ok(what) => format!("{identity}: {what}"),
                    Err(why) => {
                        self.warn(&format!("could not export the cache mount `{identity}`: {why}"));
                        continue;
                    }
                };
                self.events.event(Event::Note { step: number, text: &text });
            }
            self.events.event(Event::Done { step: number, took: started.elapsed() });
        }
    }

    fn export_mount(&self, place: &Place, identity: &str) -> Result<String> {
        let store = self.tools.store;
        // Alone with it, so that no file changes on the way; whoever uses it now gives it at its own end.
        let taken = store.try_cache_mount(identity, Sharing::Locked).map_err(|error| error.to_string())?;
        let Some(mount) = taken.filter(|mount| !mount.is_new()) else {
            return Ok("in use, or gone; left alone".to_owned());
        };
        let blob = pack(store, mount.path())?;
        drop(mount);
        let descriptor = Descriptor::new(MediaType::ImageLayerZstd, blob.digest.clone(), blob.size);
        let tag = mount_tag(identity);
        let there = place.get(self.tools.client, &tag)?;
        if there.and_then(|bytes| parse_mount(&bytes).ok()).is_some_and(|known| known.digest == blob.digest) {
            return Ok("unchanged".to_owned());
        }
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(std::fs::File::open(&blob.path)?)) };
        match place {
            Place::Registry(reference) => self
                .tools
                .client
                .push_blob(reference, &descriptor, &open, &[], &|_| {})
                .map(drop)
                .map_err(|error| error.to_string())?,
            Place::Folder(path) => put_blob(path, &descriptor, open).map_err(|error| error.to_string())?,
        }
        place.make_ready(self.tools.client)?;
        place.put(self.tools.client, &tag, &mount_manifest(&descriptor))?;
        Ok(format!("{} bytes", blob.size))
    }
}

/// The files of a folder as a compressed tar in the store.
fn pack(store: &rbuild_store::Store, folder: &Path) -> Result<Blob> {
    let root = Root::open(folder).map_err(|error| error.to_string())?;
    let mut out = store.blob_writer().map_err(|error| error.to_string())?;
    compress_with(&Compression::DEFAULT_ZSTD, &mut out, |tar| {
        write_layer(&root, &WriteOptions::default(), tar).map(drop)
    })
    .map_err(|error| error.to_string())?;
    out.commit(None).map_err(|error| error.to_string())
}

fn fill(blob: &Blob, folder: &Path) -> std::result::Result<(), LayerError> {
    let file = std::fs::File::open(&blob.path).map_err(LayerError::Read)?;
    let (_, mut tar) = decompress_sniffed(file).map_err(LayerError::Read)?;
    apply_layer(&mut tar, &Root::open(folder)?).map(drop)
}

fn empty_out(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        rbuild_fs::remove_tree(&path).map_err(|error| error.to_string())?;
    }
    Ok(())
}
