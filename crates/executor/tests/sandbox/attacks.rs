//! A command that wants out. Each test lets it try, and looks outside whether anything was reached.
//!
//! What a shell cannot do is done by this test program itself, bound into the sandbox with the libraries it needs.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;

use rbuild_executor::{Mount, MountKind, Network, Source};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fixture::{Box, Ran, Test, directory, run_spec};
use crate::keys;
use crate::raw::call;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("paths_end_at_the_root", paths_end_at_the_root),
        ("a_root_within_the_root_leads_nowhere", a_root_within_the_root_leads_nowhere),
        ("no_namespace_of_the_host_can_be_joined", no_namespace_of_the_host_can_be_joined),
        ("nothing_can_be_mounted_or_unmounted", nothing_can_be_mounted_or_unmounted),
        ("rbuild_cannot_be_traced", rbuild_cannot_be_traced),
        ("no_process_can_be_traced", no_process_can_be_traced),
        ("no_key_of_the_host_is_found", no_key_of_the_host_is_found),
        ("another_root_cannot_be_pivoted_to", another_root_cannot_be_pivoted_to),
        ("no_mount_writes_to_the_host", no_mount_writes_to_the_host),
        ("kernel_files_refuse_writes", kernel_files_refuse_writes),
        ("signals_stay_inside", signals_stay_inside),
        ("abstract_sockets_of_the_host_are_out_of_reach", abstract_sockets_of_the_host_are_out_of_reach),
        ("devices_that_a_command_makes_are_closed", devices_that_a_command_makes_are_closed),
        ("open_files_lead_nowhere", open_files_lead_nowhere),
    ]
}

/// A word that no attack may read, and a file with it that none may change.
const WORD: &str = "the-hosts-own-word";

struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Self {
        let folder = directory();
        fs::write(folder.path().join("file"), WORD).unwrap();
        Canary(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("file")
    }

    #[track_caller]
    fn is_untouched(&self, ran: &Ran) {
        assert!(!ran.stdout.contains(WORD) && !ran.stderr.contains(WORD), "read: {ran:?}");
        assert_eq!(fs::read_to_string(self.file()).unwrap(), WORD, "written to: {ran:?}");
        let names: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "{ran:?}");
    }
}

/// Runs lines of a shell, in which `$C` is the canary's path on the host and `$P` this process' number.
fn attack(canary: &Canary, lines: &str) -> Ran {
    let sandbox = Box::new();
    let line = format!("C={} P={}; {lines}", canary.file().display(), std::process::id());
    run_spec(&sandbox.spec(&["sh", "-c", &line]))
}

/// Runs [`attacker`] in a sandbox, with the libraries of this machine.
fn attack_by_program(what: &[&str], network: Network) -> Ran {
    attack_with_rights(what, network, false)
}

fn attack_with_rights(what: &[&str], network: Network, privileged: bool) -> Ran {
    let sandbox = Box::new();
    let argv = [&["/attack/program", "--attack"], what].concat();
    let mut spec = sandbox.spec(&argv);
    spec.env.push((crate::ROLE.into(), "attacker".into()));
    spec.network = network;
    spec.privileged = privileged;
    let bind = |target: &str, source: &Path| Mount {
        target: target.into(),
        kind: MountKind::Bind { source: Source::Path(source.into()), read_only: true },
    };
    // A copy: not everybody may enter the folders above the program.
    let program = directory();
    fs::copy("/proc/self/exe", program.path().join("program")).unwrap();
    spec.mounts.push(bind("/attack/program", &program.path().join("program")));
    for libraries in ["/lib", "/lib64", "/usr/lib"] {
        let source = Path::new(libraries).canonicalize();
        spec.mounts.extend(source.iter().map(|source| bind(libraries, source)));
    }
    run_spec(&spec)
}

/// What the program does inside. It says `reached` for what must not be.
pub(crate) fn attacker() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip_while(|word| word != "--attack").skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let reached = match words[..] {
        ["socket", name] => connect(name),
        ["own-socket"] => {
            let listener =
                UnixListener::bind_addr(&SocketAddr::from_abstract_name("inside").unwrap()).unwrap();
            let reached = connect("inside");
            drop(listener);
            reached
        }
        ["namespaces"] => joins_a_namespace(),
        ["trace"] => traces_a_process(),
        ["pivot-root"] => pivots(),
        ["keys", serial, name] => keys::reaches(serial, name),
        ["root-in-root", canary] => leaves_by_another_root(canary),
        _ => panic!("no such attack: {words:?}"),
    };
    println!("{}", if reached { "reached" } else { "refused" });
    ExitCode::SUCCESS
}

