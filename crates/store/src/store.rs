//! Opening a store, and what every room of it shares.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rbuild_fs::{PathContext, PathError};

use crate::error::Result;
use crate::layout::{FOLDERS, Layout, escape, is_plain_name, to_hex};
use crate::lock::{self, Hold};
use crate::session::{Session, names, random, unpoisoned};
use crate::{Snapshot, SnapshotId, StoreError, durable, record, sweep};

/// Version of the layout that the crate's documentation draws. A change that an older rbuild would misread raises it.
pub const LAYOUT_VERSION: u32 = 1;

/// What opening a store needs to know. Nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The root folder; made with mode 0700 when missing.
    pub root: PathBuf,
    /// Stable name of the id map in force (`root`, `100000x65536`): a plain file name.
    pub id_map: String,
    /// What `/proc/sys/kernel/random/boot_id` says, for the rules of power loss.
    pub boot_id: String,
}

/// All state of rbuild on disk. Cheap to clone, and safe to use from many threads and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) session: Session,
    pub(crate) layout: Layout,
    root: File,
    /// Syncs that were begun before the end.
    ahead: Mutex<Vec<JoinHandle<rustix::io::Result<()>>>>,
    /// Snapshots known to be whole, parents included: they are leased, so they stay so.
    pub(crate) known: Mutex<HashMap<SnapshotId, Snapshot>>,
}

impl Store {
    /// Opens the store, or makes it. Sweeps what dead processes left, and applies the rules of power loss.
    ///
    /// # Errors
    /// A newer layout, a folder that holds something else, or an I/O error.
    pub fn open(options: &StoreOptions) -> Result<Self> {
        if !is_plain_name(&options.id_map) {
            return Err(StoreError::BadName { what: "an id map", name: options.id_map.clone() });
        }
        let layout = Layout { root: options.root.clone(), id_map: options.id_map.clone() };
        prepare(&layout)?;
        let root = File::open(&layout.root).on("open", &layout.root)?;
        let session = Session::begin(&layout, options.boot_id.trim())?;
        let store = Self {
            inner: Arc::new(Inner {
                session,
                layout,
                root,
                ahead: Mutex::default(),
                known: Mutex::default(),
            }),
        };
        sweep::dead_sessions(&store)?;
        durable::recover(&store, options.boot_id.trim())?;
        Ok(store)
    }

    /// Root folder of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.layout.root
    }

    /// The id map under which this process writes trees.
    #[must_use]
    pub fn id_map(&self) -> &str {
        &self.inner.layout.id_map
    }

    /// A path nothing has yet, in a folder that goes with this session; on the store's file system, so that what is
    /// made there can be renamed into place.
    #[must_use]
    pub fn temporary(&self, what: &str) -> PathBuf {
        self.inner.session.temporary(&escape(what))
    }

    /// What a process calls that is about to end without dropping its store: removes what this session has not finished. Other
    /// threads that are at work fail from then on. Holding it does not keep the store open.
    pub fn abandon(&self) -> impl Fn() + Clone + Send + use<> {
        let inner = Arc::downgrade(&self.inner);
        move || {
            if let Some(inner) = inner.upgrade() {
                inner.session.clear();
            }
        }
    }

    /// Makes everything published so far survive a loss of power: one `syncfs(2)`. Nothing is done, and `false`
    /// returned, if nothing was published since the last call.
    pub fn finish_build(&self) -> Result<bool> {
        durable::finish(self)
    }

    /// Begins to write to the disk what is published by now, beside whatever follows: [`Store::finish_build`] has less to wait for.
    /// Failures are its to tell. A process that ends meanwhile is held until the kernel has done (`syncfs` cannot be killed).
    pub fn begin_sync(&self) {
        if let (true, Ok(root)) = (self.inner.session.is_marked(), self.inner.root.try_clone()) {
            let sync = move || rustix::fs::syncfs(&root);
            unpoisoned(&self.inner.ahead).push(std::thread::spawn(sync));
        }
    }

    /// Where the context room keeps the stat cache of the context named `context` (any text, such as its path).
    #[must_use]
    pub fn stat_cache_path(&self, context: &str) -> PathBuf {
        self.inner.layout.dir("stat-cache").join(crate::layout::sha256_hex(context.as_bytes()))
    }

    /// Where containers are kept: plain files of the container room. A container's tree is no part of them: it is in the
    /// session of the process that minds it, and what that looks up is leased. The folder is made.
    pub fn containers_path(&self) -> Result<PathBuf> {
        let folder = self.inner.layout.dir("containers");
        fs::create_dir_all(&folder).on("create", &folder)?;
        Ok(folder)
    }

    /// Where the log of one step goes: `logs/<build>/<step>.log`. The folder is made.
    pub fn log_path(&self, build: &str, step: &str) -> Result<PathBuf> {
        let folder = self.inner.layout.dir("logs").join(escape(build));
        fs::create_dir_all(&folder).on("create", &folder)?;
        Ok(folder.join(format!("{}.log", escape(step))))
    }

    /// The gate, held for as long as the file lives. Never call while holding it.
    pub(crate) fn gate(&self, hold: Hold) -> Result<File> {
        Ok(lock::acquire(&self.inner.layout.gate(), hold)?)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        let ahead = std::mem::take(&mut *unpoisoned(&self.inner.ahead));
        // A failed write is told once to each open file (errseq_t in the kernel), and all syncs use one: hear the others, too.
        let ahead = ahead.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect::<Vec<_>>();
        let synced =
            ahead.into_iter().chain([rustix::fs::syncfs(&self.inner.root)]).collect::<Result<(), _>>();
        Ok(synced.on("sync the file system of", &self.inner.layout.root)?)
    }

    /// Publishes a document: gate, marker, then rename.
    pub(crate) fn publish_record<T: serde::Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let _gate = self.gate(Hold::Shared)?;
        let _publishing = self.inner.session.publishing()?;
        record::write(&self.inner.session, path, value)
    }
}

