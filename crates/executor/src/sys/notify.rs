//! Seccomp's user notifications (seccomp_unotify(2)) and another process' memory.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use super::{Instruction, Program, check};

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// Thread that made the call, in our pid namespace.
    pub(crate) thread: u32,
    /// `AUDIT_ARCH_*`.
    pub(crate) architecture: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// Loads a filter for the calling thread, whose `SECCOMP_RET_USER_NOTIF` calls are told to the returned descriptor.
pub(crate) fn load_supervised(filter: &[Instruction]) -> Result<OwnedFd, Errno> {
    /// As in [`super::load_seccomp`].
    const SPEC_ALLOW: u32 = 1 << 2;
    const NEW_LISTENER: u32 = 1 << 3;
    /// Once a call has been taken up only a deadly signal interrupts it, or it would be begun anew while we carry it out.
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let program = Program { length: filter.len() as u16, filter: filter.as_ptr() };
    let load = |flags: u32| {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` points at `length` instructions; the kernel copies and checks them.
        check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })
    };
    let fd = match load(NEW_LISTENER | SPEC_ALLOW | WAIT_KILLABLE_RECV) {
        // Linux < 5.19.
        Err(Errno::INVAL) => load(NEW_LISTENER | SPEC_ALLOW)?,
        outcome => outcome?,
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has a caller and its supervisor take turns on one processor (Linux ≥ 6.6); older kernels know no such flag.
pub(crate) fn take_turns(listener: BorrowedFd<'_>) {
    const SET_FLAGS: u32 = 0x4008_2104;
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the flags are passed by value.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Takes the next waiting call; ENOENT when its caller has died in between.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: plain data, which the kernel wants zeroed and fills.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` has the layout that the request's number tells and outlives the call.
    check(
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut raw) }
            .into(),
    )?;
    Ok(Notification {
        id: raw.id,
        thread: raw.pid,
        architecture: raw.data.arch,
        number: raw.data.nr as u32,
        arguments: raw.data.args,
    })
}

/// Whether the caller still waits: only then is its pid still its own.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: `id` outlives the call.
    let answer =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const id) };
    answer == 0
}

/// Lets the kernel carry the call out as it stands.
pub(crate) fn answer_continue(listener: BorrowedFd<'_>, id: u64) {
    send(listener, id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
}

/// Answers in the kernel's place: a value, or an errno. A caller that has died since is no error.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, outcome: Result<i64, Errno>) {
    match outcome {
        Ok(value) => send(listener, id, value, 0, 0),
        Err(errno) => send(listener, id, 0, -errno.raw_os_error(), 0),
    }
}

fn send(listener: BorrowedFd<'_>, id: u64, val: i64, error: i32, flags: u32) {
    let mut response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: `response` has the layout that the request's number tells and outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response) };
}

/// Puts a descriptor into the caller's table and answers the call with its number, in one (Linux ≥ 5.14).
pub(crate) fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    const SEND: u32 = 1 << 1;
    let mut request: libc::seccomp_notif_addfd =
        // SAFETY: plain data.
        unsafe { std::mem::zeroed() };
    request.id = id;
    request.flags = SEND;
    request.srcfd = fd.as_raw_fd() as u32;
    request.newfd_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
    // SAFETY: `request` has the layout that the request's number tells and outlives the call.
    check(
        unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const request)
        }
        .into(),
    )
    .map(drop)
}

/// Reads at most `buffer.len()` bytes of a process' memory; fewer where its mapping ends.
pub(crate) fn read_memory(process: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    const PAGE: u64 = 4096;
    // A transfer that fails inside one part counts none of it, so the parts end where pages do.
    let first = (PAGE - address % PAGE).min(buffer.len() as u64) as usize;
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let part = |offset: usize, length: usize| libc::iovec {
        iov_base: ptr::without_provenance_mut(address.wrapping_add(offset as u64) as usize),
        iov_len: length,
    };
    let remote = [part(0, first), part(first, buffer.len() - first)];
    // SAFETY: the local part is `buffer`; the remote addresses are the other process', checked by the kernel.
    let read = unsafe { libc::process_vm_readv(process as i32, &raw const local, 1, remote.as_ptr(), 2, 0) };
    check(read as _).map(|length| length as usize)
}

/// Writes all bytes into a process' memory.
pub(crate) fn write_memory(process: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote =
        libc::iovec { iov_base: ptr::without_provenance_mut(address as usize), iov_len: bytes.len() };
    // SAFETY: the local part is only read; the remote address is the other process', checked by the kernel.
    let written =
        unsafe { libc::process_vm_writev(process as i32, &raw const local, 1, &raw const remote, 1, 0) };
    match check(written as _)? as usize {
        length if length == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// `struct stat` of an open file, as the kernel lays it out on this architecture.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the whole struct when it returns 0.
    unsafe {
        check(libc::fstatat(fd.as_raw_fd(), c"".as_ptr(), stat.as_mut_ptr(), libc::AT_EMPTY_PATH).into())?;
        Ok(stat.assume_init())
    }
}

/// `struct statx` of an open file.
pub(crate) fn statx(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel fills the struct, which is plain data.
    unsafe {
        check(
            libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags | libc::AT_EMPTY_PATH, mask, statx.as_mut_ptr())
                .into(),
        )?;
        Ok(statx.assume_init())
    }
}

/// Structs of the kernel's, plain data.
pub(crate) trait Plain {}
impl Plain for libc::stat {}
impl Plain for libc::statx {}

/// The bytes of such a struct.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: these structs come from the kernel or from zeroed memory, so that all their bytes, padding too, are set.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Joins the mount namespace that a descriptor stands for: root and working directory become its root. The thread must not
/// share these with others.
pub(crate) fn enter_mount_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) }.into()).map(drop)
}

/// A pidfd of a thread, readable when it has ended; of its whole process before Linux 6.9.
pub(crate) fn thread_descriptor(thread: u32, process: u32) -> Result<OwnedFd, Errno> {
    const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
    let open = |id: u32, flags: u32| {
        // SAFETY: takes integers.
        check(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })
    };
    let fd = match open(thread, PIDFD_THREAD) {
        Err(Errno::INVAL) => open(process, 0)?,
        outcome => outcome?,
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
