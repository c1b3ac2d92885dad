//! Layers from nobody knows where.

mod common;

use common::{Place, RawTar, applied, apply, assert_tree, exists, written};
use proptest::prelude::*;
use rbuild_fs::{FileKind, RootfsPath, Timestamp};
use rbuild_layer::{UnpackOptions, is_archive, newest_file, settle_layer, unpack_archive};

#[test]
fn names_never_lead_outside() {
    let tar = RawTar::new()
        .file("../up", "1")
        .file("/abs", "2")
        .file("a/../../../b", "3")
        .symlink("out", "../../../../../..")
        .file("out/through-dots", "4")
        .symlink("root", "/")
        .file("root/through-root", "5")
        .symlink("etc", "/else/nested")
        .file("etc/through-dangling", "6")
        .symlink("self", "/proc/self/root")
        .file("self/magic", "7")
        .end();
    let (place, _) = applied(&tar);
    assert_tree(
        &place,
        &[
            ("/abs", "f0644 0:0 2"),
            ("/b", "f0644 0:0 3"),
            ("/else", "d0755 0:0"),
            ("/else/nested", "d0755 0:0"),
            ("/else/nested/through-dangling", "f0644 0:0 6"),
            ("/etc", "l->/else/nested"),
            ("/out", "l->../../../../../.."),
            ("/proc", "d0755 0:0"),
            ("/proc/self", "d0755 0:0"),
            ("/proc/self/root", "d0755 0:0"),
            ("/proc/self/root/magic", "f0644 0:0 7"),
            ("/root", "l->/"),
            ("/self", "l->/proc/self/root"),
            ("/through-dots", "f0644 0:0 4"),
            ("/through-root", "f0644 0:0 5"),
            ("/up", "f0644 0:0 1"),
        ],
    );
}

#[test]
fn hard_links_never_lead_outside() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let target = format!("../../../../../..{}", outside.path().display());
    let (place, layer) =
        applied(&RawTar::new().link("l", &target).symlink("s", "/").link("m", &format!("s{target}")).end());
    assert_eq!(layer.lower_links.len(), 2, "both are looked for inside");
    assert!(!exists(place.host("l")) && !exists(place.host("m")));
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&outside.as_file().metadata().unwrap()), 1);
}

#[test]
fn later_entries_win_and_kinds_are_replaced() {
    let tar = RawTar::new()
        .file("a", "one")
        .link("twin", "a")
        .file("a", "two")
        .dir("d")
        .file("d/x", "x")
        .file("d", "now a file")
        .file("f", "file")
        .dir("f")
        .file("f/x", "in it")
        .symlink("s", "f")
        .dir("s")
        .file("s/own", "own")
        .end();
    let (place, layer) = applied(&tar);
    assert_tree(
        &place,
        &[
            ("/a", "f0644 0:0 two"),
            ("/d", "f0644 0:0 now a file"),
            ("/f", "d0755 0:0"),
            ("/f/x", "f0644 0:0 in it"),
            ("/s", "d0755 0:0"),
            ("/s/own", "f0644 0:0 own"),
            ("/twin", "f0644 0:0 one"),
        ],
    );
    assert!(!layer.needs_settling());
    let mut value = [0; 4];
    for dir in ["f", "s"] {
        // What lower layers had there went with what the directory replaces.
        assert_eq!(rustix::fs::lgetxattr(place.host(dir), "user.overlay.opaque", &mut value), Ok(1));
    }
}

#[test]
fn whiteouts_and_opaque_marks() {
    let tar = RawTar::new()
        .file(".wh.gone", "")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/kept", "k")
        .file("d/.wh..wh.aufs", "")
        .file("e/.wh.x", "")
        .file("late", "l")
        .file(".wh.late", "")
        .file(".wh.back", "")
        .dir("back")
        .file(".wh..", "")
        .file(".wh...", "")
        .file(".wh.", "")
        .end();
    let (place, layer) = applied(&tar);
    let whiteout = "CharDevice { major: 0, minor: 0 }";
    assert_tree(
        &place,
        &[
            ("/back", "d0755 0:0"),
            ("/d", "d0755 0:0"),
            ("/d/kept", "f0644 0:0 k"),
            ("/e", "d0755 0:0"),
            ("/e/x", whiteout),
            ("/gone", whiteout),
            ("/late", whiteout),
        ],
    );
    assert_eq!(layer.implied, [RootfsPath::new("/e")]);
    let opaque = |path| rustix::fs::lgetxattr(place.host(path), "user.overlay.opaque", &mut [0; 4]).is_ok();
    assert!(opaque("d") && opaque("back") && !opaque("e"));
}

