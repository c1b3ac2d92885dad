//! Which calls pass, for which architecture, under which capabilities.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::bpf::{Action, Leaf, Segment, program};
use crate::CapabilitySet;
use crate::sys::Instruction;

const TABLE: &str = include_str!("docker-default.txt");

const DENIED: Action = Action::Errno(libc::EPERM as u16);
const UNKNOWN: Action = Action::Errno(libc::ENOSYS as u16);

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// Sockets to the hypervisor reach outside of any network namespace.
const AF_VSOCK: u32 = 40;
/// The execution domains of Linux itself, with and without a 3 GiB address space and UNAME26, and the question which one it is.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// One column of the table; an x32 call is an x86-64 call with bit 30 in its number.
struct Column {
    audit: u32,
    index: usize,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&[Column]] = &[
    &[Column { audit: 0xc000_003e, index: 0 }, Column { audit: 0xc000_003e, index: 2 }],
    &[Column { audit: 0x4000_0003, index: 1 }],
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&[Column]] =
    &[&[Column { audit: 0xc000_00b7, index: 3 }], &[Column { audit: 0x4000_0028, index: 4 }]];

/// The filter for a command with these capabilities: some hundred instructions of BPF. The usual one is made once.
pub(crate) fn docker_filter(capabilities: CapabilitySet) -> Vec<Instruction> {
    static USUAL: OnceLock<Vec<Instruction>> = OnceLock::new();
    if capabilities == CapabilitySet::docker() {
        return USUAL.get_or_init(|| build(capabilities)).clone();
    }
    build(capabilities)
}

/// The same for a supervised command; with `None` a call that is not supervised is allowed.
/// `tell` says which calls are: name, and whether the architecture is the narrow one.
pub(crate) fn supervised_filter(
    capabilities: Option<CapabilitySet>,
    tell: &dyn Fn(&str, bool) -> Option<Told>,
) -> Vec<Instruction> {
    assemble(
        &|call, condition| {
            let ruled = capabilities.map_or(Leaf::Do(Action::Allow), |set| leaf(condition, set));
            match tell(call.name, call.narrow) {
                // What the profile refuses stays refused.
                Some(Told::Always) if ruled == Leaf::Do(Action::Allow) => Leaf::Do(Action::Tell),
                Some(Told::IfBits { argument, bits }) if ruled == Leaf::Do(Action::Allow) => {
                    Leaf::TellIfBits { argument, bits }
                }
                _ => ruled,
            }
        },
        capabilities.is_some(),
    )
}

/// Docker's for a command that is to have no network where no namespace can be had: sockets of this machine only.
pub(crate) fn no_network_filter(capabilities: CapabilitySet) -> Vec<Instruction> {
    const LOCAL: &[u32] = &[libc::AF_UNIX as u32, libc::AF_NETLINK as u32];
    const NO_FAMILY: Action = Action::Errno(libc::EAFNOSUPPORT as u16);
    assemble(
        &|call, condition| match call.name {
            "socket" => Leaf::Only(LOCAL, NO_FAMILY),
            // It has the family in memory, where no filter can look.
            "socketcall" => Leaf::Do(UNKNOWN),
            _ => leaf(condition, capabilities),
        },
        true,
    )
}

/// When a supervised call is told to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Always,
    /// When this argument has one of these bits.
    IfBits {
        argument: u8,
        bits: u32,
    },
}

/// A call of one architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbered {
    pub(crate) name: &'static str,
    /// `AUDIT_ARCH_*`.
    pub(crate) architecture: u32,
    pub(crate) number: u32,
    /// It takes 32-bit arguments.
    pub(crate) narrow: bool,
}

/// Every call that the profile names, on every architecture here.
pub(crate) fn calls() -> impl Iterator<Item = Numbered> {
    ARCHITECTURES
        .iter()
        .flat_map(|columns| columns.iter())
        .flat_map(|column| rows(column).map(|(call, _)| call))
}

