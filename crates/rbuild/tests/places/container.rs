//! Containers as Docker and Kubernetes start them, by runc.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::Fixture;

const PROFILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/places/docker-default-seccomp.json");

/// Docker's fourteen.
const DOCKER: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// What Docker covers of the kernel's files, and what it makes read-only.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How a container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// `docker run`: Docker's seccomp profile and capabilities, masked /proc.
    Docker { uid: u32 },
    /// A pod as most clusters start it: the same without a seccomp profile.
    Kubernetes { uid: u32 },
    /// The "restricted" pod security standard: uid 1000, no capabilities, no_new_privs, the default profile.
    Restricted,
    /// `docker run --privileged`.
    Privileged,
    /// As Ubuntu since 23.10 treats a program without a profile: `unshare` passes, every mount after it is denied.
    AppArmor,
}

impl Rights {
    /// No user namespace that is of use, and no root's rights.
    pub(crate) const fn blocked(self) -> bool {
        matches!(self, Rights::Docker { .. } | Rights::Restricted | Rights::AppArmor)
    }

    fn uid(self) -> u32 {
        match self {
            Rights::Docker { uid } | Rights::Kubernetes { uid } => uid,
            Rights::Privileged => 0,
            Rights::Restricted | Rights::AppArmor => 1000,
        }
    }

    /// As Docker does it: another user than root has them in the bounding set only.
    fn capabilities(self) -> Value {
        let all: Vec<String> = match self {
            Rights::Restricted => Vec::new(),
            Rights::Privileged => every_capability(),
            _ => DOCKER.map(String::from).to_vec(),
        };
        match self.uid() {
            0 => json!({ "bounding": all, "effective": all, "permitted": all }),
            _ => json!({ "bounding": all }),
        }
    }

    fn seccomp(self) -> Option<Value> {
        match self {
            Rights::Docker { .. } | Rights::Restricted => Some(docker_profile()),
            Rights::AppArmor => Some(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{
                    "names": ["mount", "umount2", "fsopen", "fsmount", "move_mount", "open_tree", "mount_setattr", "pivot_root"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                }],
            })),
            _ => None,
        }
    }
}

pub(crate) struct Container<'a> {
    pub(crate) rights: Rights,
    /// The store lies in a volume, not on the container's overlay.
    pub(crate) volume: bool,
    /// The image is that of `examples/ci-image`, whose root is there to be built in.
    pub(crate) in_place: bool,
    /// What runs in it, of the shared folder.
    pub(crate) script: &'static str,
    pub(crate) own: &'a Path,
    pub(crate) fixture: &'a Fixture,
}

impl Container<'_> {
    /// `runc run` over a throw-away overlay, in a mount namespace that takes the overlay along when it ends. The names of
    /// builds that are added go into the container through a file.
    pub(crate) fn command(&self, name: &str) -> Result<Command, String> {
        let bundle = self.own.join("bundle");
        for folder in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.join(folder)).map_err(|e| e.to_string())?;
        }
        fs::write(bundle.join("config.json"), self.config().to_string()).map_err(|e| e.to_string())?;
        let script = format!(
            "set -e; cd {bundle}; for case; do echo \"$case\"; done >{own}/out/cases\n\
             mount -t overlay overlay -o lowerdir={rootfs},upperdir=upper,workdir=work rootfs\n\
             exec runc --root {own}/runc run rbuild-places-{pid}-{name}",
            bundle = bundle.display(),
            own = self.own.display(),
            rootfs = if self.in_place { self.fixture.ci_image() } else { self.fixture.rootfs() }.display(),
            pid = std::process::id(),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        Ok(command)
    }

    /// The bundle's document (OCI runtime-spec, config.md).
    fn config(&self) -> Value {
        let uid = self.rights.uid();
        let privileged = self.rights == Rights::Privileged;
        let (shell, store) = match (self.in_place, self.volume) {
            (true, _) => ("/rbuild/busybox", "/rbuild/store"),
            (false, true) => ("/bin/busybox", "/volume/store"),
            (false, false) => ("/bin/busybox", "/work/store"),
        };
        let (at, script) = (self.volumes(), self.script);
        let run = format!(
            "exec {shell} sh {at}/shared/{script} {at}/out {store} {at}/shared $({shell} cat {at}/out/cases)"
        );
        let mut linux = json!({
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "resources": { "devices": [{ "allow": privileged, "access": "rwm" }] },
        });
        if !privileged {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
        }
        if let Some(profile) = self.rights.seccomp() {
            linux["seccomp"] = profile;
        }
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "hostname": "place",
            "process": {
                "args": [shell, "sh", "-c", run],
                "cwd": "/",
                "env": ["PATH=/usr/bin:/bin", "HOME=/tmp"],
                "user": { "uid": uid, "gid": uid },
                "capabilities": self.rights.capabilities(),
                "noNewPrivileges": self.rights == Rights::Restricted,
            },
            "mounts": self.mounts(privileged),
            "linux": linux,
        })
    }

    /// Where the container has them: in place where no build looks.
    fn volumes(&self) -> &'static str {
        if self.in_place { "/rbuild" } else { "" }
    }

    fn mounts(&self, privileged: bool) -> Value {
        let volume = |name: &str| format!("{}/{name}", self.volumes());
        let bind = |target: &str, source: &Path, mode: &str| json!({ "destination": target, "type": "bind", "source": source, "options": ["bind", mode] });
        let of_kernel = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
        json!([
            of_kernel("/proc", "proc", &[]),
            of_kernel("/dev", "tmpfs", &["nosuid", "mode=755"]),
            of_kernel(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
            ),
            of_kernel("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
            of_kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            of_kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", if privileged { "rw" } else { "ro" }]),
            bind(&volume("shared"), &self.fixture.shared(), "ro"),
            bind(&volume("out"), &self.own.join("out"), "rw"),
            bind(&volume("volume"), &self.own.join("volume"), "rw"),
        ])
    }
}

/// Those that this machine can give (capabilities(7), by number).
fn every_capability() -> Vec<String> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let bounds = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd");
    let bounds = u64::from_str_radix(bounds.trim(), 16).expect("a number");
    let held = NAMES.iter().enumerate().filter(|(number, _)| bounds & 1 << number != 0);
    held.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Docker's profile in the form that runtimes take: the rules that hold for this architecture and these capabilities.
fn docker_profile() -> Value {
    let text = fs::read_to_string(PROFILE).expect("Docker's profile");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    let (architecture, all) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => ("amd64", vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    };
    let names = |list: &Value, of: &[&str]| {
        list.as_array()
            .is_some_and(|list| list.iter().any(|name| of.contains(&name.as_str().unwrap_or_default())))
    };
    let holds = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let wanted = |key: &str, of: &[&str]| includes[key].is_null() || names(&includes[key], of);
        wanted("arches", &[architecture])
            && wanted("caps", &DOCKER)
            && !names(&excludes["arches"], &[architecture])
            && !names(&excludes["caps"], &DOCKER)
    };
    let rules: Vec<Value> =
        profile["syscalls"].as_array().expect("rules").iter().filter(holds).map(plain).collect();
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": all,
        "syscalls": rules,
    })
}

/// Without Docker's own keys.
fn plain(rule: &Value) -> Value {
    let kept = ["names", "action", "errnoRet", "args"].iter().filter(|key| !rule[**key].is_null());
    kept.map(|key| ((*key).to_owned(), rule[*key].clone())).collect::<serde_json::Map<_, _>>().into()
}
