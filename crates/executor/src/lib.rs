//! Runs one command rootless: user namespace, mounts, network, seccomp.
//!
//! ```text
//! enter(..)               first lines of main: user namespace, private mount namespace     → Place
//! Overlay{..}.mount()     parents + upper as one tree, mounted nowhere                     → Mounted
//! SandboxSpec             what to run in it; becomes an ordered list of SetupOp
//! run(&spec, ..)          the child carries the list out, becomes init, runs the command   → ExitReport
//! ```
//!
//! Nothing here needs cleaning up after a crash: every mount lives in a mount namespace of this process or of the
//! sandbox, and the kernel drops both when the last process in them is gone. README.md has the order of set-up and the
//! kernel facts behind it.

mod beneath;
mod capability;
mod cgroup;
mod child;
mod detached;
mod devices;
mod enter;
mod error;
mod idmap;
mod in_place;
mod inside;
mod limits;
mod mountinfo;
mod mounting;
mod network;
mod outside;
mod overlay;
mod plan;
mod prepare;
mod record;
mod report;
mod run;
mod seccomp;
mod spec;
mod stubs;
mod supervise;
mod sys;
mod terminal;
mod uplink;
mod users;

pub use capability::{Capability, CapabilitySet};
pub use cgroup::{Cgroup, CgroupTree, Cgroups, NoCgroups};
pub use enter::{Isolation, Place, PlaceKind, enter};
pub use error::{EnterError, SandboxError};
pub use idmap::{Extent, IdMap, single_id};
pub use in_place::{Claim, InPlace, NotHere};
pub use inside::run_inside;
pub use limits::Limits;
pub use network::NetworkNamespace;
pub use outside::{Output, Outside, OutsideCommand};
pub use overlay::{Mounted, Overlay};
pub use plan::{Filter, KernelFs, KernelFsOptions, SetupOp, Slot};
pub use report::{Cancel, ExitReport, OutputSink, Sandbox, Stream, signal_name};
pub use run::run;
pub use spec::{Mount, MountKind, Network, Resource, Rlimit, SandboxSpec, Source};
pub use sys::in_first_user_namespace;
pub use terminal::WindowSize;
pub use uplink::{NoWayOut, WayOut};
pub use users::{User, UserDatabase};
