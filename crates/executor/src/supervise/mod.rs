//! The supervisor of a place with one id: it answers the calls that need other ids, and keeps what they meant.
//!
//! The command runs as the only user there is, uid 0 of the namespace, with the rights of that. A seccomp filter tells us of
//! each call that is about owners, ids or new files (seccomp_unotify(2)); the rest costs nothing. We keep who each process
//! takes itself for ([`credentials`], [`processes`]) and what each file is ([`owners`]), and answer as a kernel with all ids
//! would, or let the real one go on where it would say the same.
//!
//! One thread serves one sandbox. It enters the sandbox's mount namespace, so that no path leads it anywhere else, and its
//! working directory is its own `/proc/self/fd`, outside of it, to name open files by their number.

mod caller;
mod calls;
mod credentials;
mod files;
mod making;
mod owners;
mod processes;
mod serve;
mod sidecar;

pub(crate) use calls::supervised;
pub(crate) use credentials::Credentials;
pub(crate) use owners::Owners;
pub(crate) use serve::{Supervision, send_listener};
pub(crate) use sidecar::{known_owners, write_sidecar};

use crate::CapabilitySet;
use processes::Processes;

/// What one sandbox's supervisor knows.
#[derive(Debug)]
pub(crate) struct Supervisor {
    processes: Processes,
    owners: Owners,
    calls: &'static calls::Calls,
    capabilities: CapabilitySet,
    /// The sandbox's /proc, whose files belong to whom the kernel says.
    proc_device: u64,
    /// The sandbox's root, as device and inode.
    root: (u64, u64),
    /// Some process has called `chroot`.
    roots_differ: bool,
}
