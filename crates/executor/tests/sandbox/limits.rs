//! Limits by control groups: over a made-up tree, in which the kernel's files are plain ones, and without limits in the real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_executor::{
    Cancel, Cgroup, CgroupTree, Cgroups, ExitReport, Limits, Mount, MountKind, NoCgroups, PlaceKind, Source,
    Stream, run,
};

use crate::fixture::{Box, Test, chain, directory, place, run_spec};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_command_is_put_into_its_group", a_command_is_put_into_its_group),
        ("rbuild_leaves_the_group_that_gets_children", rbuild_leaves_the_group_that_gets_children),
        ("what_is_switched_on_is_left_as_it_is", what_is_switched_on_is_left_as_it_is),
        ("a_group_with_others_in_it_is_refused", a_group_with_others_in_it_is_refused),
        ("missing_controllers_are_named", missing_controllers_are_named),
        ("a_group_of_another_user_is_refused", a_group_of_another_user_is_refused),
        ("a_parent_is_taken_by_name", a_parent_is_taken_by_name),
        ("commands_killed_for_memory_are_counted", commands_killed_for_memory_are_counted),
        ("a_real_group_is_entered_and_removed", a_real_group_is_entered_and_removed),
    ]
}

/// A tree with one group, `own`, as the kernel shows it to one who was given it.
struct MadeUp(tempfile::TempDir);

impl MadeUp {
    fn new(enabled: &str, processes: &str) -> Self {
        let tree = MadeUp(directory());
        fs::create_dir(tree.own()).unwrap();
        for (file, text) in [
            ("cgroup.type", "domain\n"),
            ("cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
            ("cgroup.subtree_control", enabled),
            ("cgroup.procs", processes),
        ] {
            fs::write(tree.own().join(file), text).unwrap();
        }
        tree
    }

    fn own(&self) -> PathBuf {
        self.0.path().join("own")
    }

    fn tree(&self) -> CgroupTree {
        CgroupTree { mount: self.0.path().into(), own: "own".into() }
    }

    fn prepare(&self, limits: &Limits) -> Result<Cgroups, NoCgroups> {
        Cgroups::prepare(&self.tree(), None, limits)
    }

    /// Groups that were made below `own`, by name.
    fn groups(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> = fs::read_dir(self.own()).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.is_dir());
        all.sort();
        all
    }
}

fn limits() -> Limits {
    Limits { memory: Some(64 << 20), cpu_quota: Some(50_000), pids: Some(20), ..Limits::default() }
}

fn text(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_default()
}

fn group(tree: &MadeUp) -> Arc<Cgroup> {
    tree.prepare(&limits()).unwrap().group(&limits()).unwrap()
}

fn a_command_is_put_into_its_group() {
    let tree = MadeUp::new("", "");
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["true"]);
    let group = group(&tree);
    spec.cgroup = Some(group.clone());
    let ran = run_spec(&spec);
    assert_eq!(ran.report, ExitReport::Exited(0), "{ran:?}");
    assert_eq!(
        text(group.path(), "cgroup.procs"),
        "0",
        "init itself goes in, before anything else of the set-up"
    );
    assert_eq!(text(group.path(), "memory.max"), "67108864");
    assert_eq!(text(group.path(), "cpu.max"), "50000 100000");
    assert_eq!(text(group.path(), "pids.max"), "20");
    assert!(!group.path().join("cpuset.cpus").exists(), "what has no limit is not touched");
    assert_eq!(
        text(&tree.own(), "cgroup.subtree_control"),
        "+pids",
        "the last of the lines that the file took"
    );
    let path = group.path().to_owned();
    drop((spec, group));
    assert_eq!(text(&path, "cgroup.kill"), "1");
}

fn rbuild_leaves_the_group_that_gets_children() {
    let own = std::process::id().to_string();
    let tree = MadeUp::new("", &format!("{own}\n"));
    tree.prepare(&limits()).unwrap();
    let groups = tree.groups();
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!(text(&groups[0], "cgroup.procs"), own);
}

fn what_is_switched_on_is_left_as_it_is() {
    let enabled = "cpuset cpu memory pids\n";
    let tree = MadeUp::new(enabled, "");
    tree.prepare(&limits()).unwrap();
    assert_eq!(text(&tree.own(), "cgroup.subtree_control"), enabled);
    assert!(tree.groups().is_empty());
}