#[test]
fn a_real_null_device_is_no_whiteout() {
    let (place, _) = applied(&RawTar::new().entry(b'3', b"null", b"", b"").end());
    assert_eq!(place.meta("null").unwrap().kind, FileKind::CharDevice { major: 0, minor: 0 });
    assert!(place.host("null").symlink_metadata().unwrap().is_file(), "overlayfs must not take it for one");
    let again = written(&place.root);
    let header = tar::Header::from_byte_slice(&again[..512]);
    assert_eq!((header.path_bytes().as_ref(), header.entry_type().as_byte()), (&b"null"[..], b'3'));
}

#[test]
fn attributes_cannot_forge_marks_or_the_journal() {
    let records: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.rbuild.meta", b"v1 uid=1 gid=1"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.fine", b"z"),
    ];
    let (place, _) = applied(&RawTar::new().pax(&records).dir("d").end());
    let mut list = [0; 512];
    let length = rustix::fs::llistxattr(place.host("d"), &mut list).unwrap();
    let mut names: Vec<_> = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.retain(|name| !name.starts_with(b"security."));
    let journaled = place.meta("d").map(|meta| (meta.uid, meta.gid));
    assert_eq!(journaled, Some((0, 0)));
    names.retain(|name| *name != b"user.rbuild.meta" || rustix::process::geteuid().is_root());
    assert_eq!(names, [&b"user.fine"[..], b"user.overlay.overlay.opaque"]);
}

#[test]
fn extended_headers_beat_the_header() {
    let long = "l/".repeat(150) + "end";
    let mut tar = RawTar::new().pax(&[
        ("size", b"3"),
        ("uid", b"4000000"),
        ("gid", b"7"),
        ("mtime", b"-1.5"),
        ("path", b"named"),
    ]);
    tar.header(b'0', b"other", b"", 1024, |_| {});
    tar.content(b"abc");
    let tar = tar
        .entry(b'L', b"././@LongLink", b"", &[long.as_bytes(), b"\0"].concat())
        .file("short", "gnu")
        .entry(b'K', b"././@LongLink", b"", &[long.as_bytes(), b"\0"].concat())
        .symlink("link", "short")
        .entry(b'g', b"pax_global_header", b"", b"11 uid=99\n\n")
        .file("after", "")
        .end();
    let (place, _) = applied(&tar);
    let named = place.meta("named").unwrap();
    assert_eq!((named.size, named.uid, named.gid), (3, 4_000_000, 7));
    assert_eq!((named.mtime.seconds, named.mtime.nanos), (-2, 500_000_000));
    assert_eq!(place.text(&long), "gnu");
    assert_eq!(place.meta("link").unwrap().kind, FileKind::Symlink(long.into()));
    assert_eq!(place.meta("after").unwrap().uid, 0);
}

#[test]
fn sparse_files_of_every_form() {
    let expected = [&[0; 1024][..], b"data", &[0; 600], b"more", &[0; 100]].concat();
    let size = expected.len().to_string();
    let mut tar = RawTar::new();
    tar.header(b'S', b"old", b"", 8 + 508, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        let octal = |value: u64| format!("{value:011o}\0");
        let pieces = [(1024, 4), (1628, 4), (expected.len() as u64, 0)];
        for (field, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            field.offset.copy_from_slice(octal(offset).as_bytes());
            field.numbytes.copy_from_slice(octal(length).as_bytes());
        }
        gnu.realsize.copy_from_slice(octal(expected.len() as u64).as_bytes());
        header.set_size(8);
    });
    tar.content(b"datamore");
    let map = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.map", b"1024,4,1628,4"),
        ("GNU.sparse.name", b"one"),
    ];
    let mut tar = tar.pax(&map).file("GNUSparse/one", "datamore");
    let repeated: [(&str, &[u8]); 6] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"1024"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"1628"),
        ("GNU.sparse.numbytes", b"4"),
    ];
    tar = tar.pax(&repeated).file("zero", "datamore");
    let mut body = b"2\n1024\n4\n1628\n4\n".to_vec();
    body.resize(512, 0);
    body.extend_from_slice(b"datamore");
    let major: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"new"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    let tar = tar.pax(&major).entry(b'0', b"GNUSparse/new", b"", &body).file("last", "l").end();
    let (place, _) = applied(&tar);
    for name in ["old", "one", "zero", "new"] {
        assert!(place.root.read(&name.into(), 1 << 20).unwrap() == expected, "{name}");
    }
    assert_eq!(place.text("last"), "l");
}

