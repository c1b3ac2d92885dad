//! Mounts, the stubs they need, and the working directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rbuild_executor::{Cancel, ExitReport, Mount, MountKind, Source, Stream, run};

use crate::fixture::{Box, Test, base, directory, make_base, run_spec};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("stubs_vanish_with_their_traces", stubs_vanish_with_their_traces),
        ("stubs_vanish_while_somebody_looks", stubs_vanish_while_somebody_looks),
        ("stubs_that_are_used_stay", stubs_that_are_used_stay),
        ("a_change_beside_a_stub_keeps_its_time", a_change_beside_a_stub_keeps_its_time),
        ("resolv_conf_is_read_only", resolv_conf_is_read_only),
        ("a_secret_has_mode_and_owner", a_secret_has_mode_and_owner),
        ("binds_read_only_and_writable", binds_read_only_and_writable),
        ("overlay_binds_lose_their_writes", overlay_binds_lose_their_writes),
        ("tmpfs_with_a_size", tmpfs_with_a_size),
        ("mounts_inside_mounts", mounts_inside_mounts),
        ("targets_never_leave_the_root", targets_never_leave_the_root),
        ("working_directory_is_made", working_directory_is_made),
        ("another_tree_can_be_bound", another_tree_can_be_bound),
        ("a_part_of_a_stage_can_be_bound", a_part_of_a_stage_can_be_bound),
        ("proc_is_no_place_for_mounts", proc_is_no_place_for_mounts),
    ]
}

fn file(target: &str, content: &str) -> Mount {
    let kind = MountKind::File { content: content.into(), mode: 0o644, uid: 0, gid: 0, read_only: true };
    Mount { target: target.into(), kind }
}

fn bind(target: &str, source: &std::path::Path, read_only: bool) -> Mount {
    Mount { target: target.into(), kind: MountKind::Bind { source: Source::Path(source.into()), read_only } }
}

/// The kernel's own folders stay, as in the reference.
const LEFT: [&str; 3] = ["dev", "proc", "sys"];

fn stubs_vanish_with_their_traces() {
    let mut sandbox = Box::new();
    let mut spec =
        sandbox.spec(&["sh", "-c", "cat /etc/hosts /run/secrets/deep/token /etc/ssl/x; ls /cache"]);
    let cache = directory();
    spec.mounts = vec![
        file("/etc/hosts", "hosts\n"),
        file("/run/secrets/deep/token", "secret\n"),
        file("/etc/ssl/x", "x\n"),
        bind("/cache", cache.path(), false),
    ];
    let ran = run_spec(&spec);
    assert_eq!((ran.stdout.as_str(), ran.report.success()), ("hosts\nsecret\nx\n", true), "{ran:?}");
    drop(spec);
    let merged = sandbox.mounted.as_ref().unwrap().path();
    for gone in ["etc/hosts", "etc/ssl", "run", "cache"] {
        assert!(!merged.join(gone).exists(), "{gone} stayed");
    }
    assert_eq!(fs::metadata(merged.join("etc")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(sandbox.upper(), LEFT, "only the kernel's folders are in the upper");
}

/// Whoever has a process's `mountinfo` open holds its mounts (monitoring agents do, and our supervisor's thread does while it ends).
fn stubs_vanish_while_somebody_looks() {
    let mut sandbox = Box::new();
    let word = format!("looked-at-{}", std::process::id());
    let wait = "echo up; until test -e /cache/go; do sleep 0.02; done";
    let mut spec = sandbox.spec(&["sh", "-c", wait, &word]);
    let cache = directory();
    spec.mounts = vec![file("/etc/hosts", "hosts\n"), bind("/cache", cache.path(), false)];
    let mut held = Vec::new();
    let mut sink = |_: Stream, _: &[u8]| {
        held = mounts_of(&word);
        fs::write(cache.path().join("go"), "").unwrap();
    };
    assert_eq!(run(&spec, &mut sink, &Cancel::new().unwrap()).unwrap(), ExitReport::Exited(0));
    assert!(!held.is_empty(), "the command was not found");
    drop(spec);
    assert_eq!(sandbox.upper(), LEFT);
}

/// The open `mountinfo` of each process with this word in its command line.
fn mounts_of(word: &str) -> Vec<fs::File> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let has_word = |line: Vec<u8>| line.split(|&byte| byte == 0).any(|part| part == word.as_bytes());
    let named = processes.filter(|path| fs::read(path.join("cmdline")).is_ok_and(has_word));
    named.filter_map(|path| fs::File::open(path.join("mountinfo")).ok()).collect()
}

fn stubs_that_are_used_stay() {
    let mut sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "echo kept >/run/here; echo changed >/etc/hosts.new"]);
    spec.mounts = vec![file("/run/secrets/token", "secret"), file("/etc/hosts", "")];
    assert!(run_spec(&spec).report.success());
    drop(spec);
    assert_eq!(sandbox.upper(), ["dev", "etc", "etc/hosts.new", "proc", "run", "run/here", "sys"]);
}

