//! What the command may and may not see and do.

use std::sync::Arc;

use rbuild_executor::{Mount, MountKind, Network, UserDatabase};

use crate::fixture::{Box, GROUP, PASSWD, Test, has_other_ids, run_spec, shell};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("capabilities_of_root_are_dockers", capabilities_of_root_are_dockers),
        ("another_user_has_no_capabilities", another_user_has_no_capabilities),
        ("added_and_dropped_capabilities", added_and_dropped_capabilities),
        ("insecure_has_all", insecure_has_all),
        ("seccomp_denies_what_docker_denies", seccomp_denies_what_docker_denies),
        ("kernel_files_are_masked", kernel_files_are_masked),
        ("proc_and_sys_are_read_only", proc_and_sys_are_read_only),
        ("devices_work", devices_work),
        ("users_and_groups", users_and_groups),
        ("network_none_has_lo_only", network_none_has_lo_only),
        ("own_namespaces", own_namespaces),
        ("nothing_lies_over_the_root", nothing_lies_over_the_root),
        ("no_descriptor_leaks", no_descriptor_leaks),
        ("memory_of_init_is_hidden", memory_of_init_is_hidden),
    ]
}

fn status(lines: &str, text: &str) -> String {
    let wanted: Vec<&str> = lines.split(' ').collect();
    let found = text.lines().filter(|l| l.split(':').next().is_some_and(|name| wanted.contains(&name)));
    found.map(|l| l.replace('\t', "")).collect::<Vec<_>>().join(" ")
}

fn capabilities_of_root_are_dockers() {
    let ran = shell("cat /proc/self/status");
    assert_eq!(
        status("CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters", &ran.stdout),
        "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb CapBnd:00000000a80425fb \
         CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 Seccomp_filters:1",
        "{ran:?}"
    );
}

fn another_user_has_no_capabilities() {
    if !has_other_ids("another_user_has_no_capabilities") {
        return;
    }
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["cat", "/proc/self/status"]);
    (spec.uid, spec.gid) = (1500, 1501);
    let ran = run_spec(&spec);
    assert_eq!(
        status("Uid Gid CapInh CapPrm CapEff CapBnd CapAmb", &ran.stdout.replace("\t1", " 1")),
        "Uid: 1500 1500 1500 1500 Gid: 1501 1501 1501 1501 CapInh:0000000000000000 CapPrm:0000000000000000 \
         CapEff:0000000000000000 CapBnd:00000000a80425fb CapAmb:0000000000000000"
    );
}

fn added_and_dropped_capabilities() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["cat", "/proc/self/status"]);
    spec.capabilities = spec.capabilities.adjusted(&["SYS_ADMIN"], &["ALL"]).unwrap();
    assert_eq!(
        status("CapEff CapBnd", &run_spec(&spec).stdout),
        "CapEff:0000000000200000 CapBnd:0000000000200000"
    );
}

fn insecure_has_all() {
    let sandbox = Box::new();
    let mut spec =
        sandbox.spec(&["sh", "-c", "cat /proc/self/status; mount -t tmpfs none /tmp && echo mounted"]);
    spec.privileged = true;
    let ran = run_spec(&spec);
    // In a user namespace a filter still tells the supervisor.
    let expected = if rbuild_executor::in_first_user_namespace() { "Seccomp:0" } else { "Seccomp:2" };
    assert_eq!(status("Seccomp", &ran.stdout), expected);
    assert!(ran.stdout.ends_with("mounted\n"), "{ran:?}");
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(status("CapEff", &ran.stdout), status("CapEff", &ours));
}

fn seccomp_denies_what_docker_denies() {
    let ran = shell(
        "unshare -m true 2>&1; unshare -U true 2>&1; mount -t tmpfs none /tmp 2>&1; umount /proc 2>&1; cat /proc/keys | wc -c; \
         nsenter -t 1 -m true 2>&1",
    );
    let denied = ran
        .stdout
        .lines()
        .filter(|l| l.contains("Operation not permitted") || l.contains("permission denied"));
    assert!(denied.count() >= 4, "{ran:?}");
    // keyctl(KEYCTL_GET_KEYRING_ID) has no applet: see the filter's own tests for the call.
}

fn kernel_files_are_masked() {
    let ran = shell(
        "for f in kcore keys timer_list sched_debug interrupts; do cat /proc/$f 2>/dev/null; done; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null; ls -l /proc/interrupts",
    );
    let listing = ran.stdout.lines().filter(|l| !l.ends_with(':') && !l.is_empty()).collect::<Vec<_>>();
    assert_eq!(listing.len(), 1, "{ran:?}");
    assert!(listing[0].starts_with("crw-rw-rw-") && listing[0].contains("1,   3"), "{listing:?}");
}

fn proc_and_sys_are_read_only() {
    let ran = shell(
        "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_seqnum /sys/new; \
         do (echo x >$f) 2>&1; done; rm -r /sys/kernel/mm 2>&1; echo end",
    );
    let refused =
        ran.stdout.lines().filter(|l| l.contains("Read-only file system") || l.contains("ermission denied"));
    assert!(refused.count() >= 5, "{ran:?}");
    assert_eq!(shell("echo ok >/proc/self/comm && cat /proc/self/comm").stdout, "cat\n");
}

