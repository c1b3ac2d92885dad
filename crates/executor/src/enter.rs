//! Entering the user namespace and the private mount namespace, once, before any thread.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::{Gid, UnshareFlags, set_thread_res_gid, set_thread_res_uid};

use crate::idmap::{self, Extent, IdMap};
use crate::outside::{Outside, OutsideCommand};
use crate::{Capability, EnterError, InPlace, sys};

/// What kind of place this process is in after [`enter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// Root that may mount, in the user namespace it was started in.
    Root,
    /// Uid 0 of an own user namespace with many ids.
    Mapped,
    /// Uid 0 of an own user namespace with this one id: every file has to belong to it.
    SingleId,
    /// Root of a container without user namespaces and mounts, whose own root file system is there to be built in.
    InPlace,
    /// No user namespace and no mounts: COPY works, RUN does not; [`Place::shortfall`] says why.
    None,
}

/// Where the process stands after [`enter`].
#[derive(Debug)]
pub struct Place {
    kind: PlaceKind,
    id_map: IdMap,
    outside: Outside,
    shortfall: Option<EnterError>,
    in_place: Option<InPlace>,
}

impl Place {
    /// The container whose root is there to be built in; of [`PlaceKind::InPlace`] only.
    pub fn in_place(&self) -> Option<&InPlace> {
        self.in_place.as_ref()
    }

    /// What this place allows.
    pub fn kind(&self) -> PlaceKind {
        self.kind
    }

    /// The ids that files can be given here; its `Display` names the store's snapshots.
    pub fn id_map(&self) -> &IdMap {
        &self.id_map
    }

    /// Runs commands as the calling user.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Why it is not a better place; `None` for [`PlaceKind::Root`] and for a full map.
    pub fn shortfall(&self) -> Option<&EnterError> {
        self.shortfall.as_ref()
    }
}

/// Which way to go about it; `--isolation` of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The widest rights to be had.
    #[default]
    Auto,
    /// Real root, or a user namespace with many ids; nothing less.
    Namespace,
    /// A user namespace with one id, whatever more could be had.
    SingleId,
    /// The container's own root file system, where it is marked as made for that.
    InPlace,
    /// No namespaces: RUN is refused.
    None,
}

/// Takes the widest rights to be had, or those that are asked for: real root, or a user namespace with all subordinate ids, or
/// one with a single id.
///
/// Call it before the first thread: `unshare(CLONE_NEWUSER)` wants a process with one. No way down leaves the process
/// half inside: a forked trial goes the whole way (namespace, map, mount) before this process takes the first step.
/// An error is a surprise after that trial, or that this place does not give what was asked for; without being asked, a place
/// that simply has no user namespaces is [`PlaceKind::None`].
pub fn enter(isolation: Isolation) -> Result<Place, EnterError> {
    match isolation {
        Isolation::None => return Ok(nowhere(EnterError::NotWanted)),
        Isolation::InPlace => {
            let found = InPlace::here().map_err(EnterError::NotInPlace)?;
            return in_container(found, EnterError::NotWanted);
        }
        Isolation::SingleId => {}
        Isolation::Auto | Isolation::Namespace => {
            if has(capability("SYS_ADMIN")) && private_mounts().is_ok() {
                return Ok(Place {
                    kind: PlaceKind::Root,
                    id_map: current_map()?,
                    outside: Outside::direct(),
                    shortfall: None,
                    in_place: None,
                });
            }
        }
    }
    match try_in_child() {
        Ok(()) => enter_namespace(isolation),
        Err(refused) if isolation == Isolation::Auto => match InPlace::here() {
            Ok(found) => in_container(found, refused),
            Err(_) => Ok(nowhere(refused)),
        },
        Err(refused) => Err(refused),
    }
}

/// The place of a process that stays as it is.
fn nowhere(why: EnterError) -> Place {
    let id_map = IdMap { uids: own(getuid().as_raw()), gids: own(getgid().as_raw()) };
    Place { kind: PlaceKind::None, id_map, outside: Outside::direct(), shortfall: Some(why), in_place: None }
}

/// The place of a process that builds in the container's own root, with all ids of the host.
fn in_container(found: InPlace, why: EnterError) -> Result<Place, EnterError> {
    let (kind, outside) = (PlaceKind::InPlace, Outside::direct());
    Ok(Place { kind, id_map: current_map()?, outside, shortfall: Some(why), in_place: Some(found) })
}

fn enter_namespace(isolation: Isolation) -> Result<Place, EnterError> {
    // Everything that only the outside can tell is read before the door closes.
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let parent = current_map()?;
    let way = match (isolation, Way::here(uid, gid)) {
        (Isolation::SingleId, _) => Way::Single(EnterError::NotWanted),
        (Isolation::Namespace, Way::Single(why)) => return Err(why),
        (_, way) => way,
    };
    let outside = Outside::fork().map_err(|e| EnterError::step("fork the broker", e))?;
    sys::unshare(UnshareFlags::NEWUSER).map_err(|e| EnterError::step("unshare the user namespace", e))?;
    let shortfall = way.take(&outside, &parent, uid, gid)?;
    let shortfall = match (isolation, shortfall) {
        (Isolation::Namespace, Some(why)) => return Err(why),
        (_, shortfall) => shortfall,
    };
    become_root()?;
    private_mounts().map_err(|e| EnterError::step("unshare the mount namespace", e))?;
    let id_map = seen_from_the_host(current_map()?, parent);
    let kind = if id_map.is_single() { PlaceKind::SingleId } else { PlaceKind::Mapped };
    Ok(Place { kind, id_map, outside, shortfall, in_place: None })
}

