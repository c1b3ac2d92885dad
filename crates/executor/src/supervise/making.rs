//! Calls that make files: the kernel would make them root's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rbuild_fs::FileKind;
use rbuild_fs::journal::Owner;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, mknodat, openat, statat, symlinkat};
use rustix::io::Errno;

use crate::Capability;
use crate::supervise::Supervisor;
use crate::supervise::caller::{Answer, Caller, NewName, Outcome, Refusal};
use crate::supervise::calls::{Make, Named};
use crate::supervise::owners::Seen;

const ROOT: Owner = Owner { uid: 0, gid: 0 };
const SET_GID: u32 = libc::S_ISGID;
const MAY_ADD: u32 = 3;

impl Supervisor {
    pub(super) fn open_how(&mut self, caller: &Caller<'_>, file: &Named, how: u64) -> Outcome<Answer> {
        // `struct open_how`: flags, mode, and how to resolve, which only the kernel can do for the caller.
        let mut words = [0; 24];
        caller.read(how, &mut words)?;
        let word = |index: usize| words[index * 8..][..8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        if word(2) != 0 && word(0) & libc::O_CREAT as u64 != 0 {
            return Ok(Answer::Continue);
        }
        self.open(caller, file, word(0) as u32, word(1) as u32)
    }

    pub(super) fn open(
        &mut self,
        caller: &Caller<'_>,
        file: &Named,
        flags: u32,
        mode: u32,
    ) -> Outcome<Answer> {
        if flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32 {
            return self.open_nameless(caller, file, flags, mode);
        }
        if flags & libc::O_CREAT as u32 == 0 {
            return self.use_file(caller, file, flags);
        }
        let new = caller.new_name(&self.processes, file)?;
        if statat(&new.folder, &new.name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return self.use_file(caller, file, flags);
        }
        let folder = self.owners.look(new.folder.as_fd())?;
        let owner = self.owner_of_new(caller, &folder);
        if owner == ROOT {
            return Ok(Answer::Continue);
        }
        self.may_add(caller, &folder)?;
        let mode = mode & 0o7777 & !self.umask(caller)?;
        let exclusive = flags & libc::O_EXCL as u32 != 0;
        let flags = OFlags::from_bits_retain(flags);
        let ours = flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = match openat(&new.folder, &new.name, ours, Mode::from(mode & 0o1777)) {
            // Another was faster.
            Err(Errno::EXIST) if !exclusive => return Ok(Answer::Continue),
            opened => opened?,
        };
        self.owners.keep_new(fd.as_fd(), owner, Some(mode), None)?;
        Ok(Answer::Descriptor(fd, flags.contains(OFlags::CLOEXEC)))
    }

    /// `O_TMPFILE`.
    fn open_nameless(&mut self, caller: &Caller<'_>, file: &Named, flags: u32, mode: u32) -> Outcome<Answer> {
        let folder_fd = caller.find(&self.processes, file)?;
        let folder = self.owners.look(folder_fd.as_fd())?;
        let owner = self.owner_of_new(caller, &folder);
        if owner == ROOT {
            return Ok(Answer::Continue);
        }
        self.may_add(caller, &folder)?;
        let mode = mode & 0o7777 & !self.umask(caller)?;
        let flags = OFlags::from_bits_retain(flags);
        let fd = openat(folder_fd, ".", flags | OFlags::CLOEXEC, Mode::from(mode & 0o1777))?;
        self.owners.keep_new(fd.as_fd(), owner, Some(mode), None)?;
        Ok(Answer::Descriptor(fd, flags.contains(OFlags::CLOEXEC)))
    }

    pub(super) fn make(&mut self, caller: &Caller<'_>, named: &Named, make: Make) -> Outcome<Answer> {
        let new = caller.new_name(&self.processes, named)?;
        let folder = self.owners.look(new.folder.as_fd())?;
        let owner = self.owner_of_new(caller, &folder);
        let hands_group_down = folder.mode() & SET_GID != 0;
        let is_plain = match make {
            Make::Folder { .. } => !(folder.differs() && hands_group_down),
            Make::Node { mode, .. } => !is_device(mode) && self.owners.is_empty(),
            Make::Link { .. } => self.owners.is_empty(),
        };
        if owner == ROOT && is_plain {
            return Ok(Answer::Continue);
        }
        self.may_add(caller, &folder)?;
        match make {
            Make::Folder { mode } => {
                let mode = mode & 0o1777 & !self.umask(caller)?;
                mkdirat(&new.folder, &new.name, Mode::from(mode))?;
                let mode = if hands_group_down { mode | SET_GID } else { mode };
                self.owners.keep_new(made(&new)?.as_fd(), owner, Some(mode), None)?;
            }
            Make::Node { mode, device } => self.make_node(caller, &new, owner, mode, device)?,
            Make::Link { target } => {
                symlinkat(caller.string(target)?, &new.folder, &new.name)?;
                self.owners.keep_new(made(&new)?.as_fd(), owner, None, None)?;
            }
        }
        Ok(Answer::Value(0))
    }

    fn make_node(
        &mut self,
        caller: &Caller<'_>,
        new: &NewName,
        owner: Owner,
        mode: u32,
        device: u64,
    ) -> Outcome<()> {
        let permissions = mode & 0o7777 & !self.umask(caller)?;
        let kept = Mode::from(permissions & 0o1777);
        if is_device(mode) {
            let may = "MKNOD".parse::<Capability>().is_ok_and(|c| self.capabilities.contains(c));
            if !may || !self.processes.credentials(caller.process).is_privileged() {
                return Err(Errno::PERM.into());
            }
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            let placeholder = openat(&new.folder, &new.name, flags, kept)?;
            let kind = device_kind(mode, device);
            return Ok(self.owners.keep_new(placeholder.as_fd(), owner, Some(permissions), Some(kind))?);
        }
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => return Err(Refusal::Continue),
        };
        mknodat(&new.folder, &new.name, kind, kept, 0)?;
        Ok(self.owners.keep_new(made(new)?.as_fd(), owner, Some(permissions), None)?)
    }

