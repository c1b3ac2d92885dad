//! The parent's half of the set-up: every mount that needs no namespace of the child's is made here, detached, with
//! ordinary code; the child only puts them in place.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::CWD;

use crate::beneath::View;
use crate::child::Script;
use crate::detached::clone_tree;
use crate::idmap::IdMap;
use crate::plan::{Filter, KernelFs, KernelFsOptions, SetupOp, Slot};
use crate::stubs::{Owner, Stubs, make_directories};
use crate::supervise::Scope;
use crate::sys::{self, CStrings};
use crate::{CapabilitySet, Network, Rlimit, SandboxError, SandboxSpec, seccomp};

/// What Docker and BuildKit hide of the kernel; those that this kernel lacks are left out.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What they let be read but not written.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// All that one run holds: drop it only after the child has its copies.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) script: Script,
    pub(crate) view: View,
    pub(crate) stubs: Stubs,
    /// Open until the clone is done; the child knows their numbers.
    fds: Vec<OwnedFd>,
    _held: Vec<Arc<OwnedFd>>,
}

/// The child's ends, made by the caller of [`prepare`].
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    pub(crate) report: BorrowedFd<'a>,
    /// The command's end of the pipe that its exec closes.
    pub(crate) executed: BorrowedFd<'a>,
    /// The mount of /dev/pts.
    pub(crate) devpts: BorrowedFd<'a>,
    pub(crate) parent: BorrowedFd<'a>,
    /// The command's end of the supervisor's socket, where there is one.
    pub(crate) supervisor: Option<(&'a Scope, BorrowedFd<'a>)>,
}

/// Builds the script. When it fails, what it made inside the root is removed again.
pub(crate) fn prepare(spec: &SandboxSpec<'_>, ends: &Ends<'_>) -> Result<Prepared, SandboxError> {
    let root =
        spec.root.try_clone_fd().map_err(|e| SandboxError::call("duplicate the root's descriptor", e))?;
    let view_root = root.try_clone().map_err(|e| SandboxError::call("duplicate the root's descriptor", e))?;
    let mut builder = Builder {
        spec,
        id_map: current_map()?,
        view: View::new(view_root),
        stubs: Stubs::default(),
        ops: Vec::new(),
        slots: Vec::new(),
        fds: Vec::new(),
    };
    match builder.setup(root, ends) {
        Ok(()) => builder.finish(ends),
        Err(e) => {
            builder.stubs.remove(&builder.view)?;
            Err(e)
        }
    }
}

pub(crate) struct Builder<'a> {
    pub(crate) spec: &'a SandboxSpec<'a>,
    id_map: IdMap,
    pub(crate) view: View,
    pub(crate) stubs: Stubs,
    pub(crate) ops: Vec<SetupOp>,
    slots: Vec<RawFd>,
    fds: Vec<OwnedFd>,
}

