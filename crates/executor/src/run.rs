//! One run: make the pipes, clone, read until init is gone, take back the mount points.

use std::os::fd::{AsFd, OwnedFd};

use rbuild_fs::Sidecar;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Uid, fchown};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::child::Script;
use crate::in_place::run_in_place;
use crate::plan::SetupOp;
use crate::prepare::{Ends, Prepared, current_map, prepare};
use crate::record::{RECORD, Record};
use crate::report::Running;
use crate::stubs::CopiedUp;
use crate::supervise::{Credentials, Owners, Scope, Supervision, known_owners, write_sidecar};
use crate::terminal::{Terminal, devpts};
use crate::{
    Cancel, ExitReport, Network, OutputSink, Sandbox, SandboxError, SandboxSpec, Stream, signal_name, sys,
};

/// The parent's ends of one sandbox.
pub(crate) struct Lines {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    report: OwnedFd,
    /// At its end when the command's program runs, or never will.
    executed: OwnedFd,
    sandbox: Sandbox,
    /// What ends the sandbox.
    end: Signal,
}

/// The child's ends, and the parent's that belong to them.
pub(crate) struct Streams {
    /// Standard input, output and error, report, and the pipe that the exec closes: the child's.
    pub(crate) ends: [OwnedFd; 5],
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    report: OwnedFd,
    executed: OwnedFd,
    master: Option<OwnedFd>,
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
    if let Some(claim) = &spec.root.in_place {
        return run_in_place(spec, claim, output, cancel);
    }
    let scope = Scope::of(spec)?;
    let supervision = scope.clone().map(|scope| supervise(spec, scope, spec.sidecar.as_deref()));
    let (supervision, socket) = supervision.transpose()?.unzip();
    let (mut prepared, lines) = start(spec, scope.as_ref().zip(socket.as_ref()), output)?;
    drop(socket);
    let followed = follow(&lines, output, cancel);
    let owners = supervision.map(Supervision::finish).transpose();
    let copied_up = take_back(spec, &mut prepared);
    let (ended, cancelled) = followed?;
    keep_owners(spec, owners?)?;
    let mut remembered = spec.root.copied_up.lock().unwrap_or_else(|e| e.into_inner());
    remembered.extend(copied_up?);
    if cancelled {
        return Ok(ExitReport::Cancelled);
    }
    interpret(spec, &prepared.script, ended, output)
}

/// Removes the mount points that were made; a root that refuses writes keeps them, with the upper they are in.
fn take_back(spec: &SandboxSpec<'_>, prepared: &mut Prepared) -> Result<Vec<CopiedUp>, SandboxError> {
    let stubs = std::mem::take(&mut prepared.stubs);
    if spec.read_only { Ok(Vec::new()) } else { stubs.remove(&prepared.view) }
}

/// Starts the supervisor.
pub(crate) fn supervise(
    spec: &SandboxSpec<'_>,
    scope: Scope,
    sidecar: Option<&dyn Sidecar>,
) -> Result<(Supervision, OwnedFd), SandboxError> {
    let owners = match sidecar {
        Some(sidecar) => known_owners(spec.root.as_fd(), sidecar),
        None => Owners::default(),
    };
    let initial = Credentials::new(spec.uid, spec.gid, &spec.groups);
    Supervision::start(scope, initial, spec.capabilities, owners)
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
    supervisor: Option<(&Scope, &OwnedFd)>,
    output: &mut dyn OutputSink,
) -> Result<(Prepared, Lines), SandboxError> {
    let id_map = current_map()?;
    let devpts = devpts(&id_map)?;
    let terminal =
        spec.terminal.map(|size| Terminal::open(&devpts, "ptmx".as_ref(), size, &id_map, spec.uid));
    let streams = Streams::new(spec, terminal.transpose()?)?;
    let parent = this_process()?;
    let [stdin, stdout, stderr, report, executed] = &streams.ends;
    let ends = Ends {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        report: report.as_fd(),
        executed: executed.as_fd(),
        devpts: devpts.as_fd(),
        parent: parent.as_fd(),
        supervisor: supervisor.map(|(scope, socket)| (scope, socket.as_fd())),
    };
    let mut prepared = prepare(spec, &ends)?;
    output.setup(&mut prepared.script.setup.iter().chain(&prepared.script.command));
    let cloned = clone_init(spec, &mut prepared);
    prepared.close_setup();
    match cloned {
        Ok((pid, init)) => Ok((prepared, streams.lines(pid, init))),
        Err(e) => {
            prepared.stubs.remove(&prepared.view)?;
            Err(SandboxError::call("clone a process in new namespaces", e))
        }
    }
}

pub(crate) fn this_process() -> Result<OwnedFd, SandboxError> {
    pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(|e| SandboxError::call("open a descriptor of this process", e))
}

