//! The broker: a child that never entered the user namespace and runs commands there on request.
//!
//! Inside the namespace the host's files seem to belong to nobody and D-Bus sees uid 0, so git, ssh and credential helpers
//! run here. One message is `u32 length, JSON head, raw bytes`; each request comes with its own socket (`SCM_RIGHTS`), so
//! requests do not wait for one another. The broker dies with us: the socket closes, and `PDEATHSIG` is set.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::sys;

/// A command for [`Outside::run`].
#[derive(Debug, Clone, Default)]
pub struct OutsideCommand {
    /// Program (looked for in `PATH` of `env`) and arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; `/` when `None`.
    pub cwd: Option<PathBuf>,
    /// What it reads on stdin.
    pub stdin: Vec<u8>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

/// Runs commands as the user who called rbuild, outside the user namespace. `Sync`: several may run at once.
#[derive(Debug)]
pub struct Outside {
    /// `None`: this process never left, commands run directly.
    broker: Option<UnixStream>,
}

#[derive(Serialize, Deserialize)]
enum Request {
    Run {
        argv: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
        cwd: Option<PathBuf>,
        stdin: usize,
    },
    /// Write the id maps of a process whose user namespace this one is the parent of.
    Map {
        pid: u32,
        uid_map: String,
        gid_map: String,
        deny_setgroups: bool,
    },
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Ran { status: i32, stdout: usize, stderr: usize },
    Mapped,
    Refused { errno: i32 },
}

impl Outside {
    /// For a process that stays where it is.
    pub(crate) fn direct() -> Self {
        Self { broker: None }
    }

    /// Forks the broker. Only for a process with one thread, before it leaves its user namespace.
    pub(crate) fn fork() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        sys::fork_helper(|| {
            let _ = sys::close_all_but(theirs.as_fd());
            serve(&theirs);
        })?;
        Ok(Self { broker: Some(ours) })
    }

    /// Runs a command to its end. The error is that it could not be started, or that the broker is gone.
    pub fn run(&self, command: &OutsideCommand) -> io::Result<Output> {
        let Some(broker) = &self.broker else { return run_here(command) };
        let OutsideCommand { argv, env, cwd, stdin } = command.clone();
        let request = Request::Run { argv, env, cwd, stdin: stdin.len() };
        let mut line = ask(broker, &request)?;
        // A command that does not read its stdin may end before all of it is sent.
        if let Err(e) = line.write_all(&stdin)
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(e);
        }
        match receive(&mut line)? {
            Reply::Ran { status, stdout, stderr } => {
                let mut bytes = |length| read_exactly(&mut line, length);
                Ok(Output {
                    status: ExitStatus::from_raw(status),
                    stdout: bytes(stdout)?,
                    stderr: bytes(stderr)?,
                })
            }
            reply => Err(reply.error()),
        }
    }

    /// Writes the maps from the parent namespace (user_namespaces(7): full maps need CAP_SETUID and CAP_SETGID there).
    pub(crate) fn write_maps(&self, uid_map: &str, gid_map: &str, deny_setgroups: bool) -> io::Result<()> {
        let Some(broker) = &self.broker else { return Err(io::Error::other("there is no broker")) };
        let (uid_map, gid_map) = (uid_map.into(), gid_map.into());
        let mut line =
            ask(broker, &Request::Map { pid: std::process::id(), uid_map, gid_map, deny_setgroups })?;
        match receive(&mut line)? {
            Reply::Mapped => Ok(()),
            reply => Err(reply.error()),
        }
    }
}

impl Reply {
    fn error(&self) -> io::Error {
        match self {
            Self::Refused { errno } => io::Error::from_raw_os_error(*errno),
            _ => io::Error::new(io::ErrorKind::InvalidData, "the broker answered another question"),
        }
    }
}

/// Sends the request's own socket to the broker, then the request over that.
fn ask(broker: &UnixStream, request: &Request) -> io::Result<UnixStream> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [theirs.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(broker, &[IoSlice::new(b"+")], &mut ancillary, SendFlags::NOSIGNAL)?;
    send(&mut ours, request, &[])?;
    Ok(ours)
}

/// The broker's life: one worker process for each socket that comes in.
fn serve(requests: &UnixStream) {
    while let Some(mut line) = next_line(requests) {
        sys::reap_finished();
        let worker = sys::fork_helper(|| {
            if let Err(e) = answer(&mut line) {
                let _ =
                    send(&mut line, &Reply::Refused { errno: e.raw_os_error().unwrap_or(libc::EIO) }, &[]);
            }
        });
        if let Err(e) = worker {
            let _ = send(&mut line, &Reply::Refused { errno: e.raw_os_error().unwrap_or(libc::EAGAIN) }, &[]);
        }
    }
}

fn next_line(requests: &UnixStream) -> Option<UnixStream> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received =
            recvmsg(requests, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        match received {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(message) if message.bytes == 0 => return None,
            Ok(_) => {}
        }
        let fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<OwnedFd>>()),
            _ => None,
        });
        if let Some(fd) = fds.flatten().next() {
            return Some(UnixStream::from(fd));
        }
    }
}

fn answer(line: &mut UnixStream) -> io::Result<()> {
    match receive(line)? {
        Request::Run { argv, env, cwd, stdin } => {
            let stdin = read_exactly(line, stdin)?;
            let output = run_here(&OutsideCommand { argv, env, cwd, stdin })?;
            let (stdout, stderr) = (output.stdout.len(), output.stderr.len());
            send(
                line,
                &Reply::Ran { status: output.status.into_raw(), stdout, stderr },
                &[&output.stdout, &output.stderr],
            )
        }
        Request::Map { pid, uid_map, gid_map, deny_setgroups } => {
            let write = |file: &str, text: &str| std::fs::write(format!("/proc/{pid}/{file}"), text);
            if deny_setgroups {
                write("setgroups", "deny")?;
            }
            write("uid_map", &uid_map)?;
            write("gid_map", &gid_map)?;
            send(line, &Reply::Mapped, &[])
        }
    }
}

fn run_here(command: &OutsideCommand) -> io::Result<Output> {
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program was named"));
    };
    let mut child = Command::new(program);
    child.args(arguments).env_clear().envs(command.env.iter().map(|(k, v)| (k, v)));
    child.current_dir(command.cwd.as_deref().unwrap_or("/".as_ref()));
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::die_with_parent(&mut child);
    let mut child = child.spawn()?;
    let pipe = child.stdin.take();
    std::thread::scope(|scope| {
        // Written beside the reading, else a command that answers while it reads would wait for us, and we for it.
        scope.spawn(move || pipe.map(|mut pipe| pipe.write_all(&command.stdin)));
        let output = child.wait_with_output()?;
        Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
    })
}

fn send(line: &mut UnixStream, head: &impl Serialize, bodies: &[&[u8]]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let length = u32::try_from(head.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    line.write_all(&length.to_le_bytes())?;
    line.write_all(&head)?;
    bodies.iter().try_for_each(|body| line.write_all(body))
}

fn receive<T: for<'a> Deserialize<'a>>(line: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    line.read_exact(&mut length)?;
    let head = read_exactly(line, u32::from_le_bytes(length) as usize)?;
    Ok(serde_json::from_slice(&head)?)
}

fn read_exactly(line: &mut UnixStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    line.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
