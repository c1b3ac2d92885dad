use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_fs::Sidecar;

use crate::{CapabilitySet, Cgroup, Mounted, NetworkNamespace, WindowSize};

/// What to run, where, and with which rights. [`SandboxSpec::new`] has the defaults of a RUN; the fields are public to be set.
#[derive(Debug)]
pub struct SandboxSpec<'a> {
    /// The root file system. It serves one run: the mount dies with the sandbox (file calls through it still work).
    pub root: &'a Mounted,
    /// Program and arguments. A program without `/` is looked for in the `PATH` of `env`, inside the root.
    pub argv: Vec<OsString>,
    /// The whole environment, in order; nothing is added.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute working directory; made (0755, owned by the user) where missing, and stays.
    pub cwd: PathBuf,
    /// User id inside the namespace.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Host name in the sandbox's own UTS namespace.
    pub hostname: String,
    /// Mounts beyond the standard ones; parents are mounted before children, of equal targets the later wins.
    pub mounts: Vec<Mount>,
    /// Network.
    pub network: Network,
    /// What the command reads: the reading end of a pipe, say; an empty pipe when `None`, and nothing of it with a terminal.
    pub stdin: Option<Arc<OwnedFd>>,
    /// A terminal of the sandbox's own as the three streams; what it shows comes as [`crate::Stream::Stdout`].
    pub terminal: Option<WindowSize>,
    /// The root refuses the command's writes, mounts on it do not. What was made to be mounted upon stays in the upper.
    pub read_only: bool,
    /// `--security=insecure`: every capability this process has, no seccomp filter, nothing masked or read-only.
    pub privileged: bool,
    /// Bounding, and for root effective and permitted, capabilities; ignored when `privileged`.
    pub capabilities: CapabilitySet,
    /// Resource limits; what is above our own hard limits is clamped where we may not raise them.
    pub rlimits: Vec<Rlimit>,
    /// The control group that the whole sandbox is in, and is shown as the top of the tree; rbuild's own when `None`.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Size of /dev/shm in bytes.
    pub shm_size: u64,
    /// Descriptors that the sandbox's init keeps open until its whole tree is dead: the lock of a cache mount.
    pub held: Vec<Arc<OwnedFd>>,
    /// The journal of the root's links, pipes and sockets: read before the command and brought up to date after it, where
    /// the place has a single id.
    pub sidecar: Option<Arc<dyn Sidecar>>,
    /// Some file of the root has an entry in the journal, so that what the kernel says of files is not what the image says.
    pub journaled: bool,
}

impl<'a> SandboxSpec<'a> {
    /// As a RUN runs `argv` by default: root, `/`, the host's network, Docker's capabilities, 64 MiB of /dev/shm.
    pub fn new(root: &'a Mounted, argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            root,
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            umask: 0o022,
            hostname: "buildkitsandbox".into(),
            mounts: Vec::new(),
            network: Network::Host,
            stdin: None,
            terminal: None,
            read_only: false,
            privileged: false,
            capabilities: CapabilitySet::docker(),
            rlimits: Vec::new(),
            cgroup: None,
            shm_size: 64 << 20,
            held: Vec::new(),
            sidecar: None,
            journaled: false,
        }
    }
}

/// Which network the command sees.
#[derive(Debug, Clone)]
pub enum Network {
    /// The network of rbuild itself.
    Host,
    /// A network namespace of its own with nothing but `lo`, up.
    None,
    /// A network namespace that others have a way into.
    Joined(Arc<NetworkNamespace>),
}

/// One more mount inside the sandbox.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path inside; symlinks are followed as inside the root. What is missing is made and removed again.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
}

/// What a [`Mount`] shows.
#[derive(Debug)]
pub enum MountKind {
    /// A file or folder of the host or of another tree.
    Bind {
        /// What to show.
        source: Source,
        /// Refuse writes.
        read_only: bool,
    },
    /// A file or folder that may be written; the writes go to `upper` and are the caller's to throw away.
    Overlay {
        /// What lies below.
        source: Source,
        /// Empty directory for the changes.
        upper: PathBuf,
        /// Empty directory on the same file system as `upper`.
        work: PathBuf,
    },
    /// A device node of the host's, which can be opened as on the host: by whom its mode and owner let.
    Device {
        /// Its path; symlinks are followed.
        host: PathBuf,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Limit in bytes; the kernel's half of memory when `None`.
        size: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// A file that exists in memory only: secrets, /etc/hosts.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Refuse writes.
        read_only: bool,
    },
}

/// Where a bind comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A path of this process' mount namespace; symlinks are followed.
    Path(PathBuf),
    /// An open file or folder (`O_PATH` will do); inside a [`Mounted`] this needs Linux ≥ 6.15, [`Source::Tree`] does not.
    Fd(Arc<OwnedFd>),
    /// A part of another stage's or image's tree, stacked for this mount alone.
    Tree {
        /// Lower directories, the topmost first, as in [`crate::Overlay`].
        lowers: Vec<PathBuf>,
        /// Absolute path inside the tree; symlinks stay inside.
        path: PathBuf,
    },
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which resource.
    pub resource: Resource,
    /// Soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

pub use rustix::process::Resource;