/// Checks the version of the store at the root; makes it where there is none.
fn prepare(layout: &Layout) -> Result<()> {
    let version = layout.dir("version");
    match fs::read_to_string(&version) {
        Ok(text) => check_version(&layout.root, text.trim()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            create(layout, &version)
        }
        Err(error) => Err(error).on("read", &version).map_err(Into::into),
    }
}

fn check_version(root: &Path, text: &str) -> Result<()> {
    let newer = |found| StoreError::NewerLayout { root: root.to_owned(), found, known: LAYOUT_VERSION };
    match text.parse() {
        Ok(found) if found > LAYOUT_VERSION => Err(newer(found)),
        Ok(found) if found == LAYOUT_VERSION => Ok(()),
        _ => Err(StoreError::NotAStore { root: root.to_owned(), found: format!("version {text:?}") }),
    }
}

/// Makes the folders, then the version file by rename: what has no version is not a store yet. Two processes at it do
/// no harm, and a creation broken off is taken up again.
fn create(layout: &Layout, version: &Path) -> Result<()> {
    make_root(&layout.root)?;
    let foreign = names(&layout.root)?.into_iter().find(|name| {
        !FOLDERS.contains(&name.as_str()) && name != "version" && !name.starts_with(NEW_VERSION)
    });
    if let Some(found) = foreign {
        // Another process may have made the store, and begun to use it, since we looked for its version.
        return match record::read_text(version)? {
            Some(text) => check_version(&layout.root, text.trim()),
            None => Err(StoreError::NotAStore { root: layout.root.clone(), found }),
        };
    }
    for folder in FOLDERS {
        let folder = layout.dir(folder);
        fs::create_dir_all(&folder).on("create", &folder)?;
    }
    let temporary = layout.dir(&format!("{NEW_VERSION}{}", to_hex(&random::<8>()?)));
    fs::write(&temporary, format!("{LAYOUT_VERSION}\n")).on("write", &temporary)?;
    let file = File::open(&temporary).on("open", &temporary)?;
    file.sync_all().on("sync", &temporary)?;
    Ok(fs::rename(&temporary, version).on("publish", version)?)
}

const NEW_VERSION: &str = ".version-";

fn make_root(root: &Path) -> Result<(), PathError> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).on("create", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && root.is_dir() => Ok(()),
        other => other.on("create", root),
    }
}
