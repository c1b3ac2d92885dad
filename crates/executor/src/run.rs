//! One run: make the pipes, clone, read until init is gone, take back the mount points.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Uid, fchown};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::child::{RECORD, Record};
use crate::plan::SetupOp;
use crate::prepare::{Ends, Prepared, prepare};
use crate::supervise::{Credentials, Owners, Supervision, known_owners, write_sidecar};
use crate::{
    Cancel, ExitReport, Network, OutputSink, SandboxError, SandboxSpec, Stream, signal_name, single_id, sys,
};

/// The parent's ends of one sandbox.
struct Lines {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    report: OwnedFd,
    init: OwnedFd,
}

/// Runs the command to its end; see [`SandboxSpec`]. Blocks the calling thread, and the sandbox dies with that thread.
///
/// When it returns, every process of the sandbox is dead, and what was made in the root only to be mounted upon is gone.
/// A program that can't be started is no error: one sentence goes to stderr, and the code is 127 (not found) or 126.
pub fn run(
    spec: &SandboxSpec<'_>,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<ExitReport, SandboxError> {
    if cancel.is_cancelled() {
        return Ok(ExitReport::Cancelled);
    }
    let (supervision, socket) = supervise(spec)?.unzip();
    let (mut prepared, lines) = start(spec, socket.as_ref(), output)?;
    drop(socket);
    let followed = follow(&lines, output, cancel);
    let owners = supervision.map(Supervision::finish).transpose();
    let Prepared { view, stubs, .. } = &mut prepared;
    let copied_up = std::mem::take(stubs).remove(view);
    let (ended, cancelled) = followed?;
    keep_owners(spec, owners?)?;
    let mut remembered = spec.root.copied_up.lock().unwrap_or_else(|e| e.into_inner());
    remembered.extend(copied_up?);
    if cancelled {
        return Ok(ExitReport::Cancelled);
    }
    interpret(spec, &prepared, ended, output)
}

/// Starts the supervisor where there is a single id.
fn supervise(spec: &SandboxSpec<'_>) -> Result<Option<(Supervision, OwnedFd)>, SandboxError> {
    if !single_id() {
        return Ok(None);
    }
    let owners = match &spec.sidecar {
        Some(sidecar) => known_owners(spec.root.as_fd(), &**sidecar),
        None => Owners::default(),
    };
    let initial = Credentials::new(spec.uid, spec.gid, &spec.groups);
    Supervision::start(initial, spec.capabilities, owners).map(Some)
}

/// What the supervisor kept of links and the like goes beside the layer.
fn keep_owners(spec: &SandboxSpec<'_>, owners: Option<Owners>) -> Result<(), SandboxError> {
    match (&owners, &spec.sidecar, &spec.root.upper) {
        (Some(owners), Some(sidecar), Some(upper)) => {
            write_sidecar(upper, spec.root.as_fd(), owners, &**sidecar)
        }
        _ => Ok(()),
    }
}

fn start(
    spec: &SandboxSpec<'_>,
    socket: Option<&OwnedFd>,
    output: &mut dyn OutputSink,
) -> Result<(Prepared, Lines), SandboxError> {
    let call = SandboxError::call;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| call("make a pipe", e));
    let ((stdout, stdout_end), (stderr, stderr_end), (report, report_end)) = (pipe()?, pipe()?, pipe()?);
    // Nothing is ever written to it: the command reads the end of its input, as in the reference.
    let (stdin, _) = pipe()?;
    for end in [&stdout, &stderr, &report] {
        rustix::io::ioctl_fionbio(end, true).map_err(|e| call("make a pipe non-blocking", e))?;
    }
    for end in [&stdin, &stdout_end, &stderr_end] {
        // That the user can open /dev/stdin and its like by name; where the id is not to be had, all is one id anyway.
        let _ = fchown(end, Some(Uid::from_raw(spec.uid)), None);
    }
    let parent = pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(|e| call("open a descriptor of this process", e))?;
    let ends = Ends {
        stdin: stdin.as_fd(),
        stdout: stdout_end.as_fd(),
        stderr: stderr_end.as_fd(),
        report: report_end.as_fd(),
        parent: parent.as_fd(),
        supervisor: socket.map(AsFd::as_fd),
    };
    let mut prepared = prepare(spec, &ends)?;
    output.setup(&mut prepared.script.setup.iter().chain(&prepared.script.command));
    let cloned = clone_init(spec, &mut prepared);
    prepared.close_setup();
    match cloned {
        Ok(init) => Ok((prepared, Lines { stdout: Some(stdout), stderr: Some(stderr), report, init })),
        Err(e) => {
            prepared.stubs.remove(&prepared.view)?;
            Err(call("clone a process in new namespaces", e))
        }
    }
}

fn clone_init(spec: &SandboxSpec<'_>, prepared: &mut Prepared) -> Result<OwnedFd, Errno> {
    let mut flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PIDFD;
    if spec.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    // No handler of ours may run in the child's copy of us: the child starts with all blocked and resets them.
    let mask = sys::block_signals();
    let script = &mut prepared.script;
    let cloned = sys::clone_child(flags, &mut || script.init());
    sys::restore_signals(&mask);
    cloned.and_then(|(_, init)| init.ok_or(Errno::BADF))
}