fn rows(column: &'static Column) -> impl Iterator<Item = (Numbered, &'static str)> {
    let Column { audit: architecture, index } = *column;
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        let mut fields = line.split(' ');
        let name = fields.next()?;
        let fields: Vec<&str> = fields.collect();
        let number = fields.get(index)?.parse().ok()?;
        let narrow = matches!(index, 1 | 4);
        Some((Numbered { name, architecture, number, narrow }, *fields.get(5)?))
    })
}

fn build(capabilities: CapabilitySet) -> Vec<Instruction> {
    assemble(&|_, condition| leaf(condition, capabilities), true)
}

type Rule<'a> = &'a dyn Fn(Numbered, &str) -> Leaf;

fn assemble(rule: Rule<'_>, refuse: bool) -> Vec<Instruction> {
    let sections: Vec<_> = ARCHITECTURES
        .iter()
        .map(|columns| {
            let segments = columns.iter().flat_map(|column| segments(column, rule, refuse));
            (columns[0].audit, segments.collect::<Vec<_>>())
        })
        .collect();
    program(&sections)
}

/// The number space of one column as segments. A call beyond all that the profile names is newer than it: ENOSYS, as runc
/// answers, so that a C library takes its older way; any other call that is not named is refused with EPERM.
fn segments(column: &'static Column, rule: Rule<'_>, refuse: bool) -> Vec<Segment> {
    let known: BTreeMap<u32, Leaf> =
        rows(column).map(|(call, condition)| (call.number, rule(call, condition))).collect();
    let (denied, unknown) = if refuse { (DENIED, UNKNOWN) } else { (Action::Allow, Action::Allow) };
    let start = if column.index == 2 { 1 << 30 } else { 0 };
    let mut out = vec![Segment { start, leaf: Leaf::Do(denied) }];
    let numbers: Vec<u32> = known.keys().copied().collect();
    for (index, (&number, &leaf)) in known.iter().enumerate() {
        push(&mut out, number, leaf);
        // Arm's own calls lie far above the common ones.
        let far = numbers.get(index + 1).is_some_and(|next| next - number > 1000);
        push(&mut out, number + 1, Leaf::Do(if far { unknown } else { denied }));
    }
    if let Some(segment) = out.last_mut() {
        segment.leaf = Leaf::Do(unknown);
    }
    out
}

/// Starts a new segment, or goes on with the last one where nothing changes.
fn push(segments: &mut Vec<Segment>, start: u32, leaf: Leaf) {
    if segments.last().is_some_and(|last| last.start == start) {
        segments.pop();
    }
    if segments.last().is_none_or(|last| last.leaf != leaf) {
        segments.push(Segment { start, leaf });
    }
}

