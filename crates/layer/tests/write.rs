//! What layers look like, to us and to others' readers.

mod common;

use std::process::{Command, Stdio};

use common::{Place, applied, assert_tree, has, is_root, written};
use proptest::prelude::*;
use rbuild_fs::FileKind;
use rbuild_image::{DiffId, Digest};
use rbuild_layer::{FlatOptions, WriteOptions, digest_layer, write_flat, write_layer};

/// A tree with one of everything.
fn everything() -> Place {
    let place = Place::new();
    let long = "n".repeat(200);
    let deep = ["d"; 60].map(|part| part.repeat(4)).join("/");
    place.dir("dir").node("dir/secret", FileKind::File, 0o4755, (70_000, 5), b"setuid");
    place.node("big-id", FileKind::File, 0o600, (3_000_000, 2_500_000), b"");
    place.symlink("link", "dir/secret").symlink("far", &"t/".repeat(80));
    place.node("fifo", FileKind::Fifo, 0o640, (0, 0), b"");
    place.node("null", FileKind::CharDevice { major: 1, minor: 3 }, 0o666, (0, 0), b"");
    place.node("disk", FileKind::BlockDevice { major: 8, minor: 1048575 }, 0o660, (0, 6), b"");
    place.file(&long, "long name").link(&long, "another").link("dir/secret", "dir/twin");
    place.root.create_dir_all(&deep.as_str().into(), &Default::default()).unwrap();
    place.file(&format!("{deep}/leaf"), "deep");
    place.dir("opaque").xattr("opaque", "user.overlay.opaque", b"y").file("opaque/new", "x");
    place.whiteout("gone").whiteout("opaque/old");
    place.file("noted", "note").xattr("noted", "user.note", b"h\0\xff=\n").xattr(
        "noted",
        "user.overlay.origin",
        b"o",
    );
    place.xattr("noted", "user.overlay.overlay.opaque", b"inner").xattr("noted", "user.rbuild.other", b"o");
    place.node("socket", FileKind::Socket, 0o755, (0, 0), b"");
    place.file("blocks", &"0123456789abcdef".repeat(96));
    place
}

fn members(tar: &[u8]) -> Vec<String> {
    tar::Archive::new(tar)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            let header = entry.header();
            let link = entry.link_name_bytes().map(|link| format!(" -> {}", String::from_utf8_lossy(&link)));
            let kind = header.entry_type().as_byte() as char;
            let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
            format!("{kind} {mode:o} {uid}:{gid} {} {path}{}", content.len(), link.unwrap_or_default())
        })
        .collect()
}

#[test]
fn entries_are_sorted_and_marked_as_the_image_spec_says() {
    let place = everything();
    let short: Vec<_> = members(&written(&place.root))
        .into_iter()
        .filter(|line| line.len() < 80 && !line.contains("dddd"))
        .collect();
    assert_eq!(
        short,
        [
            "0 644 0:0 9 another",
            "0 600 3000000:2500000 0 big-id",
            "0 644 0:0 1536 blocks",
            "5 755 0:0 0 dir/",
            "0 4755 70000:5 6 dir/secret",
            "1 4755 70000:5 0 dir/twin -> dir/secret",
            "4 660 0:6 0 disk",
            "6 640 0:0 0 fifo",
            "0 600 0:0 0 .wh.gone",
            "2 777 0:0 0 link -> dir/secret",
            "0 644 0:0 4 noted",
            "3 666 0:0 0 null",
            "5 755 0:0 0 opaque/",
            "0 600 0:0 0 opaque/.wh..wh..opq",
            "0 644 0:0 1 opaque/new",
            "0 600 0:0 0 opaque/.wh.old",
        ]
    );
}

#[test]
fn a_layer_applied_and_written_again_is_the_same_layer() {
    let place = everything();
    let first = written(&place.root);
    let (again, layer) = applied(&first);
    assert_eq!(layer.diff_id, DiffId(Digest::sha256_of(&first)));
    assert_eq!(layer.size, first.len() as u64);
    assert!(!layer.needs_settling() && !layer.has_root);
    assert_eq!(members(&written(&again.root)), members(&first));
    assert!(written(&again.root) == first);
}

#[test]
fn the_digest_is_that_of_the_tar() {
    let place = everything();
    let mut tar = Vec::new();
    let summary = write_layer(&place.root, &WriteOptions::default(), &mut tar).unwrap();
    assert_eq!((summary.bytes, summary.entries as usize), (tar.len() as u64, members(&tar).len()));
    let digest = digest_layer(&place.root, &WriteOptions::default()).unwrap();
    assert_eq!(digest, (DiffId(Digest::sha256_of(&tar)), tar.len() as u64));
}

