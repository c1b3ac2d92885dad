use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::{SandboxError, SetupOp, WindowSize, sys};

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReport {
    /// It exited with this code; 127 and 126 with a sentence on stderr when it could not be started.
    Exited(i32),
    /// A signal of this number ended it; see [`signal_name`].
    Signaled(i32),
    /// It was killed because [`Cancel::cancel`] was called.
    Cancelled,
}

impl ExitReport {
    /// The code a shell would show: the exit code, or 128 + signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
            Self::Cancelled => 130,
        }
    }

    /// True for exit code 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// Which of the command's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// A sandbox whose command runs, for other threads; clones are the same. Using it after the end does nothing.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Running>);

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) init: OwnedFd,
    /// Its process id, as this process sees it.
    pub(crate) pid: i32,
    /// The terminal's other end, where the command has one.
    pub(crate) master: Option<OwnedFd>,
}

impl Sandbox {
    pub(crate) fn new(running: Running) -> Self {
        Self(Arc::new(running))
    }

    pub(crate) fn running(&self) -> &Running {
        &self.0
    }

    /// Process id of the sandbox's init.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Sends the command a signal that it can take: init passes on all but SIGKILL and SIGSTOP, for which there is [`Cancel`].
    pub fn signal(&self, signal: i32) {
        sys::pidfd_signal(self.0.init.as_fd(), signal);
    }

    /// Whether the command has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.0.master.is_some()
    }

    /// Types at the command's terminal; waits while the command does not read. Nothing happens without one.
    pub fn type_in(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        let Some(master) = &self.0.master else { return Ok(()) };
        while !bytes.is_empty() {
            match rustix::io::write(master, bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::INTR) => {}
                // Reading from it does not block, so neither does writing.
                Err(Errno::AGAIN) => _ = poll(&mut [PollFd::new(master, PollFlags::OUT)], None)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives the terminal another size.
    pub fn resize(&self, size: WindowSize) {
        // A terminal that is gone has no size.
        let _ = self.0.master.as_ref().map(|master| size.set(master));
    }
}

/// Takes the command's output as it comes.
pub trait OutputSink {
    /// Some bytes, not whole lines and not necessarily text; at most 64 KiB at a time.
    fn output(&mut self, stream: Stream, bytes: &[u8]);

    /// The command's program runs. Not called for one that cannot be started.
    fn started(&mut self, _sandbox: &Sandbox) {}

    /// What is about to be done to set the sandbox up, in order; for a log. Does nothing by default.
    fn setup(&mut self, _operations: &mut dyn Iterator<Item = &SetupOp>) {}
}

impl<F: FnMut(Stream, &[u8])> OutputSink for F {
    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        self(stream, bytes);
    }
}

/// A switch that ends running sandboxes; clones are the same switch. Once thrown it stays thrown.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// A switch that is not thrown. Fails when the process is out of descriptors.
    pub fn new() -> Result<Self, SandboxError> {
        // An eventfd so that `poll` wakes; it is never read, so every poller sees it.
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| SandboxError::call("create an eventfd", e))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Throws the switch; may be called from a signal handler's thread, any number of times.
    pub fn cancel(&self) {
        // EAGAIN means that the counter is full, so it is thrown already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes the switch as if it had never been thrown, for another attempt at what it ended.
    pub fn reset(&self) {
        // Reading an eventfd takes its counter to 0 (eventfd(2)); EAGAIN means that it is 0 already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    /// Whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The name of a signal, as in `signal_name(9) == "SIGKILL"`; real-time ones are `SIGRTMIN+n`, others `signal n`.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::try_from(signal) {
        Ok(n @ 1..=31) => format!("SIG{}", NAMES[n - 1]),
        // 32 and 33 are the C library's own; it calls 34 SIGRTMIN.
        Ok(n @ 34..=64) => format!("SIGRTMIN+{}", n - 34),
        _ => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_signals() {
        for (signal, name) in [
            (1, "SIGHUP"),
            (9, "SIGKILL"),
            (11, "SIGSEGV"),
            (31, "SIGSYS"),
            (34, "SIGRTMIN+0"),
            (0, "signal 0"),
            (-4, "signal -4"),
        ] {
            assert_eq!(signal_name(signal), name);
        }
    }

    #[test]
    fn a_thrown_switch_stays_thrown_in_every_clone() {
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        assert!(!other.is_cancelled());
        cancel.cancel();
        cancel.cancel();
        assert!(other.is_cancelled() && other.is_cancelled());
    }
}
