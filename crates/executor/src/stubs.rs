//! Mount points that the image lacks: made before the command, removed after it, so that they never reach a layer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rbuild_fs::journal::{Entry, XATTR};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, chownat, lgetxattr,
    llistxattr, lsetxattr, mkdirat, openat, statat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::SandboxError;
use crate::beneath::{Place, View};

/// Who owns a directory that stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What was made in the trees of one sandbox, and how the folders around it looked before.
#[derive(Debug, Default)]
pub(crate) struct Stubs {
    made: Vec<Stub>,
    /// By tree and path: times of folders that existed, before we made something in them.
    parents: BTreeMap<(usize, PathBuf), Times>,
    copied_up: Vec<CopiedUp>,
}

#[derive(Debug)]
struct Stub {
    tree: usize,
    path: PathBuf,
    directory: bool,
    inode: u64,
    /// The same in the upper directory itself, where there is one.
    real: Option<Real>,
}

/// A file by its path on the host and its inode number there.
#[derive(Debug)]
struct Real {
    path: PathBuf,
    inode: u64,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    before: Time,
    after: Time,
}

type Time = (i64, i64);

/// A folder that a stub below it made the overlay copy into the upper.
#[derive(Debug)]
pub(crate) struct CopiedUp {
    path: PathBuf,
    before: Attributes,
}

#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Stubs {
    /// A descriptor for the mount point at a resolved path; a missing one is made, and recorded unless it is to stay.
    pub(crate) fn mount_point(
        &mut self,
        view: &View,
        upper: Option<&Path>,
        path: &Path,
        directory: bool,
        stays: bool,
    ) -> Result<OwnedFd, SandboxError> {
        let shown = || Path::new("/").join(path);
        let place = located(view, path)?;
        let exists = place.file_type().map_err(|e| SandboxError::path("look at", shown(), e))?.is_some();
        if !exists {
            let parent = path.parent().unwrap_or(Path::new(""));
            self.make_parents(view, upper, parent, stays)?;
            self.make(view, upper, path, directory, stays)?;
        }
        place.open().map_err(|e| SandboxError::path("open the mount point", shown(), e))
    }

    fn make_parents(
        &mut self,
        view: &View,
        upper: Option<&Path>,
        path: &Path,
        stays: bool,
    ) -> Result<(), SandboxError> {
        let place = located(view, path)?;
        match place.file_type() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.make_parents(view, upper, path.parent().unwrap_or(Path::new("")), stays)?;
                self.make(view, upper, path, true, stays)
            }
            Err(e) => Err(SandboxError::path("look at", Path::new("/").join(path), e)),
        }
    }

    fn make(
        &mut self,
        view: &View,
        upper: Option<&Path>,
        path: &Path,
        directory: bool,
        stays: bool,
    ) -> Result<(), SandboxError> {
        let place = located(view, path)?;
        let parent = place.rest.parent().unwrap_or(Path::new(""));
        let failed = |e| SandboxError::path("make the mount point", Path::new("/").join(path), e);
        let before = times(place.fd, parent).map_err(failed)?;
        if !stays
            && place.tree == 0
            && let Some(upper) = upper
        {
            self.note_copies_up(&place, upper, parent).map_err(failed)?;
        }
        let inode = make_node(&place, directory).map_err(failed)?;
        if stays {
            return Ok(());
        }
        let after = times(place.fd, parent).map_err(failed)?;
        let ours = self.made.iter().any(|stub| stub.tree == place.tree && stub.path == parent);
        if !ours {
            let entry = self.parents.entry((place.tree, parent.to_path_buf()));
            entry.and_modify(|times| times.after = after).or_insert(Times { before, after });
        }
        let real = upper.filter(|_| place.tree == 0).and_then(|upper| Real::of(upper.join(place.rest)));
        self.made.push(Stub { tree: place.tree, path: place.rest.to_path_buf(), directory, inode, real });
        Ok(())
    }

    /// Remembers the folders from the root down to `parent` that the upper does not have yet.
    fn note_copies_up(&mut self, place: &Place<'_>, upper: &Path, parent: &Path) -> Result<(), Errno> {
        let folders = parent.ancestors().filter(|folder| !folder.as_os_str().is_empty());
        for folder in folders {
            let known = self.copied_up.iter().any(|copied| copied.path == folder);
            if !known && upper.join(folder).symlink_metadata().is_err() {
                let before = Attributes::of(&host_path(place.fd, folder))?;
                self.copied_up.push(CopiedUp { path: folder.to_path_buf(), before });
            }
        }
        Ok(())
    }

    /// Removes what is still as it was made, last first, and gives folders that nobody else changed their times back.
    ///
    /// What the command filled or replaced stays: that is its own work. Returns the folders for [`prune`].
    pub(crate) fn remove(self, view: &View) -> Result<Vec<CopiedUp>, SandboxError> {
        let mut restore = Vec::new();
        for ((tree, parent), times_then) in self.parents {
            let Some(fd) = view.tree(tree) else { continue };
            let Ok(now) = times(fd, &parent) else { continue };
            let time = if now == times_then.after { times_then.before } else { now };
            restore.push((fd, parent, time));
        }
        for stub in self.made.iter().rev() {
            let Some(fd) = view.tree(stub.tree) else { continue };
            remove_stub(fd, stub).map_err(|e| {
                SandboxError::path("remove the mount point", Path::new("/").join(&stub.path), e)
            })?;
            stub.remove_beneath_mounts();
        }
        for (fd, parent, time) in restore {
            set_time(fd, &parent, time)
                .map_err(|e| SandboxError::path("restore the time of", Path::new("/").join(&parent), e))?;
        }
        Ok(self.copied_up)
    }
}