/// The map to ask for, decided while still outside.
enum Way {
    /// Every id of the parent namespace, written by a process there that holds CAP_SETUID and CAP_SETGID.
    Full,
    /// The user's subordinate ranges, through the setuid programs.
    Subordinate { uids: Vec<Extent>, gids: Vec<Extent> },
    /// Nothing but the own id, and why.
    Single(EnterError),
}

impl Way {
    fn here(uid: u32, gid: u32) -> Self {
        if has(capability("SETUID")) && has(capability("SETGID")) {
            return Self::Full;
        }
        subordinate_way(uid, gid).unwrap_or_else(Self::Single)
    }

    /// Writes the map from outside; `Some` is why only the own id could be mapped.
    fn take(
        self,
        outside: &Outside,
        parent: &IdMap,
        uid: u32,
        gid: u32,
    ) -> Result<Option<EnterError>, EnterError> {
        let refused = match self {
            Self::Full => {
                let whole = |extents: &[Extent]| -> String {
                    lines(&extents.iter().map(|e| Extent { outside: e.inside, ..*e }).collect::<Vec<_>>())
                };
                // Mapping uid 0 of the parent takes CAP_SETFCAP there since Linux 5.12.
                match outside.write_maps(&whole(&parent.uids), &whole(&parent.gids), false) {
                    Ok(()) => return Ok(None),
                    Err(e) => EnterError::step("write a full id map", e),
                }
            }
            Self::Subordinate { uids, gids } => {
                let users = run_map_program(outside, "newuidmap", &uids);
                match users.and_then(|()| run_map_program(outside, "newgidmap", &gids)) {
                    Ok(()) => return Ok(None),
                    Err(e) => e,
                }
            }
            Self::Single(why) => why,
        };
        match outside.write_maps(&lines(&own_as_root(uid)), &lines(&own_as_root(gid)), true) {
            Ok(()) => Ok(Some(refused)),
            // A map is written once: newuidmap may have done its half before newgidmap refused.
            Err(_) => Err(refused),
        }
    }
}

/// A map that shows each id of the parent as itself is the parent's own: same owners on disk, same name.
fn seen_from_the_host(map: IdMap, parent: IdMap) -> IdMap {
    let same = |e: &Extent| e.inside == e.outside;
    if map.uids.iter().chain(&map.gids).all(same) { parent } else { map }
}

fn subordinate_way(uid: u32, gid: u32) -> Result<Way, EnterError> {
    let name = account_name(uid);
    let ranges = |file: &'static str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let ranges = idmap::subordinate_ranges(&text, name.as_deref(), uid);
        let user = name.clone().unwrap_or_else(|| uid.to_string());
        if ranges.is_empty() { Err(EnterError::NoSubordinateIds { user, file }) } else { Ok(ranges) }
    };
    let (uids, gids) = (ranges("/etc/subuid")?, ranges("/etc/subgid")?);
    for program in ["newuidmap", "newgidmap"] {
        find_program(program).ok_or(EnterError::NoMapProgram { program })?;
    }
    Ok(Way::Subordinate { uids: idmap::stacked(uid, &uids), gids: idmap::stacked(gid, &gids) })
}

/// The account's name. Not by the C library, whose look-up loads plug-ins of the host's: in a static program that crashes.
fn account_name(uid: u32) -> Option<String> {
    let number = uid.to_string();
    let find = |text: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
    };
    let listed = find(&std::fs::read_to_string("/etc/passwd").unwrap_or_default());
    listed.or_else(|| {
        // Accounts of a directory service.
        let asked =
            std::process::Command::new(find_program("getent")?).args(["passwd", &number]).output().ok()?;
        find(&String::from_utf8_lossy(&asked.stdout))
    })
}

/// The places where distributions put it; the user's PATH is not the library's to read.
fn find_program(name: &str) -> Option<OsString> {
    [
        "/usr/bin",
        "/bin",
        "/usr/local/bin",
        "/usr/sbin",
        "/sbin",
        "/run/wrappers/bin",
        "/run/current-system/sw/bin",
    ]
    .map(|dir| Path::new(dir).join(name))
    .into_iter()
    .find(|path| path.exists())
    .map(Into::into)
}

