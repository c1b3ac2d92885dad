//! Calls about files that exist: who owns them, what they may be used for.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rbuild_fs::journal::{Owner, XATTR};
use rustix::fs::{CWD, Mode, OFlags, listxattr, openat};
use rustix::io::Errno;

use crate::supervise::Supervisor;
use crate::supervise::caller::{Answer, Caller, Outcome, Refusal, by_number};
use crate::supervise::calls::{Named, StatInto};
use crate::supervise::credentials::Credentials;
use crate::supervise::owners::Seen;
use crate::sys;

const KEEP: u32 = u32::MAX;
const READ: u32 = 4;
const WRITE: u32 = 2;
const RUN: u32 = 1;

impl Supervisor {
    pub(super) fn chown(
        &mut self,
        caller: &Caller<'_>,
        named: &Named,
        uid: u32,
        gid: u32,
    ) -> Outcome<Answer> {
        if (uid, gid) == (KEEP, KEEP) {
            return Ok(Answer::Continue);
        }
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        let before = seen.owner();
        let given = |id, before| if id == KEEP { before } else { id };
        let after = Owner { uid: given(uid, before.uid), gid: given(gid, before.gid) };
        let credentials = self.processes.credentials(caller.process);
        let may = credentials.overrides_files()
            || credentials.users.file == before.uid
                && after.uid == before.uid
                && (after.gid == before.gid || credentials.in_group(after.gid));
        if !may {
            return Err(Errno::PERM.into());
        }
        self.owners.chown(fd.as_fd(), &seen, after)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn chmod(&mut self, caller: &Caller<'_>, named: &Named, mode: u32) -> Outcome<Answer> {
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        let credentials = self.processes.credentials(caller.process);
        if !credentials.overrides_files() && credentials.users.file != seen.owner().uid {
            return Err(Errno::PERM.into());
        }
        if !seen.differs() || seen.is_link() {
            return Ok(Answer::Continue);
        }
        self.owners.chmod(fd.as_fd(), &seen, mode)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn stat(&mut self, caller: &Caller<'_>, named: &Named, into: StatInto) -> Outcome<Answer> {
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        if !seen.differs() {
            return Ok(Answer::Continue);
        }
        match into {
            StatInto::Stat(address) => caller.write(address, sys::bytes_of(&shown(&seen)))?,
            StatInto::Narrow(address) => caller.write(address, &narrow(&shown(&seen)))?,
            StatInto::Statx { address, flags, mask } => {
                let owner = seen.owner();
                let mut statx = sys::statx(fd.as_fd(), flags as i32 & libc::AT_STATX_SYNC_TYPE, mask)?;
                (statx.stx_uid, statx.stx_gid) = (owner.uid, owner.gid);
                statx.stx_mode = seen.type_and_mode() as u16;
                if let Some((_, major, minor)) = seen.device() {
                    (statx.stx_rdev_major, statx.stx_rdev_minor) = (major, minor);
                }
                caller.write(address, sys::bytes_of(&statx))?;
            }
        }
        Ok(Answer::Value(0))
    }

    /// `access(2)` asks for the real ids.
    pub(super) fn access(
        &mut self,
        caller: &Caller<'_>,
        named: &Named,
        mode: u32,
        effective: bool,
    ) -> Outcome<Answer> {
        let mut credentials = self.processes.credentials(caller.process).clone();
        if !effective {
            credentials.users.file = credentials.users.real;
            credentials.groups.file = credentials.groups.real;
        }
        if !credentials.overrides_files() {
            let fd = caller.find(&self.processes, named)?;
            self.check(&credentials, &self.owners.look(fd.as_fd())?, mode & 7)?;
        }
        Ok(Answer::Continue)
    }

    /// Opening what exists.
    pub(super) fn use_file(&mut self, caller: &Caller<'_>, named: &Named, flags: u32) -> Outcome<Answer> {
        let credentials = self.processes.credentials(caller.process);
        if credentials.overrides_files() || flags & libc::O_PATH as u32 != 0 {
            return Ok(Answer::Continue);
        }
        let follow = flags & libc::O_NOFOLLOW as u32 == 0;
        let fd = caller.find(&self.processes, &Named { follow, ..*named })?;
        let needed = match flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => READ,
            libc::O_WRONLY => WRITE,
            _ => READ | WRITE,
        };
        let truncates = if flags & libc::O_TRUNC as u32 != 0 { WRITE } else { 0 };
        self.check(credentials, &self.owners.look(fd.as_fd())?, needed | truncates)?;
        Ok(Answer::Continue)
    }

    /// Whether the owner and the mode grant it. Only for files that can have an owner of their own.
    pub(super) fn check(&self, credentials: &Credentials, seen: &Seen, needed: u32) -> Outcome<()> {
        let plain = matches!(seen.kind(), libc::S_IFREG | libc::S_IFDIR);
        if !plain || seen.stat.st_dev == self.proc_device {
            return Ok(());
        }
        let Owner { uid, gid } = seen.owner();
        match needed & !credentials.granted(seen.mode(), uid, gid) {
            0 => Ok(()),
            _ => Err(Errno::ACCESS.into()),
        }
    }

    /// A program of another user's with the setuid bit.
    pub(super) fn execute(&mut self, caller: &Caller<'_>, named: &Named) -> Outcome<Answer> {
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        let mut credentials = self.processes.credentials(caller.process).clone();
        if seen.kind() != libc::S_IFREG || seen.mode() & 0o111 == 0 {
            return Ok(Answer::Continue);
        }
        self.check(&credentials, &seen, RUN)?;
        let (mode, owner) = (seen.mode(), seen.owner());
        let set_uid = mode & libc::S_ISUID != 0;
        let set_gid = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
        // Of a script the kernel ignores these bits, and of everything after prctl(PR_SET_NO_NEW_PRIVS).
        let counts = (set_uid || set_gid)
            && is_program(&fd)
            && self.processes.status(caller.call.thread).is_ok_and(|status| !status.no_new_privileges);
        credentials
            .execute((counts && set_uid).then_some(owner.uid), (counts && set_gid).then_some(owner.gid));
        self.processes.set(caller.process, credentials);
        Ok(Answer::Continue)
    }

    pub(super) fn set_xattr(
        &mut self,
        caller: &Caller<'_>,
        named: &Named,
        name: u64,
        (value, size): (u64, u64),
    ) -> Outcome<Answer> {
        let name = caller.string(name)?;
        match name.to_bytes() {
            // A copy of all attributes: the owner is set by `chown`, or is not meant to be copied.
            XATTR_BYTES => Ok(Answer::Value(0)),
            b"system.posix_acl_default" => Ok(Answer::Value(0)),
            b"system.posix_acl_access" if size <= 4096 => {
                let mut list = vec![0; size as usize];
                caller.read(value, &mut list)?;
                self.set_acl(caller, named, &list)
            }
            _ => Ok(Answer::Continue),
        }
    }

    /// Images keep no access control lists, but one changes the mode; its ids are mostly not to be had here.
    fn set_acl(&mut self, caller: &Caller<'_>, named: &Named, list: &[u8]) -> Outcome<Answer> {
        let Some(permissions) = permissions_of(list) else { return Ok(Answer::Continue) };
        let fd = caller.find(&self.processes, named)?;
        let seen = self.owners.look(fd.as_fd())?;
        let credentials = self.processes.credentials(caller.process);
        if !credentials.overrides_files() && credentials.users.file != seen.owner().uid {
            return Err(Errno::PERM.into());
        }
        self.owners.chmod(fd.as_fd(), &seen, seen.mode() & 0o7000 | permissions)?;
        Ok(Answer::Value(0))
    }

    /// The journal's attribute is not shown.
    pub(super) fn list_xattrs(
        &mut self,
        caller: &Caller<'_>,
        named: &Named,
        list: u64,
        size: u64,
    ) -> Outcome<Answer> {
        let fd = caller.find(&self.processes, named)?;
        let mut names = vec![0_u8; 1024];
        let length = listxattr(by_number(fd.as_fd()), &mut names[..]).map_err(|_| Refusal::Continue)?;
        names.truncate(length);
        let shown: Vec<u8> = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !is_journal(name))
            .flatten()
            .copied()
            .collect();
        match shown.len() as u64 {
            _ if shown.len() == names.len() => Ok(Answer::Continue),
            length if size == 0 => Ok(Answer::Value(length as i64)),
            length if length > size => Err(Errno::RANGE.into()),
            length => {
                caller.write(list, &shown)?;
                Ok(Answer::Value(length as i64))
            }
        }
    }
}

