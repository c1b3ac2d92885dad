//! Base layers as applied: made once per id map, whoever needs them.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rbuild_fs::PathContext;
use rbuild_image::ChainId;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lock::{self, Hold};
use crate::{Resource, Store, StoreError, record, snapshot};

/// What is said of a base layer when it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Length of its tar in bytes.
    #[serde(default)]
    pub size: u64,
    /// Folders that the tar only implies, relative to the root: they take mode, owner and xattrs from the layers below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<PathBuf>,
    /// The session that wrote it, for the rules of power loss. Set by the store.
    #[serde(default)]
    pub session: String,
}

/// A base layer, held against collection until the store is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Chain ID: its own tar and those of the layers below.
    pub chain_id: ChainId,
    /// What is said of it.
    pub info: LayerInfo,
    dir: PathBuf,
}

impl Layer {
    /// Its files in overlay's lower form.
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

/// What [`Store::begin_layer`] found.
#[derive(Debug)]
pub enum LayerSlot {
    /// The layer is here: it was, or another process made it while we waited.
    Ready(Layer),
    /// This process is to make it.
    New(NewLayer),
}

impl Store {
    /// The base layer, if it is here under this id map; it is held from now on.
    pub fn layer(&self, chain_id: &ChainId) -> Result<Option<Layer>> {
        let dir = self.inner.layout.layer(chain_id);
        let resource = Resource::Layer(chain_id.clone());
        let _gate = if self.inner.session.holds(&resource) { None } else { Some(self.gate(Hold::Shared)?) };
        let info = match record::read(&dir.join("info.json")) {
            Ok(Some(info)) => info,
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.inner.session.hold(&resource)?;
        Ok(Some(Layer { chain_id: chain_id.clone(), info, dir }))
    }

    /// The base layer, or the right to make it. Waits while another process or thread is making the same one.
    pub fn begin_layer(&self, chain_id: &ChainId) -> Result<LayerSlot> {
        if let Some(layer) = self.layer(chain_id)? {
            return Ok(LayerSlot::Ready(layer));
        }
        let lock_path = self.inner.layout.layer_lock(chain_id);
        let lock = lock::acquire_named(&lock_path)?;
        if let Some(layer) = self.layer(chain_id)? {
            record::remove(&lock_path)?;
            return Ok(LayerSlot::Ready(layer));
        }
        let dir = self.inner.session.temporary("layer");
        for folder in [dir.clone(), dir.join("fs")] {
            fs::DirBuilder::new().mode(0o755).create(&folder).on("create", &folder)?;
        }
        Ok(LayerSlot::New(NewLayer {
            store: self.clone(),
            chain_id: chain_id.clone(),
            dir,
            lock_path,
            _lock: lock,
        }))
    }
}

/// A base layer being made, under its lock. Dropped before [`NewLayer::commit`], nothing of it stays, and the next in line
/// makes it.
#[derive(Debug)]
pub struct NewLayer {
    store: Store,
    chain_id: ChainId,
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl NewLayer {
    /// The empty directory to apply the layer into.
    #[must_use]
    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Where to write the journal of files that cannot carry an xattr.
    #[must_use]
    pub fn sidecar(&self) -> PathBuf {
        self.dir.join("sidecar")
    }

    /// Publishes the layer. The caller has checked that what it applied is this layer.
    pub fn commit(self, info: LayerInfo) -> Result<Layer> {
        let session = &self.store.inner.session;
        let info = LayerInfo { session: session.name.clone(), ..info };
        snapshot::write_info(&self.dir, &info)?;
        let dir = self.store.inner.layout.layer(&self.chain_id);
        {
            let _gate = self.store.gate(Hold::Shared)?;
            let _publishing = session.publishing()?;
            session.hold(&Resource::Layer(self.chain_id.clone()))?;
            make_way(&self.store, &dir)?;
            record::publish(&self.dir, &dir)?;
        }
        Ok(Layer { chain_id: self.chain_id.clone(), info, dir })
    }
}

/// Moves a damaged layer of the same name (no readable `info.json`) out of the way: a rename cannot replace a full folder.
fn make_way(store: &Store, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::rename(dir, store.inner.session.temporary("damaged")).on("replace", dir)?;
    }
    Ok(())
}

impl Drop for NewLayer {
    /// The lock file loses its name while the lock is held, so that whoever waits for it looks again.
    fn drop(&mut self) {
        _ = rbuild_fs::remove_tree(&self.dir);
        _ = fs::remove_file(&self.lock_path);
    }
}
