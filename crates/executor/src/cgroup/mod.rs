//! A control group of its own for a sandbox (cgroups(7), version 2), where such groups may be made.
//!
//! A group has either processes or controllers for its children. So rbuild itself first goes into a child group, and each
//! sandbox gets another one beside that: below the group that rbuild was started in, whose own limits still hold for all.

mod tree;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::{Deserialize, Serialize};

pub use self::tree::{CgroupTree, NoCgroups};
use crate::limits::Setting;
use crate::{Limits, SandboxError};

/// What the names of our groups begin with; the process id follows, so that those of the dead can be told.
const NAME: &str = "rbuild-";
/// How long a group may take to become empty after its last process has ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// A group in which groups for sandboxes can be made. It stays what it is when it is written down and read by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    base: PathBuf,
}

impl Cgroups {
    /// Makes this process' own group, or the one that `parent` names, ready for children with these limits. Moves this process into a
    /// child of its group where its group has to be empty for that.
    ///
    /// # Errors
    /// Groups cannot be made there, or not with all that is to be limited.
    pub fn prepare(tree: &CgroupTree, parent: Option<&str>, limits: &Limits) -> Result<Self, NoCgroups> {
        let base = match parent {
            Some(name) => tree.named(name)?,
            None => tree.mount.join(&tree.own),
        };
        let not_delegated = |source: io::Error| NoCgroups::NotDelegated { path: base.clone(), source };
        accessat(CWD, &base, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|e| not_delegated(e.into()))?;
        sweep(&base);
        let wanted = still_off(&base, limits)?;
        if !wanted.is_empty() {
            empty(&base).map_err(|error| match error {
                Some(error) => not_delegated(error),
                None => NoCgroups::Shared { path: base.clone() },
            })?;
        }
        for controller in wanted {
            write(&base, "cgroup.subtree_control", &format!("+{controller}")).map_err(not_delegated)?;
        }
        Ok(Self { base })
    }

    /// A new group with these limits, for one sandbox.
    ///
    /// # Errors
    /// The kernel refuses the group or a limit.
    pub fn group(&self, limits: &Limits) -> Result<Arc<Cgroup>, SandboxError> {
        let path = new_group(&self.base)
            .map_err(|e| SandboxError::path("make a control group in", &self.base, e))?;
        let group = Cgroup { path };
        group.limit(limits)?;
        Ok(Arc::new(group))
    }
}

/// The controllers that these limits want and that are yet to be switched on for the children of a group.
fn still_off(base: &Path, limits: &Limits) -> Result<Vec<&'static str>, NoCgroups> {
    let enabled = words(base, "cgroup.subtree_control");
    let there = words(base, "cgroup.controllers");
    let mut wanted: Vec<_> = limits.settings().into_iter().map(|setting| setting.controller).collect();
    wanted.dedup();
    wanted.retain(|controller| !enabled.iter().any(|known| known == controller));
    let is_missing = |name: &&&str| !there.iter().any(|known| known == **name);
    let missing: Vec<String> = wanted.iter().filter(is_missing).map(|&name| name.into()).collect();
    match missing.is_empty() {
        true => Ok(wanted),
        false => Err(NoCgroups::Controllers { path: base.into(), missing }),
    }
}

/// The group of one sandbox; it goes, and whatever still runs in it is killed, when the last holder drops it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn limit(&self, limits: &Limits) -> Result<(), SandboxError> {
        for Setting { file, value, .. } in limits.settings() {
            match write(&self.path, file, &value) {
                Ok(()) => {}
                // Kernels that do not count swap have no file for it, and no swap to be limited.
                Err(_) if file == "memory.swap.max" && !self.path.join(file).exists() => {}
                Err(source) => return Err(SandboxError::Limit { file, value, source }),
            }
        }
        Ok(())
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many of its processes the kernel has killed because the group's memory was used up.
    pub fn killed_for_memory(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Where a process writes `0` to be in the group.
    pub(crate) fn door(&self) -> Result<OwnedFd, SandboxError> {
        let path = self.path.join("cgroup.procs");
        match File::options().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(file.into()),
            Err(e) => Err(SandboxError::path("open", path, e)),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // From Linux 5.14 on; before it, the sandbox's pid namespace has taken them all with it.
        let _ = write(&self.path, "cgroup.kill", "1");
        let start = Instant::now();
        // The dead count until the kernel has put them away.
        while remove(&self.path).is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
            && start.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The group of the calling process, by the descriptor that [`Cgroup::door`] gives.
pub(crate) fn join(door: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    rustix::io::write(door, b"0").map(drop)
}

/// Moves this process and its children into a child group, where the group may not have both processes and controllers. The
/// error is `None` where others are in it too.
fn empty(base: &Path) -> Result<(), Option<io::Error>> {
    // The root of the whole tree, which alone has no type, may have both.
    if !base.join("cgroup.type").exists() {
        return Ok(());
    }
    let processes = words(base, "cgroup.procs");
    if processes.is_empty() {
        return Ok(());
    }
    if !processes.iter().all(|process| is_ours(process)) {
        return Err(None);
    }
    let leaf = new_group(base)?;
    // One at a time is all that the file takes.
    processes.iter().try_for_each(|process| Ok(write(&leaf, "cgroup.procs", process)?))
}

/// This process, or one that it has started.
fn is_ours(process: &str) -> bool {
    let own = std::process::id().to_string();
    let mut process = process.to_owned();
    while process != own {
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
        // The name, in brackets, may hold anything; state and parent follow it.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        match parent {
            Some(parent) if parent != "0" => parent.clone_into(&mut process),
            _ => return false,
        }
    }
    true
}

fn new_group(base: &Path) -> io::Result<PathBuf> {
    for number in 0.. {
        let path = base.join(format!("{NAME}{}-{number}", std::process::id()));
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Groups of those who were killed before they could remove them. One with processes refuses to go.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
        if number.is_some_and(|number| !Path::new("/proc").join(number).exists()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Folders go with the kernel's files in them; groups inside, which a privileged command may have made, go first.
fn remove(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove(&entry.path());
        }
    }
    fs::remove_dir(group)
}

fn words(group: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(group.join(file)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The kernel makes no files but its own: `create` is for the made-up trees of tests.
fn write(group: &Path, file: &str, text: &str) -> io::Result<()> {
    File::options().write(true).truncate(true).create(true).open(group.join(file))?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_limit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        // Nothing can be written to a folder, as nothing but processors that are there can be to the kernel's file.
        fs::create_dir(folder.path().join("cpuset.cpus")).unwrap();
        let group = Cgroup { path: folder.path().into() };
        let limits = Limits { cpuset_cpus: Some("0-999".into()), ..Limits::default() };
        let error = group.limit(&limits).unwrap_err();
        assert_eq!(error.to_string(), "could not limit `cpuset.cpus` to `0-999`");
    }

    #[test]
    fn groups_of_the_dead_are_swept() {
        let base = tempfile::tempdir().unwrap();
        // Above the kernel's highest process id.
        let (dead, living) =
            (base.path().join("rbuild-4194399-0"), format!("rbuild-{}-0", std::process::id()));
        fs::create_dir_all(dead.join("inside/deeper")).unwrap();
        fs::create_dir(base.path().join(&living)).unwrap();
        fs::create_dir(base.path().join("rbuilder")).unwrap();
        sweep(base.path());
        let mut left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [living.as_str(), "rbuilder"]);
    }

    #[test]
    fn own_children_are_ours_and_the_first_process_is_not() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (own, others) = (is_ours(&child.id().to_string()), is_ours("1") || is_ours("0"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own && is_ours(&std::process::id().to_string()) && !others);
    }
}
