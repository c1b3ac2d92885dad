//! The signs by which rbuild knows a container whose root file system it may wipe. Each is there for itself: a marker in
//! the wrong place, a host's pid namespace, one file more than the image has, and there is no build in place.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::HOME;
use crate::mountinfo::{MountPoint, mount_points};
use crate::{Capability, CapabilitySet, sys};

/// The file that an image made for builds in place has, and nothing else.
const MARKER: &str = "/rbuild/.in-place";
/// What it says; whoever writes this into a file means it.
const MARKER_TEXT: &str =
    "rbuild wipes the root file system that this file lies in. It belongs into images made for that only.\n";

/// Files that runtimes put into a container's root without mounting them: Docker, podman, containerd.
const OF_THE_RUNTIME: [&str; 6] =
    [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "run/.containerenv"];
/// What the work takes: any owner on any file, any user and rights for a command, its end.
const NEEDED: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "SETPCAP", "KILL"];
/// `PROC_PID_INIT_INO` of linux/proc_ns.h: the pid namespace that the kernel started with.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// A container whose root file system is rbuild's to wipe, found so by every sign.
#[derive(Debug)]
pub struct InPlace {
    _nothing_else: (),
}

/// The sign that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotHere(String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

/// What there is to look at; as values, so that tests can make other ones.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The root directory, `/` but in tests.
    pub(super) root: PathBuf,
    pub(super) executable: PathBuf,
    pub(super) mounts: Vec<MountPoint>,
    pub(super) pid_namespace: u64,
    pub(super) first_user_namespace: bool,
    pub(super) capabilities: CapabilitySet,
}

impl Surroundings {
    fn here() -> Result<Self, NotHere> {
        let read = |what: &str, error: std::io::Error| NotHere(format!("could not read {what}: {error}"));
        let mounts =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| read("/proc/self/mountinfo", e))?;
        let namespace =
            rustix::fs::stat("/proc/self/ns/pid").map_err(|e| read("/proc/self/ns/pid", e.into()))?;
        let capabilities =
            rustix::thread::capabilities(None).map_err(|e| read("the capabilities", e.into()))?;
        Ok(Self {
            root: "/".into(),
            executable: std::fs::read_link("/proc/self/exe").map_err(|e| read("/proc/self/exe", e))?,
            mounts: mount_points(&mounts),
            pid_namespace: namespace.st_ino,
            first_user_namespace: sys::in_first_user_namespace(),
            capabilities: CapabilitySet::from_bits(capabilities.effective.bits()),
        })
    }
}

impl InPlace {
    /// Looks for every sign.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn here() -> Result<Self, NotHere> {
        judge(&Surroundings::here()?).map(|()| Self { _nothing_else: () })
    }

    /// Looks again at where the runtime has mounted something, and takes the lock that only one build has at a time.
    ///
    /// # Errors
    /// A sign is gone, or another rbuild works here.
    pub fn claim(&self) -> Result<Claim, NotHere> {
        let surroundings = Surroundings::here()?;
        judge(&surroundings)?;
        let lock = open(MARKER, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| NotHere(format!("could not open {MARKER}: {e}")))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(NotHere("another rbuild works in this container".into())),
            Err(e) => return Err(NotHere(format!("could not lock {MARKER}: {e}"))),
        }
        let mounted = surroundings.mounts.into_iter().map(|mount| mount.path);
        let kept = mounted.chain([HOME.into()]).filter(|path| path != Path::new("/")).collect();
        Ok(Claim { kept, _lock: lock })
    }
}

/// The right to wipe the root, as long as it lives.
#[derive(Debug)]
pub struct Claim {
    kept: Vec<PathBuf>,
    _lock: rustix::fd::OwnedFd,
}

impl Claim {
    /// Absolute paths that are not to be touched, nor what lies below them: rbuild's own, and each mount of the container.
    pub fn kept(&self) -> &[PathBuf] {
        &self.kept
    }
}