#[test]
fn damaged_archives_are_errors() {
    let whole = RawTar::new().file("a", &"x".repeat(2000)).end();
    let huge = |size: &[u8]| RawTar::new().pax(&[("size", size)]).file("a", "x").end();
    let mut bomb = RawTar::new();
    bomb.header(b'x', b"PaxHeaders/x", b"", 1 << 40, |_| {});
    let mut wrong_sum = whole.clone();
    wrong_sum[150] ^= 1;
    let sparse: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"10"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,99999999999")];
    let cases: [(&str, Vec<u8>); 13] = [
        ("cut in a header", whole[..100].to_vec()),
        ("cut in content", whole[..1000].to_vec()),
        ("cut in the filling", whole[..512 + 2020].to_vec()),
        ("checksum", wrong_sum),
        ("size beyond the end", huge(b"9000000000000000000")),
        ("size beyond u64", huge(b"99999999999999999999")),
        ("no number", huge(b"0x10")),
        ("an extension header of a TiB", bomb.0),
        ("extension without entry", RawTar::new().pax(&[("path", b"x")]).end()),
        ("a record without end", RawTar::new().entry(b'x', b"p", b"", b"99 path=x\n").file("a", "").end()),
        ("an unknown type", RawTar::new().entry(b'Q', b"a", b"", b"").end()),
        ("an owner no file can have", RawTar::new().pax(&[("uid", b"4294967295")]).file("a", "").end()),
        ("a sparse map beyond its file", RawTar::new().pax(&sparse).file("a", "x").end()),
    ];
    for (name, tar) in cases {
        assert!(apply(&tar).1.is_err(), "{name}");
    }
    assert!(apply(&RawTar::new().link("a", "a").end()).1.is_err(), "a link to itself");
    assert!(apply(&RawTar::new().file("f", "").file("f/x", "").end()).1.is_err(), "a file as a folder");
}

#[test]
fn the_stream_is_digested_to_its_end() {
    let mut tar = RawTar::new().file("a", "1").end();
    tar.extend_from_slice(&[7; 3000]);
    let (place, layer) = applied(&tar);
    assert_eq!(layer.size, tar.len() as u64);
    assert_eq!(layer.diff_id.0, rbuild_image::Digest::sha256_of(&tar));
    assert_tree(&place, &[("/a", "f0644 0:0 1")]);
}

#[test]
fn what_is_implied_comes_from_below() {
    let lower = Place::new();
    lower.node("d", FileKind::Directory, 0o2750, (4, 5), b"").xattr("d", "user.k", b"v");
    lower.dir("usr").node("usr/lib", FileKind::Directory, 0o711, (6, 6), b"").symlink("lib", "usr/lib");
    lower.node("d/tool", FileKind::File, 0o4711, (8, 9), b"tool").symlink("d/sym", "tool");
    let tar = RawTar::new()
        .file("d/sub/new", "n")
        .link("d/one", "d/tool")
        .link("two", "d/tool")
        .link("d/sym2", "d/sym")
        .file("lib/deep/x", "x")
        .dir("usr/lib/deep")
        .end();
    let (place, layer) = applied(&tar);
    assert_eq!(layer.lower_links.len(), 3);
    settle_layer(&place.root, &layer, &lower.root).unwrap();
    assert_tree(
        &place,
        &[
            ("/d", "d2750 4:5"),
            ("/d/one", "f4711 8:9 tool"),
            ("/d/sub", "d0755 0:0"),
            ("/d/sub/new", "f0644 0:0 n"),
            ("/d/sym2", "l->tool"),
            ("/two", "f4711 8:9 tool"),
            ("/usr", "d0755 0:0"),
            ("/usr/lib", "d0711 6:6"),
            ("/usr/lib/deep", "d0755 0:0"),
            ("/usr/lib/deep/x", "f0644 0:0 x"),
        ],
    );
    assert_eq!(place.root.xattrs(&"/d".into()).unwrap().len(), 1);
    assert_eq!(place.meta("d/one").unwrap().inode, place.meta("two").unwrap().inode);
    let missing = applied(&RawTar::new().link("a", "nowhere").end());
    let error = settle_layer(&missing.0.root, &missing.1, &lower.root).unwrap_err();
    assert!(error.to_string().contains("/nowhere"));
}

#[test]
fn an_archive_with_files_behind_a_link_to_nothing_is_refused() {
    for below in ["l/file", "l/sub/file"] {
        let place = Place::new();
        place.dir("app");
        let tar = RawTar::new().symlink("l", "/etc").file(below, "x").end();
        let error =
            unpack_archive(&tar[..], &place.root, &"/app".into(), &UnpackOptions::default()).unwrap_err();
        assert!(error.to_string().contains("l/"), "{error}");
        assert!(place.meta("app/etc").is_none());
    }
}

