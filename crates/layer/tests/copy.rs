//! The destination rules of COPY and ADD.

mod common;

use common::{Place, RawTar, assert_tree, is_root, written};
use rbuild_context::{SelectOptions, Selection, Tree};
use rbuild_fs::{FileKind, RootfsPath, Timestamp};
use rbuild_layer::copy::{CopyError, CopyOptions, CopySummary, SingleFile, Unpack, copy, copy_file};

/// A context directory as COPY sees it.
fn context(place: &Place) -> Tree {
    Tree::directory(place.host(""), None).unwrap()
}

/// A stage as COPY --from sees it.
fn stage(place: &Place) -> Tree {
    Tree::rootfs(place.root.try_clone().unwrap())
}

fn select(tree: &Tree, sources: &[&str], parents: bool) -> Vec<Selection> {
    let options = SelectOptions { wildcards: true, parents, ..SelectOptions::default() };
    sources.iter().map(|source| tree.select(source, &options).unwrap()).collect()
}

/// Carries out `COPY SOURCES… DESTINATION` with flags.
fn try_copy(
    tree: &Tree,
    sources: &[&str],
    to: &Place,
    destination: &str,
    options: &CopyOptions,
) -> Result<CopySummary, CopyError> {
    let selections = select(tree, sources, options.parents);
    let is_dir = destination.ends_with('/') || destination.ends_with("/.") || destination == ".";
    copy(tree, &selections, &to.root, &RootfsPath::new(destination), is_dir, options)
}

#[track_caller]
fn copied(
    tree: &Tree,
    sources: &[&str],
    to: &Place,
    destination: &str,
    options: &CopyOptions,
) -> CopySummary {
    try_copy(tree, sources, to, destination, options).unwrap()
}

fn plain() -> CopyOptions {
    CopyOptions::default()
}

fn chmod(mode: &str) -> CopyOptions {
    CopyOptions { chmod: Some(mode.parse().unwrap()), ..plain() }
}

fn source() -> Place {
    let place = Place::new();
    place.file("a", "a").file("b", "b");
    place.node("dir", FileKind::Directory, 0o700, (0, 0), b"").file("dir/x", "x");
    place.node("dir/sub", FileKind::Directory, 0o750, (0, 0), b"").node(
        "dir/sub/y",
        FileKind::File,
        0o4755,
        (0, 0),
        b"y",
    );
    place.symlink("dir/link", "/nowhere").symlink("to-a", "a").dir("empty");
    place
}

#[test]
fn a_file_goes_into_a_directory_or_takes_the_name() {
    // destination, what is there before (d: a directory), where the file ends up
    let table = [
        ("/new", None, "/new"),
        ("/new/", None, "/new/a"),
        ("/p/q/new", None, "/p/q/new"),
        ("/there", Some("there"), "/there/a"),
        ("/there/", Some("there"), "/there/a"),
        ("/there/.", Some("there"), "/there/a"),
        ("/", None, "/a"),
        (".", None, "/a"),
    ];
    let place = source();
    for (destination, before, lands) in table {
        let to = Place::new();
        before.map(|dir| to.dir(dir));
        copied(&context(&place), &["a"], &to, destination, &plain());
        assert_eq!(to.text(lands), "a", "{destination}");
    }
}

#[test]
fn several_sources_without_a_slash_overwrite_the_file() {
    let (place, to) = (source(), Place::new());
    copied(&context(&place), &["a", "b"], &to, "/dest", &plain());
    assert_tree(&to, &[("/dest", "f0644 0:0 b")]);
}

#[test]
fn a_directory_gives_its_contents() {
    if !is_root("set-id bits and closed directories") {
        return;
    }
    let (place, to) = (source(), Place::new());
    let summary = copied(&context(&place), &["dir"], &to, "/new", &plain());
    assert_eq!((summary.files, summary.directories, summary.bytes), (3, 2, 2));
    assert_tree(
        &to,
        &[
            ("/new", "d0755 0:0"),
            ("/new/link", "l->/nowhere"),
            ("/new/sub", "d0750 0:0"),
            ("/new/sub/y", "f4755 0:0 y"),
            ("/new/x", "f0644 0:0 x"),
        ],
    );
}

