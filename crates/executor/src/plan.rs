//! The set-up as data: what the child does, in order.

use std::ffi::CString;
use std::fmt;
use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit};

use crate::CapabilitySet;
use crate::sys::Instruction;

/// Index into the child's table of descriptors: some are filled by the parent, some by an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(crate) usize);

/// A file system that only the child can make, because it shows one of the child's own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFs {
    /// Of the pid namespace.
    Proc,
    /// Of the network namespace.
    Sysfs,
    /// Of the IPC namespace.
    Mqueue,
    /// Of the cgroup namespace.
    Cgroup2,
}

/// One step of a sandbox's set-up. `Display` writes it as a line for a log.
///
/// The first list is carried out by the sandbox's init (pid 1), the second by the process that becomes the command.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupOp {
    /// The kernel kills init when the thread that runs the sandbox ends; init ends itself if that has happened already.
    DieWithParent,
    /// The kernel asks init to end when the thread that runs the command ends: in place it has others to end first.
    EndWithParent,
    /// What loses its parent becomes init's child, as there is no pid namespace to do it.
    GatherOrphans,
    /// Neither setuid bits nor file capabilities give rights any more, which a filter takes where CAP_SYS_ADMIN is not held.
    NoNewPrivileges,
    /// Close every descriptor of rbuild's but these. Init never execs, so our locks would outlive us in it.
    CloseOthers(Vec<RawFd>),
    /// An empty pipe, and the two pipes of the output, become 0, 1 and 2.
    StandardStreams([RawFd; 3]),
    /// No process of the sandbox may read init's copy of our memory.
    HideMemory,
    /// A session keyring of its own.
    NewKeyring,
    /// The control group that was made for the sandbox, by the file of its processes.
    JoinCgroup(Slot),
    /// What the sandbox sees of control groups begins with its own; after it was joined, so not by the clone.
    CgroupNamespace,
    /// Host name of the UTS namespace.
    Hostname(Vec<u8>),
    /// `lo` up in the network namespace.
    LoopbackUp,
    /// The network namespace that was made before; what shows it (sysfs) is made after this.
    JoinNetwork(Slot),
    /// The namespaces of a running sandbox, whose init and root these are, and its network where the flag says so.
    JoinSandbox(Slot, Slot, bool),
    /// No writes to the tree itself; its mounts have flags of their own.
    ReadOnlyRoot(Slot),
    /// Make a kernel file system; where the kernel refuses a new one, the prepared bind takes its place.
    OpenKernelFs(KernelFs, Slot, KernelFsOptions),
    /// Attach a tree anywhere in this mount namespace, to clone parts of it: Linux < 6.15 clones attached mounts only.
    Park(Slot),
    /// Clone one part of a parked tree, perhaps read-only.
    ClonePart(Slot, CString, Slot, bool),
    /// The tree becomes `/`; the old root is detached.
    EnterRoot(Slot),
    /// Attach a mount on a mount point.
    Attach(Slot, Slot, String),
    /// Attach below a tree of the kernel's, where it was made and has the place.
    AttachBeneath(Slot, Slot, CString),
    /// Cover a file of a kernel file system with the sandbox's /dev/null.
    MaskFile(Slot, CString, Slot),
    /// Cover a directory of a kernel file system with an empty read-only tmpfs.
    MaskDirectory(Slot, CString),
    /// Make a part of a kernel file system read-only.
    ReadOnly(Slot, CString),
    /// Close the set-up's own descriptors; the report pipe and what the caller wants held stay.
    CloseSetup(Vec<RawFd>),
    /// A new session, so that the terminal's signals don't reach the command.
    NewSession,
    /// The terminal on standard input becomes the session's.
    ControllingTerminal,
    /// The kernel kills the command when its parent ends. Last: a change of ids takes it away.
    DieWithInit,
    /// A resource limit; the second one, within our own, where the first is refused.
    Limit(Resource, Rlimit, Rlimit),
    /// The file mode creation mask.
    Umask(u32),
    /// The working directory, entered with all rights as runc does.
    WorkingDirectory(CString),
    /// Abstract sockets of processes outside cannot be reached, which no network namespace hides here (Landlock's scope, from
    /// Linux 6.12 on; older kernels go without).
    ScopeSockets,
    /// The filter, loaded while CAP_SYS_ADMIN is held because `no_new_privs` stays off.
    Seccomp(Filter),
    /// The same where there is a single id: the calls that need others are told to rbuild, through this socket.
    Supervise(Filter, RawFd),
    /// Drop all others from the bounding set.
    BoundingSet(CapabilitySet),
    /// Supplementary groups.
    Groups(Vec<u32>),
    /// Group and user, real, effective and saved.
    Identity(u32, u32),
    /// Effective and permitted; nothing inheritable, nothing ambient.
    Capabilities(CapabilitySet),
    /// No signal blocked, ignored or handled.
    DefaultSignals,
}