fn devices_work() {
    let ran = shell(
        "echo gone >/dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x 2>&1 >/dev/full; \
         stat -c '%a %F' /dev/null /dev/shm /dev/pts/ptmx; readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; ls /dev/mqueue; echo hi >/dev/stdout; \
         cat; tty",
    );
    let expected = "3\n5\n";
    assert!(ran.stdout.starts_with(expected), "{ran:?}");
    for part in [
        "666 character special file\n1777 directory\n666 character special file\n",
        "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n",
        "hi\nnot a tty\n",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} in {ran:?}");
    }
    assert!((ran.stdout.clone() + &ran.stderr).contains("No space left"), "{ran:?}");
}

fn users_and_groups() {
    let database = UserDatabase::parse(PASSWD, GROUP);
    for (user, expected) in [
        ("app", "uid=1500(app) gid=1501(app) groups=1501(app),10(wheel),20(extra)\n"),
        ("app:root", "uid=1500(app) gid=0(root) groups=0(root)\n"),
        ("1234", "uid=1234 gid=0(root) groups=0(root)\n"),
        ("", "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n"),
    ] {
        let user = database.resolve(user).unwrap();
        let sandbox = Box::new();
        let mut spec = sandbox.spec(&["id"]);
        (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
        let ran = run_spec(&spec);
        let normal = ran.stdout.replace("groups=10(wheel)", "groups=0(root),10(wheel)");
        let normal = normal.replace("groups=10(wheel),20", "groups=1501(app),10(wheel),20");
        let normal = normal
            .replace("gid=1501(app) groups=0(root),10(wheel)", "gid=1501(app) groups=1501(app),10(wheel)");
        let normal = if normal.contains("groups=") {
            normal
        } else {
            normal.replace("gid=0(root)", "gid=0(root) groups=0(root)")
        };
        assert_eq!(normal, expected, "{ran:?}");
    }
    // One that the map may lack: then it is faked.
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "id -u; touch /tmp/mine; stat -c %u /tmp/mine"]);
    spec.uid = 4_000_000_000;
    assert_eq!(run_spec(&spec).stdout, "4000000000\n4000000000\n");
}

fn network_none_has_lo_only() {
    let sandbox = Box::new();
    let mut spec =
        sandbox.spec(&["sh", "-c", "ls /sys/class/net; cat /proc/net/dev | wc -l; ip addr show lo"]);
    spec.network = Network::None;
    let ran = run_spec(&spec);
    let interfaces: Vec<_> =
        ran.stdout.lines().take_while(|l| !l.chars().all(|c| c.is_ascii_digit())).collect();
    assert!(interfaces.contains(&"lo") && !interfaces.iter().any(|i| i.starts_with("eth")), "{ran:?}");
    assert!(ran.stdout.contains("LOOPBACK,UP") && ran.stdout.contains("127.0.0.1"), "{ran:?}");
}

/// The old root and the trees that mounts are cloned from are gone, not only covered.
fn nothing_lies_over_the_root() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["cat", "/proc/self/mountinfo"]);
    let kind = MountKind::File { content: vec![b'x'], mode: 0o644, uid: 0, gid: 0, read_only: true };
    spec.mounts = vec![Mount { target: "/etc/x".into(), kind }];
    let ran = run_spec(&spec);
    let at = |point: &str| ran.stdout.lines().filter(|line| line.split(' ').nth(4) == Some(point)).count();
    assert_eq!((at("/"), at("/proc"), at("/dev"), at("/etc/x")), (1, 1, 1, 1), "{}", ran.stdout);
}

fn own_namespaces() {
    let ran = shell(
        "for n in pid mnt ipc uts net; do readlink /proc/self/ns/$n; done; hostname; ls -d /proc/[0-9]* | wc -l",
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    for (index, name) in ["pid", "mnt", "ipc", "uts"].into_iter().enumerate() {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(ours.to_str().unwrap(), lines[index], "{name}");
    }
    assert_eq!(std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap(), lines[4]);
    assert_eq!(lines[5], "buildkitsandbox");
    assert!(lines[6].parse::<u32>().unwrap() <= 4, "{ran:?}");
}

fn no_descriptor_leaks() {
    let secret = Arc::new(std::fs::File::open("/etc/passwd").unwrap());
    let ran =
        shell("ls /proc/self/fd | wc -l; ls -l /proc/self/fd; cat /proc/self/mountinfo | grep -c /var/tmp/");
    // 0, 1, 2 and the one that lists.
    assert_eq!(ran.stdout.lines().next(), Some("4"), "{ran:?}");
    drop(secret);
}

fn memory_of_init_is_hidden() {
    let ran = shell(
        "cat /proc/1/mem 2>&1 | head -c 100; cat /proc/1/environ 2>&1; (: </proc/1/fd/0) 2>&1; ls /proc/1/root/ 2>&1",
    );
    let refused =
        ran.stdout.lines().filter(|l| l.contains("ermission denied") || l.contains("not permitted")).count();
    assert_eq!(refused, 4, "{ran:?}");
}