impl Builder<'_> {
    fn setup(&mut self, root: OwnedFd, ends: &Ends<'_>) -> Result<(), SandboxError> {
        self.ops.push(SetupOp::DieWithParent);
        // Its list is known at the end; the place is here.
        self.ops.push(SetupOp::CloseOthers(Vec::new()));
        let streams = [ends.stdin, ends.stdout, ends.stderr].map(|fd| fd.as_raw_fd());
        self.ops.push(SetupOp::StandardStreams(streams));
        if let Some(group) = &self.spec.cgroup {
            let door = self.slot(group.door()?);
            self.ops.extend([SetupOp::JoinCgroup(door), SetupOp::CgroupNamespace]);
        }
        self.ops.push(SetupOp::HideMemory);
        self.ops.push(SetupOp::NewKeyring);
        self.ops.push(SetupOp::Hostname(self.spec.hostname.as_bytes().to_vec()));
        match &self.spec.network {
            Network::Host => {}
            Network::None => self.ops.push(SetupOp::LoopbackUp),
            Network::Joined(namespace) => {
                let namespace = duplicate(namespace.as_fd())?;
                let slot = self.slot(namespace);
                self.ops.push(SetupOp::JoinNetwork(slot));
            }
        }
        // New proc and sysfs mounts are measured against those of the old root, so they are made before it goes.
        let proc = self.kernel_fs(KernelFs::Proc, false, Some("/proc"), false)?;
        let sys = self.kernel_fs(KernelFs::Sysfs, !self.spec.privileged, Some("/sys"), false)?;
        let mqueue = self.kernel_fs(KernelFs::Mqueue, false, None, true)?;
        let cgroup =
            if unified_cgroups() { Some(self.kernel_fs(KernelFs::Cgroup2, true, None, true)?) } else { None };
        let mut parked = self.memory_files()?;
        parked.extend(self.trees()?);
        self.restrict(root.as_fd(), 0, Path::new("/"))?;
        let root = self.slot(root);
        self.ops.push(SetupOp::EnterRoot(root));
        let null = self.devices(duplicate(ends.devpts)?)?;
        self.attach_kernel_fs(mqueue, "/dev/mqueue")?;
        self.attach_kernel_fs(proc, "/proc")?;
        self.attach_kernel_fs(sys, "/sys")?;
        if let Some(cgroup) = cgroup {
            self.ops.push(SetupOp::AttachBeneath(cgroup, sys, c"fs/cgroup".into()));
        }
        if !self.spec.privileged {
            self.hide(proc, sys, null);
        }
        self.mounts(parked)?;
        self.working_directory()?;
        if self.spec.read_only {
            self.ops.push(SetupOp::ReadOnlyRoot(root));
        }
        Ok(())
    }

    pub(crate) fn slot(&mut self, fd: OwnedFd) -> Slot {
        self.slots.push(fd.as_raw_fd());
        self.fds.push(fd);
        Slot(self.slots.len() - 1)
    }

    pub(crate) fn empty_slot(&mut self) -> Slot {
        self.slots.push(-1);
        Slot(self.slots.len() - 1)
    }

    fn kernel_fs(
        &mut self,
        fs: KernelFs,
        read_only: bool,
        host: Option<&str>,
        optional: bool,
    ) -> Result<Slot, SandboxError> {
        let otherwise = match host {
            Some(path) => {
                let bind = clone_tree(CWD, path.as_ref())?;
                let attributes = sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
                let attributes = if read_only { attributes | sys::ATTR_RDONLY } else { attributes };
                sys::mount_setattr(bind.as_fd(), sys::AT_RECURSIVE, attributes, 0)
                    .map_err(|e| SandboxError::path("restrict the bind of", path, e))?;
                Some(self.slot(bind))
            }
            None => None,
        };
        let slot = self.empty_slot();
        self.ops.push(SetupOp::OpenKernelFs(fs, slot, KernelFsOptions { read_only, otherwise, optional }));
        Ok(slot)
    }

    fn attach_kernel_fs(&mut self, mount: Slot, at: &str) -> Result<(), SandboxError> {
        let at_path = self.view.resolve(at.as_ref())?;
        let target =
            self.stubs.mount_point(&self.view, self.spec.root.upper.as_deref(), &at_path, true, true)?;
        let target = self.slot(target);
        self.ops.push(SetupOp::Attach(mount, target, at.into()));
        self.view.add(at_path, None);
        Ok(())
    }

    /// Masks are put below the kernel's own trees, so no path of the image is followed.
    fn hide(&mut self, proc: Slot, sys: Slot, dev: Slot) {
        for path in MASKED {
            let Ok(metadata) = std::fs::symlink_metadata(path) else { continue };
            let (tree, name) = match path.strip_prefix("/proc/") {
                Some(name) => (proc, name),
                None => (sys, path.trim_start_matches("/sys/")),
            };
            let Ok(name) = CString::new(name) else { continue };
            self.ops.push(if metadata.is_dir() {
                SetupOp::MaskDirectory(tree, name)
            } else {
                SetupOp::MaskFile(tree, name, dev)
            });
        }
        let names = READ_ONLY.iter().filter_map(|name| CString::new(*name).ok());
        self.ops.extend(names.map(|name| SetupOp::ReadOnly(proc, name)));
    }

    pub(crate) fn attach(
        &mut self,
        mount: OwnedFd,
        target: &str,
        directory: bool,
        stays: bool,
    ) -> Result<Slot, SandboxError> {
        let at = self.view.resolve(target.as_ref())?;
        let upper = self.spec.root.upper.as_deref();
        let point = self.stubs.mount_point(&self.view, upper, &at, directory, stays)?;
        let shown = mount.try_clone().map_err(|e| SandboxError::call("duplicate a mount's descriptor", e))?;
        self.view.add(at, Some(shown));
        let (mount, point) = (self.slot(mount), self.slot(point));
        self.ops.push(SetupOp::Attach(mount, point, target.into()));
        Ok(mount)
    }

    fn working_directory(&mut self) -> Result<(), SandboxError> {
        let path = self.view.resolve(&self.spec.cwd)?;
        make_directories(&self.view, &path, Owner { uid: self.spec.uid, gid: self.spec.gid })
    }

    fn finish(mut self, ends: &Ends<'_>) -> Result<Prepared, SandboxError> {
        let script = match self.script(ends) {
            Ok(script) => script,
            Err(e) => {
                self.stubs.remove(&self.view)?;
                return Err(e);
            }
        };
        let Self { view, stubs, fds, spec, .. } = self;
        Ok(Prepared { script, view, stubs, fds, _held: spec.held.clone() })
    }

    fn script(&mut self, ends: &Ends<'_>) -> Result<Script, SandboxError> {
        let spec = self.spec;
        let held: Vec<RawFd> = spec.held.iter().map(|fd| fd.as_raw_fd()).collect();
        let report = ends.report.as_raw_fd();
        let supervisor = ends.supervisor.map(|(scope, fd)| (scope, fd.as_raw_fd()));
        let executed = ends.executed.as_raw_fd();
        let told = supervisor.map(|(_, fd)| fd);
        let kept_after = sorted(held.iter().copied().chain([report, executed]).chain(told));
        let streams = [ends.stdin, ends.stdout, ends.stderr, ends.parent].map(|fd| fd.as_raw_fd());
        let during =
            kept_after.iter().chain(&streams).chain(self.slots.iter().filter(|&&fd| fd >= 0)).copied();
        let kept_during = sorted(during);
        let mut setup = std::mem::take(&mut self.ops);
        for op in &mut setup {
            if let SetupOp::CloseOthers(list) = op {
                list.clone_from(&kept_during);
            }
        }
        setup.push(SetupOp::CloseSetup(kept_after));
        let command = command_ops(spec, &self.id_map, &self.working_directory_path()?, supervisor)?;
        let lines = [report, executed, ends.parent.as_raw_fd()];
        script(spec, setup, command, std::mem::take(&mut self.slots), lines)
    }

    /// Without links on the way: it was looked up in the tree, and that is where it was made.
    fn working_directory_path(&self) -> Result<CString, SandboxError> {
        let path = Path::new("/").join(self.view.resolve(&self.spec.cwd)?);
        c_string("the working directory", path.as_os_str())
    }
}

