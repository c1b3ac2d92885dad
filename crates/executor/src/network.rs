//! A network namespace that is made before the sandbox joins it, and programs that live as long as rbuild.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::SandboxError;
use crate::child::outlive;
use crate::prepare::c_string;
use crate::sys::{self, CStrings};

/// A network namespace with nothing but `lo`, up, in which every user may bind every port. It lives while this value, a
/// socket of it, or a process in it does.
#[derive(Debug)]
pub struct NetworkNamespace(OwnedFd);

impl NetworkNamespace {
    /// Makes one; this process stays where it is.
    pub fn new() -> Result<Self, SandboxError> {
        // A thread of its own: `unshare(CLONE_NEWNET)` is for the thread that calls it.
        std::thread::spawn(Self::make).join().unwrap_or_else(|_| {
            Err(SandboxError::call("make a network namespace", rustix::io::Errno::CANCELED))
        })
    }

    fn make() -> Result<Self, SandboxError> {
        let failed = |e| SandboxError::call("make a network namespace", e);
        sys::unshare(UnshareFlags::NEWNET).map_err(failed)?;
        sys::loopback_up().map_err(failed)?;
        // As in Docker; where /proc/sys is read-only, ports below 1024 are for root.
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty()).map(Self).map_err(failed)
    }

    /// The calling thread is in it from now on; other threads stay where they are.
    pub fn join(&self) -> Result<(), SandboxError> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| SandboxError::call("join a network namespace", e))
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A program beside the sandbox (pasta, slirp4netns) and all that it starts: killed with this value, and by the kernel with
/// the thread that started it, whatever rights it has given itself meanwhile.
#[derive(Debug)]
pub(crate) struct Companion(OwnedFd);

impl Companion {
    /// Starts it, with `streams` as its standard ones, and `kept` open under their numbers. Only for absolute paths.
    pub(crate) fn start(
        argv: &[OsString],
        streams: [BorrowedFd<'_>; 3],
        kept: &[BorrowedFd<'_>],
    ) -> Result<Self, SandboxError> {
        let words = argv.iter().map(|word| c_string("an argument", word)).collect::<Result<Vec<_>, _>>()?;
        let program = argv.first().map(|word| c_string("a program", word)).transpose()?.into_iter().collect();
        let (argv, program, environment) =
            (CStrings::new(words), CStrings::new(program), CStrings::new(Vec::new()));
        let parent = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| SandboxError::call("open a descriptor of this process", e))?;
        let mut keep: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
        keep.sort_unstable();
        let streams = streams.map(|fd| fd.as_raw_fd());
        let mask = sys::block_signals();
        // The pid namespace's first process never changes its rights, so it keeps its PDEATHSIG, and ends the rest with it.
        let cloned = sys::clone_child(libc::CLONE_NEWPID | libc::CLONE_PIDFD, &mut || {
            outlive(parent.as_raw_fd(), streams, &keep, &mut || {
                sys::default_signals();
                for path in program.strings() {
                    let _ = sys::exec(path, &argv, &environment);
                }
                127
            })
        });
        sys::restore_signals(&mask);
        let (_, pidfd) = cloned.map_err(|e| SandboxError::call("start a program", e))?;
        pidfd.map(Self).ok_or_else(|| SandboxError::call("start a program", rustix::io::Errno::BADF))
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.0.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    }
}
