//! What runs between clone and exec: two plain loops over [`SetupOp`]s and the init that waits.
//!
//! The parent has threads, so nothing here allocates, takes a lock or can panic: every string, list and filter was
//! prepared before the clone. Descriptors made here are left to `CloseSetup`; `into_raw_fd` only says so.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{CapabilitySets, Gid, LinkNameSpaceType, ThreadNameSpaceType, Uid, UnshareFlags};

use crate::CapabilitySet;
use crate::plan::{Filter, KernelFs, KernelFsOptions, SetupOp, Slot};
use crate::record::Record;
use crate::supervise::send_listener;
use crate::sys::{self, CStrings};

/// Everything the child needs, made by the parent.
#[derive(Debug)]
pub(crate) struct Script {
    /// Carried out by init.
    pub(crate) setup: Vec<SetupOp>,
    /// Carried out by the process that becomes the command.
    pub(crate) command: Vec<SetupOp>,
    /// Descriptors by slot; -1 where none is yet.
    pub(crate) slots: Vec<RawFd>,
    /// Where [`Record`]s go; close-on-exec.
    pub(crate) report: RawFd,
    /// Closed when the command's program runs, or never will; close-on-exec.
    pub(crate) executed: RawFd,
    /// Readable when rbuild is dead.
    pub(crate) parent: RawFd,
    /// There is no pid namespace that ends with init: it ends all that the command has left itself, and when it is asked to.
    pub(crate) ends_all: bool,
    /// Paths to try in order.
    pub(crate) programs: CStrings,
    /// The program was named without a slash, so what is not there is looked for further on.
    pub(crate) search: bool,
    pub(crate) argv: CStrings,
    pub(crate) env: CStrings,
}

impl Script {
    /// The life of the sandbox's pid 1. Its exit ends every other process of the sandbox.
    pub(crate) fn init(&mut self) -> i32 {
        for index in 0..self.setup.len() {
            if let Some(op) = self.setup.get(index)
                && let Err(e) = carry_out(op, &mut self.slots, self.parent)
            {
                return self.say(Record::Setup { index: index as u32, errno: e.raw_os_error() });
            }
        }
        // Init never exits by a signal's default action (it is pid 1), but it has to hear of its child and pass others on.
        sys::block_signals();
        match sys::clone_child(0, &mut || self.command()) {
            Ok((pid, _)) => {
                // The command's copy goes with its exec.
                let _ = sys::close_range(self.executed as u32, self.executed as u32);
                self.wait_for(pid)
            }
            Err(e) => self.say(Record::Fork { errno: e.raw_os_error() }),
        }
    }

    /// Reaps whatever ends, passes signals to the command, and returns when the command has ended.
    fn wait_for(&self, command: i32) -> i32 {
        loop {
            match sys::wait_for_signal() {
                Some(libc::SIGCHLD) => {
                    while let Some((pid, status)) = sys::wait_raw(-1, libc::WNOHANG) {
                        if pid == command {
                            self.end_all();
                            return self.say(Record::Ended { status });
                        }
                    }
                }
                Some(libc::SIGTERM) if self.ends_all => {
                    self.end_all();
                    return 0;
                }
                Some(signal) => sys::kill(command, signal),
                None => {}
            }
        }
    }

    /// Kills every child and, as the dead leave theirs to init, every descendant.
    fn end_all(&self) {
        if !self.ends_all {
            return;
        }
        loop {
            kill_children();
            // Nothing left, not even what could not be listed.
            if sys::wait_raw(-1, 0).is_none() {
                return;
            }
        }
    }

    /// The life of the command up to its exec.
    fn command(&mut self) -> i32 {
        for index in 0..self.command.len() {
            if let Some(op) = self.command.get(index)
                && let Err(e) = carry_out(op, &mut self.slots, self.parent)
            {
                return self.say(Record::Command { index: index as u32, errno: e.raw_os_error() });
            }
        }
        for (index, path) in self.programs.strings().iter().enumerate() {
            match runnable(path) {
                Ok(()) => {
                    let errno = sys::exec(path, &self.argv, &self.env).raw_os_error();
                    return self.say(Record::Exec { index: index as u32, errno });
                }
                Err(_) if self.search => {}
                Err(e) => return self.say(Record::Lookup { errno: e.raw_os_error() }),
            }
        }
        self.say(Record::NotInPath)
    }

