//! Which calls are supervised, and what their registers mean on each architecture.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::seccomp;
use crate::supervise::credentials::{Change, Kind};
use crate::sys::Notification;

const CURRENT_DIRECTORY: i32 = libc::AT_FDCWD;
const NO_FOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
#[cfg(target_arch = "x86_64")]
const NARROW: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const NARROW: u32 = 0x4000_0028;

/// The file that a call names: a path from a folder on, or the open file itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) folder: i32,
    /// Address of the path in the caller's memory; `None` for the calls about an open file.
    pub(super) path: Option<u64>,
    pub(super) follow: bool,
    /// An empty path means the open file.
    pub(super) or_open: bool,
}

impl Named {
    fn at(folder: u64, path: u64, flags: u64) -> Self {
        let flags = flags as u32;
        Self {
            folder: folder as i32,
            path: Some(path),
            follow: flags & NO_FOLLOW == 0,
            or_open: flags & EMPTY_PATH != 0,
        }
    }

    fn path(path: u64) -> Self {
        Self { folder: CURRENT_DIRECTORY, path: Some(path), follow: true, or_open: false }
    }

    fn link(path: u64) -> Self {
        Self { follow: false, ..Self::path(path) }
    }

    fn open(fd: u64) -> Self {
        Self { folder: fd as i32, path: None, follow: true, or_open: true }
    }
}

/// Where the answer of a stat goes, and how it is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) enum StatInto {
    /// `struct stat` of the native architecture.
    Stat(u64),
    /// `struct stat64` of i386 and arm.
    Narrow(u64),
    Statx {
        address: u64,
        flags: u32,
        mask: u32,
    },
}

/// What is made by name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Make {
    Folder { mode: u32 },
    Node { mode: u32, device: u64 },
    Link { target: u64 },
}

/// A supervised call.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Chown(Named, u32, u32),
    Chmod(Named, u32),
    Stat(Named, StatInto),
    Access(Named, u32, bool),
    Open {
        file: Named,
        flags: u32,
        mode: u32,
    },
    /// `open` with its flags in memory.
    OpenHow {
        file: Named,
        how: u64,
    },
    Make(Named, Make),
    SetXattr {
        file: Named,
        name: u64,
        value: u64,
        size: u64,
    },
    ListXattr {
        file: Named,
        list: u64,
        size: u64,
    },
    Execute(Named),
    Change(Change),
    /// Groups to be read from memory: how many, from where.
    SetGroups(u64, u64),
    GetId(Kind, bool),
    GetThree(Kind, [u64; 3]),
    GetGroups(u64, u64),
    CapGet {
        header: u64,
        data: u64,
    },
    CapSet {
        header: u64,
    },
    ChangeRoot,
    Exit,
}

/// The shape of a call, found once for each number.
type Decode = fn(&[u64; 6]) -> Call;

/// Numbers of the supervised calls of each architecture.
#[derive(Debug)]
pub(super) struct Calls {
    known: HashMap<(u32, u32), (Decode, bool)>,
}

impl Calls {
    /// The table, made once.
    pub(super) fn get() -> &'static Self {
        static CALLS: OnceLock<Calls> = OnceLock::new();
        CALLS.get_or_init(Self::new)
    }

    fn new() -> Self {
        let mut known = HashMap::new();
        for call in seccomp::calls() {
            let narrow = call.architecture == NARROW;
            if let Some(decode) = decode(call.name, narrow) {
                known.insert((call.architecture, call.number), (decode, narrow));
            }
        }
        Self { known }
    }

    /// What is asked for; `None` for a call that the filter let through to us by mistake.
    pub(super) fn decode(&self, call: &Notification) -> Option<Call> {
        let (decode, narrow) = self.known.get(&(call.architecture, call.number))?;
        let mut arguments = call.arguments;
        if *narrow {
            arguments.iter_mut().for_each(|argument| *argument &= 0xffff_ffff);
        }
        Some(decode(&arguments))
    }
}

