//! The system calls that no library wraps, and the rules for children: the crate's only `unsafe`.
//!
//! A child of [`clone_child`] shares nothing with us but its copy of memory, in which another thread may have held the
//! allocator's lock at the moment of the copy. So its closure may make system calls and read what was prepared, and nothing
//! else. rustix talks to the kernel directly (no errno in thread-local storage, no allocation for `&CStr` paths).

#![expect(unsafe_code, reason = "raw system calls; each block says why it is sound")]

mod notify;

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, mount, move_mount, open_tree,
};
use rustix::process::{Signal, WaitOptions, getppid, set_parent_process_death_signal, wait};
use rustix::thread::{Uid, UnshareFlags};

pub(crate) use notify::*;

/// `MOUNT_ATTR_*` of linux/mount.h, as `mount_setattr` takes them.
pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
/// `AT_RECURSIVE` for `mount_setattr`.
pub(crate) const AT_RECURSIVE: u32 = 0x8000;

pub(crate) const ROOT: Uid = Uid::ROOT;

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 {
        Err(Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
    } else {
        Ok(result)
    }
}

/// `unshare(2)` of the calling thread.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: unsafe because of CLONE_FILES, which is never asked for here.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr(2)` (Linux ≥ 5.12) on the mount that a descriptor stands for.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, flags: u32, set: u64, clear: u64) -> Result<(), Errno> {
    let attr = MountAttr { set, clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string, `attr` has the layout and the length that are passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH as u32,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// A descriptor by its number, in a child: there it is open until the child itself closes it.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the numbers come from descriptors that the parent held at the clone, or from the child's own calls; -1 is
    // refused before, and a call on a closed one would only give EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// `setgroups(2)` of the calling thread.
pub(crate) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the list is as long as said; the raw call, because the C library's would signal threads that aren't there.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Closes every descriptor from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: only ever called in a child, about descriptors that nothing in that child uses again.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }) {
        // Linux < 5.9, or a container's older profile: one by one, as far as a usual limit goes.
        Err(Errno::NOSYS | Errno::PERM) => {
            for fd in first..=last.min(4096) {
                // SAFETY: as above.
                unsafe { libc::close(fd as c_int) };
            }
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

/// Closes all from 3 on but the sorted `keep`.
pub(crate) fn close_all_except(keep: &[RawFd]) -> Result<(), Errno> {
    let mut next = 3u32;
    for &fd in keep {
        let fd = fd as u32;
        if fd >= next {
            close_range(next, fd.wrapping_sub(1))?;
            next = fd + 1;
        }
    }
    close_range(next, u32::MAX)
}

/// Makes the first three descriptors /dev/null and closes all others but `keep`.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) -> Result<(), Errno> {
    // Closed by its number below, so nothing may own it.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?
        .into_raw_fd();
    for target in 0..3 {
        duplicate_onto(null, target)?;
    }
    close_all_except(&[keep.as_raw_fd()])
}

/// `dup2`; the copy is not close-on-exec.
pub(crate) fn duplicate_onto(fd: RawFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: in a child only, where nobody relies on what `target` was.
    check(unsafe { libc::dup2(fd, target) }.into()).map(drop)
}

/// `clone(2)` like fork, with more namespaces, for a caller with threads. Returns the child's pid, and its pidfd with
/// `CLONE_PIDFD` among the flags. `child` follows the module's rules; its value becomes the exit code.
pub(crate) fn clone_child(
    flags: c_int,
    child: &mut dyn FnMut() -> i32,
) -> Result<(i32, Option<OwnedFd>), Errno> {
    let mut pidfd: c_int = -1;
    // The raw call: glibc's fork would run handlers that take locks. A stack of 0 is the copy of ours. The pidfd is stored
    // at the third argument on every architecture; the later ones differ in order but are 0.
    // SAFETY: without CLONE_VM the child has its own memory; it never returns from this function.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, c_long::from(flags | libc::SIGCHLD), 0, &raw mut pidfd, 0, 0)
    })?;
    if pid == 0 {
        let code = guarded(child);
        // SAFETY: ends this process without running the parent's exit handlers.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = (flags & libc::CLONE_PIDFD != 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid as i32, pidfd))
}

/// A panic must not unwind into the parent's copied frames; leaving an `extern "C"` function by one aborts.
#[expect(
    improper_ctypes_definitions,
    reason = "called from Rust only; the ABI is there for its abort on panic"
)]
extern "C" fn guarded(child: &mut dyn FnMut() -> i32) -> i32 {
    child()
}

/// Forks a helper of a process with one thread; it may do anything, and dies with us.
pub(crate) fn fork_helper(body: impl FnOnce()) -> io::Result<()> {
    let parent = rustix::process::getpid();
    let mut body = Some(body);
    clone_child(0, &mut || {
        let armed = set_parent_process_death_signal(Some(Signal::KILL));
        if let (Ok(()), true, Some(body)) = (armed, getppid() == Some(parent), body.take()) {
            body();
        }
        0
    })?;
    Ok(())
}

/// Runs `body` in a forked child of a process with one thread and waits for it. `Err(n, errno)` comes back as exit code and pipe.
pub(crate) fn in_child(
    body: impl FnOnce() -> Result<(), (u8, Errno)>,
) -> io::Result<Result<(), (u8, Errno)>> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut body = Some(body);
    let (pid, _) = clone_child(0, &mut || {
        if let Some(Err((stage, errno))) = body.take().map(|body| body()) {
            let errno = errno.raw_os_error().to_ne_bytes();
            let _ = rustix::io::write(&write, &[stage, errno[0], errno[1], errno[2], errno[3]]);
        }
        0
    })?;
    drop(write);
    let mut record = [0; 5];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut record))?;
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::empty())
    });
    let [stage, errno @ ..] = record;
    Ok(if length == 5 { Err((stage, Errno::from_raw_os_error(i32::from_ne_bytes(errno)))) } else { Ok(()) })
}

