//! One more command inside a running sandbox: a health check, `rbuild exec`.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::child::Script;
use crate::plan::{SetupOp, Slot};
use crate::prepare::{c_string, command_ops, current_map, script, sorted};
use crate::run::{Streams, clone_script, follow, interpret, supervise, this_process};
use crate::supervise::{Scope, Supervision};
use crate::terminal::of_running;
use crate::{Cancel, ExitReport, Network, OutputSink, Sandbox, SandboxError, SandboxSpec};

/// Runs a command in the namespaces of a running sandbox to its end; see [`crate::run()`]. Of the spec, all counts that is
/// about the command itself: its mounts, host name and devices are the sandbox's.
///
/// Takes the right to look into the sandbox's init, which a process has that was exec'ed in this user namespace, not one that
/// came into it by [`crate::enter`].
pub fn run_inside(
    sandbox: &Sandbox,
    spec: &SandboxSpec<'_>,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<ExitReport, SandboxError> {
    let id_map = current_map()?;
    let terminal =
        spec.terminal.map(|size| of_running(sandbox.pid(), size, &id_map, spec.uid)).transpose()?;
    let streams = Streams::new(spec, terminal)?;
    let scope = Scope::of(spec)?;
    let supervision = scope.clone().map(|scope| supervise(spec, scope, None)).transpose()?;
    let (supervision, socket) = supervision.unzip();
    let (mut script, held) = joining(sandbox, spec, &streams, scope.as_ref().zip(socket.as_ref()))?;
    output.setup(&mut script.setup.iter().chain(&script.command));
    let (pid, init) = clone_script(0, &mut script).map_err(|e| SandboxError::call("clone a process", e))?;
    drop((socket, held));
    let (ended, cancelled) = follow(&streams.lines(pid, init), output, cancel)?;
    supervision.map(Supervision::finish).transpose()?;
    if cancelled {
        return Ok(ExitReport::Cancelled);
    }
    interpret(spec, &script, ended, output)
}

/// What the child does, and the descriptors that it does it with.
fn joining(
    sandbox: &Sandbox,
    spec: &SandboxSpec<'_>,
    streams: &Streams,
    supervisor: Option<(&Scope, &OwnedFd)>,
) -> Result<(Script, Vec<OwnedFd>), SandboxError> {
    let path = format!("/proc/{}/root", sandbox.pid());
    let root = openat(CWD, path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SandboxError::path("open", path, e))?;
    let init = sandbox.running().init.try_clone();
    let init = init.map_err(|e| SandboxError::call("duplicate the descriptor of init", e))?;
    let parent = this_process()?;
    let [stdin, stdout, stderr, report, executed] = streams.ends.each_ref().map(AsRawFd::as_raw_fd);
    let supervisor = supervisor.map(|(scope, socket)| (scope, socket.as_raw_fd()));
    let kept_after = sorted([report, executed].into_iter().chain(supervisor.map(|(_, fd)| fd)));
    let door = spec.cgroup.as_ref().map(|group| group.door()).transpose()?;
    let own = [stdin, stdout, stderr, parent.as_raw_fd(), init.as_raw_fd(), root.as_raw_fd()];
    let own = own.into_iter().chain(door.as_ref().map(AsRawFd::as_raw_fd));
    let mut setup = vec![
        SetupOp::DieWithParent,
        SetupOp::CloseOthers(sorted(kept_after.iter().copied().chain(own))),
        SetupOp::StandardStreams([stdin, stdout, stderr]),
        SetupOp::HideMemory,
        SetupOp::NewKeyring,
    ];
    setup.extend(door.as_ref().map(|_| SetupOp::JoinCgroup(Slot(2))));
    setup.push(SetupOp::JoinSandbox(Slot(0), Slot(1), !matches!(spec.network, Network::Host)));
    setup.push(SetupOp::CloseSetup(kept_after));
    let cwd = c_string("the working directory", spec.cwd.as_os_str())?;
    let mut command = command_ops(spec, &current_map()?, &cwd, supervisor)?;
    command.push(SetupOp::DieWithInit);
    let slots = [&init, &root].into_iter().chain(&door).map(AsRawFd::as_raw_fd).collect();
    let script = script(spec, setup, command, slots, [report, executed, parent.as_raw_fd()])?;
    Ok((script, [init, root, parent].into_iter().chain(door).collect()))
}