/// Whether a call is to be told to the supervisor, and then under which condition.
pub(super) fn supervised(name: &str, narrow: bool, watch_access: bool) -> Option<seccomp::Told> {
    const CREATES: u32 = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
    decode(name, narrow)?;
    match name {
        "open" if !watch_access => Some(seccomp::Told::IfBits { argument: 1, bits: CREATES }),
        "openat" if !watch_access => Some(seccomp::Told::IfBits { argument: 2, bits: CREATES }),
        "access" | "faccessat" | "faccessat2" if !watch_access => None,
        _ => Some(seccomp::Told::Always),
    }
}

/// The narrow architectures have calls with ids of 16 bits beside those named `…32`, which every C library of this
/// century uses: the old ones are left to the kernel.
fn decode(name: &str, narrow: bool) -> Option<Decode> {
    const WIDENED: [&str; 19] = [
        "chown",
        "fchown",
        "lchown",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getresuid",
        "getresgid",
        "getgroups",
        "setuid",
        "setgid",
        "setreuid",
        "setregid",
        "setresuid",
        "setresgid",
        "setfsuid",
        "setfsgid",
        "setgroups",
    ];
    if narrow && WIDENED.contains(&name) {
        return None;
    }
    let name = name.strip_suffix("32").unwrap_or(name);
    files(name, narrow).or_else(|| making(name)).or_else(|| identity(name))
}

fn files(name: &str, narrow: bool) -> Option<Decode> {
    // Arm's own layout is not known here: its programs see what the kernel says.
    let narrow_stat = narrow && cfg!(target_arch = "x86_64");
    Some(match name {
        "chown" => |a| Call::Chown(Named::path(a[0]), a[1] as u32, a[2] as u32),
        "lchown" => |a| Call::Chown(Named::link(a[0]), a[1] as u32, a[2] as u32),
        "fchown" => |a| Call::Chown(Named::open(a[0]), a[1] as u32, a[2] as u32),
        "fchownat" => |a| Call::Chown(Named::at(a[0], a[1], a[4]), a[2] as u32, a[3] as u32),
        "chmod" => |a| Call::Chmod(Named::path(a[0]), a[1] as u32),
        "fchmod" => |a| Call::Chmod(Named::open(a[0]), a[1] as u32),
        "fchmodat" => |a| Call::Chmod(Named::at(a[0], a[1], 0), a[2] as u32),
        "fchmodat2" => |a| Call::Chmod(Named::at(a[0], a[1], a[3]), a[2] as u32),
        "stat" if !narrow => |a| Call::Stat(Named::path(a[0]), StatInto::Stat(a[1])),
        "lstat" if !narrow => |a| Call::Stat(Named::link(a[0]), StatInto::Stat(a[1])),
        "fstat" if !narrow => |a| Call::Stat(Named::open(a[0]), StatInto::Stat(a[1])),
        "newfstatat" => |a| Call::Stat(Named::at(a[0], a[1], a[3]), StatInto::Stat(a[2])),
        "stat64" if narrow_stat => |a| Call::Stat(Named::path(a[0]), StatInto::Narrow(a[1])),
        "lstat64" if narrow_stat => |a| Call::Stat(Named::link(a[0]), StatInto::Narrow(a[1])),
        "fstat64" if narrow_stat => |a| Call::Stat(Named::open(a[0]), StatInto::Narrow(a[1])),
        "fstatat64" if narrow_stat => |a| Call::Stat(Named::at(a[0], a[1], a[3]), StatInto::Narrow(a[2])),
        "statx" => |a| {
            let into = StatInto::Statx { address: a[4], flags: a[2] as u32, mask: a[3] as u32 };
            Call::Stat(Named::at(a[0], a[1], a[2]), into)
        },
        "access" => |a| Call::Access(Named::path(a[0]), a[1] as u32, false),
        "faccessat" => |a| Call::Access(Named::at(a[0], a[1], 0), a[2] as u32, false),
        "faccessat2" => |a| {
            let effective = a[3] & libc::AT_EACCESS as u64 != 0;
            Call::Access(Named::at(a[0], a[1], a[3]), a[2] as u32, effective)
        },
        "setxattr" => |a| set_xattr(Named::path(a[0]), a),
        "lsetxattr" => |a| set_xattr(Named::link(a[0]), a),
        "fsetxattr" => |a| set_xattr(Named::open(a[0]), a),
        "listxattr" => |a| Call::ListXattr { file: Named::path(a[0]), list: a[1], size: a[2] },
        "llistxattr" => |a| Call::ListXattr { file: Named::link(a[0]), list: a[1], size: a[2] },
        "flistxattr" => |a| Call::ListXattr { file: Named::open(a[0]), list: a[1], size: a[2] },
        "execve" => |a| Call::Execute(Named::path(a[0])),
        "execveat" => |a| Call::Execute(Named::at(a[0], a[1], a[4])),
        _ => return None,
    })
}