/// Takes the exit status of every child that has ended.
pub(crate) fn reap_finished() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Has the command killed when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}

/// Mounts a tmpfs over `/tmp`'s place in this thread's namespace: what a real mount needs, tried for the probe.
pub(crate) fn mount_tmpfs_somewhere() -> Result<(), Errno> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let tmpfs = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&tmpfs, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Gives the calling thread a mount namespace and a working directory of its own; for a thread that ends soon after.
pub(crate) fn own_mounts_and_directory(directory: &str) -> io::Result<()> {
    unshare(UnshareFlags::FS | UnshareFlags::NEWNS)?;
    std::env::set_current_dir(directory)
}

/// Mounts with `mount(2)` in a namespace that nobody else sees, and returns a detached clone. Any directory will do to mount
/// upon: the working directory stays what it is, below the mount.
pub(crate) fn mount_over_proc(fs: &str, options: &str, read_only: bool) -> io::Result<OwnedFd> {
    let options = CString::new(options)?;
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount(fs, "/proc", fs, flags, Some(options.as_c_str()))?;
    Ok(open_tree(CWD, c"/proc", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Blocks every signal of the calling thread and returns what was blocked before.
pub(crate) fn block_signals() -> libc::sigset_t {
    // SAFETY: plain data, filled by the calls before it is read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

/// Undoes [`block_signals`].
pub(crate) fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: `mask` is a set that the kernel gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// Gives every signal its default action and blocks none; what a new program expects.
pub(crate) fn default_signals() {
    // SAFETY: sets no handler, so no code can run at a signal; in a child only.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Waits for one of the (blocked) signals.
pub(crate) fn wait_for_signal() -> Option<i32> {
    // SAFETY: the set is filled before use; no information is asked for.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let signal = libc::sigwaitinfo(&raw const all, ptr::null_mut());
        (signal > 0).then_some(signal)
    }
}

/// `kill(2)` with any signal number.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: takes two integers.
    unsafe { libc::kill(pid, signal) };
}

/// `pidfd_send_signal(2)` with any signal number; one to a process that has ended goes nowhere.
pub(crate) fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) {
    // SAFETY: takes integers and a null pointer for no further information.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

/// `waitpid(2)`: the pid and the raw status; `None` when nothing has ended (with `WNOHANG`) or nothing is left.
pub(crate) fn wait_raw(pid: i32, options: c_int) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, options) };
    (ended > 0).then_some((ended, status))
}

/// One instruction of a seccomp filter (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) k: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Loads a filter for the calling thread. Without `no_new_privs` it takes CAP_SYS_ADMIN in the user namespace.
pub(crate) fn load_seccomp(filter: &[Instruction]) -> Result<(), Errno> {
    /// Without it the kernel turns speculative store bypass off for the process, which costs every RUN some percent.
    const SPEC_ALLOW: u32 = 1 << 2;
    let program = Program { length: filter.len() as u16, filter: filter.as_ptr() };
    let load = |flags: u32| {
        // SAFETY: `program` points at `length` instructions; the kernel copies and checks them.
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) }).map(drop)
    };
    match load(SPEC_ALLOW) {
        Err(Errno::INVAL) => load(0),
        outcome => outcome,
    }
}

/// A new session keyring, so that the command does not see the caller's keys.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) }).map(drop)
}

/// Brings `lo` up in the network namespace of the calling thread.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    // SAFETY: `request` is plain data and outlives the ioctls; the descriptor is closed here.
    unsafe {
        let socket =
            check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())? as c_int;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        let outcome =
            check(libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request).into()).and_then(|_| {
                request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
                check(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request).into())
            });
        libc::close(socket);
        outcome.map(drop)
    }
}

/// A list of C strings with the array of pointers that `execve` wants.
#[derive(Debug)]
pub(crate) struct CStrings {
    pointers: Vec<*const c_char>,
    strings: Vec<CString>,
}

// SAFETY: the pointers point into `strings`, which are on the heap and never changed.
unsafe impl Send for CStrings {}
// SAFETY: as above.
unsafe impl Sync for CStrings {}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, strings }
    }

    pub(crate) fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// `execve(2)`; returns only when it failed.
pub(crate) fn exec(path: &CStr, argv: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: both arrays end in a null pointer and live until the new program has its copies.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Whether this process is in the user namespace that the kernel started with (`PROC_USER_INIT_INO` of linux/proc_ns.h):
/// elsewhere device nodes are refused, whatever the map.
pub fn in_first_user_namespace() -> bool {
    const FIRST: u64 = 0xefff_fffd;
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|namespace| namespace.st_ino == FIRST)
}

/// `landlock_create_ruleset(2)` and `landlock_restrict_self(2)` with the scope of abstract sockets and nothing else (ABI 6,
/// Linux 6.12). Without `no_new_privs` it takes CAP_SYS_ADMIN in the user namespace.
pub(crate) fn scope_abstract_sockets() -> Result<(), Errno> {
    const ABSTRACT_SOCKETS: u64 = 1;
    // `struct landlock_ruleset_attr`: handled file accesses, handled network accesses, scopes.
    let attr: [u64; 3] = [0, 0, ABSTRACT_SOCKETS];
    // SAFETY: `attr` has the layout and the length that are passed.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), size_of_val(&attr), 0)
    })?;
    // SAFETY: a descriptor that was made above, and no memory.
    let outcome = check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) });
    // SAFETY: as above; nothing else knows it.
    unsafe { libc::close(ruleset as c_int) };
    outcome.map(drop)
}
