//! Trees without overlayfs: a stack as one directory, and what changed in it as a layer.

mod common;

use common::{Place, assert_tree};
use rbuild_fs::FileKind;
use rbuild_layer::Kept;
use rbuild_layer::flat::{Baseline, merge, write_changes};

const FIFO: (FileKind, u32) = (FileKind::Fifo, 0o640);

fn base() -> Place {
    let place = Place::new();
    place.file("same", "same").file("written", "old").file("gone", "gone").symlink("link", "same");
    place.dir("folder").file("folder/in", "in").dir("folder/deep").file("folder/deep/x", "x");
    place.dir("replaced").file("replaced/old", "old").dir("becomes-file").file("becomes-file/x", "x");
    place.file("becomes-folder", "f").link("same", "twin").dir("quiet").file("quiet/untouched", "u");
    place.node("pipe", FIFO.0, FIFO.1, (70_000, 5), b"").node(
        "owned",
        FileKind::File,
        0o4755,
        (33, 44),
        b"o",
    );
    place.xattr("folder", "user.note", b"n");
    place
}

/// The tree of a stack, the topmost first.
fn merged(stack: &[&Place]) -> Place {
    let into = Place::new();
    let stack: Vec<_> = stack.iter().map(|place| place.root.try_clone().unwrap()).collect();
    merge(&stack, &into.root).unwrap();
    into
}

#[test]
fn a_layer_hides_and_adds() {
    let (lower, upper) = (base(), Place::new());
    upper.whiteout("gone").dir("folder").whiteout("folder/deep").file("folder/new", "n");
    upper.dir("replaced").xattr("replaced", "user.overlay.opaque", b"y").file("replaced/new", "n");
    upper.file("becomes-file", "now").dir("becomes-folder").file("twin", "apart");
    // The form of a whiteout that needs no device node.
    upper.file("link", "").xattr("link", "user.overlay.whiteout", b"y");
    let tree = merged(&[&upper, &lower]);
    let (shown, xattr) = (tree.tree(), |path: &str| tree.root.xattr(&path.into(), "user.note").unwrap());
    for gone in ["/gone", "/link", "/folder/deep", "/folder/deep/x", "/replaced/old", "/becomes-file/x"] {
        assert!(!shown.contains_key(gone), "{gone} in {shown:?}");
    }
    for (path, text) in [
        ("/folder/in", "f0644 0:0 in"),
        ("/folder/new", "f0644 0:0 n"),
        ("/replaced/new", "f0644 0:0 n"),
        ("/becomes-file", "f0644 0:0 now"),
        ("/becomes-folder", "d0755 0:0"),
        ("/twin", "f0644 0:0 apart"),
        ("/same", "f0644 0:0 same"),
        ("/owned", "f4755 33:44 o"),
    ] {
        assert_eq!(shown.get(path).map(String::as_str), Some(text), "{path}");
    }
    // As overlayfs has it: the folder of the layer on top counts, with its attributes.
    assert_eq!(xattr("/folder"), None);
    let pipe = tree.meta("pipe").unwrap();
    assert_eq!((pipe.uid, pipe.gid), (70_000, 5), "the sidecar comes along");
}

#[test]
fn what_did_not_change_is_in_no_layer() {
    let (tree, upper) = (base(), Place::new());
    let before = Baseline::of(&tree.root).unwrap();
    write_changes(&before, &tree.root, &upper.root).unwrap();
    assert_tree(&upper, &[]);
}

#[test]
fn a_mount_point_that_came_and_went_leaves_nothing() {
    let (tree, upper) = (base(), Place::new());
    let time = tree.meta("quiet").unwrap().mtime;
    let before = Baseline::of(&tree.root).unwrap();
    tree.dir("quiet/stub");
    tree.root.remove_all(&"quiet/stub".into()).unwrap();
    tree.root.set_mtime(&"quiet".into(), time).unwrap();
    write_changes(&before, &tree.root, &upper.root).unwrap();
    assert_tree(&upper, &[]);
}

#[test]
fn changes_over_what_was_are_what_is() {
    let (lower, upper) = (base(), Place::new());
    let work = merged(&[&lower]);
    // Copies, as a step has them: the merged tree has the lower's own inodes.
    let work = {
        let copy = Place::new();
        assert!(
            std::process::Command::new("cp")
                .args(["-a", "--no-preserve=links"])
                .arg(work.host("."))
                .arg(copy.host("."))
                .status()
                .unwrap()
                .success()
        );
        let owners = ["pipe"].map(|path| (path, work.meta(path).unwrap()));
        owners.iter().for_each(|(path, meta)| copy.root.set_meta(&(*path).into(), meta).unwrap());
        copy
    };
    let before = Baseline::of(&work.root).unwrap();
    let time = work.meta("written").unwrap().mtime;
    // The same size and the same time: only the inode's own time tells.
    std::fs::write(work.host("written"), "new").unwrap();
    work.root.set_mtime(&"written".into(), time).unwrap();
    for gone in ["gone", "folder/deep", "replaced", "becomes-file", "becomes-folder"] {
        work.root.remove_all(&gone.into()).unwrap();
    }
    work.dir("replaced").file("replaced/new", "n").file("becomes-file", "now").dir("becomes-folder");
    work.file("folder/new", "n").link("same", "third").node("quiet", FileKind::Directory, 0o700, (1, 2), b"");
    write_changes(&before, &work.root, &upper.root).unwrap();
    assert_eq!(upper.text("written"), "new");
    assert!(upper.meta("quiet/untouched").is_none() && upper.meta("owned").is_none(), "{:?}", upper.tree());
    assert_eq!(merged(&[&upper, &lower]).tree(), work.tree());
    let (one, other) = (upper.meta("same").unwrap(), upper.meta("third").unwrap());
    assert_eq!(one.inode, other.inode, "names of one file stay names of one file");
}

#[test]
fn what_others_have_in_the_tree_is_no_change() {
    let (tree, upper) = (base(), Place::new());
    let kept = Kept::new(["/folder/deep", "/quiet/untouched"].map(Into::into));
    let before = Baseline::without(&tree.root, kept).unwrap();
    tree.file("folder/deep/x", "other").file("folder/deep/new", "n");
    for name in ["quiet/untouched", "written"] {
        std::fs::write(tree.host(name), "other").unwrap();
    }
    write_changes(&before, &tree.root, &upper.root).unwrap();
    let shown = upper.tree();
    assert_eq!(shown.keys().filter(|path| *path != "/").collect::<Vec<_>>(), ["/written"]);
}

#[test]
fn a_file_that_was_moved_away_and_back_is_accepted() {
    let (tree, upper) = (base(), Place::new());
    let mut before = Baseline::of(&tree.root).unwrap();
    for name in ["/folder/in", "/quiet/untouched"] {
        let (there, aside) = (name.into(), "/aside".into());
        tree.root.rename(&there, &aside).unwrap();
        tree.root.rename(&aside, &there).unwrap();
    }
    before.accept(&tree.root, &"/folder/in".into()).unwrap();
    // Another inode is another file, whoever says that it is the same.
    tree.file("new", "old").root.rename(&"/new".into(), &"/written".into()).unwrap();
    before.accept(&tree.root, &"/written".into()).unwrap();
    write_changes(&before, &tree.root, &upper.root).unwrap();
    let shown = upper.tree();
    assert!(!shown.contains_key("/folder/in"), "{shown:?}");
    assert!(shown.contains_key("/quiet/untouched") && shown.contains_key("/written"), "{shown:?}");
}