fn a_change_beside_a_stub_keeps_its_time() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "touch /etc/new; touch -d @1200000000 /etc"]);
    spec.mounts = vec![file("/etc/hosts", "hosts\n")];
    assert!(run_spec(&spec).report.success());
    let etc = fs::metadata(sandbox.mounted.as_ref().unwrap().path().join("etc")).unwrap();
    assert_eq!(etc.mtime(), 1_200_000_000);
}

fn resolv_conf_is_read_only() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&[
        "sh",
        "-c",
        "cat /etc/resolv.conf; echo evil >/etc/resolv.conf; mount -o remount,rw /etc/resolv.conf",
    ]);
    spec.mounts = vec![file("/etc/resolv.conf", "nameserver 192.0.2.1\n")];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "nameserver 192.0.2.1\n");
    assert!(!ran.report.success() && ran.stderr.contains("Read-only file system"), "{ran:?}");
}

fn a_secret_has_mode_and_owner() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["stat", "-c", "%a %u %g %s %F", "/run/secrets/key"]);
    let kind = MountKind::File { content: b"0123".to_vec(), mode: 0o400, uid: 0, gid: 0, read_only: true };
    spec.mounts = vec![Mount { target: "/run/secrets/key".into(), kind }];
    assert_eq!(run_spec(&spec).stdout, "400 0 0 4 regular file\n");
}

fn binds_read_only_and_writable() {
    let (fixed, open) = (directory(), directory());
    fs::write(fixed.path().join("in"), "text\n").unwrap();
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "cat /fixed/in /one; echo x >/open/out; echo x >/fixed/out"]);
    spec.mounts = vec![
        bind("/fixed", fixed.path(), true),
        bind("/open", open.path(), false),
        bind("/one", &fixed.path().join("in"), true),
    ];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "text\ntext\n");
    assert!(!ran.report.success(), "a read-only bind was written");
    assert_eq!(fs::read_to_string(open.path().join("out")).unwrap(), "x\n");
    assert!(!fixed.path().join("out").exists());
}

fn overlay_binds_lose_their_writes() {
    let source = directory();
    fs::write(source.path().join("file"), "before\n").unwrap();
    for (target, from) in [("/src", source.path().to_path_buf()), ("/src/file", source.path().join("file"))] {
        let sandbox = Box::new();
        let mut spec = sandbox.spec(&["sh", "-c", "echo after >/src/file; cat /src/file"]);
        let (upper, work) = (sandbox.path("other-upper"), sandbox.path("other-work"));
        let kind = MountKind::Overlay { source: Source::Path(from), upper, work };
        spec.mounts = vec![Mount { target: target.into(), kind }];
        assert_eq!(run_spec(&spec).stdout, "after\n", "{target}");
        assert_eq!(fs::read_to_string(source.path().join("file")).unwrap(), "before\n");
    }
}

fn tmpfs_with_a_size() {
    let sandbox = Box::new();
    let mut spec =
        sandbox.spec(&["sh", "-c", "stat -c %a /small; dd if=/dev/zero of=/small/x bs=1024 count=2000 2>&1"]);
    spec.mounts =
        vec![Mount { target: "/small".into(), kind: MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1750 } }];
    let ran = run_spec(&spec);
    assert!(ran.stdout.starts_with("1750\n") && ran.stdout.contains("No space left"), "{ran:?}");
}

fn mounts_inside_mounts() {
    let (outer, inner) = (directory(), directory());
    fs::write(inner.path().join("deep"), "deep\n").unwrap();
    let mut sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "cat /a/b/c/deep /t/x/y"]);
    // Named child first: parents are mounted first all the same.
    spec.mounts = vec![
        bind("/a/b/c", inner.path(), true),
        bind("/a", outer.path(), false),
        file("/t/x/y", "in a tmpfs\n"),
        Mount { target: "/t".into(), kind: MountKind::Tmpfs { size: None, mode: 0o755 } },
    ];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "deep\nin a tmpfs\n", "{ran:?}");
    drop(spec);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0, "stubs stayed in the bound folder");
    assert_eq!(sandbox.upper(), LEFT);
}

