//! The caller of one supervised call: its memory, and the files it names, found as the kernel would find them for it.
//!
//! The supervisor's thread has entered the sandbox's mount namespace, so that an absolute path, every link on its way and
//! every `..` end in the sandbox's root and nowhere else. A path is looked up once, to a descriptor, and all that follows is
//! done to that. What cannot be found so is left to the kernel, which looks with the caller's own eyes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::supervise::calls::Named;
use crate::supervise::processes::Processes;
use crate::sys::{self, Notification};

/// `PATH_MAX`, with the ending zero.
const LONGEST: usize = 4096;
/// Nearly every path is shorter.
const USUAL: usize = 256;

/// How one call is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel carries it out.
    Continue,
    Value(i64),
    /// A new descriptor for the caller, close-on-exec or not.
    Descriptor(OwnedFd, bool),
}

/// Why a call got no answer of ours.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Let the kernel answer: what we would need is not to be had.
    Continue,
    Errno(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

pub(super) type Outcome<T> = Result<T, Refusal>;

/// One call that waits.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) call: Notification,
    pub(super) process: u32,
    /// The process has a root directory of its own: its absolute paths start there.
    pub(super) own_root: bool,
}

/// A place for a new file.
#[derive(Debug)]
pub(super) struct NewName {
    pub(super) folder: OwnedFd,
    pub(super) name: CString,
}

impl Caller<'_> {
    /// Reads as many bytes as the buffer has, or to the end of the mapping.
    fn read_some(&self, address: u64, buffer: &mut [u8]) -> Outcome<usize> {
        // Unreadable memory gives EFAULT by the kernel, too; and the process that becomes the command is not ours to read
        // before its exec.
        let length = sys::read_memory(self.call.thread, address, buffer).map_err(|_| Refusal::Continue)?;
        self.still_waits()?;
        Ok(length)
    }

    /// Its number is its own only while it waits.
    fn still_waits(&self) -> Outcome<()> {
        match sys::still_waits(self.listener, self.call.id) {
            true => Ok(()),
            false => Err(Refusal::Errno(Errno::SRCH)),
        }
    }

    /// Reads exactly so many bytes.
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Outcome<()> {
        match self.read_some(address, buffer)? == buffer.len() {
            true => Ok(()),
            false => Err(Refusal::Continue),
        }
    }

    /// Reads a string.
    pub(super) fn string(&self, address: u64) -> Outcome<CString> {
        let mut bytes = vec![0; USUAL];
        let mut length = self.read_some(address, &mut bytes)?;
        if !bytes[..length].contains(&0) && length == USUAL {
            bytes.resize(LONGEST, 0);
            length = self.read_some(address, &mut bytes)?;
        }
        let text = CStr::from_bytes_until_nul(&bytes[..length]).map_err(|_| Refusal::Continue)?;
        Ok(text.to_owned())
    }

    /// Writes into its memory.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Outcome<()> {
        self.still_waits()?;
        sys::write_memory(self.call.thread, address, bytes).map_err(|_| Refusal::Errno(Errno::FAULT))
    }

    fn proc_entry(&self, processes: &Processes, name: &str, flags: OFlags) -> Outcome<OwnedFd> {
        let path = format!("{}/{name}", self.call.thread);
        let fd = openat(processes.proc(), path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|_| Refusal::Continue)?;
        self.still_waits()?;
        Ok(fd)
    }

    fn folder(&self, processes: &Processes, folder: i32) -> Outcome<OwnedFd> {
        match folder {
            libc::AT_FDCWD => self.proc_entry(processes, "cwd", OFlags::empty()),
            fd => self.proc_entry(processes, &format!("fd/{fd}"), OFlags::empty()),
        }
    }

    /// The file that the call names.
    pub(super) fn find(&self, processes: &Processes, named: &Named) -> Outcome<OwnedFd> {
        let path = match named.path {
            Some(0) | None if named.or_open => return self.folder(processes, named.folder),
            Some(address) => self.string(address)?,
            None => return Err(Refusal::Continue),
        };
        if path.is_empty() {
            return if named.or_open {
                self.folder(processes, named.folder)
            } else {
                Err(Refusal::Errno(Errno::NOENT))
            };
        }
        self.look_up(processes, named.folder, &path, named.follow)
    }

    fn look_up(&self, processes: &Processes, folder: i32, path: &CStr, follow: bool) -> Outcome<OwnedFd> {
        if let Some(own) = own_entry(path.to_bytes()) {
            // These lead through links that are different for each process.
            let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
            return self.proc_entry(processes, &own, follow);
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !follow);
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        let from = match (path.to_bytes()[0] == b'/', self.own_root) {
            (true, false) => None,
            (true, true) => {
                resolve |= ResolveFlags::IN_ROOT;
                Some(self.proc_entry(processes, "root", OFlags::empty())?)
            }
            // A `..` of such a process may end at its root: that is for the kernel to see.
            (false, true) => return Err(Refusal::Continue),
            (false, false) => Some(self.folder(processes, folder)?),
        };
        let from = from.as_ref().map_or(CWD, AsFd::as_fd);
        match openat2(from, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(fd),
            Err(_) => Err(Refusal::Continue),
        }
    }

    /// The folder and the name in it that a call is to make something under; what has no such form is the kernel's to refuse.
    pub(super) fn new_name(&self, processes: &Processes, named: &Named) -> Outcome<NewName> {
        let path = self.string(named.path.ok_or(Refusal::Continue)?)?;
        let bytes = path.to_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let start = bytes[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (before, name) = (&bytes[..start], &bytes[start..end]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Refusal::Continue);
        }
        let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Refusal::Continue);
        let folder = match before {
            b"" => self.folder(processes, named.folder)?,
            path => self.look_up(processes, named.folder, &c_string(path)?, true)?,
        };
        Ok(NewName { folder, name: c_string(name)? })
    }
}

/// The entry of the caller's own `/proc` folder that a path leads to, where links do that are not the same for everybody.
fn own_entry(path: &[u8]) -> Option<String> {
    let rest = match path {
        b"/dev/stdin" => "fd/0",
        b"/dev/stdout" => "fd/1",
        b"/dev/stderr" => "fd/2",
        _ => {
            let text = std::str::from_utf8(path).ok()?;
            let own = text.strip_prefix("/proc/self/").or_else(|| text.strip_prefix("/proc/thread-self/"));
            if let Some(rest) = own {
                return (!rest.contains("..")).then(|| rest.to_owned());
            }
            return text.strip_prefix("/dev/fd/").filter(|n| !n.contains('/')).map(|n| format!("fd/{n}"));
        }
    };
    Some(rest.to_owned())
}

/// The name of an open file below the supervisor's working directory, its own `/proc/self/fd`: for calls that take no
/// descriptor, or none that was opened as a path.
pub(super) fn by_number(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_differ_between_processes() {
        for (path, expected) in [
            ("/dev/stdout", Some("fd/1")),
            ("/dev/fd/7", Some("fd/7")),
            ("/dev/fd/7/x", None),
            ("/proc/self/exe", Some("exe")),
            ("/proc/self/../1/root", None),
            ("/proc/1/root", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(own_entry(path.as_bytes()).as_deref(), expected, "{path}");
        }
    }
}
