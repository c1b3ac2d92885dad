//! Snapshots: the upper directory of a step, and what it stands on.

use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rbuild_fs::{PathContext, PathError};
use rbuild_image::{ChainId, DiffId};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout::to_hex;
use crate::lock::Hold;
use crate::session::{random, unpoisoned};
use crate::{Resource, Store, StoreError, record};

/// A random name of 128 bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId([u8; 16]);

impl SnapshotId {
    fn random() -> Result<Self> {
        Ok(Self(random()?))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SnapshotId({self})")
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for SnapshotId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || StoreError::BadName { what: "a snapshot", name: text.to_owned() };
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 32 || !digits {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| bad())
    }
}

/// What a snapshot stands on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parent {
    /// Nothing: the empty tree of `scratch`.
    #[default]
    None,
    /// The layers of a base image, lowest first, by chain ID: what a layer only implies comes from those below it.
    Layers(Vec<ChainId>),
    /// Another snapshot.
    Snapshot(SnapshotId),
}

/// What is said of a snapshot when it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// What it stands on. Set by the store.
    #[serde(default)]
    pub parent: Parent,
    /// Diff ID of its layer, once it has been worked out ([`Store::set_diff_id`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// Length of its layer's tar in bytes, known with the diff ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_size: Option<u64>,
    /// The step that made it, as people read it: `RUN npm install`.
    #[serde(default)]
    pub created_by: String,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// The session that wrote it, for the rules of power loss. Set by the store.
    #[serde(default)]
    pub session: String,
}

/// A committed snapshot, held against collection, with its parents, until the store is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What is said of it.
    pub info: SnapshotInfo,
    dir: PathBuf,
}

impl Snapshot {
    /// What it stands on.
    #[must_use]
    pub fn parent(&self) -> &Parent {
        &self.info.parent
    }

    /// Its changes in overlay's form.
    #[must_use]
    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// The journal of files that cannot carry an xattr; may be missing.
    #[must_use]
    pub fn sidecar(&self) -> PathBuf {
        self.dir.join("sidecar")
    }
}

impl Store {
    /// Begins a snapshot on `parent`, which is held from now on.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] or [`StoreError::NoLayer`] when the parent is not here.
    pub fn begin(&self, parent: &Parent) -> Result<NewSnapshot> {
        self.require(parent)?;
        let dir = self.inner.session.temporary("snapshot");
        for folder in [dir.clone(), dir.join("fs"), dir.join("work")] {
            fs::DirBuilder::new().mode(0o755).create(&folder).on("create", &folder)?;
        }
        Ok(NewSnapshot { store: self.clone(), parent: parent.clone(), dir, done: false })
    }