#[test]
fn archives_are_unpacked_over_what_is_there_and_stay_in_their_folder() {
    let place = Place::new();
    place.dir("app").file("app/one", "old").symlink("app/rel", "target").symlink("app/lib", "usr/lib");
    place.dir("app/usr").dir("app/usr/lib").dir("app/data").dir("app/etc").symlink("app/abs", "/etc");
    place.dir("etc");
    let tar = RawTar::new()
        .dir("./")
        .dir("data")
        .file("one", "new")
        .file("rel", "no link")
        .file("lib/through", "t")
        .file("../escape", "e")
        .file("abs/passwd", "p")
        .file(".wh.plain", "name")
        .end();
    let options = UnpackOptions { chown: Some((7, 8)), created: None };
    unpack_archive(&tar[..], &place.root, &"/app".into(), &options).unwrap();
    assert!(
        place
            .tree()
            .into_iter()
            .filter(|(path, _)| path.starts_with("/app/"))
            .all(|(_, text)| !text.contains("old"))
    );
    for (path, content) in [
        ("app/one", "new"),
        ("app/rel", "no link"),
        ("app/usr/lib/through", "t"),
        ("app/escape", "e"),
        ("app/etc/passwd", "p"),
        ("app/.wh.plain", "name"),
    ] {
        assert_eq!(place.text(path), content);
        let meta = place.meta(path).unwrap();
        assert_eq!((meta.uid, meta.gid), (7, 8), "{path}");
    }
    assert_eq!(place.root.read_dir(&"/etc".into()).unwrap().len(), 0);
}

#[test]
fn the_newest_file_dates_an_archive() {
    let at = |time: u64, kind, name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mtime(time);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_path(name).unwrap();
        if matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink) {
            header.set_link_name("a").unwrap();
        }
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let (file, folder) = (tar::EntryType::Regular, tar::EntryType::Directory);
    let files =
        [at(9, folder, "d"), at(5, file, "a"), at(3, file, "d/b"), at(8, tar::EntryType::Symlink, "l")];
    let hard = [files.concat(), at(6, tar::EntryType::Link, "h")].concat();
    for (entries, expected) in [
        (files.concat(), Some(5)),
        (hard, Some(6)),
        ([at(7, file, "x"), at(2, file, "x")].concat(), Some(7)),
        (at(9, folder, "d"), None),
        (Vec::new(), None),
    ] {
        let archive = [entries, vec![0; 1024]].concat();
        let expected = expected.map(Timestamp::from_seconds);
        assert_eq!(newest_file(&archive[..]).unwrap(), expected);
        let packed = zstd::encode_all(&archive[..], 1).unwrap();
        let place = Place::new();
        let options = UnpackOptions::default();
        assert_eq!(unpack_archive(&packed[..], &place.root, &"/".into(), &options).unwrap(), expected);
    }
    assert!(newest_file(&b"no archive at all, and longer than nothing"[..]).is_err());
}

#[test]
fn what_an_archive_is() {
    let tar = RawTar::new().file("a", "1").end();
    assert!(is_archive(&tar[..]));
    assert!(is_archive(&zstd::encode_all(&tar[..], 1).unwrap()[..]));
    for other in
        [&b""[..], b"just text", &[0; 1024], &zstd::encode_all(&b"text"[..], 1).unwrap(), &tar[..300]]
    {
        assert!(!is_archive(other));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever bytes come: an answer, no panic, and nothing outside.
    #[test]
    fn broken_bytes_do_no_harm(flips in prop::collection::vec((0_usize..8000, any::<u8>()), 0..12), cut in 0_usize..8000) {
        let mut tar = RawTar::new()
            .dir("d").file("d/a", "content").symlink("s", "../..").file("s/escaped-from-a-layer", "y").link("l", "d/a")
            .pax(&[("size", b"4"), ("SCHILY.xattr.user.a", b"b"), ("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"9")])
            .file("p", "abcd").entry(b'S', b"sp", b"", b"data").file(".wh.d", "").end();
        for (at, byte) in flips {
            let at = at % tar.len();
            tar[at] = byte;
            // Most changes would end at the checksum; repair it where it is a header's.
            let block = at / 512 * 512;
            if let Some(bytes) = tar.get_mut(block..block + 512) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(bytes);
                if header.as_bytes()[257..262] == *b"ustar" {
                    header.set_cksum();
                    bytes.copy_from_slice(header.as_bytes());
                }
            }
        }
        tar.truncate(tar.len().min(cut.max(512)));
        let (place, _) = apply(&tar);
        let beside: Vec<_> = std::fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert!(beside.iter().all(|name| name == "fs" || name == "sidecar"), "{:?}", beside);
        prop_assert!(!exists(place.dir.path().parent().unwrap().join("escaped-from-a-layer")));
    }
}
