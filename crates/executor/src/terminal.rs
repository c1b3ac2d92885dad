//! A terminal of the sandbox's own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::SandboxError;
use crate::idmap::IdMap;

/// The group that owns terminals in every distribution.
const TTY_GROUP: u32 = 5;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl WindowSize {
    /// Gives a terminal, by its master, this size; what runs in it gets SIGWINCH.
    pub(crate) fn set(self, master: impl AsFd) -> Result<(), SandboxError> {
        let size = Winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(master, size).map_err(|e| SandboxError::call("set the size of a terminal", e))
    }
}

/// Both ends.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// A new terminal of the devpts whose `ptmx` lies at this path, for a user.
    pub(crate) fn open(
        folder: impl AsFd,
        ptmx: &Path,
        size: WindowSize,
        id_map: &IdMap,
        uid: u32,
    ) -> Result<Terminal, SandboxError> {
        let failed = |e| SandboxError::call("make a terminal", e);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = openat(folder, ptmx, flags, Mode::empty()).map_err(failed)?;
        unlockpt(&master).map_err(failed)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
        size.set(&master)?;
        // Where the id is not to be had, all is one id anyway.
        let _ = fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(tty_group(id_map))));
        Ok(Terminal { master, slave })
    }
}

/// A new devpts, attached nowhere.
pub(crate) fn devpts(id_map: &IdMap) -> Result<OwnedFd, SandboxError> {
    let failed = |e| SandboxError::call("make a devpts file system", e);
    let fs = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    let group = tty_group(id_map).to_string();
    for (key, value) in [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &group)] {
        fsconfig_set_string(&fs, key, value).map_err(failed)?;
    }
    fsconfig_create(&fs).map_err(failed)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed)
}

fn tty_group(id_map: &IdMap) -> u32 {
    if id_map.contains(0, TTY_GROUP) { TTY_GROUP } else { 0 }
}

/// The `ptmx` of a running sandbox, through its init.
pub(crate) fn of_running(
    init: i32,
    size: WindowSize,
    id_map: &IdMap,
    uid: u32,
) -> Result<Terminal, SandboxError> {
    let ptmx = format!("/proc/{init}/root/dev/pts/ptmx");
    Terminal::open(CWD, Path::new(&ptmx), size, id_map, uid)
}