fn leaf(condition: &str, capabilities: CapabilitySet) -> Leaf {
    let holds = |name: &str| name.parse().is_ok_and(|capability| capabilities.contains(capability));
    let administrator = holds("SYS_ADMIN");
    match condition {
        "*" => Leaf::Do(Action::Allow),
        "?clone" | "?clone3" if administrator => Leaf::Do(Action::Allow),
        "?clone" => Leaf::UnlessBits(NEW_NAMESPACES, DENIED),
        // Its flags lie in memory, where no filter can look.
        "?clone3" => Leaf::Do(UNKNOWN),
        "?socket" => Leaf::Unless(AF_VSOCK, DENIED),
        "?personality" => Leaf::Only(PERSONALITIES, DENIED),
        names if names.split('|').any(holds) => Leaf::Do(Action::Allow),
        _ => Leaf::Do(DENIED),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::bpf::evaluate;
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;
    const X32: u32 = 1 << 30;

    #[test]
    fn what_docker_allows_and_refuses() {
        let filter = docker_filter(CapabilitySet::docker());
        let table = [
            (X86_64, 0, 0, Action::Allow, "read"),
            (X86_64, 59, 0, Action::Allow, "execve"),
            (X86_64, 165, 0, DENIED, "mount"),
            (X86_64, 272, 0, DENIED, "unshare"),
            (X86_64, 250, 0, DENIED, "keyctl"),
            (X86_64, 161, 0, Action::Allow, "chroot, by CAP_SYS_CHROOT"),
            (X86_64, 435, 0, UNKNOWN, "clone3"),
            (X86_64, 425, 0, DENIED, "io_uring_setup"),
            (X86_64, 466, 0, Action::Allow, "removexattrat"),
            (X86_64, 467, 0, UNKNOWN, "open_tree_attr, newer than the profile"),
            (X86_64, 5000, 0, UNKNOWN, "no such call"),
            (X86_64, 56, 0x11, Action::Allow, "clone(SIGCHLD)"),
            (X86_64, 56, 0x1000_0011, DENIED, "clone(NEWUSER)"),
            (X86_64, 56, 0x0002_0011, DENIED, "clone(NEWNS)"),
            (X86_64, 41, 2, Action::Allow, "socket(AF_INET)"),
            (X86_64, 41, 40, DENIED, "socket(AF_VSOCK)"),
            (X86_64, 41, 0x1_0000_0028, DENIED, "socket(AF_VSOCK) with a high half"),
            (X86_64, 135, 0, Action::Allow, "personality(0)"),
            (X86_64, 135, 0xffff_ffff, Action::Allow, "personality(query)"),
            (X86_64, 135, 0x0004_0000, DENIED, "personality(ADDR_NO_RANDOMIZE)"),
            (X86_64, X32, 0, Action::Allow, "x32 read"),
            (X86_64, X32 + 165, 0, DENIED, "x32 mount"),
            (X86_64, X32 + 5000, 0, UNKNOWN, "no such x32 call"),
            (X86, 3, 0, Action::Allow, "i386 read"),
            (X86, 21, 0, DENIED, "i386 mount"),
            (X86, 120, 0x1000_0011, DENIED, "i386 clone(NEWUSER)"),
            (0xc000_00b7, 63, 0, Action::Kill, "another machine's"),
        ];
        for (architecture, number, argument, expected, name) in table {
            assert_eq!(evaluate(&filter, architecture, number, argument), expected, "{name}");
        }
    }

    #[test]
    fn capabilities_open_calls() {
        let admin = CapabilitySet::docker().adjusted(&["SYS_ADMIN", "SYSLOG"], &["SYS_CHROOT"]).unwrap();
        let filter = docker_filter(admin);
        for (number, argument, expected) in [
            (165, 0, Action::Allow),
            (56, 0x1000_0011, Action::Allow),
            (435, 0, Action::Allow),
            (103, 0, Action::Allow),
            (161, 0, DENIED),
        ] {
            assert_eq!(evaluate(&filter, X86_64, number, argument), expected, "{number}");
        }
    }

    #[test]
    fn without_a_network_only_local_sockets_are_made() {
        let filter = no_network_filter(CapabilitySet::docker());
        let refused = Action::Errno(libc::EAFNOSUPPORT as u16);
        for (architecture, number, argument, expected, name) in [
            (X86_64, 41, 1, Action::Allow, "socket(AF_UNIX)"),
            (X86_64, 41, 16, Action::Allow, "socket(AF_NETLINK)"),
            (X86_64, 41, 2, refused, "socket(AF_INET)"),
            (X86_64, 41, 10, refused, "socket(AF_INET6)"),
            (X86_64, 41, 17, refused, "socket(AF_PACKET)"),
            (X86_64, 425, 0, DENIED, "io_uring_setup, which makes sockets without the call"),
            (X86_64, X32 + 41, 2, refused, "x32 socket(AF_INET)"),
            (X86, 359, 2, refused, "i386 socket(AF_INET)"),
            (X86, 102, 1, UNKNOWN, "i386 socketcall"),
            (X86_64, 59, 0, Action::Allow, "execve"),
        ] {
            assert_eq!(evaluate(&filter, architecture, number, argument), expected, "{name}");
        }
    }

    #[test]
    fn it_fits_the_kernels_limit() {
        let filter = docker_filter(CapabilitySet::docker());
        assert!(filter.len() < 4096, "{} instructions", filter.len());
    }
}