/// All that the child needs; `lines` are its report, the pipe that its exec closes, and rbuild's pidfd.
pub(crate) fn script(
    spec: &SandboxSpec<'_>,
    setup: Vec<SetupOp>,
    command: Vec<SetupOp>,
    slots: Vec<RawFd>,
    [report, executed, parent]: [RawFd; 3],
) -> Result<Script, SandboxError> {
    let (programs, search) = programs(spec)?;
    let argv = spec.argv.iter().map(|a| c_string("an argument", a)).collect::<Result<_, _>>()?;
    let env = spec.env.iter().map(environment_entry).collect::<Result<_, _>>()?;
    Ok(Script {
        setup,
        command,
        slots,
        report,
        executed,
        parent,
        ends_all: false,
        programs: CStrings::new(programs),
        search,
        argv: CStrings::new(argv),
        env: CStrings::new(env),
    })
}

/// Rights go in this order: the filter while we may load one, the bounding set while we hold CAP_SETPCAP, the groups
/// while we hold CAP_SETGID, the ids, and what capabilities are left last.
pub(crate) fn command_ops(
    spec: &SandboxSpec<'_>,
    id_map: &IdMap,
    cwd: &CStr,
    supervisor: Option<(&Scope, RawFd)>,
) -> Result<Vec<SetupOp>, SandboxError> {
    let mut ops = vec![SetupOp::NewSession];
    if spec.terminal.is_some() {
        ops.push(SetupOp::ControllingTerminal);
    }
    ops.extend(spec.rlimits.iter().map(limit));
    ops.push(SetupOp::Umask(spec.umask));
    ops.push(SetupOp::WorkingDirectory(cwd.to_owned()));
    if matches!(spec.network, Network::Host) && !spec.privileged {
        ops.push(SetupOp::ScopeSockets);
    }
    ops.push(SetupOp::DefaultSignals);
    if let Some((scope, socket)) = supervisor {
        ops.push(SetupOp::Supervise(Filter(supervised_filter(spec, scope)), socket));
    } else if !spec.privileged {
        ops.push(SetupOp::Seccomp(Filter(seccomp::docker_filter(spec.capabilities))));
    }
    if !spec.privileged {
        ops.push(SetupOp::BoundingSet(spec.capabilities));
    }
    // In a namespace with a single id the kernel forbids setgroups, because dropping a group may grant access.
    let real_users = supervisor.is_none_or(|(scope, _)| scope.has_real_users());
    if real_users && setgroups_allowed() {
        let mapped = spec.groups.iter().copied().filter(|&gid| id_map.contains(0, gid));
        ops.push(SetupOp::Groups(mapped.collect()));
    }
    // With one id the command takes itself for that user.
    if real_users {
        ops.push(SetupOp::Identity(spec.uid, spec.gid));
    }
    if !spec.privileged {
        ops.push(SetupOp::Capabilities(spec.capabilities));
    }
    Ok(ops)
}

