//! The command in the container's own root: no namespaces, so its init gathers and ends what it leaves behind.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rbuild_fs::{FinalSymlink, NewDir, Root, RootfsPath};

use super::HOME;
use super::emulate::Emulated;
use super::signs::Claim;
use crate::child::Script;
use crate::plan::{Filter, SetupOp, Slot};
use crate::prepare::{c_string, limit, script, sorted};
use crate::run::{Streams, clone_script, follow, interpret, this_process};
use crate::{Cancel, CapabilitySet, ExitReport, Network, OutputSink, SandboxError, SandboxSpec, seccomp};

/// [`crate::run`] where the root is that of the container. Host name and /dev/shm are the container's.
///
/// # Errors
/// What a sandbox has and this has not: a network or a terminal of its own, more capabilities, a read-only root.
pub(crate) fn run_in_place(
    spec: &SandboxSpec<'_>,
    claim: &Claim,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<ExitReport, SandboxError> {
    refuse(spec)?;
    let fd =
        spec.root.try_clone_fd().map_err(|e| SandboxError::call("duplicate the root's descriptor", e))?;
    let root = Root::from_fd(fd, "/".into());
    let mut mounts = Emulated::new(&root, claim.kept(), Path::new(HOME));
    let made = mounts.make_all(&spec.mounts);
    let ended = made.and_then(|()| command(spec, &root, output, cancel));
    // Whatever happened: caches go back to the store, secrets go.
    let put_back = mounts.take_back();
    let ended = ended?;
    spec.root.put_back.lock().unwrap_or_else(|e| e.into_inner()).extend(put_back?);
    Ok(ended)
}

fn refuse(spec: &SandboxSpec<'_>) -> Result<(), SandboxError> {
    let refused = |what: &str, why| Err(SandboxError::InPlace { what: what.to_owned(), why });
    if spec.privileged {
        return refused("`--security=insecure`", "a command has the container's rights and no more");
    }
    if matches!(spec.network, Network::Joined(_)) {
        return refused("a private network", "there are no network namespaces");
    }
    if spec.terminal.is_some() || spec.read_only {
        return refused("a terminal or a read-only root", "there are no mounts");
    }
    let beyond = spec.capabilities.bits() & !CapabilitySet::docker().bits() & !own_capabilities()?.bits();
    if beyond != 0 {
        return refused("`--cap-add`", "the container lacks the capability itself");
    }
    Ok(())
}

fn own_capabilities() -> Result<CapabilitySet, SandboxError> {
    let sets =
        rustix::thread::capabilities(None).map_err(|e| SandboxError::call("read the capabilities", e))?;
    Ok(CapabilitySet::from_bits(sets.permitted.bits()))
}

fn command(
    spec: &SandboxSpec<'_>,
    root: &Root,
    output: &mut dyn OutputSink,
    cancel: &Cancel,
) -> Result<ExitReport, SandboxError> {
    let streams = Streams::new(spec, None)?;
    let parent = this_process()?;
    let door = spec.cgroup.as_ref().map(|group| group.door()).transpose()?;
    let mut script = plan(spec, &working_directory(spec, root)?, &streams, &parent, door.as_ref())?;
    output.setup(&mut script.setup.iter().chain(&script.command));
    let (pid, init) = clone_script(0, &mut script).map_err(|e| SandboxError::call("clone a process", e))?;
    let (ended, cancelled) = follow(&streams.lines_in_place(pid, init), output, cancel)?;
    if cancelled { Ok(ExitReport::Cancelled) } else { interpret(spec, &script, ended, output) }
}

/// Made where it is missing, for the user that the command runs as; without links on the way.
fn working_directory(spec: &SandboxSpec<'_>, root: &Root) -> Result<CString, SandboxError> {
    let new = NewDir { mode: 0o755, uid: spec.uid, gid: spec.gid, mtime: None };
    let path =
        root.resolve(&RootfsPath::new(&spec.cwd), FinalSymlink::Follow).map_err(SandboxError::Files)?;
    root.create_dir_all(&path, &new).map_err(SandboxError::Files)?;
    c_string("the working directory", path.as_path().as_os_str())
}

fn plan(
    spec: &SandboxSpec<'_>,
    cwd: &CString,
    streams: &Streams,
    parent: &OwnedFd,
    door: Option<&OwnedFd>,
) -> Result<Script, SandboxError> {
    let (parent, door) = (parent.as_raw_fd(), door.map(AsRawFd::as_raw_fd));
    let [stdin, stdout, stderr, report, executed] = streams.ends.each_ref().map(|end| end.as_raw_fd());
    let kept = sorted(spec.held.iter().map(|fd| fd.as_raw_fd()).chain([report, executed]));
    let during = sorted(kept.iter().copied().chain([stdin, stdout, stderr, parent]).chain(door));
    let mut setup = vec![
        SetupOp::EndWithParent,
        SetupOp::GatherOrphans,
        SetupOp::CloseOthers(during),
        SetupOp::StandardStreams([stdin, stdout, stderr]),
    ];
    setup.extend(door.map(|_| SetupOp::JoinCgroup(Slot(0))));
    setup.extend([SetupOp::HideMemory, SetupOp::NewKeyring, SetupOp::CloseSetup(kept)]);
    let (command, slots) = (command_ops(spec, cwd)?, door.into_iter().collect());
    Ok(Script { ends_all: true, ..script(spec, setup, command, slots, [report, executed, parent])? })
}

/// The container's own seccomp filter is on all of us already.
fn command_ops(spec: &SandboxSpec<'_>, cwd: &CString) -> Result<Vec<SetupOp>, SandboxError> {
    let mut ops = vec![SetupOp::NewSession];
    ops.extend(spec.rlimits.iter().map(limit));
    ops.extend([SetupOp::Umask(spec.umask), SetupOp::WorkingDirectory(cwd.clone()), SetupOp::DefaultSignals]);
    let capabilities = CapabilitySet::from_bits(spec.capabilities.bits() & own_capabilities()?.bits());
    if matches!(spec.network, Network::None) {
        let filter = Filter(seccomp::no_network_filter(capabilities));
        ops.extend([SetupOp::NoNewPrivileges, SetupOp::Seccomp(filter)]);
    }
    ops.push(SetupOp::BoundingSet(capabilities));
    ops.extend([
        SetupOp::Groups(spec.groups.clone()),
        SetupOp::Identity(spec.uid, spec.gid),
        SetupOp::Capabilities(capabilities),
    ]);
    Ok(ops)
}