#[test]
fn existing_directories_keep_their_mode_but_those_below_take_the_source_s() {
    if !is_root("set-id bits and closed directories") {
        return;
    }
    let (place, to) = (source(), Place::new());
    to.node("d", FileKind::Directory, 0o1777, (3, 4), b"").node(
        "d/sub",
        FileKind::Directory,
        0o711,
        (5, 6),
        b"",
    );
    to.file("d/sub/old", "old");
    copied(&context(&place), &["dir"], &to, "/d", &plain());
    assert_tree(
        &to,
        &[
            ("/d", "d1777 3:4"),
            ("/d/link", "l->/nowhere"),
            ("/d/sub", "d0750 0:0"),
            ("/d/sub/old", "f0644 0:0 old"),
            ("/d/sub/y", "f4755 0:0 y"),
            ("/d/x", "f0644 0:0 x"),
        ],
    );
    assert_eq!(to.meta("d").unwrap().mtime, place.meta("dir").unwrap().mtime);
    assert_eq!(to.meta("d/sub").unwrap().mtime, place.meta("dir/sub").unwrap().mtime);
    assert_eq!(to.meta("d/x").unwrap().mtime, Timestamp::from_seconds(1_700_000_000));
}

#[test]
fn wildcards_flatten_directories_and_may_match_nothing() {
    let (place, to) = (source(), Place::new());
    copied(&context(&place), &["*"], &to, "/all/", &plain());
    let names: Vec<_> = to.tree().into_keys().collect();
    assert_eq!(
        names,
        ["/all", "/all/a", "/all/b", "/all/link", "/all/sub", "/all/sub/y", "/all/to-a", "/all/x"]
    );
    assert_eq!(to.text("/all/to-a"), "a", "a link that is named is followed and keeps its name");

    let nothing = Place::new();
    copied(&context(&place), &["*.none"], &nothing, "/out/", &plain());
    assert_tree(&nothing, &[]);
    copied(&context(&place), &["*.none"], &nothing, "/out/", &CopyOptions { parents: true, ..plain() });
    assert_tree(&nothing, &[("/out", "d0755 0:0")]);
}

#[test]
fn chown_is_for_all_that_is_copied_and_made() {
    if !is_root("set-id bits and closed directories") {
        return;
    }
    let (place, to) = (source(), Place::new());
    to.dir("there");
    let options = CopyOptions { chown: Some((33, 44)), ..plain() };
    copied(&context(&place), &["dir"], &to, "/there/p/q", &options);
    copied(&context(&place), &["a"], &to, "/there/", &options);
    for (path, text) in to.tree() {
        match path.as_str() {
            "/there" => assert_eq!(text, "d0755 0:0"),
            _ => {
                let meta = to.meta(&path).unwrap();
                assert_eq!((meta.uid, meta.gid), (33, 44), "{path}");
            }
        }
    }
    assert_eq!(to.meta("/there/p/q/sub/y").unwrap().mode, 0o4755, "set-id bits survive the change of owner");
}

#[test]
fn chmod_by_number_is_also_for_made_directories() {
    if !is_root("set-id bits and closed directories") {
        return;
    }
    let (place, to) = (source(), Place::new());
    copied(&context(&place), &["a"], &to, "/new/dir/sticky", &chmod("1777"));
    copied(&context(&place), &["dir"], &to, "/d", &chmod("0640"));
    assert_tree(
        &to,
        &[
            ("/d", "d0640 0:0"),
            ("/d/link", "l->/nowhere"),
            ("/d/sub", "d0640 0:0"),
            ("/d/sub/y", "f0640 0:0 y"),
            ("/d/x", "f0640 0:0 x"),
            ("/new", "d0777 0:0"),
            ("/new/dir", "d0777 0:0"),
            ("/new/dir/sticky", "f1777 0:0 a"),
        ],
    );
}

#[test]
fn chmod_by_symbols_is_relative_and_not_for_made_directories() {
    let (place, to) = (source(), Place::new());
    copied(&context(&place), &["dir"], &to, "/d", &chmod("go+rX,u-s"));
    assert_tree(
        &to,
        &[
            ("/d", "d0755 0:0"),
            ("/d/link", "l->/nowhere"),
            ("/d/sub", "d0755 0:0"),
            ("/d/sub/y", "f0755 0:0 y"),
            ("/d/x", "f0644 0:0 x"),
        ],
    );
}