const XATTR_BYTES: &[u8] = XATTR.as_bytes();

fn is_journal(name: &[u8]) -> bool {
    CStr::from_bytes_with_nul(name).is_ok_and(|name| name.to_bytes() == XATTR_BYTES)
}

fn is_program(file: &OwnedFd) -> bool {
    let mut magic = [0; 4];
    let opened = openat(CWD, by_number(file.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.and_then(|opened| rustix::io::read(opened, &mut magic)).is_ok_and(|_| magic == *b"\x7fELF")
}

/// `struct stat` as the caller is to see it.
fn shown(seen: &Seen) -> libc::stat {
    let owner = seen.owner();
    let mut stat = seen.stat;
    (stat.st_uid, stat.st_gid, stat.st_mode) = (owner.uid, owner.gid, seen.type_and_mode());
    if let Some((_, major, minor)) = seen.device() {
        stat.st_rdev = libc::makedev(major, minor);
    }
    stat
}

/// `struct stat64` of i386 (arch/x86/include/uapi/asm/stat.h), packed.
#[allow(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
fn narrow(stat: &libc::stat) -> [u8; 96] {
    let mut out = [0; 96];
    let mut put = |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
    let word = |value: u64| (value as u32).to_le_bytes();
    put(0, &stat.st_dev.to_le_bytes());
    put(12, &word(stat.st_ino));
    put(16, &stat.st_mode.to_le_bytes());
    put(20, &word(stat.st_nlink as u64));
    put(24, &stat.st_uid.to_le_bytes());
    put(28, &stat.st_gid.to_le_bytes());
    put(32, &stat.st_rdev.to_le_bytes());
    put(44, &stat.st_size.to_le_bytes());
    put(52, &word(stat.st_blksize as u64));
    put(56, &(stat.st_blocks as u64).to_le_bytes());
    let times = [
        (64, stat.st_atime, stat.st_atime_nsec),
        (72, stat.st_mtime, stat.st_mtime_nsec),
        (80, stat.st_ctime, stat.st_ctime_nsec),
    ];
    for (offset, seconds, nanos) in times {
        put(offset, &word(seconds as u64));
        put(offset + 4, &word(nanos as u64));
    }
    put(88, &stat.st_ino.to_le_bytes());
    out
}

/// The permission bits that an access control list means (acl(5)): a mask stands for the group's.
fn permissions_of(list: &[u8]) -> Option<u32> {
    const VERSION: u32 = 2;
    const USER: u16 = 0x01;
    const GROUP: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let (version, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (mut user, mut group, mut mask, mut other) = (None, None, None, None);
    for entry in entries.chunks_exact(8) {
        let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let slot = match number(0) {
            USER => &mut user,
            GROUP => &mut group,
            MASK => &mut mask,
            OTHER => &mut other,
            _ => continue,
        };
        *slot = Some(u32::from(number(2)) & 7);
    }
    Some(user? << 6 | mask.or(group)? << 3 | other?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_means_a_mode() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let head = 2_u32.to_le_bytes().to_vec();
        let plain = [entry(1, 7, 0), entry(4, 5, 0), entry(0x20, 0, 0)].concat();
        assert_eq!(permissions_of(&[head.clone(), plain.clone()].concat()), Some(0o750));
        let named = [plain, entry(8, 7, 4), entry(0x10, 7, 0)].concat();
        assert_eq!(permissions_of(&[head, named].concat()), Some(0o770));
        assert_eq!(permissions_of(b"\x02"), None);
    }

    #[test]
    fn only_the_journal_s_name_is_hidden() {
        assert!(is_journal(b"user.rbuild.meta\0"));
        assert!(!is_journal(b"user.rbuild.met\0") && !is_journal(b"user.note\0"));
    }
}