fn connect(name: &str) -> bool {
    let address = SocketAddr::from_abstract_name(name).unwrap();
    UnixStream::connect_addr(&address).is_ok_and(|mut stream| stream.write_all(b"x").is_ok())
}

/// Of every process that can be seen.
fn joins_a_namespace() -> bool {
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mut reached = false;
    for process in processes.filter(|path| path.join("ns").exists()) {
        for (name, kind) in [
            ("mnt", LinkNameSpaceType::Mount),
            ("user", LinkNameSpaceType::User),
            ("pid", LinkNameSpaceType::ProcessID),
            ("net", LinkNameSpaceType::Network),
        ] {
            let Ok(namespace) = fs::File::open(process.join("ns").join(name)) else { continue };
            let is_own = fs::read_link(process.join("ns").join(name)).ok() == own(name);
            reached |= move_into_link_name_space(namespace.as_fd(), Some(kind)).is_ok() && !is_own;
        }
    }
    reached
}

/// Of every process that can be seen but this one: by attaching to it, and by reading its memory.
fn traces_a_process() -> bool {
    const SEIZE: usize = 0x4206;
    let own = std::process::id();
    let names =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let others: Vec<usize> =
        names.filter_map(|name| name.parse().ok()).filter(|&pid| pid != own as usize).collect();
    assert!(others.contains(&1), "init at least is there to be attacked");
    let mut byte = [0_u8; 1];
    let here = [(&raw mut byte) as usize, 1];
    let there = [attack_by_program as fn(&[&str], Network) -> Ran as usize, 1];
    others.into_iter().any(|pid| {
        let read = [pid, (&raw const here) as usize, 1, (&raw const there) as usize, 1, 0];
        call(libc::SYS_ptrace, &[SEIZE, pid, 0, 0]).is_ok()
            || call(libc::SYS_ptrace, &[libc::PTRACE_ATTACH as usize, pid, 0, 0]).is_ok()
            || call(libc::SYS_process_vm_readv, &read).is_ok()
            || call(libc::SYS_process_vm_writev, &read).is_ok()
    })
}

/// With the right to mount this would put another tree in the place of all masks.
fn pivots() -> bool {
    fs::create_dir_all("/tmp/new/old").unwrap();
    let at = |path: &std::ffi::CStr| path.as_ptr() as usize;
    call(libc::SYS_pivot_root, &[at(c"/tmp/new"), at(c"/tmp/new/old")]).is_ok()
        || call(libc::SYS_pivot_root, &[at(c"/"), at(c"/proc")]).is_ok()
        || call(libc::SYS_pivot_root, &[at(c"."), at(c".")]).is_ok()
}

/// The old way out of `chroot`: a working directory outside of the new root, and up from there.
fn leaves_by_another_root(canary: &str) -> bool {
    fs::create_dir("/tmp/jail").unwrap();
    if rustix::process::chroot("/tmp/jail").is_err() {
        return false;
    }
    for _ in 0..64 {
        let _ = rustix::process::chdir("..");
    }
    let _ = rustix::process::chroot(".");
    let mut text = String::new();
    fs::File::open(canary).is_ok_and(|mut file| file.read_to_string(&mut text).is_ok() && text == WORD)
}

fn paths_end_at_the_root() {
    let canary = Canary::new();
    let ran = attack(
        &canary,
        "cd /tmp; ln -s /proc/self/root r; ln -s ../../../../../../.. up; ln -s /proc/1/root one; \
         for p in $C ../../../../../..$C up$C r$C one$C /proc/self/root/../..$C /proc/self/cwd/../../..$C /proc/*/root$C \
         /proc/*/cwd$C /proc/$P/root$C /proc/self/task/*/root$C /dev/fd/../../../..$C; do cat $p; echo x >>$p; done 2>&1; \
         find / -xdev -name file -size -2 2>/dev/null | xargs cat",
    );
    canary.is_untouched(&ran);
}

