//! The places: how each is made, and what rbuild promises there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::container::{Container, Rights};
use crate::fixture::Fixture;

/// What works in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every build.
    All,
    /// Builds without RUN; RUN is refused.
    NoRun,
}

/// Somewhere that rbuild is run.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    kind: Kind,
    pub(crate) promise: Promise,
    /// Words of the sentence that refuses RUN.
    pub(crate) refusal: &'static str,
    /// Words that `rbuild doctor` says here.
    doctor: &'static str,
    /// Builds that come out otherwise here, and why.
    pub(crate) exceptions: &'static [(&'static str, &'static str)],
}

#[derive(Debug)]
enum Kind {
    /// An account of the host; with subordinate ids or without.
    Account {
        uid: u32,
        ids: bool,
    },
    Root,
    /// A container, whose store lies in a volume or on its own overlay.
    Container {
        rights: Rights,
        volume: bool,
        in_place: bool,
    },
}

/// Without overlays a step works in copies, in which names of one file are files of their own.
const SPLIT_LINKS: &[(&str, &str)] =
    &[("tar-in-run", "a command sees one name of each file of the steps below")];

const IN_PLACE: &[(&str, &str)] = &[
    SPLIT_LINKS[0],
    ("mount-points-vanish", "`ls /` shows /rbuild"),
    ("mounts-secret", "a secret is seen to be a link into memory"),
];

const fn container(name: &'static str, rights: Rights, volume: bool, doctor: &'static str) -> Place {
    let promise = match rights.blocked() {
        true => Promise::NoRun,
        false => Promise::All,
    };
    let exceptions = if volume || rights.blocked() { &[] } else { SPLIT_LINKS };
    Place {
        name,
        kind: Kind::Container { rights, volume, in_place: false },
        promise,
        refusal: "RUN needs user namespaces",
        doctor,
        exceptions,
    }
}

/// What everything is compared with.
pub(crate) const HOST_ROOT: Place = Place {
    name: "host-root",
    kind: Kind::Root,
    promise: Promise::All,
    refusal: "",
    doctor: "root: RUN in namespaces",
    exceptions: &[],
};

/// In the order of the table.
pub(crate) const PLACES: &[Place] = &[
    Place {
        name: "host-user",
        kind: Kind::Account { uid: 23455, ids: true },
        promise: Promise::All,
        refusal: "",
        doctor: "many user ids",
        exceptions: &[],
    },
    Place {
        name: "host-user-1id",
        kind: Kind::Account { uid: 23456, ids: false },
        promise: Promise::All,
        refusal: "",
        doctor: "23456:100000:65536",
        exceptions: &[],
    },
    container("privileged", Rights::Privileged, true, "root: RUN in namespaces"),
    container("k8s-root", Rights::Kubernetes { uid: 0 }, true, "user namespace"),
    container("k8s-user", Rights::Kubernetes { uid: 1000 }, true, "one user id"),
    container("k8s-root-overlay", Rights::Kubernetes { uid: 0 }, false, "copies"),
    container("k8s-user-overlay", Rights::Kubernetes { uid: 1000 }, false, "copies"),
    Place {
        name: "docker-root-in-place",
        kind: Kind::Container { rights: Rights::Docker { uid: 0 }, volume: false, in_place: true },
        promise: Promise::All,
        refusal: "",
        doctor: "in place: RUN works in this container's own root",
        exceptions: IN_PLACE,
    },
    container("docker-root", Rights::Docker { uid: 0 }, false, "seccomp=unconfined"),
    container("docker-user", Rights::Docker { uid: 1000 }, false, "seccomp=unconfined"),
    container("restricted", Rights::Restricted, true, "seccomp=unconfined"),
    container("apparmor", Rights::AppArmor, true, "could not mount inside a new user namespace"),
];

impl Place {
    /// The command to which the names of the builds are to be added. `own` holds the folders `out` and `volume`.
    pub(crate) fn command(&self, fixture: &Fixture, own: &Path) -> Result<Command, String> {
        let shared = fixture.shared();
        match &self.kind {
            Kind::Root => Ok(on_host(Command::new("/bin/busybox"), own, &shared)),
            Kind::Account { uid, ids } => Ok(on_host(account(*uid, *ids, own), own, &shared)),
            Kind::Container { rights, volume, in_place } => {
                let (rights, volume, in_place) = (*rights, *volume, *in_place);
                Container { rights, volume, in_place, script: "run", own, fixture }.command(self.name)
            }
        }
    }

    pub(crate) fn check_doctor(&self, said: &str) -> Result<(), String> {
        if said.contains(self.doctor) {
            Ok(())
        } else {
            Err(format!("doctor does not say `{}`:\n{said}", self.doctor))
        }
    }
}

/// `busybox sh RUN …` with an environment of its own.
fn on_host(mut command: Command, own: &Path, shared: &Path) -> Command {
    command.arg("sh").arg(shared.join("run")).arg(own.join("out")).arg(own.join("volume/store")).arg(shared);
    command.env_clear().env("HOME", own.join("volume")).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command
}

/// An account that exists only for this process: its own view of /etc/passwd, /etc/subuid and /etc/subgid.
fn account(uid: u32, ids: bool, own: &Path) -> Command {
    let home = own.join("volume");
    let account = format!("places:x:{uid}:{uid}::{}:/bin/sh\n", home.display());
    let passwd = fs::read_to_string("/etc/passwd").unwrap() + if ids { &account } else { "" };
    let range = if ids { format!("places:{}:65536\n", 500_000_000) } else { String::new() };
    let mut script = String::from("set -e\n");
    for (name, content) in [("passwd", &passwd), ("subuid", &range), ("subgid", &range)] {
        let file = own.join(name);
        fs::write(&file, content).unwrap();
        // A machine without anybody's ranges may lack the file.
        script +=
            &format!("test -e /etc/{name} || : >/etc/{name}; mount --bind {} /etc/{name}\n", file.display());
    }
    script += &format!(
        "exec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all /bin/busybox \"$@\"\n"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    command
}
