//! /dev: the host's nodes, bound. A node that a command makes itself can be opened nowhere: what a container engine leaves to
//! a cgroup of devices, which we may have no right to, the mounts refuse (`nodev`).

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::MountAttrFlags;

use crate::SandboxError;
use crate::detached::{clone_tree, new_file, new_tmpfs, set_mode};
use crate::plan::{SetupOp, Slot};
use crate::prepare::Builder;

/// Character devices that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// As runc makes them.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

impl Builder<'_> {
    /// /dev: a tmpfs that is finished before it is mounted. Returns the slot of its root.
    pub(crate) fn devices(&mut self, devpts: OwnedFd) -> Result<Slot, SandboxError> {
        let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID;
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, !self.spec.privileged);
        let dev = new_tmpfs(&[("mode", "0755"), ("size", "64m")], flags)?;
        let failed = |e| SandboxError::call("fill /dev", e);
        for name in ["pts", "shm", "mqueue"] {
            mkdirat(&dev, name, Mode::from(0o755))
                .and_then(|()| set_mode(&dev, name, 0o755))
                .map_err(failed)?;
        }
        for (target, name) in DEVICE_LINKS {
            symlinkat(target, &dev, name).map_err(failed)?;
        }
        if Path::new("/proc/kcore").exists() {
            symlinkat("/proc/kcore", &dev, "core").map_err(failed)?;
        }
        let names = self.device_names();
        for name in &names {
            new_file(dev.as_fd(), name).map_err(failed)?;
        }
        let shown = dev.try_clone().map_err(|e| SandboxError::call("duplicate the descriptor of /dev", e))?;
        let slot = self.attach(dev, "/dev", true, true)?;
        for name in names {
            let source = clone_tree(CWD, &Path::new("/dev").join(&name))?;
            let target = openat(&shown, name.as_os_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed)?;
            let (source, target) = (self.slot(source), self.slot(target));
            self.ops.push(SetupOp::Attach(source, target, format!("/dev/{}", name.display())));
        }
        self.attach(devpts, "/dev/pts", true, false)?;
        let size = self.spec.shm_size.to_string();
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let shm = new_tmpfs(&[("mode", "1777"), ("size", &size)], flags)?;
        self.attach(shm, "/dev/shm", true, false)?;
        Ok(slot)
    }

    /// The six, and with `privileged` every device node of the host's /dev.
    fn device_names(&self) -> Vec<OsString> {
        let mut all: Vec<_> = DEVICES.iter().map(OsString::from).collect();
        if !self.spec.privileged {
            return all;
        }
        for entry in std::fs::read_dir("/dev").into_iter().flatten().flatten() {
            let is_device = entry.file_type().is_ok_and(|t| t.is_char_device() || t.is_block_device());
            if is_device && !all.contains(&entry.file_name()) && entry.file_name() != "ptmx" {
                all.push(entry.file_name());
            }
        }
        all
    }
}