#[test]
fn times_are_whole_seconds_and_clamped() {
    let place = Place::new();
    place.file("a", "");
    let times = |clamp| {
        let mut tar = Vec::new();
        write_layer(&place.root, &WriteOptions { clamp }, &mut tar).unwrap();
        tar::Archive::new(&tar[..]).entries().unwrap().next().unwrap().unwrap().header().mtime().unwrap()
    };
    assert_eq!(times(None), 1_700_000_000);
    assert_eq!(times(Some(1_800_000_000)), 1_700_000_000);
    assert_eq!(times(Some(5)), 5);
}

#[test]
fn names_that_would_mean_a_whiteout_are_refused() {
    let place = Place::new();
    place.file(".wh.x", "");
    let error = write_layer(&place.root, &WriteOptions::default(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("/.wh.x"), "{error}");
    let mut flat = Vec::new();
    write_flat(&place.root, &FlatOptions::default(), &mut flat).unwrap();
    assert_eq!(members(&flat), ["0 644 0:0 0 .wh.x"]);
}

#[test]
fn the_attribute_form_of_whiteouts_is_understood() {
    let place = Place::new();
    place.dir("d").xattr("d", "user.overlay.opaque", b"x");
    place.file("d/gone", "").xattr("d/gone", "user.overlay.whiteout", b"");
    assert_eq!(members(&written(&place.root)), ["5 755 0:0 0 d/", "0 600 0:0 0 d/.wh.gone"]);
}

#[test]
fn other_readers_see_the_same() {
    let place = everything();
    let tar = written(&place.root);
    let file = place.dir.path().join("layer.tar");
    std::fs::write(&file, &tar).unwrap();
    let ours: Vec<_> =
        members(&tar).iter().map(|line| line.splitn(5, ' ').nth(4).unwrap().to_owned()).collect();
    let ours: Vec<_> =
        ours.iter().map(|path| path.split(" -> ").next().unwrap().trim_end_matches('/')).collect();

    if has("python3") {
        let script = "import sys,tarfile
t=tarfile.open(sys.argv[1])
for m in t: print(m.name)
m=t.getmember('big-id'); assert (m.uid,m.gid,m.uname)==(3000000,2500000,''), (m.uid,m.gid)
m=t.getmember('noted'); assert m.pax_headers['SCHILY.xattr.user.note'].encode('utf8','surrogateescape')==b'h\\0\\xff=\\n', m.pax_headers
assert t.getmember('dir/twin').islnk() and t.getmember('disk').devminor==1048575
assert not any('origin' in k or 'rbuild' in k for k in m.pax_headers)";
        let output = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), ours);
    }
    if has("tar") {
        let output = Command::new("tar").arg("-tf").arg(&file).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.lines().map(|line| line.trim_end_matches('/')).collect::<Vec<_>>(), ours);
    }
}

/// What a command did in a mounted overlay is what the layer tells.
#[test]
fn the_upper_directory_of_a_real_overlay() {
    if !is_root("mounting an overlay") || !has("unshare") {
        return;
    }
    let (lower, upper, work) = (Place::new(), Place::new(), Place::new());
    lower
        .dir("d")
        .file("d/a", "a")
        .file("d/b", "b")
        .dir("e")
        .file("e/x", "x")
        .file("keep", "k")
        .file("f", "f");
    lower.file("t1", "t").link("t1", "t2");
    let script = "set -e; mount -t overlay o -o userxattr,lowerdir=$1,upperdir=$2,workdir=$3 $4; cd $4
rm d/a; rm -r e; mkdir e; echo new > e/new; mv f g; echo x >> d/b; rm keep; mkdir keep; echo y > keep/y; chmod 700 d";
    let merged = Place::new();
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([lower.host(""), upper.host(""), work.host(""), merged.host("")])
        .status()
        .unwrap();
    if !status.success() {
        return common::skip("overlay cannot be mounted on the temporary directory");
    }
    let names: Vec<_> = members(&written(&upper.root))
        .into_iter()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "d/",
            "d/.wh.a",
            "d/b",
            "e/",
            "e/.wh..wh..opq",
            "e/new",
            ".wh.f",
            "g",
            "keep/",
            "keep/.wh..wh..opq",
            "keep/y"
        ]
    );

    // The layer under the old lower gives the tree that the command saw.
    let (again, _) = applied(&written(&upper.root));
    let flat = Place::new();
    let script = "set -e; mount -t overlay o -o userxattr,lowerdir=$1:$2 $3; cp -a $3/. $4";
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([again.host(""), lower.host(""), merged.host(""), flat.host("")])
        .status()
        .unwrap();
    assert!(status.success());
    assert_tree(
        &flat,
        &[
            ("/d", "d0700 0:0"),
            ("/d/b", "f0644 0:0 b\u{78}"),
            ("/e", "d0755 0:0"),
            ("/e/new", "f0644 0:0 new"),
            ("/g", "f0644 0:0 f"),
            ("/keep", "d0755 0:0"),
            ("/keep/y", "f0644 0:0 y"),
            ("/t1", "f0644 0:0 t"),
            ("/t2", "f0644 0:0 t"),
        ],
    );
}

