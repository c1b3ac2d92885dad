use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rbuild_fs::RootfsPath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::stubs::{CopiedUp, prune};
use crate::{Claim, SandboxError, sys};

/// The kernel's limit of lower directories in one overlay (`OVL_MAX_STACK`).
pub(crate) const MOST_LOWERS: usize = 500;

/// A stack of directories to be seen as one tree.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Lower directories, the topmost first; at most 500, none twice.
    pub lowers: &'a [PathBuf],
    /// Takes every change. Its own mode, owner and xattrs are those of the merged `/`: copy them from the parent.
    pub upper: Option<&'a Path>,
    /// Scratch space of the kernel's, empty, on the same file system as `upper`; needed with an upper and lowers.
    pub work: Option<&'a Path>,
}

impl Overlay<'_> {
    /// Mounts the stack nowhere: the tree is reached through the descriptor alone.
    ///
    /// Without an upper it is read-only; one lower alone, or an upper alone, is a clone of that directory without any
    /// overlay. The kernel wants `userxattr` (Linux ≥ 5.11) and more than one page of options (`lowerdir+`, ≥ 6.8);
    /// older kernels take the way of `mount(2)`.
    pub fn mount(&self) -> Result<Mounted, SandboxError> {
        let mount = match (self.lowers, self.upper) {
            ([], None) => return Err(self.error("it has neither lowers nor an upper", Errno::INVAL)),
            ([], Some(upper)) => clone_of(upper, false)?,
            ([lower], None) => clone_of(lower, true)?,
            _ => self.mount_overlay()?,
        };
        Ok(Mounted::of(mount, self.lowers.to_vec(), self.upper.map(Path::to_path_buf), None))
    }

    /// Tries an overlay with everything that the builder counts on (user xattrs, whiteouts, opaque directories) in a fresh
    /// directory below `dir`, which must be on the store's file system.
    pub fn probe(dir: &Path) -> Result<(), SandboxError> {
        let trial = dir.join(format!(".overlay-probe-{}", std::process::id()));
        let outcome = probe_in(&trial);
        let _ = std::fs::remove_dir_all(&trial);
        outcome
    }

    fn mount_overlay(&self) -> Result<OwnedFd, SandboxError> {
        if self.lowers.len() > MOST_LOWERS {
            return Err(self.error("the kernel takes at most 500", Errno::INVAL));
        }
        match self.by_fsopen() {
            Err(SandboxError::Overlay { step, source, .. })
                if step == "lowerdir+" && source.raw_os_error() == Some(libc::EINVAL)
                    || step == "fsopen" && source.raw_os_error() == Some(libc::ENOSYS) =>
            {
                self.by_mount()
            }
            outcome => outcome,
        }
    }

    fn by_fsopen(&self) -> Result<OwnedFd, SandboxError> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| self.error("fsopen", e))?;
        // Always user.overlay.*, as root too: one store format for everyone.
        fsconfig_set_flag(&fs, "userxattr").map_err(|e| self.error("userxattr", e))?;
        // Each keeps the kernel from writing marks into the upper that no layer could carry; a kernel that does not know
        // one does not write them either. `uuid=null` is Linux ≥ 6.6.
        for (key, value) in [
            ("redirect_dir", "nofollow"),
            ("index", "off"),
            ("xino", "off"),
            ("metacopy", "off"),
            ("uuid", "null"),
        ] {
            match fsconfig_set_string(&fs, key, value) {
                Err(Errno::INVAL) | Ok(()) => {}
                Err(e) => return Err(self.error(key, e)),
            }
        }
        for lower in self.lowers {
            // A value is at most 255 bytes, so the path goes in as a descriptor; it is looked up at once.
            let directory = open_directory(lower)?;
            fsconfig_set_string(&fs, "lowerdir+", proc_path(directory.as_fd()))
                .map_err(|e| self.error("lowerdir+", e))?;
        }
        if let (Some(upper), Some(work)) = (self.upper, self.work) {
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                let directory = open_directory(path)?;
                fsconfig_set_string(&fs, key, proc_path(directory.as_fd()))
                    .map_err(|e| self.error(key, e))?;
            }
            // Without it each unmount flushes the upper's whole file system; the store has its own rules for power loss.
            match fsconfig_set_flag(&fs, "volatile") {
                Err(Errno::INVAL) | Ok(()) => {}
                Err(e) => return Err(self.error("volatile", e)),
            }
        }
        fsconfig_create(&fs).map_err(|e| self.error("create", e))?;
        let attributes =
            if self.upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| self.error("fsmount", e))
    }

    /// Linux 5.11 to 6.7: `mount(2)`, whose options end at one page. With `/proc/self/fd` as working directory the name of
    /// a lower is the few digits of its descriptor. A thread of its own keeps both working directory and mount to itself.
    fn by_mount(&self) -> Result<OwnedFd, SandboxError> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.mount_from_own_namespace());
            worker.join().unwrap_or_else(|_| Err(SandboxError::call("mount in a thread", Errno::CANCELED)))
        })
    }

    fn mount_from_own_namespace(&self) -> Result<OwnedFd, SandboxError> {
        let call = |source| SandboxError::Overlay { lowers: self.lowers.len(), step: "mount".into(), source };
        sys::own_mounts_and_directory("/proc/self/fd").map_err(call)?;
        // Opened here and not before: an overlay takes layers only from the mount namespace it is mounted in.
        let directories = self.lowers.iter().map(|l| open_directory(l)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = directories.iter().map(|d| d.as_raw_fd().to_string()).collect();
        let mut options = format!(
            "userxattr,redirect_dir=nofollow,index=off,xino=off,metacopy=off,lowerdir={}",
            names.join(":")
        );
        let upper = self.upper.map(open_directory).transpose()?;
        let work = self.work.map(open_directory).transpose()?;
        if let (Some(upper), Some(work)) = (&upper, &work) {
            options += &format!(",upperdir={},workdir={},volatile", upper.as_raw_fd(), work.as_raw_fd());
        }
        sys::mount_over_proc("overlay", &options, upper.is_none()).map_err(call)
    }

    fn error(&self, step: &str, source: Errno) -> SandboxError {
        SandboxError::Overlay { lowers: self.lowers.len(), step: step.into(), source: source.into() }
    }
}

