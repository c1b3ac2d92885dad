//! Roots: resolution that stays inside, nodes, and the journal.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use rbuild_fs::{
    FileKind, FileSidecar, FinalSymlink, Journal, Meta, NewDir, Root, RootfsPath, Timestamp, meta_at,
    remove_tree,
};

/// A root in `root/` with a secret beside it, in both ways of resolving.
fn roots() -> (tempfile::TempDir, [Root; 2]) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/etc/sub")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    fs::write(dir.path().join("root/etc/passwd"), "root:x:0:0").unwrap();
    let open = || Root::open(dir.path().join("root")).unwrap();
    let both = [open(), open().resolving_in_user_space()];
    (dir, both)
}

fn at(path: &str) -> RootfsPath {
    RootfsPath::new(path)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn links_stay_inside() {
    let (dir, roots) = roots();
    let link = |target: &str, name: &str| symlink(target, dir.path().join("root").join(name)).unwrap();
    link("/etc", "absolute");
    link("../../../../etc", "etc/up");
    link("../secret", "out");
    link("/", "top");
    link("absolute/sub/../passwd", "long");
    link("/missing/../etc/./new", "dangling");
    for root in &roots {
        for (path, resolved) in [
            ("/absolute/passwd", "/etc/passwd"),
            ("/etc/up/passwd", "/etc/passwd"),
            ("/out", "/secret"),
            ("/top/top/top/etc", "/etc"),
            ("/long", "/etc/passwd"),
            ("/dangling", "/etc/new"),
            ("/absolute/new/deep/file", "/etc/new/deep/file"),
            ("/", "/"),
            ("/none", "/none"),
        ] {
            assert_eq!(root.resolve(&at(path), FinalSymlink::Follow).unwrap(), at(resolved), "{path}");
        }
        assert_eq!(root.resolve(&at("/top/long"), FinalSymlink::Keep).unwrap(), at("/long"));
        assert_eq!(root.resolve(&at("/long"), FinalSymlink::Keep).unwrap(), at("/long"));
        assert!(root.open_file(&at("/out")).is_err(), "the secret is not reached");
        assert_eq!(root.read_to_string(&at("/long"), 100).unwrap(), "root:x:0:0");
        assert!(root.meta_follow(&at("/dangling")).unwrap().is_none());
        assert!(root.meta_follow(&at("/long")).unwrap().unwrap().is_file());
        assert!(root.meta(&at("/long")).unwrap().unwrap().is_symlink());
        assert!(root.meta(&at("/")).unwrap().unwrap().is_dir());
    }
}

#[test]
fn loops_and_ways_through_files_are_errors() {
    let (dir, roots) = roots();
    let link = |target: &str, name: &str| symlink(target, dir.path().join("root").join(name)).unwrap();
    link("loop", "loop");
    link("b", "a");
    link("a", "b");
    for index in 0..300 {
        link(&format!("chain{}", index + 1), &format!("chain{index}"));
    }
    for root in &roots {
        for path in ["/loop", "/loop/x", "/a", "/chain0"] {
            let error = root.resolve(&at(path), FinalSymlink::Follow).unwrap_err();
            assert!(error.is(rustix::io::Errno::LOOP), "{path}: {error:?}");
        }
        assert_eq!(root.resolve(&at("/chain100"), FinalSymlink::Follow).unwrap(), at("/chain300"));
        let error = root.resolve(&at("/etc/passwd/x"), FinalSymlink::Follow).unwrap_err();
        assert!(error.is(rustix::io::Errno::NOTDIR));
        assert!(root.meta(&at("/etc/passwd/x")).unwrap().is_none());
    }
}

#[test]
fn only_regular_files_are_read_and_only_up_to_the_limit() {
    let (dir, roots) = roots();
    for root in &roots {
        root.make(&at("/pipe"), &Meta::new(FileKind::Fifo, 0o600, 0, 0, Timestamp::default()), None).ok();
        assert!(root.open_file(&at("/pipe")).is_err() && root.open_file(&at("/etc")).is_err());
        assert!(root.read(&at("/etc/passwd"), 9).is_err());
        assert_eq!(root.read(&at("/etc/passwd"), 10).unwrap().len(), 10);
        let error = root.read(&at("/none"), 9).unwrap_err();
        assert_eq!(error.path, dir.path().join("root/none"));
    }
}

#[test]
fn directories_are_made_through_links_and_said() {
    let (dir, roots) = roots();
    symlink("/var/deep", dir.path().join("root/link")).unwrap();
    let (uid, gid) = mine();
    let time = Timestamp::from_seconds(1000);
    let new = NewDir { mode: 0o1750, uid, gid, mtime: Some(time) };
    let made = roots[0].create_dir_all(&at("/link/x"), &new).unwrap();
    assert_eq!(made, [at("/var"), at("/var/deep"), at("/var/deep/x")]);
    assert!(roots[1].create_dir_all(&at("/link/x"), &new).unwrap().is_empty());
    let meta = roots[0].meta(&at("/var/deep/x")).unwrap().unwrap();
    assert_eq!((meta.mode, meta.mtime), (0o1750, time));
    assert!(roots[0].create_dir_all(&at("/etc/passwd/x"), &new).is_err());
    assert!(roots[0].create_dir_all(&at("/etc/passwd"), &new).is_err());
}

fn mine() -> (u32, u32) {
    let meta = fs::metadata("/proc/self").unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn nodes_are_made_as_described_and_replace_what_was_there() {
    let (_dir, [root, _]) = roots();
    let (uid, gid) = mine();
    let time = Timestamp { seconds: 1_000_000_000, nanos: 5 };
    root.hard_link(&at("/etc/passwd"), &at("/etc/other")).unwrap();
    for (index, kind) in [FileKind::File, FileKind::Symlink("/etc".into()), FileKind::Fifo, FileKind::Socket]
        .iter()
        .enumerate()
    {
        let meta = Meta::new(kind.clone(), 0o4711, uid, gid, time);
        let content: Option<&mut dyn Read> = if index == 0 { Some(&mut "new".as_bytes()) } else { None };
        root.make(&at("/etc/passwd"), &meta, content).unwrap();
        let found = root.meta(&at("/etc/passwd")).unwrap().unwrap();
        assert_eq!((&found.kind, found.uid, found.gid, found.mtime), (kind, uid, gid, time));
        assert_eq!(found.mode, if found.is_symlink() { 0o777 } else { 0o4711 });
    }
    assert_eq!(
        root.read_to_string(&at("/etc/other"), 100).unwrap(),
        "root:x:0:0",
        "other names keep the old inode"
    );
    let directory = Meta::new(FileKind::Directory, 0o700, uid, gid, time);
    root.make(&at("/etc/passwd"), &directory, None).unwrap();
    root.make(&at("/etc"), &directory, None).unwrap();
    assert_eq!(root.meta(&at("/etc")).unwrap().unwrap().mode, 0o700);
    assert!(root.meta(&at("/etc/sub")).unwrap().is_some(), "an existing directory keeps its content");
    let file = Meta::new(FileKind::File, 0o600, uid, gid, time);
    assert!(root.make(&at("/etc"), &file, None).is_err(), "a directory is never replaced");
    assert!(root.make(&at("/none/file"), &file, None).is_err());
}

#[test]
fn what_the_kernel_refuses_comes_back_from_the_journal() {
    let (dir, [root, _]) = roots();
    let sidecar = dir.path().join("journal");
    let journal = || Journal::with_sidecar(Arc::new(FileSidecar::open(&sidecar).unwrap()));
    let root = root.with_journal(journal());
    // 4294967295 is no owner to the kernel, for root neither: refused everywhere.
    let no_one = u32::MAX;
    let time = Timestamp::from_seconds(7);
    for (path, kind, mode) in [
        ("/file", FileKind::File, 0o4755),
        ("/dir", FileKind::Directory, 0o2750),
        ("/link", FileKind::Symlink("x".into()), 0o777),
        ("/pipe", FileKind::Fifo, 0o640),
    ] {
        root.make(&at(path), &Meta::new(kind.clone(), mode, no_one, 5, time), None).unwrap();
        let root = Root::open(dir.path().join("root")).unwrap().with_journal(journal());
        let found = root.meta(&at(path)).unwrap().unwrap();
        assert_eq!(
            (found.kind, found.mode, found.uid, found.gid, found.mtime),
            (kind, mode, no_one, 5, time),
            "{path}"
        );
    }
    let raw = fs::metadata(dir.path().join("root/file")).unwrap();
    assert_eq!(raw.permissions().mode() & 0o7777, 0o755, "no setuid bit on a file of the wrong owner");
    let listed = root.read_dir_meta(&at("/")).unwrap();
    assert!(listed.iter().filter(|(name, _)| name != "etc").all(|(_, meta)| meta.uid == no_one));
    assert_eq!(meta_at(root.as_fd(), "file").unwrap().unwrap().uid, no_one);
    assert!(root.xattrs(&at("/file")).unwrap().is_empty(), "the journal is not part of the image");

    symlink("/etc", dir.path().join("root/way")).unwrap();
    let other = Meta::new(FileKind::Symlink("y".into()), 0o777, no_one, 6, time);
    root.make(&at("/way/link"), &other, None).unwrap();
    assert_eq!(root.meta(&at("/etc/link")).unwrap().unwrap().gid, 6, "found by any way");
    let below = root.beneath(&at("/way")).unwrap();
    below.make(&at("/third"), &other, None).unwrap();
    assert_eq!(
        root.meta(&at("/etc/third")).unwrap().unwrap().gid,
        6,
        "a folder as a root has its part of it"
    );
    assert_eq!(below.meta(&at("/link")).unwrap().unwrap().gid, 6);
    root.rename(&at("/way/link"), &at("/etc/moved")).unwrap();
    assert_eq!(root.meta(&at("/way/moved")).unwrap().unwrap().gid, 6);
    assert_eq!(root.read_dir_meta(&at("/way")).unwrap()[0].1.gid, 6);

    let (uid, gid) = mine();
    for path in ["/file", "/link"] {
        let own = Meta::new(FileKind::File, 0o600, uid, gid, time);
        root.set_meta(&at(path), &own).unwrap();
        assert_eq!(root.meta(&at(path)).unwrap().unwrap().uid, uid, "{path}: forgotten");
    }
    let without = Root::open(dir.path().join("root")).unwrap().with_journal(Journal::none());
    assert_eq!(without.meta(&at("/dir")).unwrap().unwrap().uid, uid);
    assert!(without.make(&at("/file"), &Meta::new(FileKind::File, 0o600, no_one, 0, time), None).is_err());
}

#[test]
fn devices_are_made_or_stood_in_for() {
    let (_dir, [root, _]) = roots();
    let (uid, gid) = mine();
    let null = FileKind::CharDevice { major: 1, minor: 3 };
    let meta = Meta::new(null.clone(), 0o666, uid, gid, Timestamp::from_seconds(1));
    root.make(&at("/null"), &meta, None).unwrap();
    root.set_meta(&at("/null"), &Meta { mode: 0o644, ..meta }).unwrap();
    let found = root.meta(&at("/null")).unwrap().unwrap();
    assert_eq!((found.kind, found.mode), (null, 0o644));
    let whiteout = Meta::new(FileKind::CharDevice { major: 0, minor: 0 }, 0, uid, gid, Timestamp::default());
    root.make(&at("/gone"), &whiteout, None).unwrap();
    assert!(root.meta(&at("/gone")).unwrap().unwrap().is_whiteout());
    root.remove_all(&at("/gone")).unwrap();
}

#[test]
fn only_attributes_of_images_are_kept() {
    let (_dir, [root, _]) = roots();
    let path = at("/etc/passwd");
    for name in ["user.note", "user.overlay.opaque", "user.rbuild.other"] {
        root.set_xattr(&path, name, b"v\0\xff").unwrap();
    }
    root.set_xattr(&path, "user.long", &[7; 3000]).unwrap();
    let found = root.xattrs(&path).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["user.long", "user.note"]);
    assert_eq!(found.values().map(Vec::len).collect::<Vec<_>>(), [3000, 3]);
    root.remove_xattr(&path, "user.note").unwrap();
    root.remove_xattr(&path, "user.note").unwrap();
    assert_eq!(root.xattrs(&path).unwrap().len(), 1);
    assert!(root.xattrs(&at("/none")).is_err());
}

#[test]
fn trees_are_removed_whatever_their_modes_and_depth_and_links_are_not_followed() {
    let (dir, [root, _]) = roots();
    let base = dir.path().join("root/tree");
    fs::create_dir_all(base.join("closed/inner")).unwrap();
    fs::write(base.join("closed/inner/f"), "").unwrap();
    symlink(dir.path().join("secret"), base.join("closed/link")).unwrap();
    symlink("..", base.join("closed/up")).unwrap();
    fs::set_permissions(base.join("closed/inner"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(base.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    if is_root() {
        let whiteout = Meta::new(FileKind::CharDevice { major: 0, minor: 0 }, 0, 0, 0, Timestamp::default());
        root.make(&at("/tree/gone"), &whiteout, None).unwrap();
    }
    // Deeper than a path can be long: made by moving a tree below another.
    let (part, top) = (vec!["d"; 900].join("/"), base.join("deep"));
    fs::create_dir_all(top.join(&part)).unwrap();
    for round in 0..3 {
        let below = base.join(format!("below{round}"));
        fs::create_dir_all(below.join(&part)).unwrap();
        fs::rename(&top, below.join(&part).join("next")).unwrap();
        fs::rename(&below, &top).unwrap();
    }
    remove_tree(&base).unwrap();
    assert!(!base.exists());
    assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"secret");
    remove_tree(&base).unwrap();
    remove_tree(Path::new("/nonexistent-dir/x")).unwrap();
}

#[test]
fn a_link_is_removed_itself() {
    let (dir, [root, _]) = roots();
    symlink("etc", dir.path().join("root/link")).unwrap();
    root.remove_all(&at("/link")).unwrap();
    assert!(root.meta(&at("/link")).unwrap().is_none() && root.meta(&at("/etc/passwd")).unwrap().is_some());
    root.remove_all(&at("/none/deep")).unwrap();
    root.remove_all(&at("/")).unwrap();
    assert!(root.read_dir(&at("/")).unwrap().is_empty());
}

#[test]
fn names_are_listed_sorted_and_renamed() {
    let (dir, roots) = roots();
    for name in ["b", "a", "B", "é"] {
        fs::write(dir.path().join("root/etc/sub").join(name), "").unwrap();
    }
    for root in &roots {
        assert_eq!(root.read_dir(&at("/etc/sub")).unwrap(), ["B", "a", "b", "é"]);
        assert!(root.read_dir(&at("/etc/passwd")).is_err());
    }
    roots[0].rename(&at("/etc/sub/a"), &at("/a")).unwrap();
    assert!(roots[0].meta(&at("/a")).unwrap().is_some());
}
