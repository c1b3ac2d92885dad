//! Who holds what: the same roots that collection starts from, each with its bytes.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::Digest;

use crate::error::Result;
use crate::inventory::{Inventory, record_keeps};
use crate::session::Sessions;
use crate::{Resource, Store};

/// Something that keeps blobs, base layers and snapshots from being collected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// An image, by its ID, with the references that mean it.
    Image {
        /// The image ID.
        id: Digest,
        /// All of its names.
        references: Vec<String>,
    },
    /// Cache records and memos, within the limits of age and size.
    Cache,
    /// Builds and commands that are running.
    Running,
    /// Nobody: the next collection takes it.
    Nobody,
}

/// What one holder keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub holder: Holder,
    /// How many blobs, base layers and snapshots.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that nobody else holds.
    pub alone: u64,
}

impl Store {
    /// What each image, the cache and running builds keep; what nobody keeps. Walks what was not measured yet.
    pub fn holdings(&self) -> Result<Vec<Holding>> {
        let (session, layout) = (&self.inner.session, &self.inner.layout);
        let all = Inventory::read(layout)?;
        let mut held = roots(&all);
        held.insert(Holder::Running, Sessions::read(layout)?.leased);
        let none = BTreeSet::new();
        let held: BTreeMap<Holder, BTreeSet<Resource>> =
            held.into_iter().map(|(holder, roots)| (holder, all.reach(roots, &none))).collect();
        let mut holders: BTreeMap<&Resource, usize> = BTreeMap::new();
        held.values().flatten().for_each(|resource| *holders.entry(resource).or_default() += 1);
        let orphans: BTreeSet<Resource> =
            everything(&all).filter(|resource| !holders.contains_key(resource)).collect();
        let mut holdings = Vec::new();
        for (holder, resources) in held.iter().chain([(&Holder::Nobody, &orphans)]) {
            let mut holding = Holding { holder: holder.clone(), count: 0, bytes: 0, alone: 0 };
            for resource in resources.iter().filter(|resource| all.has(resource)) {
                let bytes = all.bytes(session, resource)?;
                holding.count += 1;
                holding.bytes += bytes;
                if holders.get(resource).is_none_or(|count| *count == 1) {
                    holding.alone += bytes;
                }
            }
            holdings.push(holding);
        }
        Ok(holdings)
    }
}

fn roots(all: &Inventory) -> BTreeMap<Holder, BTreeSet<Resource>> {
    let mut images: BTreeMap<&Digest, (Vec<String>, BTreeSet<Resource>)> = BTreeMap::new();
    for record in all.tags.iter().filter_map(|entry| entry.record.as_ref().ok()) {
        let (references, keeps) = images.entry(&record.image_id).or_default();
        references.push(record.reference.clone());
        keeps.extend(record.keeps.iter().cloned());
    }
    let mut held: BTreeMap<Holder, BTreeSet<Resource>> = images
        .into_iter()
        .map(|(id, (references, keeps))| (Holder::Image { id: id.clone(), references }, keeps))
        .collect();
    let cache = all
        .cache
        .iter()
        .filter_map(|entry| entry.record.as_ref().ok())
        .flat_map(|record| record_keeps(all, record));
    let memos = all.memos.iter().filter_map(|entry| entry.record.as_ref().ok());
    held.insert(Holder::Cache, cache.chain(memos.flat_map(|memo| memo.links.keeps.clone())).collect());
    held
}

fn everything(all: &Inventory) -> impl Iterator<Item = Resource> {
    let blobs = all.blobs.keys().cloned().map(Resource::Blob);
    let snapshots = all.snapshots.keys().copied().map(Resource::Snapshot);
    blobs.chain(snapshots).chain(all.layers.keys().cloned().map(Resource::Layer))
}