fn targets_never_leave_the_root() {
    let hostile = directory();
    make_base(hostile.path());
    let outside = directory();
    symlink("../../../../../../..", hostile.path().join("up")).unwrap();
    symlink(outside.path(), hostile.path().join("out")).unwrap();
    symlink("/run/elsewhere/resolv.conf", hostile.path().join("etc/resolv.conf")).unwrap();
    let sandbox = Box::over(&[hostile.path().to_path_buf()]);
    let mut spec = sandbox.spec(&["sh", "-c", "cat /probe /etc/resolv.conf; cat /out/file"]);
    spec.mounts = vec![
        file("/up/probe", "inside\n"),
        file("/out/file", "linked\n"),
        file("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
    ];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "inside\nnameserver 192.0.2.1\nlinked\n", "{ran:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

fn working_directory_is_made() {
    let mut sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "pwd; id -u"]);
    spec.cwd = "/srv/app/deep".into();
    (spec.uid, spec.gid) = (1500, 1501);
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "/srv/app/deep\n1500\n", "{ran:?}");
    drop(spec);
    let merged = sandbox.mounted.as_ref().unwrap().path();
    for folder in ["srv", "srv/app", "srv/app/deep"] {
        let meta = rbuild_fs::Root::open(&merged).unwrap().meta(&rbuild_fs::RootfsPath::new(folder));
        let meta = meta.unwrap().unwrap();
        assert_eq!((meta.uid, meta.gid, meta.mode), (1500, 1501, 0o755), "{folder}");
    }
    assert_eq!(sandbox.upper(), ["dev", "proc", "srv", "srv/app", "srv/app/deep", "sys"]);
}

fn another_tree_can_be_bound() {
    let other = Box::new();
    fs::write(other.mounted.as_ref().unwrap().path().join("etc/other"), "of another stage\n").unwrap();
    let folder = fs::File::open(other.mounted.as_ref().unwrap().path().join("etc")).unwrap();
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["cat", "/mnt/other"]);
    let source = Source::Fd(std::sync::Arc::new(folder.into()));
    spec.mounts = vec![Mount { target: "/mnt".into(), kind: MountKind::Bind { source, read_only: true } }];
    assert_eq!(run_spec(&spec).stdout, "of another stage\n");
    assert!(base().join("etc").exists());
}

fn a_part_of_a_stage_can_be_bound() {
    let (above, scratch) = (directory(), directory());
    fs::create_dir(above.path().join("etc")).unwrap();
    fs::write(above.path().join("etc/other"), "of another stage\n").unwrap();
    symlink("/etc", above.path().join("link")).unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(scratch.path().join(name)).unwrap();
    }
    let tree = |path: &str| Source::Tree {
        lowers: vec![above.path().to_path_buf(), base().to_path_buf()],
        path: path.into(),
    };
    let mut sandbox = Box::new();
    let line =
        "cat /mnt/other /one /mnt/group | head -3; echo x >/mnt/new; echo y >/free/new && cat /free/new";
    let mut spec = sandbox.spec(&["sh", "-c", line]);
    let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
    spec.mounts = vec![
        Mount { target: "/mnt".into(), kind: MountKind::Bind { source: tree("/link"), read_only: true } },
        Mount {
            target: "/one".into(),
            kind: MountKind::Bind { source: tree("/etc/other"), read_only: true },
        },
        Mount { target: "/free".into(), kind: MountKind::Overlay { source: tree("/"), upper, work } },
    ];
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "of another stage\nof another stage\nroot:x:0:\ny\n", "{ran:?}");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    drop(spec);
    assert!(!above.path().join("new").exists());
    assert_eq!(sandbox.upper(), LEFT);
}

fn proc_is_no_place_for_mounts() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["true"]);
    spec.mounts = vec![file("/proc/version", "mine")];
    let error = rbuild_executor::run(&spec, &mut |_, _: &[u8]| {}, &rbuild_executor::Cancel::new().unwrap())
        .unwrap_err();
    assert_eq!(error.to_string(), "could not mount on `/proc/version`: it lies inside `/proc`");
}