    fn say(&self, record: Record) -> i32 {
        let _ = rustix::io::write(borrow(self.report), &record.to_bytes());
        // Nobody looks at it: the record is what counts.
        0
    }
}

/// The life of the first process of a [`crate::Companion`]'s pid namespace: starts the program, and ends when that does.
pub(crate) fn outlive(
    parent: RawFd,
    streams: [RawFd; 3],
    keep: &[RawFd],
    program: &mut dyn FnMut() -> i32,
) -> i32 {
    let ready = die_with_parent(parent, Signal::KILL)
        .and_then(|()| connect(streams))
        .and_then(|()| sys::close_all_except(keep))
        // Kept past the exec too.
        .and_then(|()| keep.iter().try_for_each(|&fd| rustix::io::fcntl_setfd(borrow(fd), FdFlags::empty())));
    let Ok((child, _)) = ready.and_then(|()| sys::clone_child(0, program)) else { return 1 };
    while sys::wait_raw(child, 0).is_none() {}
    0
}

/// Signals each process of `/proc/thread-self/children` (proc(5)): numbers, each with a space behind it. What does not fit
/// comes the next time.
fn kill_children() {
    let Ok(list) =
        openat(CWD, c"/proc/thread-self/children", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    let mut buffer = [0u8; 4096];
    let length = rustix::io::read(&list, &mut buffer).unwrap_or(0);
    let mut pid = 0i32;
    for byte in buffer.get(..length).unwrap_or_default() {
        match byte {
            b'0'..=b'9' => pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0')),
            _ => {
                if pid > 0 {
                    sys::kill(pid, libc::SIGKILL);
                }
                pid = 0;
            }
        }
    }
}

fn runnable(path: &CStr) -> Result<(), Errno> {
    let stat = statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
}

fn carry_out(op: &SetupOp, slots: &mut [RawFd], parent: RawFd) -> Result<(), Errno> {
    match op {
        SetupOp::DieWithParent => die_with_parent(parent, Signal::KILL),
        SetupOp::EndWithParent => die_with_parent(parent, Signal::TERM),
        SetupOp::GatherOrphans => rustix::process::set_child_subreaper(Some(rustix::process::getpid())),
        SetupOp::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
        SetupOp::CloseOthers(keep) | SetupOp::CloseSetup(keep) => sys::close_all_except(keep),
        SetupOp::StandardStreams(fds) => connect(*fds),
        SetupOp::HideMemory => rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable),
        SetupOp::NewKeyring => new_keyring(),
        SetupOp::JoinCgroup(door) => crate::cgroup::join(get(slots, *door)?),
        SetupOp::CgroupNamespace => sys::unshare(UnshareFlags::NEWCGROUP),
        SetupOp::Hostname(name) => rustix::system::sethostname(name),
        SetupOp::LoopbackUp => sys::loopback_up(),
        SetupOp::JoinNetwork(namespace) => {
            let namespace = get(slots, *namespace)?;
            rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
        }
        SetupOp::JoinSandbox(init, root, network) => {
            join_sandbox(get(slots, *init)?, get(slots, *root)?, *network)
        }
        SetupOp::ReadOnlyRoot(root) => sys::mount_setattr(get(slots, *root)?, 0, sys::ATTR_RDONLY, 0),
        SetupOp::ControllingTerminal => rustix::process::ioctl_tiocsctty(borrow(0)),
        SetupOp::DieWithInit => rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
        SetupOp::OpenKernelFs(fs, slot, options) => open_kernel_fs(*fs, *slot, *options, slots),
        // Not on `/`: `EnterRoot` takes away the topmost mount there, which has to be the old root.
        SetupOp::Park(mount) => attach(get(slots, *mount)?, CWD, c"/proc"),
        SetupOp::ClonePart(tree, name, slot, read_only) => clone_part(*tree, name, *slot, *read_only, slots),
        SetupOp::EnterRoot(root) => enter_root(get(slots, *root)?),
        SetupOp::Attach(mount, target, _) => match get(slots, *mount) {
            Ok(mount) => attach(mount, get(slots, *target)?, c""),
            // An optional one that was not made.
            Err(_) => Ok(()),
        },
        SetupOp::AttachBeneath(mount, tree, name) => match get(slots, *mount) {
            Ok(mount) => missing_is_fine(attach(mount, get(slots, *tree)?, name)),
            Err(_) => Ok(()),
        },
        SetupOp::MaskFile(tree, name, null) => mask_file(get(slots, *tree)?, name, get(slots, *null)?),
        SetupOp::MaskDirectory(tree, name) => mask_directory(get(slots, *tree)?, name),
        SetupOp::ReadOnly(tree, name) => missing_is_fine(make_read_only(get(slots, *tree)?, name)),
        SetupOp::NewSession => rustix::process::setsid().map(drop),
        SetupOp::Limit(resource, wanted, clamped) => match rustix::process::setrlimit(*resource, *wanted) {
            Err(Errno::PERM) => rustix::process::setrlimit(*resource, *clamped),
            outcome => outcome,
        },
        SetupOp::Umask(mask) => {
            rustix::process::umask(Mode::from(*mask));
            Ok(())
        }
        SetupOp::WorkingDirectory(path) => rustix::process::chdir(path.as_c_str()),
        SetupOp::ScopeSockets => scope_sockets(),
        SetupOp::Seccomp(filter) => sys::load_seccomp(&filter.0),
        SetupOp::Supervise(filter, socket) => supervise(filter, *socket),
        SetupOp::BoundingSet(set) => bound_capabilities(*set),
        SetupOp::Groups(groups) => sys::set_groups(groups),
        SetupOp::Identity(uid, gid) => become_user(*uid, *gid),
        SetupOp::Capabilities(set) => set_capabilities(*set),
        SetupOp::DefaultSignals => {
            sys::default_signals();
            Ok(())
        }
    }
}