pub(super) fn judge(here: &Surroundings) -> Result<(), NotHere> {
    let not = |why: String| Err(NotHere(why));
    marker(&here.root)?;
    if !here.executable.starts_with(HOME) {
        return not(format!("rbuild itself lies at {}, not below {HOME}", here.executable.display()));
    }
    if here.pid_namespace == FIRST_PID_NAMESPACE {
        return not("this is the host's pid namespace, not a container's".into());
    }
    if !here.first_user_namespace {
        return not("this is a user namespace, where not every owner and device can be had".into());
    }
    let lacks = NEEDED.iter().find(|name| {
        name.parse::<Capability>().is_ok_and(|capability| !here.capabilities.contains(capability))
    });
    if let Some(name) = lacks {
        return not(format!("CAP_{name} is missing"));
    }
    root_mount(&here.mounts)?;
    match stranger(here, Path::new(""), &mut 10_000) {
        None => Ok(()),
        Some(path) => not(format!("/{} is no part of an image for builds in place", path.display())),
    }
}

/// The marker and its folder: root's own, to be written by nobody else, and saying what it has to say.
fn marker(root: &Path) -> Result<(), NotHere> {
    let path = root.join(MARKER.trim_start_matches('/'));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(&path, flags, Mode::empty()).map(File::from);
    let mut file = file.map_err(|_| NotHere(format!("there is no {MARKER}")))?;
    let folder = std::fs::symlink_metadata(root.join(HOME.trim_start_matches('/')));
    let both = file.metadata().and_then(|own| Ok((own, folder?)));
    let (own, folder) = both.map_err(|e| NotHere(format!("could not look at {MARKER}: {e}")))?;
    let of_root = |m: &std::fs::Metadata| m.uid() == 0 && m.gid() == 0 && m.mode() & 0o022 == 0;
    if !own.is_file() || !folder.is_dir() || !of_root(&own) || !of_root(&folder) {
        return Err(NotHere(format!("{MARKER} is not a file that only root may write")));
    }
    let mut text = String::new();
    let read = file.by_ref().take(2 * MARKER_TEXT.len() as u64).read_to_string(&mut text);
    if read.is_err() || text != MARKER_TEXT {
        return Err(NotHere(format!("{MARKER} does not say what it has to say")));
    }
    Ok(())
}

/// A container's root is an overlay, or a folder of the host's file system; a machine's is the whole of a disk.
fn root_mount(mounts: &[MountPoint]) -> Result<(), NotHere> {
    let Some(root) = mounts.iter().rfind(|mount| mount.path == Path::new("/")) else {
        return Err(NotHere("nothing is mounted on /".into()));
    };
    if root.source.starts_with("/dev/") && root.part == Path::new("/") {
        return Err(NotHere(format!("/ is the whole of {}, as on a machine", root.source)));
    }
    if mounts.iter().any(|mount| mount.path == Path::new(HOME)) {
        return Err(NotHere(format!("{HOME} is a volume, not of the image")));
    }
    Ok(())
}

