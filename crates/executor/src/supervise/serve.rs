//! The supervisor's thread: how it gets the listener, and its loop.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat, stat};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::UnshareFlags;

use super::caller::{Answer, Caller, Outcome, Refusal};
use super::calls::{Call, Calls};
use super::credentials::{Change, Kind};
use super::processes::Processes;
use super::{Credentials, Owners, Scope, Supervisor};
use crate::{CapabilitySet, SandboxError, sys};

/// A running supervisor, and the way to end it.
#[derive(Debug)]
pub(crate) struct Supervision {
    /// Closed to end the thread.
    stop: OwnedFd,
    thread: JoinHandle<Result<Owners, SandboxError>>,
}

impl Supervision {
    /// Starts the thread. The returned end is the command's, for [`send_listener`].
    pub(crate) fn start(
        scope: Scope,
        initial: Credentials,
        capabilities: CapabilitySet,
        owners: Owners,
    ) -> Result<(Self, OwnedFd), SandboxError> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| SandboxError::call("make a pair of sockets", e))?;
        let (stopped, stop) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| SandboxError::call("make a pipe", e))?;
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || serve(&ours, &stopped, scope, initial, capabilities, owners))
            .map_err(|e| SandboxError::call("start a thread", e))?;
        Ok((Self { stop, thread }, theirs))
    }

    /// Ends it, and returns what it keeps of the files that carry no attribute.
    pub(crate) fn finish(self) -> Result<Owners, SandboxError> {
        drop(self.stop);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(SandboxError::call("supervise the command", Errno::CANCELED)))
    }
}

/// Hands the listener and the caller's mount namespace over; in the command's process, before its exec.
pub(crate) fn send_listener(
    socket: BorrowedFd<'_>,
    listener: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [listener, namespace];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

fn receive_listener(socket: &OwnedFd) -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return Ok(fds.next().zip(fds.next()));
        }
    }
    Ok(None)
}

/// Waits for the first of the two; false when it is the second, that there is nothing left to do.
fn wait(work: BorrowedFd<'_>, stopped: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(work, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => return true,
            // All processes under the filter have ended, or we are to stop.
            Ok(_) => return false,
        }
    }
}

fn serve(
    socket: &OwnedFd,
    stopped: &OwnedFd,
    scope: Scope,
    initial: Credentials,
    capabilities: CapabilitySet,
    owners: Owners,
) -> Result<Owners, SandboxError> {
    let call = SandboxError::call;
    // Our own /proc, from before the sandbox's is all that we see.
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &CStr| {
        openat(CWD, path, folder, Mode::empty()).map_err(|e| call("open /proc for the supervisor", e))
    };
    let (proc, by_number) = (open(c"/proc")?, open(c"/proc/self/fd")?);
    if !wait(socket.as_fd(), stopped) {
        return Ok(owners);
    }
    let Some((listener, namespace)) =
        receive_listener(socket).map_err(|e| call("receive the supervisor's descriptor", e))?
    else {
        return Ok(owners);
    };
    sys::unshare(UnshareFlags::FS).map_err(|e| call("unshare the supervisor's root", e))?;
    let _visit = Visit::to(namespace)?;
    let root = stat(c"/").map_err(|e| call("look at the sandbox's root", e))?;
    let proc_device = stat(c"/proc").map_or(0, |proc| proc.st_dev);
    rustix::process::fchdir(&by_number).map_err(|e| call("change to /proc/self/fd", e))?;
    rustix::process::umask(Mode::empty());
    sys::take_turns(listener.as_fd());

    let mut supervisor = Supervisor {
        scope,
        processes: Processes::new(proc, initial),
        owners,
        calls: Calls::get(),
        capabilities,
        proc_device,
        root: (root.st_dev, root.st_ino),
        roots_differ: false,
    };
    while wait(listener.as_fd(), stopped) {
        supervisor.answer_next(listener.as_fd());
    }
    Ok(supervisor.owners)
}

