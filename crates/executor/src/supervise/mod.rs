//! The supervisor of a place with one id: it answers the calls that need other ids, and keeps what they meant.
//!
//! The command runs as the only user there is, uid 0 of the namespace, with the rights of that. A seccomp filter tells us of
//! each call that is about owners, ids or new files (seccomp_unotify(2)); the rest costs nothing. We keep who each process
//! takes itself for ([`credentials`], [`processes`]) and what each file is ([`owners`]), and answer as a kernel with all ids
//! would, or let the real one go on where it would say the same.
//!
//! In a place with many ids only what it lacks is answered ([`gaps`]).
//!
//! One thread serves one sandbox. It enters the sandbox's mount namespace, so that no path leads it anywhere else, and its
//! working directory is its own `/proc/self/fd`, outside of it, to name open files by their number.

mod caller;
mod calls;
mod credentials;
mod files;
mod gaps;
mod making;
mod owners;
mod processes;
mod serve;
mod sidecar;

pub(crate) use credentials::Credentials;
pub(crate) use owners::Owners;
pub(crate) use serve::{Supervision, send_listener};
pub(crate) use sidecar::{known_owners, write_sidecar};

use rbuild_fs::Owner;

use crate::idmap::{IdMap, single_id};
use crate::prepare::current_map;
use crate::{CapabilitySet, SandboxError, SandboxSpec, seccomp, sys};
use processes::Processes;

/// How much of a command's calls is answered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All that is about owners and ids: the command runs as uid 0, whoever it takes itself for.
    Everything,
    /// Device nodes, and owners outside of this map; what is seen of files only if there are such already.
    Gaps { map: IdMap, seen: bool },
}

impl Scope {
    /// What a command needs here; nothing where the kernel refuses nothing: outside of user namespaces.
    pub(crate) fn of(spec: &SandboxSpec<'_>) -> Result<Option<Self>, SandboxError> {
        if sys::in_first_user_namespace() {
            return Ok(None);
        }
        let map = current_map()?;
        // A user that the map lacks can only be faked.
        let fakes = single_id() || !map.contains(spec.uid, spec.gid);
        Ok(Some(if fakes { Self::Everything } else { Self::Gaps { map, seen: spec.journaled } }))
    }

    /// Whether the command's users are real.
    pub(crate) fn has_real_users(&self) -> bool {
        *self != Self::Everything
    }

    /// Which calls are told, and when.
    pub(crate) fn tells(&self, name: &str, narrow: bool, watch_access: bool) -> Option<seccomp::Told> {
        match self {
            Self::Everything => calls::supervised(name, narrow, watch_access),
            Self::Gaps { seen: true, .. } if gaps::is_look(name) => calls::supervised(name, narrow, false),
            Self::Gaps { .. } => gaps::supervised(name),
        }
    }
}

/// What one sandbox's supervisor knows.
#[derive(Debug)]
pub(crate) struct Supervisor {
    scope: Scope,
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