#[test]
fn links_at_the_destination_are_followed_inside() {
    let (place, to) = (source(), Place::new());
    to.dir("links")
        .file("links/target", "old")
        .symlink("links/rel", "target")
        .symlink("links/broken", "/nope/none");
    to.symlink("abs", "/links").symlink("up", "../../../links");
    let tree = context(&place);
    copied(&tree, &["a"], &to, "/links/rel", &plain());
    copied(&tree, &["a"], &to, "/links/broken", &plain());
    copied(&tree, &["b"], &to, "/abs", &plain());
    copied(&tree, &["empty", "dir/x"], &to, "/up/", &plain());
    assert_tree(
        &to,
        &[
            ("/abs", "l->/links"),
            ("/links", "d0755 0:0"),
            ("/links/b", "f0644 0:0 b"),
            ("/links/broken", "l->/nope/none"),
            ("/links/rel", "l->target"),
            ("/links/target", "f0644 0:0 a"),
            ("/links/x", "f0644 0:0 x"),
            ("/nope", "d0755 0:0"),
            ("/nope/none", "f0644 0:0 a"),
            ("/up", "l->../../../links"),
        ],
    );
    // In a directory a link is replaced, not followed.
    to.symlink("links/a", "target");
    copied(&tree, &["b", "a"], &to, "/links/", &plain());
    assert_eq!(to.meta("links/a").unwrap().kind, FileKind::File);
    assert_eq!(to.text("links/target"), "a");
}

#[test]
fn kinds_that_do_not_fit_are_errors() {
    let (place, to) = (source(), Place::new());
    to.dir("d").dir("d/x").dir("e").file("e/sub", "file").dir("f").symlink("f/sub", "/e").file("file", "");
    let tree = context(&place);
    let error = |sources: &[&str], destination| {
        try_copy(&tree, sources, &to, destination, &plain()).unwrap_err().to_string()
    };
    assert_eq!(error(&["dir"], "/d"), "cannot replace to directory /d/x with file");
    assert_eq!(error(&["dir"], "/e"), "cannot copy to non-directory: /e/sub");
    assert_eq!(error(&["dir"], "/f"), "cannot copy to non-directory: /f/sub");
    assert_eq!(error(&["dir"], "/file"), "cannot copy to non-directory: /file");
    assert!(try_copy(&tree, &["a"], &to, "/file/", &plain()).is_err());
    assert!(try_copy(&tree, &["a"], &to, "/file/x", &plain()).is_err());
}

#[test]
fn a_file_is_replaced_by_a_new_inode() {
    let (place, to) = (source(), Place::new());
    to.file("a", "old").link("a", "twin");
    copied(&context(&place), &["a"], &to, "/", &plain());
    assert_tree(&to, &[("/a", "f0644 0:0 a"), ("/twin", "f0644 0:0 old")]);
}

#[test]
fn hard_links_live_within_one_folder() {
    let (place, to) = (Place::new(), Place::new());
    place.dir("d").file("d/one", "1").link("d/one", "d/two").link("d/one", "three");
    let summary = copied(&stage(&place), &["d", "three"], &to, "/t/", &plain());
    let inode = |path| to.meta(path).unwrap().inode;
    assert_eq!(inode("t/one"), inode("t/two"));
    assert_ne!(inode("t/one"), inode("t/three"));
    assert_eq!((summary.files, summary.bytes), (3, 2));
}

#[test]
fn a_stage_keeps_owners_attributes_and_special_files_but_a_context_does_not() {
    let place = Place::new();
    place.dir("d").node("d/f", FileKind::File, 0o600, (1000, 50), b"x").xattr("d/f", "user.k", b"v");
    place.node("d/null", FileKind::CharDevice { major: 1, minor: 3 }, 0o666, (0, 5), b"");
    place.node("d/pipe", FileKind::Fifo, 0o640, (0, 0), b"").node(
        "d/sock",
        FileKind::Socket,
        0o755,
        (0, 0),
        b"",
    );
    place.node("d/sub", FileKind::Directory, 0o711, (9, 9), b"").xattr("d/sub", "user.s", b"w");
    let to = Place::new();
    copied(&stage(&place), &["d"], &to, "/d", &plain());
    assert_tree(
        &to,
        &[
            ("/d", "d0755 0:0"),
            ("/d/f", "f0600 1000:50 x"),
            ("/d/null", "CharDevice { major: 1, minor: 3 }"),
            ("/d/pipe", "Fifo"),
            ("/d/sock", "Socket"),
            ("/d/sub", "d0711 9:9"),
        ],
    );
    assert_eq!(to.root.xattrs(&"/d/f".into()).unwrap().len(), 1);
    assert_eq!(to.root.xattrs(&"/d/sub".into()).unwrap().len(), 1);

    let to = Place::new();
    copied(&context(&place), &["d/f", "d/sock", "d/sub"], &to, "/c/", &plain());
    assert_tree(
        &to,
        &[("/c", "d0755 0:0"), ("/c/f", "f0600 0:0 x"), ("/c/sock", "f0755 0:0 ")].map(|(p, t)| (p, t)),
    );
    assert!(to.root.xattrs(&"/c/f".into()).unwrap().is_empty());
}