fn die_with_parent(parent: RawFd, signal: Signal) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    // The parent may have died before the line above. In a new pid namespace getppid is 0 in both cases, so its pidfd is asked.
    let mut fds = [PollFd::from_borrowed_fd(borrow(parent), PollFlags::IN)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

fn connect(fds: [RawFd; 3]) -> Result<(), Errno> {
    for (target, fd) in fds.into_iter().enumerate() {
        sys::duplicate_onto(fd, target as RawFd)?;
    }
    Ok(())
}

fn new_keyring() -> Result<(), Errno> {
    match sys::new_session_keyring() {
        // Kernels without keyrings, profiles that forbid them, and a user whose quota of keys is full: then the command has
        // no keyctl either, by its own filter.
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::DQUOT) => Ok(()),
        outcome => outcome,
    }
}

fn open_kernel_fs(
    fs: KernelFs,
    slot: Slot,
    options: KernelFsOptions,
    slots: &mut [RawFd],
) -> Result<(), Errno> {
    let made = make_kernel_fs(fs, options.read_only).map(IntoRawFd::into_raw_fd);
    let fd = match (made, options.otherwise) {
        (Ok(fd), _) => fd,
        // In a user namespace a new proc needs one that nothing covers (a container masks its own), a new sysfs needs the
        // network namespace to be ours.
        (Err(Errno::PERM | Errno::BUSY), Some(bind)) => {
            get(slots, bind).map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd))?
        }
        (Err(_), _) if options.optional => -1,
        (Err(e), _) => return Err(e),
    };
    set(slots, slot, fd)
}

