//! Cache records: what a step with this key gave.

use rbuild_image::{ChainId, DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lock::Hold;
use crate::{CacheKey, KeyParts, Parent, SnapshotId, Store, record};

/// How many keys are remembered for one step, so that "what changed?" has something near to compare with.
const REMEMBERED: usize = 8;

/// Which step of a Dockerfile this is, without any path: to find the record of an earlier run of it. No part of the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// Name of the stage, or its number as text.
    pub stage: String,
    /// Keyword of the instruction.
    pub instruction: String,
    /// Which instruction of that kind it is within the stage, from 0.
    pub index: u32,
}

impl Lineage {
    fn name(&self) -> String {
        format!("{}\0{}\0{}", self.stage, self.instruction, self.index)
    }
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheResult {
    /// A new state of the root file system.
    Snapshot(SnapshotId),
    /// A layer that lies elsewhere until somebody needs its files.
    Layer(Box<DistantLayer>),
    /// No change of files; whatever the engine wants to know again.
    Metadata(serde_json::Value),
}

/// A layer of a shared cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistantLayer {
    /// Chain ID of the layers that it stands on, `scratch` where there are none.
    pub below: String,
    /// Digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The blob's media type, digest and size.
    pub descriptor: BlobDescriptor,
    /// Where the blob is to be had, in the engine's words.
    pub origin: String,
}

/// What a descriptor says that every descriptor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobDescriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl DistantLayer {
    /// Chain ID of the layers below and this one: the name of its tree.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        chain_on(&self.below, &self.diff_id)
    }
}

/// The chain ID of a layer on the chain `below`, which is a chain ID or `scratch` (OCI image specification, config.md).
#[must_use]
pub fn chain_on(below: &str, diff_id: &DiffId) -> ChainId {
    match below {
        "scratch" => ChainId(diff_id.0.clone()),
        below => ChainId(Digest::sha256_of(format!("{below} {diff_id}"))),
    }
}

/// What the engine says of a step that it has run.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// What the step depended on.
    pub parts: KeyParts,
    /// Which step it was.
    pub lineage: Lineage,
    /// What it gave.
    pub result: CacheResult,
    /// Diff ID of the layer, if it is known already; else it is found later with the snapshot.
    pub diff_id: Option<DiffId>,
    /// When it ran, in seconds since 1970.
    pub created: i64,
    /// The step as people read it: `RUN npm install`.
    pub created_by: String,
    /// Path of its log, relative to the store.
    pub log: Option<String>,
}

/// A cache record as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Key of `parts`.
    pub key: CacheKey,
    /// What the step depended on.
    pub parts: KeyParts,
    /// Which step it was when it ran.
    pub lineage: Lineage,
    /// What it gave.
    pub result: CacheResult,
    /// Diff ID of its layer, from the record or from the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// When it ran, in seconds since 1970.
    pub created: i64,
    /// The step as people read it.
    #[serde(default)]
    pub created_by: String,
    /// Path of its log, relative to the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The session that wrote it, for the rules of power loss.
    pub session: String,
}

impl Store {
    /// The record with this key, if what it refers to is here; that is held from now on. A record of which anything is gone
    /// or damaged is removed and is a miss; one whose snapshot is of another id map is only a miss.
    pub fn cache_record(&self, key: &CacheKey) -> Result<Option<CacheRecord>> {
        let path = self.inner.layout.cache_record(key);
        let Some(mut found) = record::read_or_drop::<CacheRecord>(&path)? else { return Ok(None) };
        if found.key != *key || found.parts.key() != *key {
            record::remove(&path)?;
            return Ok(None);
        }
        if let CacheResult::Snapshot(id) = &found.result {
            let Some(snapshot) = self.snapshot(id)? else {
                self.drop_stale(key, id)?;
                return Ok(None);
            };
            found.diff_id = found.diff_id.or(snapshot.info.diff_id);
        }
        record::touch(&path)?;
        Ok(Some(found))
    }

    /// Notes what a step gave. An earlier record with the same key is replaced.
    pub fn put_cache_record(&self, new: NewRecord) -> Result<CacheKey> {
        let key = new.parts.key();
        let NewRecord { parts, lineage, result, diff_id, created, created_by, log } = new;
        if let CacheResult::Snapshot(id) = &result {
            // Held, so that collection cannot take it before the record is there.
            self.snapshot(id)?.ok_or(crate::StoreError::NoSnapshot(*id))?;
        }
        let session = self.inner.session.name.clone();
        let record = CacheRecord {
            key: key.clone(),
            parts,
            lineage,
            result,
            diff_id,
            created,
            created_by,
            log,
            session,
        };
        self.publish_record(&self.inner.layout.cache_record(&key), &record)?;
        self.remember(&record.lineage, &key)?;
        Ok(key)
    }

    /// Notes that the step `lineage` has the key `key` now, so that a later miss is compared with this run. For cache hits;
    /// [`Store::put_cache_record`] does it itself. Costs one small read where nothing changed.
    pub fn remember(&self, lineage: &Lineage, key: &CacheKey) -> Result<()> {
        let path = self.inner.layout.lineage(&lineage.name());
        let mut keys: Vec<CacheKey> = record::read_or_drop(&path)?.unwrap_or_default();
        if keys.first() == Some(key) {
            return Ok(());
        }
        keys.retain(|known| known != key);
        keys.insert(0, key.clone());
        keys.truncate(REMEMBERED);
        // Two processes at once may lose one of the keys: this list is advice.
        self.publish_record(&path, &keys)
    }

    /// Removes one record; its snapshot goes at the next collection unless something else keeps it.
    pub fn remove_cache_record(&self, key: &CacheKey) -> Result<bool> {
        Ok(record::remove(&self.inner.layout.cache_record(key))?)
    }

    /// All records, each with its time of last use; for listing and export. Reads every record.
    pub fn cache_records(&self) -> Result<Vec<(CacheRecord, std::time::SystemTime)>> {
        let entries = crate::inventory::cache_entries(&self.inner.layout)?;
        Ok(entries.into_iter().filter_map(|entry| Some((entry.record.ok()?, entry.used))).collect())
    }

    /// Records of earlier runs of the same step, last used first.
    pub(crate) fn earlier(&self, lineage: &Lineage) -> Result<Vec<CacheRecord>> {
        let keys: Vec<CacheKey> =
            record::read_or_drop(&self.inner.layout.lineage(&lineage.name()))?.unwrap_or_default();
        let mut records = Vec::new();
        for key in keys {
            records.extend(record::read_or_drop(&self.inner.layout.cache_record(&key))?);
        }
        Ok(records)
    }

    /// Removes a record whose snapshot is under no id map, looking again under the gate: another process may just have
    /// replaced it.
    fn drop_stale(&self, key: &CacheKey, missing: &SnapshotId) -> Result<()> {
        if crate::inventory::is_elsewhere(&self.inner.layout, missing)? {
            return Ok(());
        }
        let _gate = self.gate(Hold::Exclusive)?;
        let path = self.inner.layout.cache_record(key);
        match record::read_or_drop::<CacheRecord>(&path)? {
            Some(now) if now.result == CacheResult::Snapshot(*missing) => record::remove(&path).map(drop)?,
            _ => {}
        }
        Ok(())
    }
}

impl CacheRecord {
    /// The state that the next step stands on, if this record names one.
    #[must_use]
    pub fn parent(&self) -> Option<Parent> {
        match self.result {
            CacheResult::Snapshot(id) => Some(Parent::Snapshot(id)),
            CacheResult::Layer(_) | CacheResult::Metadata(_) => None,
        }
    }
}