#[test]
fn capabilities_survive() {
    if !is_root("file capabilities") {
        return;
    }
    let place = Place::new();
    let two = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    place.file("prog", "x").xattr("prog", "security.capability", &two);
    let tar = written(&place.root);
    let (again, _) = applied(&tar);
    assert_eq!(again.root.xattrs(&"/prog".into()).unwrap()[std::ffi::OsStr::new("security.capability")], two);
    assert!(written(&again.root) == tar);
}

#[derive(Clone, Debug)]
enum Act {
    File(Vec<u8>, u32, u32),
    Dir(u32),
    Symlink(String),
    Fifo,
    Device(u32, u32),
    Whiteout,
    Opaque,
    Link,
    Xattr(Vec<u8>),
}

fn acts() -> impl Strategy<Value = Vec<(String, Act)>> {
    let name = prop::collection::vec("[a-c]{1,2}|n{99,102}|p{60}|é", 1..4).prop_map(|parts| parts.join("/"));
    let act = prop_oneof![
        (
            prop::collection::vec(any::<u8>(), 0..2000),
            0_u32..0o10000,
            prop_oneof![0_u32..3, 2_000_000_u32..2_200_000]
        )
            .prop_map(|(content, mode, id)| Act::File(content, mode, id)),
        (0_u32..0o10000).prop_map(|mode| Act::Dir(mode | 0o700)),
        "[a-z/]{1,150}".prop_map(Act::Symlink),
        Just(Act::Fifo),
        (0_u32..300, 1_u32..1_000_000).prop_map(|(major, minor)| Act::Device(major, minor)),
        Just(Act::Whiteout),
        Just(Act::Opaque),
        Just(Act::Link),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(Act::Xattr),
    ];
    prop::collection::vec((name, act), 1..25)
}

/// Carries the acts out as far as they are possible.
fn grow(acts: &[(String, Act)]) -> Place {
    let place = Place::new();
    let mut files: Vec<String> = Vec::new();
    for (name, act) in acts {
        let path = rbuild_fs::RootfsPath::new(name);
        let parent = path.parent().unwrap();
        if place.root.create_dir_all(&parent, &Default::default()).is_err() {
            continue;
        }
        let is_dir = place.meta(name).is_some_and(|meta| meta.is_dir());
        match act {
            Act::Dir(mode) if place.meta(name).is_none() => {
                place.node(name, FileKind::Directory, *mode, (1, 2), b"");
            }
            Act::Opaque if is_dir => drop(place.xattr(name, "user.overlay.opaque", b"y")),
            Act::Xattr(value) if is_dir || files.contains(name) => drop(place.xattr(name, "user.k", value)),
            _ if place.meta(name).is_some() => {}
            Act::File(content, mode, id) => {
                place.node(name, FileKind::File, *mode, (*id, *id), content);
                files.push(name.clone());
            }
            Act::Symlink(target) => drop(place.symlink(name, target)),
            Act::Fifo => drop(place.node(name, FileKind::Fifo, 0o644, (0, 0), b"")),
            Act::Device(major, minor) => {
                place.node(name, FileKind::BlockDevice { major: *major, minor: *minor }, 0o600, (0, 0), b"");
            }
            Act::Whiteout => drop(place.whiteout(name)),
            Act::Link => drop(files.first().map(|first| place.link(first, name))),
            _ => {}
        }
    }
    place
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_from_its_layer(acts in acts()) {
        if !is_root("modes that shut out their owner") {
            return Ok(());
        }
        let place = grow(&acts);
        let tar = written(&place.root);
        prop_assert_eq!(tar.len() % 512, 0);
        let listed = members(&tar);
        let (again, layer) = applied(&tar);
        prop_assert_eq!(layer.entries, listed.len() as u64);
        prop_assert!(!layer.needs_settling(), "{:?}", layer);
        prop_assert_eq!(members(&written(&again.root)), listed);
        prop_assert!(written(&again.root) == tar);
    }
}