fn set_xattr(file: Named, a: &[u64; 6]) -> Call {
    Call::SetXattr { file, name: a[1], value: a[2], size: a[3] }
}

fn making(name: &str) -> Option<Decode> {
    Some(match name {
        "open" => |a| Call::Open { file: Named::path(a[0]), flags: a[1] as u32, mode: a[2] as u32 },
        "openat" => |a| Call::Open { file: Named::at(a[0], a[1], 0), flags: a[2] as u32, mode: a[3] as u32 },
        "openat2" => |a| Call::OpenHow { file: Named::at(a[0], a[1], 0), how: a[2] },
        "creat" => |a| {
            let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
            Call::Open { file: Named::path(a[0]), flags, mode: a[1] as u32 }
        },
        "mkdir" => |a| Call::Make(Named::link(a[0]), Make::Folder { mode: a[1] as u32 }),
        "mkdirat" => |a| Call::Make(Named::at(a[0], a[1], 0), Make::Folder { mode: a[2] as u32 }),
        "mknod" => |a| Call::Make(Named::link(a[0]), Make::Node { mode: a[1] as u32, device: a[2] }),
        "mknodat" => |a| Call::Make(Named::at(a[0], a[1], 0), Make::Node { mode: a[2] as u32, device: a[3] }),
        "symlink" => |a| Call::Make(Named::link(a[1]), Make::Link { target: a[0] }),
        "symlinkat" => |a| Call::Make(Named::at(a[1], a[2], 0), Make::Link { target: a[0] }),
        _ => return None,
    })
}

fn identity(name: &str) -> Option<Decode> {
    use Kind::{Group, User};
    Some(match name {
        "setuid" => |a| Call::Change(Change::Set(User, a[0] as u32)),
        "setgid" => |a| Call::Change(Change::Set(Group, a[0] as u32)),
        "setreuid" => |a| Call::Change(Change::SetTwo(User, a[0] as u32, a[1] as u32)),
        "setregid" => |a| Call::Change(Change::SetTwo(Group, a[0] as u32, a[1] as u32)),
        "setresuid" => |a| Call::Change(Change::SetThree(User, three(a))),
        "setresgid" => |a| Call::Change(Change::SetThree(Group, three(a))),
        "setfsuid" => |a| Call::Change(Change::SetFile(User, a[0] as u32)),
        "setfsgid" => |a| Call::Change(Change::SetFile(Group, a[0] as u32)),
        "setgroups" => |a| Call::SetGroups(a[0], a[1]),
        "getuid" => |_| Call::GetId(User, false),
        "geteuid" => |_| Call::GetId(User, true),
        "getgid" => |_| Call::GetId(Group, false),
        "getegid" => |_| Call::GetId(Group, true),
        "getresuid" => |a| Call::GetThree(User, [a[0], a[1], a[2]]),
        "getresgid" => |a| Call::GetThree(Group, [a[0], a[1], a[2]]),
        "getgroups" => |a| Call::GetGroups(a[0], a[1]),
        "capget" => |a| Call::CapGet { header: a[0], data: a[1] },
        "capset" => |a| Call::CapSet { header: a[0] },
        "chroot" => |_| Call::ChangeRoot,
        "exit_group" => |_| Call::Exit,
        _ => return None,
    })
}

fn three(a: &[u64; 6]) -> [u32; 3] {
    [a[0] as u32, a[1] as u32, a[2] as u32]
}
