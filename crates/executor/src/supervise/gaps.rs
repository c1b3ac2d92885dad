//! What a namespace with many ids still lacks: device nodes, and owners outside of its map. Users are real here, so all else
//! is the kernel's, and so are permissions.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};

use crate::Capability;
use crate::idmap::IdMap;
use crate::supervise::Supervisor;
use crate::supervise::caller::{Answer, Caller, Outcome, Refusal};
use crate::supervise::calls::{Make, Named};
use crate::supervise::making::{device_kind, is_device};

use super::Owner;

/// "Leave it as it is", for `chown`.
const KEEP: u32 = u32::MAX;
/// The file types of devices have this bit, and of what `mknod` makes only they (inode(7)).
const DEVICE_BIT: u32 = 0o020_000;

/// Which calls are told to a supervisor of gaps, and when.
pub(crate) fn supervised(name: &str) -> Option<crate::seccomp::Told> {
    match name {
        "mknod" => Some(crate::seccomp::Told::IfBits { argument: 1, bits: DEVICE_BIT }),
        "mknodat" => Some(crate::seccomp::Told::IfBits { argument: 2, bits: DEVICE_BIT }),
        // Also for ids of the map: such an owner takes the place of one in the journal.
        "chown" | "lchown" | "fchown" | "fchownat" | "chown32" | "lchown32" | "fchown32" => {
            Some(crate::seccomp::Told::Always)
        }
        _ => None,
    }
}

/// Whether a call asks what a file is.
pub(super) fn is_look(name: &str) -> bool {
    ["stat", "lstat", "fstat", "newfstatat", "statx", "stat64", "lstat64", "fstat64", "fstatat64"]
        .contains(&name)
}

impl Supervisor {
    pub(super) fn real_chown(
        &mut self,
        caller: &Caller<'_>,
        map: &IdMap,
        named: &Named,
        (uid, gid): (u32, u32),
    ) -> Outcome<Answer> {
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        let in_map =
            |uid, gid| map.contains(if uid == KEEP { 0 } else { uid }, if gid == KEEP { 0 } else { gid });
        if !seen.differs() && in_map(uid, gid) {
            return Ok(Answer::Continue);
        }
        self.must_hold(caller, "CHOWN")?;
        let before = seen.owner();
        let given = |id, before| if id == KEEP { before } else { id };
        let after = Owner { uid: given(uid, before.uid), gid: given(gid, before.gid) };
        if map.contains(after.uid, after.gid) && seen.device().is_none() {
            self.owners.forget(fd.as_fd(), &seen)?;
            return Ok(Answer::Continue);
        }
        self.owners.chown(fd.as_fd(), &seen, after)?;
        Ok(Answer::Value(0))
    }

    /// A placeholder in place of a device, root's as the file that stands for it.
    pub(super) fn real_make(&mut self, caller: &Caller<'_>, named: &Named, make: Make) -> Outcome<Answer> {
        let Make::Node { mode, device } = make else { return Ok(Answer::Continue) };
        if !is_device(mode) {
            return Ok(Answer::Continue);
        }
        self.must_hold(caller, "MKNOD")?;
        let new = caller.new_name(&self.processes, named)?;
        let permissions = mode & 0o7777 & !self.umask(caller)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let placeholder = openat(&new.folder, &new.name, flags, Mode::from(permissions & 0o1777))?;
        let gid = self.owners.look(placeholder.as_fd())?.owner().gid;
        let owner = Owner { uid: 0, gid };
        self.owners.keep_new(
            placeholder.as_fd(),
            owner,
            Some(permissions),
            Some(device_kind(mode, device)),
        )?;
        Ok(Answer::Value(0))
    }

    /// Without the capability the kernel's own refusal is the right one.
    fn must_hold(&self, caller: &Caller<'_>, capability: &str) -> Outcome<()> {
        let status = self.processes.status(caller.call.thread).map_err(|_| Refusal::Continue)?;
        match capability
            .parse::<Capability>()
            .is_ok_and(|capability| status.capabilities.contains(capability))
        {
            true => Ok(()),
            false => Err(Refusal::Continue),
        }
    }
}