/// A stay in another mount namespace. Who joins a thread goes on before the kernel has taken the thread's namespaces away
/// (exit_task_namespaces comes after the thread's end is told), and would find the sandbox's mounts still there.
struct Visit {
    home: OwnedFd,
}

impl Visit {
    fn to(namespace: OwnedFd) -> Result<Visit, SandboxError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = openat(CWD, c"/proc/thread-self/ns/mnt", flags, Mode::empty())
            .map_err(|e| SandboxError::call("open the supervisor's mount namespace", e))?;
        sys::enter_mount_namespace(namespace.as_fd())
            .map_err(|e| SandboxError::call("enter the sandbox's mount namespace", e))?;
        Ok(Visit { home })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // If it cannot be left it is left as the thread ends, a little later.
        let _ = sys::enter_mount_namespace(self.home.as_fd());
    }
}

impl Supervisor {
    fn answer_next(&mut self, listener: BorrowedFd<'_>) {
        // ENOENT: its caller has been killed meanwhile.
        let Ok(notification) = sys::receive(listener) else { return };
        let id = notification.id;
        let Some(call) = self.calls.decode(&notification) else {
            return sys::answer_continue(listener, id);
        };
        let process = self.processes.process_of(notification.thread);
        let own_root = self.roots_differ && self.has_own_root(notification.thread);
        let caller = Caller { listener, call: notification, process, own_root };
        match self.carry_out(&caller, call) {
            Ok(Answer::Continue) | Err(Refusal::Continue) => sys::answer_continue(listener, id),
            Ok(Answer::Value(value)) => sys::answer(listener, id, Ok(value)),
            Ok(Answer::Descriptor(fd, close_on_exec)) => {
                if let Err(errno) = sys::answer_with_descriptor(listener, id, fd.as_fd(), close_on_exec) {
                    sys::answer(listener, id, Err(errno));
                }
            }
            Err(Refusal::Errno(errno)) => sys::answer(listener, id, Err(errno)),
        }
    }

    fn carry_out(&mut self, caller: &Caller<'_>, call: Call) -> Outcome<Answer> {
        if let Scope::Gaps { map, .. } = &self.scope {
            let map = map.clone();
            return match call {
                Call::Chown(file, uid, gid) => self.real_chown(caller, &map, &file, (uid, gid)),
                Call::Make(name, make) => self.real_make(caller, &name, make),
                Call::Stat(file, into) => self.stat(caller, &file, into),
                _ => Ok(Answer::Continue),
            };
        }
        match call {
            Call::Stat(file, into) => self.stat(caller, &file, into),
            Call::Chown(file, uid, gid) => self.chown(caller, &file, uid, gid),
            Call::Chmod(file, mode) => self.chmod(caller, &file, mode),
            Call::Access(file, mode, effective) => self.access(caller, &file, mode, effective),
            Call::Open { file, flags, mode } => self.open(caller, &file, flags, mode),
            Call::OpenHow { file, how } => self.open_how(caller, &file, how),
            Call::Make(name, make) => self.make(caller, &name, make),
            Call::SetXattr { file, name, value, size } => self.set_xattr(caller, &file, name, (value, size)),
            Call::ListXattr { file, list, size } => self.list_xattrs(caller, &file, list, size),
            Call::Execute(file) => self.execute(caller, &file),
            Call::ChangeRoot => {
                self.roots_differ = true;
                Ok(Answer::Continue)
            }
            Call::Exit => {
                self.processes.ends(caller.process);
                Ok(Answer::Continue)
            }
            call => self.identity(caller, call),
        }
    }