fn make_kernel_fs(fs: KernelFs, read_only: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen(fs.name(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn clone_part(
    tree: Slot,
    name: &CStr,
    slot: Slot,
    read_only: bool,
    slots: &mut [RawFd],
) -> Result<(), Errno> {
    let clone = clone_mount(get(slots, tree)?, name)?;
    if read_only {
        sys::mount_setattr(clone.as_fd(), 0, sys::ATTR_RDONLY, 0)?;
    }
    set(slots, slot, clone.into_raw_fd())
}

fn enter_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    attach(root, CWD, c"/")?;
    rustix::process::fchdir(root)?;
    // put_old may be new_root itself: the old root is then stacked on the new one, from where it is detached.
    match rustix::process::pivot_root(c".", c".") {
        Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
        // Docker's seccomp profile never allows it. The new root covers the old one at `/`, so every `..` ends in the new.
        Err(Errno::PERM | Errno::NOSYS) => rustix::process::chroot(c".")?,
        Err(e) => return Err(e),
    }
    rustix::process::chdir(c"/")
}

/// The pid namespace is that of the children to come.
fn join_sandbox(init: BorrowedFd<'_>, root: BorrowedFd<'_>, network: bool) -> Result<(), Errno> {
    let mut namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    // The host's network is not ours to join, and we are in it.
    namespaces.set(ThreadNameSpaceType::NETWORK, network);
    rustix::thread::move_into_thread_name_spaces(init, namespaces)?;
    // Where `pivot_root` is forbidden the sandbox's root is not its namespace's.
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, name.is_empty());
    move_mount(mount, c"", directory, name, flags)
}

fn clone_mount(tree: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, name.is_empty());
    open_tree(tree, name, flags)
}

fn mask_file(tree: BorrowedFd<'_>, name: &CStr, null: BorrowedFd<'_>) -> Result<(), Errno> {
    let Some(target) = present(tree, name)? else { return Ok(()) };
    attach(clone_mount(null, c"null")?.as_fd(), target.as_fd(), c"")
}

fn mask_directory(tree: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let Some(target) = present(tree, name)? else { return Ok(()) };
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"nr_inodes", c"2")?;
    fsconfig_create(&context)?;
    let empty = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(empty.as_fd(), target.as_fd(), c"")
}

fn make_read_only(tree: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let clone = clone_mount(tree, name)?;
    sys::mount_setattr(clone.as_fd(), 0, sys::ATTR_RDONLY, 0)?;
    attach(clone.as_fd(), tree, name)
}

fn present(tree: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match openat(tree, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn missing_is_fine(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

/// Kernels without Landlock, without this scope, or with it switched off leave it at that.
fn scope_sockets() -> Result<(), Errno> {
    match sys::scope_abstract_sockets() {
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::TOOBIG | Errno::PERM) => Ok(()),
        outcome => outcome,
    }
}

fn bound_capabilities(set: CapabilitySet) -> Result<(), Errno> {
    for number in 0..64u32 {
        let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        if set.bits() & 1 << number != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one that this kernel has.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// From here on the calls of this process wait for their answers, so what is not to wait comes first.
fn supervise(filter: &Filter, socket: RawFd) -> Result<(), Errno> {
    let namespace = openat(CWD, c"/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let listener = sys::load_supervised(&filter.0)?;
    send_listener(borrow(socket), listener.as_fd(), namespace.as_fd())
}

/// For a user other than root the change of uid has emptied both sets already, as it does in Docker.
fn set_capabilities(set: CapabilitySet) -> Result<(), Errno> {
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(e),
    }
    let now = rustix::thread::capabilities(None)?;
    let wanted = now.permitted & rustix::thread::CapabilitySet::from_bits_retain(set.bits());
    let inheritable = rustix::thread::CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: wanted, permitted: wanted, inheritable },
    )
}

fn get(slots: &[RawFd], slot: Slot) -> Result<BorrowedFd<'static>, Errno> {
    match slots.get(slot.0) {
        Some(&fd) if fd >= 0 => Ok(borrow(fd)),
        _ => Err(Errno::BADF),
    }
}

fn set(slots: &mut [RawFd], slot: Slot, fd: RawFd) -> Result<(), Errno> {
    *slots.get_mut(slot.0).ok_or(Errno::BADF)? = fd;
    Ok(())
}

fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    sys::borrow(fd)
}