    /// The snapshot, if it and all it stands on are here under this id map; all of it is held from now on.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>> {
        if let Some(known) = unpoisoned(&self.inner.known).get(id) {
            return Ok(Some(known.clone()));
        }
        let _gate = self.gate(Hold::Shared)?;
        let Some(chain) = self.read_chain(id)? else { return Ok(None) };
        // One line holds the whole chain: collection follows the parents.
        self.inner.session.hold(&Resource::Snapshot(*id))?;
        let snapshot = chain.first().cloned();
        let mut known = unpoisoned(&self.inner.known);
        known.extend(chain.into_iter().map(|snapshot| (snapshot.id, snapshot)));
        Ok(snapshot)
    }

    /// The snapshot and its ancestors, itself first.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] when it is not here.
    pub fn chain(&self, id: &SnapshotId) -> Result<Vec<Snapshot>> {
        let mut chain = vec![self.snapshot(id)?.ok_or(StoreError::NoSnapshot(*id))?];
        while let Some(Parent::Snapshot(parent)) = chain.last().map(Snapshot::parent) {
            let parent = *parent;
            chain.push(self.snapshot(&parent)?.ok_or(StoreError::NoSnapshot(parent))?);
        }
        Ok(chain)
    }

    /// The directories to mount for the tree of `parent`, top first. A base layer that an image lists twice appears once,
    /// at its highest place: overlayfs refuses to see one directory twice (ELOOP), and the lower one is hidden anyway.
    pub fn lowers(&self, parent: &Parent) -> Result<Vec<PathBuf>> {
        let mut lowers = Vec::new();
        let mut base = parent.clone();
        if let Parent::Snapshot(id) = parent {
            for snapshot in self.chain(id)? {
                lowers.push(snapshot.fs());
                base = snapshot.info.parent;
            }
        }
        if let Parent::Layers(layers) = base {
            for chain_id in layers.iter().rev() {
                let path = self.layer(chain_id)?.ok_or_else(|| StoreError::NoLayer(chain_id.clone()))?.fs();
                if !lowers.contains(&path) {
                    lowers.push(path);
                }
            }
        }
        Ok(lowers)
    }

    /// Notes the diff ID of a committed snapshot and the length of its layer's tar.
    pub fn set_diff_id(&self, id: &SnapshotId, diff_id: &DiffId, layer_size: u64) -> Result<()> {
        let mut snapshot = self.snapshot(id)?.ok_or(StoreError::NoSnapshot(*id))?;
        snapshot.info.diff_id = Some(diff_id.clone());
        snapshot.info.layer_size = Some(layer_size);
        self.publish_record(&snapshot.dir.join("info.json"), &snapshot.info)?;
        unpoisoned(&self.inner.known).insert(*id, snapshot);
        Ok(())
    }

    fn require(&self, parent: &Parent) -> Result<()> {
        match parent {
            Parent::None => {}
            Parent::Snapshot(id) => drop(self.snapshot(id)?.ok_or(StoreError::NoSnapshot(*id))?),
            Parent::Layers(layers) => {
                for chain_id in layers {
                    self.layer(chain_id)?.ok_or_else(|| StoreError::NoLayer(chain_id.clone()))?;
                }
            }
        }
        Ok(())
    }

    /// The snapshot and its ancestors up to one that is known, or nothing if any part is missing. Needs the gate.
    fn read_chain(&self, id: &SnapshotId) -> Result<Option<Vec<Snapshot>>> {
        let mut chain: Vec<Snapshot> = Vec::new();
        let mut next = *id;
        loop {
            let dir = self.inner.layout.snapshot(&next);
            let Some(info) = read_info(&dir)? else { return Ok(None) };
            let parent = info.parent.clone();
            chain.push(Snapshot { id: next, info, dir });
            match parent {
                Parent::None => return Ok(Some(chain)),
                Parent::Layers(layers) => {
                    let there = |chain_id| self.inner.layout.layer(chain_id).join("info.json").exists();
                    return Ok(layers.iter().all(there).then_some(chain));
                }
                Parent::Snapshot(id) if unpoisoned(&self.inner.known).contains_key(&id) => {
                    return Ok(Some(chain));
                }
                // A parent is older than its child, so there is no way back; a hostile store could only loop us.
                Parent::Snapshot(id) if chain.iter().any(|seen| seen.id == id) => return Ok(None),
                Parent::Snapshot(id) => next = id,
            }
        }
    }
}

/// The `info.json` in a snapshot's folder; one that does not parse is no snapshot, and is left to collection.
fn read_info(dir: &Path) -> Result<Option<SnapshotInfo>> {
    match record::read(&dir.join("info.json")) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        other => other,
    }
}

/// A snapshot being made. Dropped before [`NewSnapshot::commit`], nothing of it stays.
#[derive(Debug)]
pub struct NewSnapshot {
    store: Store,
    parent: Parent,
    dir: PathBuf,
    done: bool,
}

impl NewSnapshot {
    /// What it will stand on.
    #[must_use]
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// The upper directory: `upperdir` of the step's overlay, empty at first. `/` of the merged tree takes mode, owner and
    /// xattrs from it: the caller copies them from the parent's.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Overlay's work directory, on the same file system.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Where to write the journal of files that cannot carry an xattr.
    #[must_use]
    pub fn sidecar(&self) -> PathBuf {
        self.dir.join("sidecar")
    }

    /// Publishes the upper directory as it stands, by rename. Its overlay must be unmounted. Of `info`, the store sets
    /// `parent` and `session`.
    pub fn commit(mut self, info: SnapshotInfo) -> Result<Snapshot> {
        rbuild_fs::remove_tree(self.work())?;
        let session = &self.store.inner.session;
        let info = SnapshotInfo { parent: self.parent.clone(), session: session.name.clone(), ..info };
        write_info(&self.dir, &info)?;
        let id = SnapshotId::random()?;
        let dir = self.store.inner.layout.snapshot(&id);
        {
            let _gate = self.store.gate(Hold::Shared)?;
            let _publishing = session.publishing()?;
            session.hold(&Resource::Snapshot(id))?;
            record::publish(&self.dir, &dir)?;
        }
        self.done = true;
        let snapshot = Snapshot { id, info, dir };
        unpoisoned(&self.store.inner.known).insert(id, snapshot.clone());
        Ok(snapshot)
    }
}

impl Drop for NewSnapshot {
    /// What cannot be removed now goes when the session ends, or at the next open.
    fn drop(&mut self) {
        if !self.done {
            _ = rbuild_fs::remove_tree(&self.dir);
        }
    }
}

/// Writes `info.json` into a folder that has no public name yet.
pub(crate) fn write_info<T: Serialize>(dir: &Path, info: &T) -> Result<()> {
    let path = dir.join("info.json");
    let bytes = serde_json::to_vec(info).map_err(|source| record::damaged(&path, source))?;
    fs::write(&path, bytes).on("write", &path).map_err(|error: PathError| error.into())
}