fn run_map_program(outside: &Outside, program: &'static str, extents: &[Extent]) -> Result<(), EnterError> {
    let path = find_program(program).ok_or(EnterError::NoMapProgram { program })?;
    let numbers = extents.iter().flat_map(|e| [e.inside, e.outside, e.count]);
    let argv = [path, std::process::id().to_string().into()].into_iter();
    let argv = argv.chain(numbers.map(|n| n.to_string().into())).collect();
    let output = outside
        .run(&OutsideCommand { argv, ..OutsideCommand::default() })
        .map_err(|e| EnterError::MapProgram { program, message: e.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let message = if words.is_empty() { output.status.to_string() } else { words };
    Err(EnterError::MapProgram { program, message })
}

fn become_root() -> Result<(), EnterError> {
    // The single-threaded process is its one thread. Supplementary groups stay: they may be what lets the user read his
    // own context; a sandbox sets its own.
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(|e| EnterError::step("become group 0", e))?;
    set_thread_res_uid(sys::ROOT, sys::ROOT, sys::ROOT).map_err(|e| EnterError::step("become user 0", e))
}

/// A mount namespace whose mounts stay here, while those that the host makes later still come in.
fn private_mounts() -> rustix::io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Goes the whole way in a child: the only honest probe. Ubuntu 24.04 lets `unshare` pass and denies what follows.
fn try_in_child() -> Result<(), EnterError> {
    const NAMESPACE: u8 = 1;
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let outcome = sys::in_child(|| {
        sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|e| (NAMESPACE, e))?;
        let write = |file: &str, text: String| {
            std::fs::write(Path::new("/proc/self").join(file), text)
                .map_err(|e| (NAMESPACE, Errno::from_io_error(&e).unwrap_or(Errno::IO)))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", lines(&own_as_root(uid)))?;
        write("gid_map", lines(&own_as_root(gid)))?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(|e| (0, e))?;
        sys::mount_tmpfs_somewhere().map_err(|e| (0, e))
    });
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err((NAMESPACE, e))) => Err(EnterError::UserNamespace { knob: knob(SYSCTLS), source: e.into() }),
        Ok(Err((_, e))) => Err(EnterError::Mount { knob: knob(SYSCTLS), source: e.into() }),
        Err(e) => Err(EnterError::step("fork a trial", e)),
    }
}

/// Where the kernel's switches are files.
const SYSCTLS: &str = "/proc/sys";

/// The kernel's switch that forbids user namespaces here, if one does.
fn knob(sysctls: impl AsRef<Path>) -> Option<String> {
    let forbids = [
        ("user/max_user_namespaces", "user.max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_userns", "1"),
    ];
    forbids.into_iter().find_map(|(file, name, value)| {
        let text = std::fs::read_to_string(sysctls.as_ref().join(file)).ok()?;
        (text.trim() == value).then(|| format!("{name} is {value}"))
    })
}

fn current_map() -> Result<IdMap, EnterError> {
    let read = |file| {
        std::fs::read_to_string(file)
            .map_err(|e| EnterError::Step { action: "read the id map of /proc/self", source: e })
    };
    Ok(IdMap::parse(&read("/proc/self/uid_map")?, &read("/proc/self/gid_map")?))
}

fn own(id: u32) -> Vec<Extent> {
    vec![Extent { inside: id, outside: id, count: 1 }]
}

fn own_as_root(id: u32) -> Vec<Extent> {
    vec![Extent { inside: 0, outside: id, count: 1 }]
}

fn lines(extents: &[Extent]) -> String {
    extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
}

#[expect(clippy::expect_used, reason = "called with names of the table only")]
fn capability(name: &str) -> Capability {
    name.parse().expect("a known capability")
}

fn has(capability: Capability) -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| crate::CapabilitySet::from_bits(sets.effective.bits()).contains(capability))
}

impl EnterError {
    fn step(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Step { action, source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_remedy() {
        let error = EnterError::NoSubordinateIds { user: "ada".into(), file: "/etc/subuid" };
        assert!(error.remedy().unwrap().contains("ada:100000:65536"));
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = EnterError::UserNamespace { knob: Some("user.max_user_namespaces is 0".into()), source };
        assert!(error.to_string().ends_with("(user.max_user_namespaces is 0)"));
        assert!(error.remedy().unwrap().contains("user.max_user_namespaces=15000"));
    }

    /// As Ubuntu does since 23.10: the namespace is made, and what needs a capability in it is denied.
    #[test]
    fn the_switch_of_apparmor_is_named_with_its_profile_line() {
        let sysctls = tempfile::tempdir().unwrap();
        std::fs::create_dir(sysctls.path().join("kernel")).unwrap();
        let file = sysctls.path().join("kernel/apparmor_restrict_unprivileged_userns");
        std::fs::write(&file, "0\n").unwrap();
        assert_eq!(knob(sysctls.path()), None);
        std::fs::write(&file, "1\n").unwrap();
        for error in [
            EnterError::Mount { knob: knob(sysctls.path()), source: Errno::ACCESS.into() },
            EnterError::UserNamespace { knob: knob(sysctls.path()), source: Errno::PERM.into() },
        ] {
            assert!(
                error.to_string().ends_with("(kernel.apparmor_restrict_unprivileged_userns is 1)"),
                "{error}"
            );
            let remedy = error.remedy().unwrap();
            assert!(remedy.contains("sysctl kernel.apparmor_restrict_unprivileged_userns=0"), "{remedy}");
            assert!(remedy.contains("AppArmor profile with the line `userns,`"), "{remedy}");
        }
    }
}