/// Passes the output on until init has ended. Returns init's last word, and whether it was cancelled.
fn follow(
    lines: &Lines,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<(Result<Record, WaitIdStatus>, bool), SandboxError> {
    let mut buffer = vec![0; 64 << 10];
    let mut streams = [(Stream::Stdout, lines.stdout.as_ref()), (Stream::Stderr, lines.stderr.as_ref())];
    let mut cancelled = false;
    loop {
        let mut fds = vec![PollFd::new(&lines.init, PollFlags::IN)];
        fds.extend((!cancelled).then(|| PollFd::new(cancel, PollFlags::IN)));
        fds.extend(streams.iter().filter_map(|(_, fd)| fd.map(|fd| PollFd::new(fd, PollFlags::IN))));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                let _ = pidfd_send_signal(&lines.init, Signal::KILL);
                let _ = reap(lines);
                return Err(SandboxError::call("wait for the sandbox", e));
            }
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        for (stream, fd) in &mut streams {
            // One chunk a turn while the command lives, so that neither stream starves the other or the switch; all that
            // is left once it has ended. Then nobody writes any more, and an open end elsewhere is not waited for.
            while let Some(end) = *fd {
                match rustix::io::read(end, &mut buffer[..]) {
                    Ok(0) => *fd = None,
                    Ok(length) => output.output(*stream, &buffer[..length]),
                    Err(_) => break,
                }
                if !ended {
                    break;
                }
            }
        }
        if ended {
            let status = reap(lines)?;
            return Ok((last_word(lines).ok_or(status), cancelled));
        }
        if !cancelled && cancel.is_cancelled() {
            cancelled = true;
            let _ = pidfd_send_signal(&lines.init, Signal::KILL);
        }
    }
}

fn reap(lines: &Lines) -> Result<WaitIdStatus, SandboxError> {
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(lines.init.as_fd()), WaitIdOptions::EXITED))
        .map_err(|e| SandboxError::call("take the exit status of the sandbox", e))?
        .ok_or_else(|| SandboxError::Lost { how: "it has no exit status".into() })
}

/// The first failure, or how the command ended.
fn last_word(lines: &Lines) -> Option<Record> {
    let mut bytes = [0; RECORD];
    let mut word = None;
    while let Ok(RECORD) = rustix::io::read(&lines.report, &mut bytes) {
        let record = Record::from_bytes(bytes);
        if !matches!(word, Some(w) if !matches!(w, Record::Ended { .. })) {
            word = record;
        }
    }
    word
}

fn interpret(
    spec: &SandboxSpec<'_>,
    prepared: &Prepared,
    ended: Result<Record, WaitIdStatus>,
    output: &mut dyn OutputSink,
) -> Result<ExitReport, SandboxError> {
    let setup = |ops: &[SetupOp], index: u32, errno| {
        let op = ops.get(index as usize).map_or_else(|| "an unknown step".into(), ToString::to_string);
        Err(SandboxError::Setup { op, source: std::io::Error::from_raw_os_error(errno) })
    };
    let mut unstartable = |code, sentence: String| {
        output.output(Stream::Stderr, format!("{sentence}\n").as_bytes());
        Ok(ExitReport::Exited(code))
    };
    let program = spec.argv.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    match ended {
        Ok(Record::Ended { status }) if libc::WIFSIGNALED(status) => {
            Ok(ExitReport::Signaled(libc::WTERMSIG(status)))
        }
        Ok(Record::Ended { status }) => Ok(ExitReport::Exited(libc::WEXITSTATUS(status))),
        Ok(Record::Setup { index, errno }) => setup(&prepared.script.setup, index, errno),
        Ok(Record::Command { index, errno }) => setup(&prepared.script.command, index, errno),
        Ok(Record::Fork { errno }) => {
            Err(SandboxError::call("fork in the sandbox", Errno::from_raw_os_error(errno)))
        }
        Ok(Record::NotInPath) => {
            unstartable(127, format!("exec: {program:?}: executable file not found in $PATH"))
        }
        Ok(Record::Lookup { errno: libc::ENOENT | libc::ENOTDIR }) => {
            unstartable(127, format!("exec: {program:?}: stat {program}: no such file or directory"))
        }
        Ok(Record::Lookup { errno }) => unstartable(126, format!("exec: {program:?}: {}", words(errno))),
        Ok(Record::Exec { errno: libc::ENOENT, .. }) => unstartable(
            127,
            format!(
                "exec {program}: no such file or directory (the file is there: its interpreter or loader is missing)"
            ),
        ),
        Ok(Record::Exec { errno, .. }) => unstartable(126, format!("exec {program}: {}", words(errno))),
        Err(status) => Err(SandboxError::Lost { how: how(&status) }),
    }
}

/// An errno in the words of the C library, lower case, as the reference prints them.
fn words(errno: i32) -> String {
    match errno {
        libc::EACCES => "permission denied".into(),
        libc::ENOEXEC => "exec format error".into(),
        libc::EISDIR => "is a directory".into(),
        libc::E2BIG => "argument list too long".into(),
        libc::ELOOP => "too many levels of symbolic links".into(),
        _ => std::io::Error::from_raw_os_error(errno).to_string().to_lowercase(),
    }
}

fn how(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("killed by {}", signal_name(signal)),
        _ => "unknown".into(),
    }
}