impl Stub {
    /// While somebody holds the sandbox's mount namespace (its `/proc/PID/mountinfo` open is enough), what the sandbox mounted
    /// still lies upon the stub, and a look through the root meets that instead. In the upper nothing lies upon it.
    fn remove_beneath_mounts(&self) {
        let Some(real) = &self.real else { return };
        let Ok(now) = real.path.symlink_metadata() else { return };
        if now.ino() != real.inode {
            return;
        }
        // What cannot be removed, as it is filled, is the command's own work.
        _ = match self.directory {
            true => std::fs::remove_dir(&real.path),
            false if now.len() == 0 => std::fs::remove_file(&real.path),
            false => Ok(()),
        };
    }
}

impl Real {
    fn of(path: PathBuf) -> Option<Real> {
        let inode = path.symlink_metadata().ok()?.ino();
        Some(Real { path, inode })
    }
}

/// Makes a directory and its parents that stay, owned by the user: the working directory.
pub(crate) fn make_directories(view: &View, path: &Path, owner: Owner) -> Result<(), SandboxError> {
    // Below what the child mounts (/proc, /sys) nothing can be made; the child's chdir will tell.
    let Ok(place) = view.locate(path) else { return Ok(()) };
    let failed = |e| SandboxError::path("make the working directory", Path::new("/").join(path), e);
    if place.file_type().map_err(failed)?.is_some() {
        return Ok(());
    }
    make_directories(view, path.parent().unwrap_or(Path::new("")), owner)?;
    make_node(&place, true).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    match chownat(place.fd, place.rest, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // Not an id of this place.
        Err(Errno::INVAL) => keep_owner(&place, owner).map_err(failed),
        outcome => outcome.map_err(failed),
    }
}

/// In the journal, where the supervisor and the layer find it.
fn keep_owner(place: &Place<'_>, Owner { uid, gid }: Owner) -> Result<(), Errno> {
    let entry = Entry { owner: rbuild_fs::Owner { uid, gid }, mode: None, device: None };
    let path = PathBuf::from(format!("/proc/self/fd/{}", place.fd.as_raw_fd())).join(place.rest);
    lsetxattr(path, XATTR, entry.to_string().as_bytes(), XattrFlags::empty())
}

fn located<'a>(view: &'a View, path: &'a Path) -> Result<Place<'a>, SandboxError> {
    view.locate(path).map_err(|inside| SandboxError::Target {
        target: Path::new("/").join(path),
        inside: Path::new("/").join(inside),
    })
}

fn make_node(place: &Place<'_>, directory: bool) -> Result<u64, Errno> {
    if directory {
        mkdirat(place.fd, place.rest, Mode::from(0o755))?;
        // The process' umask may be narrower, and is not ours to change: other threads use it.
        set_mode(place, 0o755)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(place.fd, place.rest, flags, Mode::from(0o644))?;
    }
    Ok(statat(place.fd, place.rest, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
}

fn set_mode(place: &Place<'_>, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmodat(place.fd, place.rest, Mode::from(mode), AtFlags::empty())
}

fn remove_stub(fd: BorrowedFd<'_>, stub: &Stub) -> Result<(), Errno> {
    let stat = match statat(fd, &stub.path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if stat.st_ino != stub.inode || is_directory != stub.directory || !is_directory && stat.st_size != 0 {
        return Ok(());
    }
    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(fd, &stub.path, flags) {
        Err(Errno::NOTEMPTY | Errno::EXIST) | Ok(()) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Takes folders out of an unmounted upper that are there only because of a stub: empty, and exactly as they are below.
pub(crate) fn prune(upper: &Path, mut copied_up: Vec<CopiedUp>) {
    copied_up.sort_by_key(|copied| std::cmp::Reverse(copied.path.components().count()));
    for copied in copied_up {
        let path = upper.join(&copied.path);
        let opaque = lgetxattr(&path, "user.overlay.opaque", &mut [0u8; 8]).is_ok();
        if opaque || Attributes::of(&path).ok().as_ref() != Some(&copied.before) {
            continue;
        }
        let (Some(parent), Ok(directory)) = (path.parent(), crate::overlay::open_directory(upper)) else {
            continue;
        };
        let Ok(time) = times(rustix::fs::CWD, parent) else { continue };
        // Fails where something of the command's lies in it.
        if unlinkat(directory.as_fd(), &copied.path, AtFlags::REMOVEDIR).is_ok() {
            let _ = set_time(rustix::fs::CWD, parent, time);
        }
    }
}

impl Attributes {
    fn of(path: &Path) -> Result<Self, Errno> {
        let stat = rustix::fs::lstat(path)?;
        Ok(Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            xattrs: xattrs(path)?,
        })
    }
}

/// All but the overlay's own.
fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let mut names = vec![0; 65536];
    let length = match llistxattr(path, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        outcome => outcome?,
    };
    let names = names[..length]
        .split(|&byte| byte == 0)
        .filter(|n| !n.is_empty() && !n.starts_with(b"user.overlay."));
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
            value.truncate(length);
            Ok((name.to_vec(), value))
        })
        .collect()
}

fn host_path(fd: BorrowedFd<'_>, path: &Path) -> PathBuf {
    Path::new(&crate::overlay::proc_path(fd)).join(path)
}

fn times(fd: BorrowedFd<'_>, path: &Path) -> Result<Time, Errno> {
    let stat = statat(fd, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    Ok((stat.st_mtime, stat.st_mtime_nsec as i64))
}

fn set_time(fd: BorrowedFd<'_>, path: &Path, (seconds, nanos): Time) -> Result<(), Errno> {
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps {
        last_access: unchanged,
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    };
    // An empty path is no way to set times; `.` is the same directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    utimensat(fd, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}
