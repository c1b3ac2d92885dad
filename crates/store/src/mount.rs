//! Cache mounts: folders that outlive builds and never enter an image.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rbuild_fs::PathContext;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lock::{self, Hold};
use crate::{Store, record};

/// How steps share one cache mount, as `RUN --mount=type=cache,sharing=` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Many use it at once.
    #[default]
    Shared,
    /// One uses it at a time, others wait.
    Locked,
    /// One uses it at a time, others take another copy.
    Private,
}

impl Sharing {
    fn hold(self) -> Hold {
        match self {
            Self::Shared => Hold::Shared,
            Self::Locked | Self::Private => Hold::Exclusive,
        }
    }
}

/// What `<n>.ready` says: the copy has been set up, and who used it last (for the rules of power loss).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) id: String,
    pub(crate) session: String,
}

/// A cache mount in use, until it is dropped and every descriptor from [`CacheMount::lock`] is closed.
#[derive(Debug)]
pub struct CacheMount {
    store: Store,
    id: String,
    path: PathBuf,
    lock: File,
    lock_path: PathBuf,
    /// Held until it has its first content.
    setting_up: Option<File>,
}

impl Store {
    /// Takes the cache mount `id` (any text), waiting in the kernel while another uses it in a way that excludes this one.
    /// Steps with several mounts take them in the order of their ids, each once, so that two builds never wait for each other.
    pub fn cache_mount(&self, id: &str, sharing: Sharing) -> Result<CacheMount> {
        match self.try_cache_mount(id, sharing)? {
            Some(mount) => Ok(mount),
            None => self
                .take_copy(id, 0, sharing.hold(), Wait::Yes)
                .map(|mount| mount.expect("waited for the lock")),
        }
    }

    /// As [`Store::cache_mount`], or nothing where that would have to wait: so that one can say so first.
    pub fn try_cache_mount(&self, id: &str, sharing: Sharing) -> Result<Option<CacheMount>> {
        let folder = self.inner.layout.mount(id);
        fs::create_dir_all(&folder).on("create", &folder)?;
        if sharing != Sharing::Private {
            return self.take_copy(id, 0, sharing.hold(), Wait::No);
        }
        // There is always a free one: at the latest the copy that nobody has made yet.
        for copy in 0.. {
            if let Some(mount) = self.take_copy(id, copy, Hold::Exclusive, Wait::No)? {
                return Ok(Some(mount));
            }
        }
        Ok(None)
    }

    /// Takes one copy. Setting one up has a lock of its own, taken before the copy's: were the copy locked exclusively for it,
    /// those who wait for that would be let in only when all who share the copy by then have gone.
    fn take_copy(&self, id: &str, copy: u32, hold: Hold, wait: Wait) -> Result<Option<CacheMount>> {
        let folder = self.inner.layout.mount(id);
        let path = folder.join(copy.to_string());
        let (lock_path, ready) = (folder.join(format!("{copy}.lock")), ready_path(&path));
        loop {
            let mut setting_up = None;
            if !ready.exists() {
                let Some(lock) = take(&folder.join(format!("{copy}.setup")), Hold::Exclusive, wait)? else {
                    return Ok(None);
                };
                setting_up = (!ready.exists()).then_some(lock);
            }
            let Some(lock) = take(&lock_path, hold, wait)? else { return Ok(None) };
            if setting_up.is_none() && !ready.exists() {
                // Collected between the look and the lock.
                continue;
            }
            let (store, id) = (self.clone(), id.to_owned());
            let mut mount = CacheMount { store, id, path, lock, lock_path, setting_up };
            if mount.is_new() {
                // Whoever began to set it up did not finish.
                rbuild_fs::remove_tree(&mount.path)?;
                fs::DirBuilder::new().mode(0o755).create(&mount.path).on("create", &mount.path)?;
            } else {
                mount.note_use()?;
            }
            return Ok(Some(mount));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

fn take(path: &Path, hold: Hold, wait: Wait) -> Result<Option<File>> {
    match wait {
        Wait::Yes => Ok(Some(lock::acquire(path, hold)?)),
        Wait::No => Ok(lock::try_acquire(path, hold)?),
    }
}

/// The marker beside a copy.
pub(crate) fn ready_path(copy: &Path) -> PathBuf {
    copy.with_extension("ready")
}

impl CacheMount {
    /// The folder to mount.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder is new and empty, mode 0755: the caller gives it owner, mode and first content, and calls
    /// [`CacheMount::set_up`]. Otherwise the next user finds it new again.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.setting_up.is_some()
    }

    /// Notes that the folder has its first content, and lets others in if it is shared.
    pub fn set_up(&mut self) -> Result<()> {
        self.note_use()?;
        self.setting_up = None;
        Ok(())
    }

    /// The lock's descriptor, which says by being open that the mount is in use.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Another descriptor of the same lock, to hand to a sandbox's init: the lock lasts until both are closed.
    pub fn try_clone_lock(&self) -> Result<OwnedFd> {
        Ok(self.lock.try_clone().on("duplicate the lock", &self.lock_path)?.into())
    }

    fn note_use(&mut self) -> Result<()> {
        let ready = Ready { id: self.id.clone(), session: self.store.inner.session.name.clone() };
        // No gate: collection takes the mount's own lock.
        let _publishing = self.store.inner.session.publishing()?;
        record::write(&self.store.inner.session, &ready_path(&self.path), &ready)
    }
}