fn a_group_with_others_in_it_is_refused() {
    let tree = MadeUp::new("", &format!("{}\n1\n", std::process::id()));
    let error = tree.prepare(&limits()).unwrap_err();
    assert!(matches!(error, NoCgroups::Shared { .. }), "{error}");
    assert!(error.remedy().contains("systemd-run --user --scope -p Delegate=yes"), "{}", error.remedy());
    assert!(
        tree.groups().is_empty() && text(&tree.own(), "cgroup.subtree_control").is_empty(),
        "nothing is changed"
    );
}

fn missing_controllers_are_named() {
    let tree = MadeUp::new("", "");
    fs::write(tree.own().join("cgroup.controllers"), "memory hugetlb\n").unwrap();
    let error = tree.prepare(&limits()).unwrap_err();
    assert!(error.to_string().ends_with("own` has no controller for cpu, pids"), "{error}");
    assert!(error.remedy().contains("Delegate=cpu pids"), "{}", error.remedy());
    tree.prepare(&Limits { memory: Some(1), ..Limits::default() }).expect("memory can be limited");
}

/// Root's rights, also those within a user namespace over its own files, leave nothing to refuse.
fn a_group_of_another_user_is_refused() {
    if place().kind() == PlaceKind::Root {
        eprintln!("SKIP a_group_of_another_user_is_refused: root may write everywhere");
        return;
    }
    let tree = CgroupTree { mount: "/usr".into(), own: "lib".into() };
    let error = Cgroups::prepare(&tree, None, &limits()).unwrap_err();
    assert_eq!(error.to_string(), "the control group `/usr/lib` is not delegated to this user");
}

fn a_parent_is_taken_by_name() {
    let tree = MadeUp::new("", "1\n");
    let parent = tree.0.path().join("jobs.slice");
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join("cgroup.controllers"), "cpu memory pids").unwrap();
    let cgroups = Cgroups::prepare(&tree.tree(), Some("jobs.slice"), &limits()).unwrap();
    assert!(cgroups.group(&limits()).unwrap().path().starts_with(&parent));
    let error = Cgroups::prepare(&tree.tree(), Some("/no/such"), &limits()).unwrap_err();
    assert!(matches!(error, NoCgroups::NoParent { .. }), "{error}");
}

fn commands_killed_for_memory_are_counted() {
    let tree = MadeUp::new("", "");
    let group = group(&tree);
    assert_eq!(group.killed_for_memory(), 0);
    fs::write(
        group.path().join("memory.events"),
        "low 0\nhigh 0\nmax 93\noom 2\noom_kill 2\noom_group_kill 0\n",
    )
    .unwrap();
    assert_eq!(group.killed_for_memory(), 2);
}

/// Where root finds the real tree, a group without limits shows that commands are in it, see it as the top, and that it goes.
fn a_real_group_is_entered_and_removed() {
    let skip = |why: &dyn std::fmt::Display| eprintln!("SKIP a_real_group_is_entered_and_removed: {why}");
    let none = Limits::default();
    let cgroups = match CgroupTree::of_this_process().and_then(|tree| Cgroups::prepare(&tree, None, &none)) {
        Ok(cgroups) => cgroups,
        Err(error) => return skip(&error),
    };
    let group = match cgroups.group(&none) {
        Ok(group) => group,
        Err(error) => return skip(&chain(&error)),
    };
    let path = group.path().to_owned();
    let sandbox = Box::new();
    let line = "(sleep 98761 &) ; grep ^0:: /proc/self/cgroup; until test -e /seen/it; do sleep 0.02; done";
    let mut spec = sandbox.spec(&["sh", "-c", line]);
    let seen = directory();
    let source = Source::Path(seen.path().into());
    spec.mounts = vec![Mount { target: "/seen".into(), kind: MountKind::Bind { source, read_only: true } }];
    spec.cgroup = Some(group.clone());
    let (mut inside, mut output) = (String::new(), String::new());
    let mut sink = |_: Stream, bytes: &[u8]| {
        inside = text(&path, "cgroup.procs");
        fs::write(seen.path().join("it"), "").unwrap();
        output.push_str(&String::from_utf8_lossy(bytes));
    };
    let report = run(&spec, &mut sink, &Cancel::new().unwrap()).unwrap();
    assert_eq!((report, output.as_str()), (ExitReport::Exited(0), "0::/\n"));
    assert!(inside.lines().count() >= 2, "init and the command are in the group: {inside:?}");
    drop((spec, group));
    assert!(!path.exists(), "the group outlived the sandbox");
}