impl Streams {
    /// Pipes, or the terminal.
    pub(crate) fn new(spec: &SandboxSpec<'_>, terminal: Option<Terminal>) -> Result<Streams, SandboxError> {
        let call = SandboxError::call;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| call("make a pipe", e));
        let duplicate = |fd: &OwnedFd| {
            fd.try_clone().map_err(|e| SandboxError::call("duplicate a stream's descriptor", e))
        };
        let ((report, report_end), (executed, executed_end)) = (pipe()?, pipe()?);
        let (streams, stdout, stderr, master) = match terminal {
            Some(Terminal { master, slave }) => (
                [duplicate(&slave)?, duplicate(&slave)?, slave],
                Some(duplicate(&master)?),
                None,
                Some(master),
            ),
            None => {
                let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
                let stdin = match &spec.stdin {
                    Some(stdin) => duplicate(stdin)?,
                    // Nothing is ever written to it: the command reads the end of its input, as in the reference.
                    None => pipe()?.0,
                };
                ([stdin, stdout_end, stderr_end], Some(stdout), Some(stderr), None)
            }
        };
        for end in stdout.iter().chain(&stderr).chain([&report, &executed]) {
            rustix::io::ioctl_fionbio(end, true).map_err(|e| call("make a pipe non-blocking", e))?;
        }
        for end in &streams {
            // That the user can open /dev/stdin and its like by name; where the id is not to be had, all is one id anyway.
            let _ = fchown(end, Some(Uid::from_raw(spec.uid)), None);
        }
        let [stdin, stdout_end, stderr_end] = streams;
        let ends = [stdin, stdout_end, stderr_end, report_end, executed_end];
        Ok(Streams { ends, stdout, stderr, report, executed, master })
    }

    /// Lets the child's ends go: it has its own.
    pub(crate) fn lines(self, pid: i32, init: OwnedFd) -> Lines {
        let Streams { ends: _, stdout, stderr, report, executed, master } = self;
        let sandbox = Sandbox::new(Running { init, pid, master });
        Lines { stdout, stderr, report, executed, sandbox, end: Signal::KILL }
    }

    /// The same for an init that has to end others before itself.
    pub(crate) fn lines_in_place(self, pid: i32, init: OwnedFd) -> Lines {
        Lines { end: Signal::TERM, ..self.lines(pid, init) }
    }
}

fn clone_init(spec: &SandboxSpec<'_>, prepared: &mut Prepared) -> Result<(i32, OwnedFd), Errno> {
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.cgroup.is_none() {
        flags |= libc::CLONE_NEWCGROUP;
    }
    if matches!(spec.network, Network::None) {
        flags |= libc::CLONE_NEWNET;
    }
    clone_script(flags, &mut prepared.script)
}

/// A child in new namespaces that carries the script out.
pub(crate) fn clone_script(flags: i32, script: &mut Script) -> Result<(i32, OwnedFd), Errno> {
    // No handler of ours may run in the child's copy of us: the child starts with all blocked and resets them.
    let mask = sys::block_signals();
    let cloned = sys::clone_child(flags | libc::CLONE_PIDFD, &mut || script.init());
    sys::restore_signals(&mask);
    let (pid, init) = cloned?;
    Ok((pid, init.ok_or(Errno::BADF)?))
}

/// Passes the output on until init has ended. Returns init's last word, and whether it was cancelled.
pub(crate) fn follow(
    lines: &Lines,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<(Result<Record, WaitIdStatus>, bool), SandboxError> {
    let init = &lines.sandbox.running().init;
    let mut buffer = vec![0; 64 << 10];
    let mut streams = [(Stream::Stdout, lines.stdout.as_ref()), (Stream::Stderr, lines.stderr.as_ref())];
    let (mut cancelled, mut word, mut executed) = (false, None, false);
    loop {
        let mut fds = vec![PollFd::new(init, PollFlags::IN)];
        fds.extend((!cancelled).then(|| PollFd::new(cancel, PollFlags::IN)));
        fds.extend((!executed).then(|| PollFd::new(&lines.executed, PollFlags::IN)));
        fds.extend(streams.iter().filter_map(|(_, fd)| fd.map(|fd| PollFd::new(fd, PollFlags::IN))));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                let _ = pidfd_send_signal(init, lines.end);
                let _ = reap(lines);
                return Err(SandboxError::call("wait for the sandbox", e));
            }
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        if !executed && rustix::io::read(&lines.executed, &mut [0; 1]) == Ok(0) {
            executed = true;
            // A program that could not be started is told of before the pipe closes.
            word = last_word(lines, word);
            if matches!(word, None | Some(Record::Ended { .. })) {
                output.started(&lines.sandbox);
            }
        }
        for (stream, fd) in &mut streams {
            // One chunk a turn while the command lives, so that neither stream starves the other or the switch; all that
            // is left once it has ended. Then nobody writes any more, and an open end elsewhere is not waited for.
            while let Some(end) = *fd {
                match rustix::io::read(end, &mut buffer[..]) {
                    Ok(0) => *fd = None,
                    Ok(length) => output.output(*stream, &buffer[..length]),
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    // A terminal that nobody has open any more.
                    Err(_) => *fd = None,
                }
                if !ended {
                    break;
                }
            }
        }
        if ended {
            let status = reap(lines)?;
            return Ok((last_word(lines, word).ok_or(status), cancelled));
        }
        if !cancelled && cancel.is_cancelled() {
            cancelled = true;
            let _ = pidfd_send_signal(init, lines.end);
        }
    }
}

fn reap(lines: &Lines) -> Result<WaitIdStatus, SandboxError> {
    rustix::io::retry_on_intr(|| {
        waitid(WaitId::PidFd(lines.sandbox.running().init.as_fd()), WaitIdOptions::EXITED)
    })
    .map_err(|e| SandboxError::call("take the exit status of the sandbox", e))?
    .ok_or_else(|| SandboxError::Lost { how: "it has no exit status".into() })
}

/// The first failure, or how the command ended.
fn last_word(lines: &Lines, mut word: Option<Record>) -> Option<Record> {
    let mut bytes = [0; RECORD];
    while let Ok(RECORD) = rustix::io::read(&lines.report, &mut bytes) {
        let record = Record::from_bytes(bytes);
        if !matches!(word, Some(w) if !matches!(w, Record::Ended { .. })) {
            word = record;
        }
    }
    word
}

pub(crate) fn interpret(
    spec: &SandboxSpec<'_>,
    script: &Script,
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
        Ok(Record::Setup { index, errno }) => setup(&script.setup, index, errno),
        Ok(Record::Command { index, errno }) => setup(&script.command, index, errno),
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