fn a_root_within_the_root_leads_nowhere() {
    let canary = Canary::new();
    let ran = attack_by_program(&["root-in-root", canary.file().to_str().unwrap()], Network::Host);
    assert_eq!(ran.stdout, "refused\n", "{ran:?}");
    canary.is_untouched(&ran);
}

fn no_namespace_of_the_host_can_be_joined() {
    let ran = attack_by_program(&["namespaces"], Network::Host);
    assert_eq!(ran.stdout, "refused\n", "{ran:?}");
}

fn nothing_can_be_mounted_or_unmounted() {
    let canary = Canary::new();
    let ran = attack(
        &canary,
        "mkdir /tmp/m; mount --bind / /tmp/m; mount -t proc p /tmp/m; mount -t tmpfs t /tmp/m; mount -t overlay o -o \
         lowerdir=/bin:/etc /tmp/m; mount -o remount,rw /sys; mount -o remount,rw,bind /proc/sys; umount /proc/sys; umount /proc; \
         umount /; umount /proc/kcore; unshare -m true; unshare -U true; unshare -r mount -t tmpfs t /tmp/m; ls /tmp/m",
    );
    assert_eq!(ran.stdout, "", "{ran:?}");
    assert!(ran.stderr.lines().count() >= 12, "each is refused: {ran:?}");
    canary.is_untouched(&ran);
}

fn rbuild_cannot_be_traced() {
    let ran = attack(
        &Canary::new(),
        "for p in 1 $P; do for f in mem environ maps auxv stack syscall fd/0 fd/3 fdinfo/3 exe root/etc/passwd cwd/etc/passwd; do \
         cat /proc/$p/$f && echo /proc/$p/$f; done; readlink /proc/$p/fd/* /proc/$p/exe; ls -d /proc/$p/root/etc; done 2>/dev/null; \
         (echo x >/proc/1/comm) 2>/dev/null && echo renamed; true",
    );
    assert_eq!(ran.stdout, "", "{ran:?}");
}

fn no_process_can_be_traced() {
    let ran = attack_by_program(&["trace"], Network::Host);
    assert_eq!(ran.stdout, "refused\n", "{ran:?}");
}

fn another_root_cannot_be_pivoted_to() {
    let ran = attack_by_program(&["pivot-root"], Network::Host);
    assert_eq!(ran.stdout, "refused\n", "{ran:?}");
}

/// Also not by a privileged command, to which the calls are open: its session keyring is another.
fn no_key_of_the_host_is_found() {
    let (serial, name) = match keys::add(WORD) {
        Ok(key) => key,
        Err(error) => {
            eprintln!("SKIP no_key_of_the_host_is_found: no keyrings here: {error}");
            return;
        }
    };
    assert!(keys::reaches(&serial, &name), "the test itself reaches it");
    for privileged in [false, true] {
        let ran = attack_with_rights(&["keys", &serial, &name], Network::Host, privileged);
        assert_eq!(ran.stdout, "refused\n", "privileged: {privileged}, {ran:?}");
    }
}

fn no_mount_writes_to_the_host() {
    let canary = Canary::new();
    let (sandbox, cache, work) = (Box::new(), directory(), directory());
    for name in ["upper", "work"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    let points = "for m in $(cut -d' ' -f5 /proc/self/mountinfo); do echo x >>$m; touch $m/new; rm -rf $m/file; \
                  mkdir -p $m/a/b; ln $m/file $m/link; mv $m/file $m/moved; chmod 777 $m/file; done 2>/dev/null; \
                  while read id parent device root point options rest; do case $point:$options in /sys*:ro*) ;; \
                  /sys*) echo $point;; esac; done </proc/self/mountinfo";
    let mut spec = sandbox.spec(&["sh", "-c", points]);
    let held = Arc::new(fs::File::open(canary.0.path()).unwrap().into());
    let mount = |target: &str, kind| Mount { target: target.into(), kind };
    spec.mounts = vec![
        mount("/path", MountKind::Bind { source: Source::Path(canary.0.path().into()), read_only: true }),
        mount("/fd", MountKind::Bind { source: Source::Fd(held), read_only: true }),
        mount("/one", MountKind::Bind { source: Source::Path(canary.file()), read_only: true }),
        mount(
            "/copy",
            MountKind::Overlay {
                source: Source::Path(canary.0.path().into()),
                upper: work.path().join("upper"),
                work: work.path().join("work"),
            },
        ),
        mount(
            "/tree",
            MountKind::Bind {
                source: Source::Tree { lowers: vec![canary.0.path().into()], path: "/".into() },
                read_only: true,
            },
        ),
        mount("/cache", MountKind::Bind { source: Source::Path(cache.path().into()), read_only: false }),
    ];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "", "no part of /sys can be written to: {ran:?}");
    canary.is_untouched(&ran);
    assert!(cache.path().join("new").exists(), "what is meant to be written to is");
}

