//! Which process has which credentials.
//!
//! A process is met for the first time when it makes a supervised call; what it inherited is its parent's then. So that this
//! is what it inherited at its fork, a parent's children are met before its credentials change and before it ends.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::supervise::credentials::Credentials;
use crate::{CapabilitySet, sys};

/// After so many new threads those that have ended are forgotten.
const SWEEP: usize = 512;
/// More generations than a sandbox can have processes alive mean that the tree changes while it is read.
const MOST_GENERATIONS: usize = 64;

/// A thread that has been met.
#[derive(Debug)]
struct Thread {
    process: u32,
    /// Readable once it has ended: then its number may be another's.
    alive: OwnedFd,
}

/// All processes of one sandbox that have been met.
#[derive(Debug)]
pub(super) struct Processes {
    /// /proc of our own pid namespace.
    proc: OwnedFd,
    initial: Credentials,
    threads: HashMap<u32, Thread>,
    credentials: HashMap<u32, Credentials>,
    met: usize,
}

/// What `/proc/<id>/status` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    process: u32,
    parent: u32,
    pub(super) umask: u32,
    pub(super) no_new_privileges: bool,
    /// The effective ones.
    pub(super) capabilities: CapabilitySet,
}

impl Processes {
    pub(super) fn new(proc: OwnedFd, initial: Credentials) -> Self {
        Self { proc, initial, threads: HashMap::new(), credentials: HashMap::new(), met: 0 }
    }

    /// /proc of our own pid namespace.
    pub(super) fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// The process that a thread belongs to, met now if it was not.
    pub(super) fn process_of(&mut self, thread: u32) -> u32 {
        match self.threads.get(&thread) {
            Some(known) if lives(&known.alive) => known.process,
            _ => self.meet(thread, 0),
        }
    }

    /// The credentials of a process that has been met.
    pub(super) fn credentials(&self, process: u32) -> &Credentials {
        self.credentials.get(&process).unwrap_or(&self.initial)
    }

    /// Gives a process other credentials. Its children keep what they have.
    pub(super) fn set(&mut self, process: u32, credentials: Credentials) {
        if *self.credentials(process) != credentials {
            self.meet_children(process);
            self.credentials.insert(process, credentials);
        }
    }

    /// A process is about to end: its orphans would be init's.
    pub(super) fn ends(&mut self, process: u32) {
        if *self.credentials(process) != self.initial {
            self.meet_children(process);
        }
    }

    fn meet_children(&mut self, process: u32) {
        let Some(threads) = self.numbers_in(&format!("{process}/task")) else { return };
        for thread in threads {
            let mut list = String::new();
            // A thread that has ended since has no children.
            if let Ok(mut file) = self.open(&format!("{process}/task/{thread}/children")) {
                let _ = file.read_to_string(&mut list);
            }
            for child in list.split_ascii_whitespace().filter_map(|number| number.parse().ok()) {
                self.process_of(child);
            }
        }
    }

    fn numbers_in(&self, folder: &str) -> Option<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = rustix::fs::Dir::new(openat(&self.proc, folder, flags, Mode::empty()).ok()?).ok()?;
        Some(entries.flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect())
    }

    fn meet(&mut self, thread: u32, generation: usize) -> u32 {
        let Ok(status) = self.status(thread) else { return thread };
        let process = status.process;
        let Ok(alive) = sys::thread_descriptor(thread, process) else { return process };
        let is_new = thread == process || !self.knows(process);
        if is_new {
            let inherited = if generation < MOST_GENERATIONS && status.parent != std::process::id() {
                let parent = match self.threads.get(&status.parent) {
                    Some(known) if lives(&known.alive) => known.process,
                    _ => self.meet(status.parent, generation + 1),
                };
                self.credentials(parent).clone()
            } else {
                self.initial.clone()
            };
            if inherited == self.initial {
                self.credentials.remove(&process);
            } else {
                self.credentials.insert(process, inherited);
            }
        }
        self.threads.insert(thread, Thread { process, alive });
        self.met += 1;
        if self.met.is_multiple_of(SWEEP) {
            self.sweep();
        }
        process
    }

    fn knows(&self, process: u32) -> bool {
        self.threads.values().any(|thread| thread.process == process && lives(&thread.alive))
    }

    fn sweep(&mut self) {
        self.threads.retain(|_, thread| lives(&thread.alive));
        let threads = &self.threads;
        self.credentials.retain(|process, _| threads.values().any(|thread| thread.process == *process));
    }

    /// Reads a thread's status anew.
    pub(super) fn status(&self, thread: u32) -> std::io::Result<Status> {
        let mut text = String::new();
        self.open(&format!("{thread}/status"))?.read_to_string(&mut text)?;
        Ok(parse_status(&text))
    }

    fn open(&self, path: &str) -> Result<std::fs::File, Errno> {
        Ok(openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

fn parse_status(text: &str) -> Status {
    let mut status = Status {
        process: 0,
        parent: 0,
        umask: 0o022,
        no_new_privileges: false,
        capabilities: CapabilitySet::from_bits(0),
    };
    for (key, value) in text.lines().filter_map(|line| line.split_once(":\t")) {
        match key {
            "Umask" => status.umask = u32::from_str_radix(value, 8).unwrap_or(status.umask),
            "Tgid" => status.process = value.parse().unwrap_or(0),
            "PPid" => status.parent = value.parse().unwrap_or(0),
            "CapEff" => {
                status.capabilities = CapabilitySet::from_bits(u64::from_str_radix(value, 16).unwrap_or(0));
            }
            "NoNewPrivs" => status.no_new_privileges = value != "0",
            _ => {}
        }
    }
    status
}

fn lives(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let status = parse_status("Name:\tx\nUmask:\t0077\nTgid:\t12\nPid:\t13\nPPid:\t1\nNoNewPrivs:\t1\n");
        assert_eq!((status.process, status.parent, status.umask), (12, 1, 0o077));
        assert!(status.no_new_privileges);
    }
}