    fn owner_of_new(&self, caller: &Caller<'_>, folder: &Seen) -> Owner {
        let credentials = self.processes.credentials(caller.process);
        let hands_group_down = folder.mode() & SET_GID != 0;
        let gid = if hands_group_down { folder.owner().gid } else { credentials.groups.file };
        Owner { uid: credentials.users.file, gid }
    }

    fn may_add(&self, caller: &Caller<'_>, folder: &Seen) -> Outcome<()> {
        self.check(self.processes.credentials(caller.process), folder, MAY_ADD)
    }

    pub(super) fn umask(&self, caller: &Caller<'_>) -> Outcome<u32> {
        Ok(self.processes.status(caller.call.thread).map_err(|_| Refusal::Continue)?.umask)
    }
}

fn made(new: &NewName) -> Result<OwnedFd, Errno> {
    let folder: BorrowedFd<'_> = new.folder.as_fd();
    openat(folder, &new.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn is_device(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK)
}

/// The kernel's own packing of device numbers in `mknod`'s argument.
pub(super) fn device_kind(mode: u32, device: u64) -> FileKind {
    let device = device as u32;
    let (major, minor) = ((device & 0xf_ff00) >> 8, device & 0xff | (device >> 12) & 0xf_ff00);
    match mode & libc::S_IFMT {
        libc::S_IFBLK => FileKind::BlockDevice { major, minor },
        _ => FileKind::CharDevice { major, minor },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_unpacked() {
        for (major, minor) in [(1, 3), (8, 300), (511, 0xf_ffff)] {
            let packed = minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12;
            let kind = device_kind(libc::S_IFCHR, u64::from(packed));
            assert_eq!(kind, FileKind::CharDevice { major, minor });
        }
    }
}
