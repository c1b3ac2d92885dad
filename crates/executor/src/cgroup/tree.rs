//! Where this process is in the tree of control groups, and why it may make none.

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use crate::mountinfo::mount_points;

/// The tree of control groups, and where in it this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupTree {
    /// Where version 2 is mounted.
    pub mount: PathBuf,
    /// This process' group, relative to the mount.
    pub own: PathBuf,
}

/// Why no groups can be made. Each message is followed by [`NoCgroups::remedy`].
#[derive(Debug, thiserror::Error)]
pub enum NoCgroups {
    /// Version 2 is not mounted, or this process' group lies outside of what is.
    #[error("control groups of version 2 are not mounted here")]
    NotMounted,
    /// Another owns the group.
    #[error("the control group `{}` is not delegated to this user", path.display())]
    NotDelegated {
        /// The group's folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Processes other than rbuild's are in the group, and a group with processes can't limit its children.
    #[error("other processes share the control group `{}` with rbuild", path.display())]
    Shared {
        /// The group's folder.
        path: PathBuf,
    },
    /// Controllers are switched off above, or version 1 has them.
    #[error("the control group `{}` has no controller for {}", path.display(), missing.join(", "))]
    Controllers {
        /// The group's folder.
        path: PathBuf,
        /// `memory`, `cpu`, `cpuset`, `pids`.
        missing: Vec<String>,
    },
    /// `--cgroup-parent` names none.
    #[error("there is no control group `{}`", path.display())]
    NoParent {
        /// The folder that was looked for.
        path: PathBuf,
    },
}

impl NoCgroups {
    /// What to ask for.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotMounted => {
                "boot with `systemd.unified_cgroup_hierarchy=1`; in a container, have /sys/fs/cgroup mounted writable".into()
            }
            Self::NotDelegated { .. } | Self::Shared { .. } => {
                "start rbuild in a group of its own: `systemd-run --user --scope -p Delegate=yes rbuild …` (as root without \
                 `--user`)"
                    .into()
            }
            Self::Controllers { missing, .. } => format!(
                "as root, write `Delegate={}` below `[Service]` in /etc/systemd/system/user@.service.d/delegate.conf and log in \
                 again; where /sys/fs/cgroup/memory is there, boot with `systemd.unified_cgroup_hierarchy=1`",
                missing.join(" ")
            ),
            Self::NoParent { .. } => "make it first, or name one that is there, as `/NAME` or `NAME.slice`".into(),
        }
    }
}

impl CgroupTree {
    /// As the kernel tells it of this process.
    ///
    /// # Errors
    /// Version 2 is not there, or not where this process can see its own group.
    pub fn of_this_process() -> Result<Self, NoCgroups> {
        let read = |path| fs::read_to_string(path).map_err(|_| NoCgroups::NotMounted);
        Self::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?).ok_or(NoCgroups::NotMounted)
    }

    fn parse(groups: &str, mounts: &str) -> Option<Self> {
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        mount_points(mounts).into_iter().filter(|mount| mount.fs_type == "cgroup2").find_map(|mount| {
            let own = Path::new(own).strip_prefix(&mount.part).ok()?;
            // `/../x`: of a group outside of this process' cgroup namespace.
            let inside = own.components().all(|part| matches!(part, Component::Normal(_)));
            inside.then(|| Self { mount: mount.path, own: own.into() })
        })
    }

    /// The folder of the group that `--cgroup-parent` names: a path from the top, or a slice of systemd's by its name alone.
    pub(super) fn named(&self, name: &str) -> Result<PathBuf, NoCgroups> {
        let mut path = self.mount.clone();
        match name.strip_suffix(".slice").filter(|stem| !stem.contains('/')) {
            // systemd.slice(5): `a-b.slice` lies in `a.slice`.
            Some(stem) => path.extend(
                stem.match_indices('-')
                    .map(|(end, _)| end)
                    .chain([stem.len()])
                    .map(|end| format!("{}.slice", &stem[..end])),
            ),
            None => path.extend(Path::new(name).components().filter(|part| *part != Component::RootDir)),
        }
        let inside = path.components().all(|part| part != Component::ParentDir) && path != self.mount;
        if inside && path.is_dir() { Ok(path) } else { Err(NoCgroups::NoParent { path }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_tree_is_what_the_kernel_says() {
        let tree = |groups: &str, mounts: &str| {
            CgroupTree::parse(groups, mounts)
                .map(|tree| format!("{} {}", tree.mount.display(), tree.own.display()))
        };
        let other = "31 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let part = "30 23 0:26 /pod/box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (groups, mounts, expected) in [
            ("0::/user.slice/a.scope\n", MOUNT, Some("/sys/fs/cgroup user.slice/a.scope")),
            ("4:memory:/x\n0::/\n", &*format!("{other}{MOUNT}"), Some("/sys/fs/cgroup ")),
            ("0::/pod/box/c\n", part, Some("/sys/fs/cgroup c")),
            ("0::/elsewhere\n", part, None),
            ("0::/../outside\n", MOUNT, None),
            ("4:memory:/x\n", other, None),
            ("0::/\n", other, None),
        ] {
            assert_eq!(tree(groups, mounts).as_deref(), expected, "{groups}{mounts}");
        }
    }

    #[test]
    fn parents_are_paths_from_the_top_or_slices() {
        let top = tempfile::tempdir().unwrap();
        let tree = CgroupTree { mount: top.path().into(), own: "x".into() };
        fs::create_dir_all(top.path().join("a.slice/a-b.slice")).unwrap();
        fs::create_dir_all(top.path().join("jobs/one")).unwrap();
        for (name, expected) in [
            ("a.slice", Some("a.slice")),
            ("a-b.slice", Some("a.slice/a-b.slice")),
            ("/jobs/one", Some("jobs/one")),
            ("jobs", Some("jobs")),
            ("none", None),
            ("/", None),
            ("../etc", None),
            ("jobs/../jobs", None),
        ] {
            let found = tree.named(name).ok();
            assert_eq!(found, expected.map(|path| top.path().join(path)), "{name}");
        }
    }
}
