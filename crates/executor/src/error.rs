use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::NotHere;

/// Why this place gives no user namespace, or not the widest one. Each message is followed by [`EnterError::remedy`].
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The kernel, a sysctl or a security module refuses user namespaces.
    #[error("could not create a user namespace{}", knob.as_deref().map(|k| format!(" ({k})")).unwrap_or_default())]
    UserNamespace {
        /// The kernel's switch that forbids it, where it was found: `user.max_user_namespaces is 0`.
        knob: Option<String>,
        /// What `unshare` or the map said.
        source: io::Error,
    },
    /// The namespace came to be, but nothing can be mounted in it (AppArmor on Ubuntu ≥ 23.10, seccomp).
    #[error("could not mount inside a new user namespace{}", knob.as_deref().map(|k| format!(" ({k})")).unwrap_or_default())]
    Mount {
        /// The kernel's switch that forbids it, where it was found.
        knob: Option<String>,
        /// What the first mount said.
        source: io::Error,
    },
    /// `newuidmap` or `newgidmap` is not installed.
    #[error("could not find `{program}`, so only one user id can be mapped")]
    NoMapProgram {
        /// The missing program.
        program: &'static str,
    },
    /// No line for this user in `/etc/subuid` or `/etc/subgid`.
    #[error("no subordinate ids for user `{user}` in {file}, so only one user id can be mapped")]
    NoSubordinateIds {
        /// Name or number of the user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// `newuidmap` or `newgidmap` ran and refused.
    #[error("could not map ids with `{program}`: {message}")]
    MapProgram {
        /// The program.
        program: &'static str,
        /// Its words on stderr.
        message: String,
    },
    /// Building in place was asked for, and this is no place for it.
    #[error("this is no container for builds in place")]
    NotInPlace(#[source] NotHere),
    /// The user asked for less than this place may give.
    #[error("another way of isolation was asked for")]
    NotWanted,
    /// A step of the entry itself went wrong after the probe had passed.
    #[error("could not {action}")]
    Step {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl EnterError {
    /// The one change that would help, for a `help:` line; `None` where none is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NoMapProgram { .. } => Some("install it: `apt-get install uidmap`".into()),
            Self::NoSubordinateIds { user, file } => {
                Some(format!("as root, add the line `{user}:100000:65536` to {file} (a range no other line has)"))
            }
            Self::UserNamespace { knob: Some(knob), .. } | Self::Mount { knob: Some(knob), .. } => remedy_for(knob),
            Self::UserNamespace { .. } | Self::Mount { .. } => Some(
                "in a container, its seccomp profile forbids this: run it with `--security-opt seccomp=unconfined`, or as a pod \
                 with `seccompProfile: Unconfined`"
                    .into(),
            ),
            Self::NotInPlace(_) => Some(
                "start a new container of an image made as `examples/ci-image` is, with nothing added to its root but volumes; \
                 `--isolation=auto` takes the best way there is"
                    .into(),
            ),
            Self::NotWanted => Some("leave out `--isolation`".into()),
            Self::MapProgram { .. } | Self::Step { .. } => None,
        }
    }
}

fn remedy_for(knob: &str) -> Option<String> {
    let setting = match knob.split_whitespace().next()? {
        "user.max_user_namespaces" => "user.max_user_namespaces=15000",
        "kernel.unprivileged_userns_clone" => "kernel.unprivileged_userns_clone=1",
        "kernel.apparmor_restrict_unprivileged_userns" => {
            return Some(
                "as root, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give rbuild an AppArmor profile with the \
                 line `userns,`"
                    .into(),
            );
        }
        _ => return None,
    };
    Some(format!("as root, `sysctl -w {setting}`"))
}

/// Why a tree could not be mounted, a user not resolved or a command not started. A command that ran and failed is no
/// error: see [`crate::ExitReport`].
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The overlay file system refused.
    #[error("could not mount an overlay of {lowers} lower directories: {step}")]
    Overlay {
        /// How many lower directories it had.
        lowers: usize,
        /// The option or call that failed.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// File work of the parent, before or after the command.
    #[error("could not {action} `{}`", path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call of the parent that has no path.
    #[error("could not {action}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// One [`crate::SetupOp`] failed in the child.
    #[error("could not set up the sandbox: {op}")]
    Setup {
        /// The operation, as `Display` writes it.
        op: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The sandbox's init ended without a report (killed from outside, out of memory).
    #[error("the sandbox ended without a report ({how})")]
    Lost {
        /// Its own exit: `killed by SIGKILL`.
        how: String,
    },
    /// The kernel refused a limit.
    #[error("could not limit `{file}` to `{value}`")]
    Limit {
        /// The control group's file.
        file: &'static str,
        /// What was written to it.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Words with a NUL byte can't be given to the kernel.
    #[error("could not use {what} with a NUL byte: {value:?}")]
    Nul {
        /// `an argument`, `an environment variable`, …
        what: &'static str,
        /// The text.
        value: OsString,
    },
    /// The mount target lies where the sandbox mounts something of the kernel's.
    #[error("could not mount on `{}`: it lies inside `{}`", target.display(), inside.display())]
    Target {
        /// The wanted target.
        target: PathBuf,
        /// `/proc`, `/sys` or `/dev/mqueue`.
        inside: PathBuf,
    },
    /// `USER name` with a name that is not in the image's `/etc/passwd`.
    #[error("no user `{0}` in /etc/passwd of the image")]
    NoSuchUser(String),
    /// `USER name:group` with a group that is not in the image's `/etc/group`.
    #[error("no group `{0}` in /etc/group of the image")]
    NoSuchGroup(String),
    /// What needs namespaces or mounts, in a place that has neither.
    #[error("{what} cannot be had in place: {why}")]
    InPlace {
        /// What was asked for.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// File work in the root of the container.
    #[error(transparent)]
    Files(rbuild_fs::PathError),
    /// A numeric id above 2147483647.
    #[error("id `{0}` is out of range (0 to 2147483647)")]
    IdRange(String),
}

impl SandboxError {
    pub(crate) fn path(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Path { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn call(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Call { action, source: source.into() }
    }
}