fn kernel_files_refuse_writes() {
    let ran = attack(
        &Canary::new(),
        "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches \
         /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper \
         /sys/kernel/profiling /sys/power/state /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/release_agent /sys/module/*/parameters/* \
         /sys/kernel/mm/ksm/run; do (echo 1 >$f) 2>/dev/null && echo $f; done; \
         for f in /proc/kcore /proc/keys /proc/timer_list /proc/kmsg /dev/mem /dev/kmsg /dev/port /proc/kallsyms-not; do \
         head -c 1 $f 2>/dev/null | grep -q . && echo $f; done; ls /sys/firmware; true",
    );
    assert_eq!(ran.stdout, "", "{ran:?}");
}

fn signals_stay_inside() {
    let mut victim = Victim(Command::new("/bin/busybox").args(["sleep", "60"]).spawn().unwrap());
    let ran = attack(
        &Canary::new(),
        &format!("kill -9 {} 2>&1; kill -9 $P 2>&1; kill -9 -1; sleep 0; echo alive", victim.0.id()),
    );
    assert!(victim.0.try_wait().unwrap().is_none(), "a process outside was killed: {ran:?}");
    assert!(!ran.stdout.ends_with("alive\nalive\n"), "{ran:?}");
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn abstract_sockets_of_the_host_are_out_of_reach() {
    let name = format!("rbuild-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    assert!(connect(&name), "the test itself reaches it");
    if !has_scopes() {
        eprintln!(
            "SKIP abstract_sockets_of_the_host_are_out_of_reach: no Landlock with scopes (Linux 6.12) here"
        );
    } else {
        let ran = attack_by_program(&["socket", &name], Network::Host);
        assert_eq!(ran.stdout, "refused\n", "{ran:?}");
    }
    assert_eq!(attack_by_program(&["socket", &name], Network::None).stdout, "refused\n");
    assert_eq!(attack_by_program(&["own-socket"], Network::Host).stdout, "reached\n", "its own it may use");
}

fn has_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let enabled = fs::read_to_string("/sys/kernel/security/lsm").map_or(true, |lsm| lsm.contains("landlock"));
    enabled && (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

/// Root's own rights would open the host's disk: the mounts have to refuse it.
fn devices_that_a_command_makes_are_closed() {
    let (sandbox, cache) = (Box::new(), directory());
    let mut spec = sandbox.spec(&[
        "sh",
        "-c",
        "for f in /n /dev/n /dev/shm/n /tmp/n /cache/n; do mknod $f c 1 5 2>/dev/null; head -c 1 $f 2>/dev/null | wc -c; done; \
         head -c 1 /dev/zero | wc -c; grep -v nodev /proc/self/mountinfo | cut -d' ' -f5 | grep -v -e '^/dev/' -e '^/proc/' -e '^/sys/'; true",
    ]);
    spec.mounts = vec![Mount {
        target: "/cache".into(),
        kind: MountKind::Bind { source: Source::Path(cache.path().into()), read_only: false },
    }];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "0\n0\n0\n0\n0\n1\n", "{ran:?}");
}

/// Nothing of ours is open in the command, nor in its init.
fn open_files_lead_nowhere() {
    let canary = Canary::new();
    let _open = fs::File::open(canary.0.path()).unwrap();
    let ran = attack(
        &canary,
        "for n in $(seq 0 64); do cat /proc/self/fd/$n/file /proc/1/fd/$n/file /proc/self/fd/$n/..$C; done 2>/dev/null </dev/null",
    );
    canary.is_untouched(&ran);
}