    fn identity(&mut self, caller: &Caller<'_>, call: Call) -> Outcome<Answer> {
        let credentials = self.processes.credentials(caller.process);
        let of = |kind| if kind == Kind::User { credentials.users } else { credentials.groups };
        match call {
            Call::GetId(kind, effective) => {
                let ids = of(kind);
                Ok(Answer::Value(if effective { ids.effective } else { ids.real }.into()))
            }
            Call::GetThree(kind, addresses) => {
                let ids = of(kind);
                for (address, id) in addresses.into_iter().zip([ids.real, ids.effective, ids.saved]) {
                    caller.write(address, &id.to_ne_bytes())?;
                }
                Ok(Answer::Value(0))
            }
            Call::GetGroups(room, address) => {
                let list = &credentials.supplementary;
                match list.len() as u64 {
                    length if room as u32 == 0 => Ok(Answer::Value(length as i64)),
                    length if length > room => Err(Errno::INVAL.into()),
                    length => {
                        let bytes: Vec<u8> = list.iter().flat_map(|id| id.to_ne_bytes()).collect();
                        caller.write(address, &bytes)?;
                        Ok(Answer::Value(length as i64))
                    }
                }
            }
            Call::SetGroups(length, address) => {
                let list = read_groups(caller, length, address)?;
                self.change(caller, Change::Groups(list))
            }
            Call::Change(change) => self.change(caller, change),
            Call::CapGet { header, data } => self.capabilities(caller, header, data),
            Call::CapSet { header } => {
                // Read, so that the command's own set-up before its exec goes to the kernel.
                caller.read(header, &mut [0; 8])?;
                // What such a user gives up it has in name only, and we need the rights on its behalf.
                let real = credentials.is_privileged();
                Ok(if real { Answer::Continue } else { Answer::Value(0) })
            }
            _ => Ok(Answer::Continue),
        }
    }

    fn change(&mut self, caller: &Caller<'_>, change: Change) -> Outcome<Answer> {
        let mut credentials = self.processes.credentials(caller.process).clone();
        let answer = credentials.change(change)?;
        self.processes.set(caller.process, credentials);
        Ok(Answer::Value(answer))
    }

    /// `capget(2)`: another user than root has none effective, and keeps some only while an id of root's is left.
    fn capabilities(&mut self, caller: &Caller<'_>, header: u64, data: u64) -> Outcome<Answer> {
        const VERSION_1: u32 = 0x1998_0330;
        const VERSIONS_OF_64_BITS: [u32; 2] = [0x2007_1026, 0x2008_0522];
        let credentials = self.processes.credentials(caller.process);
        if credentials.is_privileged() || data == 0 {
            return Ok(Answer::Continue);
        }
        let mut version = [0; 4];
        caller.read(header, &mut version)?;
        let users = credentials.users;
        let permitted = if [users.real, users.saved].contains(&0) { self.capabilities.bits() } else { 0 };
        let (low, high) = (permitted as u32, (permitted >> 32) as u32);
        // Each half: effective, permitted, inheritable.
        let words: &[u32] = match u32::from_ne_bytes(version) {
            VERSION_1 => &[0, low, 0],
            version if VERSIONS_OF_64_BITS.contains(&version) => &[0, low, 0, 0, high, 0],
            _ => return Ok(Answer::Continue),
        };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        caller.write(data, &bytes)?;
        Ok(Answer::Value(0))
    }

    fn has_own_root(&self, thread: u32) -> bool {
        let path = format!("{thread}/root");
        let root = openat(self.processes.proc(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let root = root.and_then(|root| sys::stat(root.as_fd()));
        root.is_ok_and(|root| (root.st_dev, root.st_ino) != self.root)
    }
}

/// `NGROUPS_MAX`.
const MOST_GROUPS: u64 = 65536;

fn read_groups(caller: &Caller<'_>, length: u64, address: u64) -> Outcome<Vec<u32>> {
    let length = u64::from(length as u32);
    if length > MOST_GROUPS {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = vec![0; length as usize * 4];
    if !bytes.is_empty() {
        caller.read(address, &mut bytes)?;
    }
    let ids = bytes.chunks_exact(4).filter_map(|id| id.try_into().ok()).map(u32::from_ne_bytes);
    Ok(ids.collect())
}
