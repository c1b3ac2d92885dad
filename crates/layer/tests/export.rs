//! `type=tar` and `type=local`.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::{Place, RawTar, exists, is_root};
use rbuild_fs::FileKind;
use rbuild_layer::{ExportOptions, FlatOptions, export_tree, write_flat};

fn image() -> Place {
    let place = Place::new();
    place.dir("d").node("d/f", FileKind::File, 0o640, (70_000, 5), b"x").symlink("d/l", "f");
    place.node("d/ro", FileKind::Directory, 0o555, (0, 0), b"").file("d/ro/in", "in").link("d/f", "top");
    place.node("null", FileKind::CharDevice { major: 1, minor: 3 }, 0o666, (0, 0), b"");
    place.symlink("etc", "/etc");
    place
}

#[test]
fn a_local_export_belongs_to_the_caller() {
    if !is_root("owners of closed directories") {
        return;
    }
    let (place, out) = (image(), tempfile::tempdir().unwrap());
    let to = out.path().join("new/out");
    export_tree(&place.root, &to, &ExportOptions { clamp: Some(1000), delete: false }).unwrap();
    let file = to.join("d/f").metadata().unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o640);
    assert_eq!((file.mtime(), file.nlink()), (1000, 2));
    assert_eq!(file.ino(), to.join("top").metadata().unwrap().ino());
    assert_eq!(std::fs::read_link(to.join("d/l")).unwrap().to_str(), Some("f"));
    assert_eq!(to.join("d/ro").metadata().unwrap().permissions().mode() & 0o777, 0o555);
    assert!(!exists(to.join("null")), "devices are left out");
    assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn exports_merge_or_mirror_and_never_follow_links_out() {
    if !is_root("owners of closed directories") {
        return;
    }
    let (place, out) = (image(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(out.path().join("top")).unwrap();
    std::fs::write(out.path().join("mine"), "m").unwrap();
    std::os::unix::fs::symlink(outside.path(), out.path().join("d")).unwrap();
    export_tree(&place.root, out.path(), &ExportOptions::default()).unwrap();
    assert!(exists(out.path().join("mine")) && out.path().join("top").is_file());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    export_tree(&place.root, out.path(), &ExportOptions { delete: true, clamp: None }).unwrap();
    assert!(!exists(out.path().join("mine")) && exists(out.path().join("d/ro/in")));
}

#[test]
fn a_flat_archive_holds_the_tree_without_marks() {
    if !is_root("owners of closed directories") {
        return;
    }
    let place = image();
    place.xattr("d", "user.overlay.opaque", b"y");
    let write = |owners| {
        let mut tar = Vec::new();
        write_flat(&place.root, &FlatOptions { clamp: Some(5), owners }, &mut tar).unwrap();
        tar
    };
    let owners_of = |tar: &[u8]| -> Vec<(String, u64, u64)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        let describe = |entry: tar::Entry<'_, &[u8]>| {
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().uid().unwrap(), entry.header().mtime().unwrap())
        };
        entries.map(describe).collect()
    };
    let names: Vec<_> = owners_of(&write(true)).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["d/", "d/f", "d/l", "d/ro/", "d/ro/in", "etc", "null", "top"]);
    assert!(owners_of(&write(true)).contains(&("d/f".to_owned(), 70_000, 5)));
    assert!(owners_of(&write(false)).iter().all(|(_, uid, mtime)| (*uid, *mtime) == (0, 5)));
}

#[test]
fn an_applied_base_exports_like_any_tree() {
    if !is_root("devices") {
        return;
    }
    let tar = RawTar::new().dir("dev").entry(b'3', b"dev/zero", b"", b"").file("f", "f").end();
    let (place, _) = common::applied(&tar);
    let out = tempfile::tempdir().unwrap();
    export_tree(&place.root, out.path(), &ExportOptions::default()).unwrap();
    assert!(exists(out.path().join("f")) && !exists(out.path().join("dev/zero")));
}