/// A seccomp filter in the kernel's form.
#[derive(Debug)]
pub struct Filter(pub(crate) Vec<Instruction>);

/// How a [`KernelFs`] is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFsOptions {
    pub(crate) read_only: bool,
    /// Taken where the kernel refuses a new one.
    pub(crate) otherwise: Option<Slot>,
    /// Go on without it.
    pub(crate) optional: bool,
}

impl KernelFs {
    pub(crate) fn name(self) -> &'static std::ffi::CStr {
        match self {
            Self::Proc => c"proc",
            Self::Sysfs => c"sysfs",
            Self::Mqueue => c"mqueue",
            Self::Cgroup2 => c"cgroup2",
        }
    }
}

impl fmt::Display for SetupOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieWithParent => write!(f, "die with rbuild"),
            Self::EndWithParent => write!(f, "end with rbuild"),
            Self::GatherOrphans => write!(f, "gather orphans"),
            Self::NoNewPrivileges => write!(f, "gain no privileges"),
            Self::CloseOthers(kept) => write!(f, "close all descriptors but {} of the set-up", kept.len()),
            Self::StandardStreams(_) => write!(f, "connect stdin, stdout and stderr"),
            Self::HideMemory => write!(f, "hide the memory of init"),
            Self::NewKeyring => write!(f, "join a new session keyring"),
            Self::JoinCgroup(_) => write!(f, "join the control group"),
            Self::CgroupNamespace => write!(f, "make a cgroup namespace"),
            Self::Hostname(name) => write!(f, "set the host name to {}", String::from_utf8_lossy(name)),
            Self::LoopbackUp => write!(f, "bring lo up"),
            Self::JoinNetwork(_) => write!(f, "join the network namespace"),
            Self::JoinSandbox(..) => write!(f, "join the sandbox"),
            Self::ReadOnlyRoot(_) => write!(f, "make the root read-only"),
            Self::ControllingTerminal => write!(f, "take the terminal"),
            Self::DieWithInit => write!(f, "die with its parent"),
            Self::OpenKernelFs(fs, ..) => write!(f, "make a {} file system", fs.name().to_string_lossy()),
            Self::Park(_) => write!(f, "park a tree to clone from"),
            Self::ClonePart(_, name, ..) => write!(f, "clone /{} of a parked tree", name.to_string_lossy()),
            Self::EnterRoot(_) => write!(f, "make the image's tree the root"),
            Self::Attach(_, _, target) => write!(f, "mount {target}"),
            Self::AttachBeneath(_, _, name) => write!(f, "mount {}", name.to_string_lossy()),
            Self::MaskFile(_, name, _) => write!(f, "mask {}", name.to_string_lossy()),
            Self::MaskDirectory(_, name) => write!(f, "mask {}/", name.to_string_lossy()),
            Self::ReadOnly(_, name) => write!(f, "make {} read-only", name.to_string_lossy()),
            Self::CloseSetup(kept) => write!(f, "close the set-up's descriptors but {}", kept.len()),
            Self::NewSession => write!(f, "start a session"),
            Self::Limit(resource, limit, _) => {
                write!(f, "limit {resource:?} to {:?}, at most {:?}", limit.current, limit.maximum)
            }
            Self::Umask(mask) => write!(f, "set the umask to {mask:04o}"),
            Self::WorkingDirectory(path) => {
                write!(f, "change to the working directory {}", path.to_string_lossy())
            }
            Self::ScopeSockets => write!(f, "keep from abstract sockets outside"),
            Self::Seccomp(filter) => write!(f, "load a seccomp filter of {} instructions", filter.0.len()),
            Self::Supervise(filter, _) => {
                write!(f, "load a supervised seccomp filter of {} instructions", filter.0.len())
            }
            Self::BoundingSet(set) => write!(f, "bound the capabilities to {:016x}", set.bits()),
            Self::Groups(groups) => write!(f, "set the supplementary groups to {groups:?}"),
            Self::Identity(uid, gid) => write!(f, "become uid {uid}, gid {gid}"),
            Self::Capabilities(set) => write!(f, "set the capabilities to {:016x}", set.bits()),
            Self::DefaultSignals => write!(f, "reset the signals"),
        }
    }
}
