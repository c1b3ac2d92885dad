//! One open store: its lease, its temporary folder and its undurable marker.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rbuild_fs::{PathContext, PathError};

use crate::Resource;
use crate::error::Result;
use crate::layout::{Layout, to_hex};
use crate::lock::{self, Hold};

/// A lease under its first name, before its lock is held; ignored by everybody else.
const UNBORN: &str = ".new-";

#[derive(Debug)]
pub(crate) struct Session {
    /// `<pid>-<16 hex>`; the pid is for people only.
    pub(crate) name: String,
    tmp: PathBuf,
    lease_path: PathBuf,
    marker: PathBuf,
    boot_id: String,
    lease: Mutex<Lease>,
    /// Read-held while something is published, write-held by `finish`, so that the marker outlives no write.
    publishing: RwLock<()>,
    marked: Mutex<bool>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Lease {
    file: File,
    held: HashSet<Resource>,
}

/// Proof that the undurable marker stands; held while something is published.
pub(crate) type Publishing<'a> = RwLockReadGuard<'a, ()>;

impl Session {
    pub(crate) fn begin(layout: &Layout, boot_id: &str) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), to_hex(&random::<8>()?));
        let lease_path = layout.dir("leases").join(&name);
        let file = new_lease(&layout.dir("leases").join(format!("{UNBORN}{name}")), &lease_path)?;
        let tmp = layout.dir("tmp").join(&name);
        fs::DirBuilder::new().mode(0o700).create(&tmp).on("create", &tmp)?;
        Ok(Self {
            tmp,
            lease_path,
            marker: layout.dir("undurable").join(&name),
            boot_id: boot_id.to_owned(),
            lease: Mutex::new(Lease { file, held: HashSet::new() }),
            publishing: RwLock::new(()),
            marked: Mutex::new(false),
            next: AtomicU64::new(0),
            name,
        })
    }

    /// A path in this session's temporary folder that nothing has yet.
    pub(crate) fn temporary(&self, what: &str) -> PathBuf {
        self.tmp.join(format!("{what}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn holds(&self, resource: &Resource) -> bool {
        unpoisoned(&self.lease).held.contains(resource)
    }

    /// Writes `resource` into the lease. The caller holds the gate, so that collection sees the line or nothing.
    pub(crate) fn hold(&self, resource: &Resource) -> Result<()> {
        let mut lease = unpoisoned(&self.lease);
        if lease.held.contains(resource) {
            return Ok(());
        }
        // One write of the whole line: a reader never sees half of one that counts.
        lease.file.write_all(format!("{resource}\n").as_bytes()).on("write", &self.lease_path)?;
        lease.held.insert(resource.clone());
        Ok(())
    }

    /// Call before publishing, and keep the guard until the rename is done.
    pub(crate) fn publishing(&self) -> Result<Publishing<'_>> {
        let guard = self.publishing.read().unwrap_or_else(PoisonError::into_inner);
        let mut marked = unpoisoned(&self.marked);
        if !*marked {
            self.write_marker()?;
            *marked = true;
        }
        Ok(guard)
    }

    /// The one place that syncs file by file: without the marker on disk, a loss of power could not be told afterwards.
    fn write_marker(&self) -> Result<(), PathError> {
        let mut file = File::create(&self.marker).on("create", &self.marker)?;
        file.write_all(self.boot_id.as_bytes()).on("write", &self.marker)?;
        file.sync_all().on("sync", &self.marker)?;
        let folder = crate::layout::parent(&self.marker);
        File::open(folder).and_then(|folder| folder.sync_all()).on("sync", folder)
    }

    /// Whether something was published that is not durable yet.
    pub(crate) fn is_marked(&self) -> bool {
        *unpoisoned(&self.marked)
    }

    /// Runs `sync` while nothing is being published, then removes the marker. Does nothing if nothing was published.
    pub(crate) fn make_durable(&self, sync: impl FnOnce() -> Result<()>) -> Result<bool> {
        let _nothing_is_published = self.publishing.write().unwrap_or_else(PoisonError::into_inner);
        let mut marked = unpoisoned(&self.marked);
        if !*marked {
            return Ok(false);
        }
        sync()?;
        fs::remove_file(&self.marker).on("remove", &self.marker)?;
        *marked = false;
        Ok(true)
    }
}

impl Session {
    /// The temporary folder goes before the lease: a folder without a lease is always a dead one's. What cannot be removed
    /// goes at the next open.
    pub(crate) fn clear(&self) {
        if rbuild_fs::remove_tree(&self.tmp).is_ok() {
            _ = fs::remove_file(&self.lease_path);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Makes the lease under another name and renames it when its lock is held: whoever sees the name sees the lock. One that
/// was swept before it was locked is made anew.
fn new_lease(unborn: &Path, path: &Path) -> Result<File> {
    loop {
        let file =
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(unborn).on("create", unborn)?;
        lock::wait(&file, Hold::Exclusive, unborn)?;
        match fs::rename(unborn, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.on("rename", unborn).map(|()| file).map_err(Into::into),
        }
    }
}

/// Removes leases whose processes died before they had their name. The lock is held while one goes: its process, if it
/// lives after all, then finds the name gone.
pub(crate) fn sweep_unborn(leases: &Path) -> Result<()> {
    for name in names(leases)?.into_iter().filter(|name| name.starts_with(UNBORN)) {
        let path = leases.join(name);
        let file = match OpenOptions::new().append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.on("open", &path)?,
        };
        if lock::attempt(&file, Hold::Exclusive, &path)? {
            crate::record::remove(&path)?;
        }
    }
    Ok(())
}

/// The sessions that have a lease, by whether their process still lives.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) live: BTreeSet<String>,
    pub(crate) dead: BTreeSet<String>,
    pub(crate) leased: BTreeSet<Resource>,
}

impl Sessions {
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let folder = layout.dir("leases");
        let mut sessions = Self::default();
        for name in names(&folder)?.into_iter().filter(|name| !name.starts_with(UNBORN)) {
            let path = folder.join(&name);
            if !lock::is_held(&path)? {
                sessions.dead.insert(name);
                continue;
            }
            match crate::lease::read(&path) {
                Ok(resources) => sessions.leased.extend(resources),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).on("read", &path).map_err(Into::into),
            }
            sessions.live.insert(name);
        }
        Ok(sessions)
    }
}

/// Sorted names in a folder of the store; empty where there is none. Names that are no UTF-8 are not ours.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, PathError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.on("list", folder)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.on("list", folder)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// `N` random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes are never cut short (getrandom(2)); early in boot it waits for the pool.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).on("read", "/dev/urandom")?;
    Ok(bytes)
}

pub(crate) fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