/// The first thing below `folder` that is neither rbuild's, nor mounted, nor a runtime's. Folders may be there.
fn stranger(here: &Surroundings, folder: &Path, left: &mut usize) -> Option<PathBuf> {
    let Ok(names) = std::fs::read_dir(here.root.join(folder)) else { return Some(folder.to_owned()) };
    for name in names {
        let Ok(entry) = name else { return Some(folder.to_owned()) };
        let path = folder.join(entry.file_name());
        let full = Path::new("/").join(&path);
        let known = full == Path::new(HOME)
            || here.mounts.iter().any(|mount| mount.path == full)
            || OF_THE_RUNTIME.iter().any(|known| Path::new(known) == path);
        if known {
            continue;
        }
        *left = left.saturating_sub(1);
        if *left == 0 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return Some(path);
        }
        if let Some(found) = stranger(here, &path, left) {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, create_dir_all, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    /// An image for builds in place, in a folder; the marker is root's, so only root can make it.
    fn image() -> Option<(TempDir, Surroundings)> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["rbuild/store", "etc", "dev", "proc", "var/run/secrets"] {
            create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["etc/hosts", ".dockerenv", "rbuild/rbuild", "dev/null"] {
            write(folder.path().join(name), "").unwrap();
        }
        write(folder.path().join("rbuild/.in-place"), MARKER_TEXT).unwrap();
        let mount = |path: &str, source: &str| MountPoint {
            path: path.into(),
            part: "/".into(),
            fs_type: String::new(),
            source: source.into(),
        };
        let here = Surroundings {
            root: folder.path().into(),
            executable: "/rbuild/rbuild".into(),
            mounts: vec![mount("/", "overlay"), mount("/dev", "tmpfs"), mount("/proc", "proc")],
            pid_namespace: 4_026_532_000,
            first_user_namespace: true,
            capabilities: CapabilitySet::docker(),
        };
        Some((folder, here))
    }

    /// What is said of an image that was changed.
    fn said(change: impl FnOnce(&Path, &mut Surroundings)) -> Option<String> {
        let (folder, mut here) = image()?;
        change(folder.path(), &mut here);
        Some(judge(&here).map_or_else(|why| why.to_string(), |()| String::new()))
    }

    #[test]
    fn an_image_made_for_it_has_every_sign() {
        assert_eq!(said(|_, _| {}).unwrap_or_default(), "");
    }

    #[test]
    fn each_missing_sign_is_enough() {
        type Change = fn(&Path, &mut Surroundings);
        let changes: [(&str, Change); 17] = [
            ("no /rbuild/.in-place", |root, _| std::fs::remove_file(root.join("rbuild/.in-place")).unwrap()),
            ("no /rbuild/.in-place", |root, _| {
                std::fs::rename(root.join("rbuild/.in-place"), root.join("rbuild/x")).unwrap();
                symlink("x", root.join("rbuild/.in-place")).unwrap();
            }),
            ("does not say", |root, _| write(root.join("rbuild/.in-place"), "").unwrap()),
            ("does not say", |root, _| {
                write(root.join("rbuild/.in-place"), format!("{MARKER_TEXT}more")).unwrap();
            }),
            ("only root may write", |root, _| {
                set_permissions(root.join("rbuild/.in-place"), PermissionsExt::from_mode(0o666)).unwrap();
            }),
            ("only root may write", |root, _| {
                set_permissions(root.join("rbuild"), PermissionsExt::from_mode(0o777)).unwrap();
            }),
            ("only root may write", |root, _| {
                std::os::unix::fs::chown(root.join("rbuild/.in-place"), Some(1000), None).unwrap();
            }),
            ("lies at /usr/bin/rbuild", |_, here| here.executable = "/usr/bin/rbuild".into()),
            ("lies at /rbuild2/x", |_, here| here.executable = "/rbuild2/x".into()),
            ("host's pid namespace", |_, here| here.pid_namespace = FIRST_PID_NAMESPACE),
            ("a user namespace", |_, here| here.first_user_namespace = false),
            ("CAP_CHOWN is missing", |_, here| here.capabilities = CapabilitySet::from_bits(0)),
            ("the whole of /dev/sda1", |_, here| here.mounts[0].source = "/dev/sda1".into()),
            ("nothing is mounted on /", |_, here| drop(here.mounts.remove(0))),
            ("/bin/sh is no part", |root, _| {
                create_dir(root.join("bin")).unwrap();
                write(root.join("bin/sh"), "").unwrap();
            }),
            ("/home/ada/.bashrc is no part", |root, _| {
                create_dir_all(root.join("home/ada")).unwrap();
                write(root.join("home/ada/.bashrc"), "").unwrap();
            }),
            // Not a mount after all.
            ("/dev/null is no part", |_, here| here.mounts.retain(|m| m.path != Path::new("/dev"))),
        ];
        for (expected, change) in changes {
            let Some(said) = said(change) else { return };
            assert!(said.contains(expected), "{expected}: {said:?}");
        }
    }

    #[test]
    fn this_machine_is_none() {
        let why = InPlace::here().unwrap_err();
        assert_eq!(why.to_string(), "there is no /rbuild/.in-place");
    }
}