/// A tree that is mounted, but nowhere: file calls go through its descriptor, and a sandbox can move it into place.
///
/// Drop it before its upper serves as a lower of another overlay.
#[derive(Debug)]
pub struct Mounted {
    /// `None` only while being dropped.
    mount: Option<OwnedFd>,
    lowers: Vec<PathBuf>,
    pub(crate) upper: Option<PathBuf>,
    /// Folders that a sandbox's mount points, and nothing else, brought into the upper.
    pub(crate) copied_up: Mutex<Vec<CopiedUp>>,
    /// The right to work in it where it is the container's own root.
    pub(crate) in_place: Option<Arc<Claim>>,
    /// Files that made way for a mount there, and have another time of change for it.
    pub(crate) put_back: Mutex<Vec<RootfsPath>>,
}

impl Mounted {
    /// The container's own root file system, as it stands: nothing is mounted.
    ///
    /// # Errors
    /// None but a want of descriptors.
    pub fn in_place(claim: Arc<Claim>) -> Result<Self, SandboxError> {
        Ok(Self::of(open_directory(Path::new("/"))?, Vec::new(), None, Some(claim)))
    }

    fn of(
        mount: OwnedFd,
        lowers: Vec<PathBuf>,
        upper: Option<PathBuf>,
        in_place: Option<Arc<Claim>>,
    ) -> Self {
        let (copied_up, put_back) = (Mutex::default(), Mutex::default());
        Self { mount: Some(mount), lowers, upper, copied_up, in_place, put_back }
    }

    /// Files that a command found as they were, though the kernel gave them another time of change.
    pub fn put_back(&self) -> Vec<RootfsPath> {
        std::mem::take(&mut *self.put_back.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Another descriptor of the same tree.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    /// The lower directories it is made of, the topmost first.
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// The directory that takes its changes.
    pub fn upper(&self) -> Option<&Path> {
        self.upper.as_deref()
    }

    /// `/proc/self/fd/N`: the tree's root for path calls of this process.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(proc_path(self.as_fd()))
    }
}

impl AsFd for Mounted {
    #[expect(clippy::expect_used, reason = "taken in drop only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_ref().expect("mounted until dropped").as_fd()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Only when the overlay is gone may its upper be touched by another way.
        drop(self.mount.take());
        let copied_up = std::mem::take(self.copied_up.get_mut().unwrap_or_else(|e| e.into_inner()));
        if let Some(upper) = &self.upper {
            prune(upper, copied_up);
        }
    }
}

/// A clone of one directory as a mount of its own.
fn clone_of(path: &Path, read_only: bool) -> Result<OwnedFd, SandboxError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = match open_tree(CWD, path, flags) {
        // A place without mounts: the directory itself serves file calls as well.
        Err(Errno::PERM | Errno::NOSYS) => return open_directory(path),
        outcome => outcome.map_err(|e| SandboxError::path("clone the mount of", path, e))?,
    };
    if read_only {
        sys::mount_setattr(mount.as_fd(), AtFlags::EMPTY_PATH.bits(), sys::ATTR_RDONLY, 0)
            .map_err(|e| SandboxError::path("make read-only", path, e))?;
    }
    Ok(mount)
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, SandboxError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SandboxError::path("open the directory", path, e))
}

pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn probe_in(trial: &Path) -> Result<(), SandboxError> {
    let [lower, base, upper, work] = ["lower", "base", "upper", "work"].map(|name| trial.join(name));
    for directory in [&lower.join("folder"), &base, &upper, &work] {
        std::fs::create_dir_all(directory).map_err(|e| SandboxError::path("create", directory, e))?;
    }
    File::create(lower.join("file")).map_err(|e| SandboxError::path("create", lower.join("file"), e))?;
    let mounted = Overlay { lowers: &[lower, base], upper: Some(&upper), work: Some(&work) }.mount()?;
    let (file, folder) = (mounted.path().join("file"), mounted.path().join("folder"));
    std::fs::remove_file(&file).map_err(|e| SandboxError::path("delete through an overlay", &file, e))?;
    std::fs::remove_dir(&folder).map_err(|e| SandboxError::path("delete through an overlay", &folder, e))?;
    // A folder over a whiteout has to be marked opaque, which takes a user xattr.
    std::fs::create_dir(&folder).map_err(|e| SandboxError::path("replace through an overlay", &folder, e))?;
    drop(mounted);
    let mut value = [0; 8];
    match rustix::fs::lgetxattr(upper.join("folder"), "user.overlay.opaque", &mut value) {
        Ok(_) => Ok(()),
        Err(e) => Err(SandboxError::path("find the opaque mark on", upper.join("folder"), e)),
    }
}