#[test]
fn parents_are_kept() {
    let (place, to) = (Place::new(), Place::new());
    place
        .node("a", FileKind::Directory, 0o711, (0, 0), b"")
        .dir("a/b")
        .dir("a/b/c")
        .file("a/b/c/deep", "d")
        .file("a/b/one", "1");
    let options = CopyOptions { parents: true, ..plain() };
    let tree = context(&place);
    copied(&tree, &["a/b/one"], &to, "/p1/", &options);
    copied(&tree, &["a/./b/c"], &to, "/p2", &options);
    assert_tree(
        &to,
        &[
            ("/p1", "d0755 0:0"),
            ("/p1/a", "d0711 0:0"),
            ("/p1/a/b", "d0755 0:0"),
            ("/p1/a/b/one", "f0644 0:0 1"),
            ("/p2", "d0755 0:0"),
            ("/p2/b", "d0755 0:0"),
            ("/p2/b/c", "d0755 0:0"),
            ("/p2/b/c/deep", "f0644 0:0 d"),
        ],
    );
}

#[test]
fn archives_are_told_by_content() {
    let place = Place::new();
    let mut tar = RawTar::new();
    tar.header(b'0', b"in", b"", 2, |header| {
        header.set_uid(5);
        header.set_mode(0o600);
    });
    tar.content(b"in");
    let tar = tar.end();
    std::fs::write(place.host("arc.txt"), zstd::encode_all(&tar[..], 1).unwrap()).unwrap();
    place.file("junk.tar", "no archive");
    let tree = context(&place);
    let add = CopyOptions { unpack: Unpack::Auto, ..plain() };

    let to = Place::new();
    assert_eq!(copied(&tree, &["arc.txt", "junk.tar"], &to, "/d", &add).archives, 1);
    assert_tree(
        &to,
        &[("/d", "d0755 0:0"), ("/d/in", "f0600 5:0 in"), ("/d/junk.tar", "f0644 0:0 no archive")],
    );

    let to = Place::new();
    let owned = CopyOptions { chown: Some((7, 8)), ..chmod("777") };
    copied(&tree, &["arc.txt"], &to, "/d", &CopyOptions { unpack: Unpack::Auto, ..owned });
    assert_tree(&to, &[("/d", "d0755 7:8"), ("/d/in", "f0600 7:8 in")]);

    let to = Place::new();
    assert_eq!(copied(&tree, &["arc.txt"], &to, "/d", &plain()).archives, 0);
    assert_eq!(to.meta("d").unwrap().kind, FileKind::File);
}

#[test]
fn single_files_land_by_the_same_rules() {
    let to = Place::new();
    let put = |destination: &str, is_dir, options: &CopyOptions| {
        let content = &mut &b"text"[..];
        let mtime = Some(Timestamp::from_seconds(77));
        let mut file = SingleFile { name: "name".into(), content, mode: 0o600, mtime };
        copy_file(&mut file, &to.root, &RootfsPath::new(destination), is_dir, options).unwrap().to_string()
    };
    assert_eq!(put("/d/", true, &plain()), "/d/name");
    assert_eq!(put("/d", false, &plain()), "/d/name");
    assert_eq!(put("/file", false, &CopyOptions { chown: Some((7, 8)), ..chmod("755") }), "/file");
    assert_tree(&to, &[("/d", "d0755 0:0"), ("/d/name", "f0600 0:0 text"), ("/file", "f0755 7:8 text")]);
    assert_eq!(to.meta("file").unwrap().mtime, Timestamp::from_seconds(77));
}

#[test]
fn made_directories_take_the_given_time_and_layers_do_not_depend_on_threads() {
    let place = source();
    for at in 0..300 {
        place.file(&format!("dir/sub/many-{at}"), &"content ".repeat(at));
    }
    let options = CopyOptions { created: Some(Timestamp::from_seconds(1_500_000_000)), ..plain() };
    let layers: Vec<_> = [1, 2, 7]
        .into_iter()
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let to = Place::new();
            pool.install(|| copied(&context(&place), &["dir"], &to, "/p/q", &options));
            assert_eq!(to.meta("p/q").unwrap().mtime.seconds, 1_500_000_000);
            assert_eq!(to.meta("p").unwrap().mtime.seconds, 1_500_000_000);
            written(&to.root)
        })
        .collect();
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]));
}