/// What another user than root opens and asks access for is looked at from the start; otherwise only what is made.
fn supervised_filter(spec: &SandboxSpec<'_>, scope: &Scope) -> Vec<sys::Instruction> {
    let watch_access = spec.uid != 0;
    let make = || {
        seccomp::supervised_filter((!spec.privileged).then_some(spec.capabilities), &|name, narrow| {
            scope.tells(name, narrow, watch_access)
        })
    };
    // The usual ones are made once.
    static USUAL: [OnceLock<Vec<sys::Instruction>>; 4] = [const { OnceLock::new() }; 4];
    let usual = match scope {
        Scope::Everything => usize::from(watch_access),
        Scope::Gaps { seen, .. } => 2 + usize::from(*seen),
    };
    match !spec.privileged && spec.capabilities == CapabilitySet::docker() {
        true => USUAL[usual].get_or_init(make).clone(),
        false => make(),
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    fd.try_clone_to_owned().map_err(|e| SandboxError::call("duplicate a descriptor", e))
}

pub(crate) fn sorted(fds: impl Iterator<Item = RawFd>) -> Vec<RawFd> {
    let mut fds: Vec<RawFd> = fds.collect();
    fds.sort_unstable();
    fds.dedup();
    fds
}

/// Where the program may lie, and whether that was a search.
fn programs(spec: &SandboxSpec<'_>) -> Result<(Vec<CString>, bool), SandboxError> {
    let Some(program) = spec.argv.first() else { return Ok((Vec::new(), true)) };
    if program.as_bytes().contains(&b'/') {
        return Ok((vec![c_string("the program", program)?], false));
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
    let directories = path.unwrap_or_default().split(|&byte| byte == b':');
    let found = directories.filter(|_| !program.is_empty()).map(|directory| {
        let directory =
            if directory.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(directory)) };
        c_string("the program", directory.join(program).as_os_str())
    });
    Ok((found.collect::<Result<_, _>>()?, true))
}

fn environment_entry((name, value): &(OsString, OsString)) -> Result<CString, SandboxError> {
    let mut entry = name.clone();
    entry.push("=");
    entry.push(value);
    c_string("an environment variable", &entry)
}

pub(crate) fn c_string(what: &'static str, text: &OsStr) -> Result<CString, SandboxError> {
    CString::new(text.as_bytes()).map_err(|_| SandboxError::Nul { what, value: text.into() })
}

/// Above our own hard limit only CAP_SYS_RESOURCE of the host's user namespace may go, which only trying can tell.
pub(crate) fn limit(wanted: &Rlimit) -> SetupOp {
    let most = rustix::process::getrlimit(wanted.resource).maximum;
    let clamp = |value: Option<u64>| match (value, most) {
        (Some(value), Some(most)) => Some(value.min(most)),
        (value, most) => value.or(most),
    };
    let limit = |soft, hard| rustix::process::Rlimit { current: soft, maximum: hard };
    let Rlimit { resource, soft, hard } = *wanted;
    SetupOp::Limit(resource, limit(soft, hard), limit(clamp(soft), clamp(hard)))
}

pub(crate) fn current_map() -> Result<IdMap, SandboxError> {
    IdMap::current().map_err(|e| SandboxError::path("read", "/proc/self/uid_map", e))
}

fn setgroups_allowed() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() != "deny")
}

fn unified_cgroups() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

impl Prepared {
    /// The parent's copies of what the child has got.
    pub(crate) fn close_setup(&mut self) {
        self.fds.clear();
    }
}
