//! What sources name: the rules of COPY and ADD.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rbuild_context::{IgnoreFile, SelectError, SelectOptions, Selection, Tree};
use rbuild_fs::{FileKind, Root};

fn context(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        match file.ends_with('/') {
            true => fs::create_dir_all(&path).unwrap(),
            false => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, file).unwrap();
            }
        }
    }
    dir
}

fn tree(dir: &tempfile::TempDir, ignore: &str) -> Tree {
    Tree::directory(dir.path(), Some(IgnoreFile::parse(ignore).unwrap())).unwrap()
}

fn copy() -> SelectOptions {
    SelectOptions { wildcards: true, ..SelectOptions::default() }
}

fn parents() -> SelectOptions {
    SelectOptions { parents: true, ..copy() }
}

/// Each match as `path=name: entries`.
fn shown(selection: &Selection) -> Vec<String> {
    let entries = |found: &rbuild_context::Match| {
        let names = found.entries.iter().filter(|entry| entry.path != Path::new(""));
        names.map(|entry| entry.path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let line = |found: &rbuild_context::Match| {
        format!("{}={}: {}", found.path, found.name.to_string_lossy(), entries(found)).trim_end().to_owned()
    };
    selection.matches.iter().map(line).collect()
}

fn select(tree: &Tree, source: &str, options: &SelectOptions) -> Vec<String> {
    shown(&tree.select(source, options).unwrap_or_else(|error| panic!("{source}: {error}")))
}

#[test]
fn sources_are_cleaned_and_rooted() {
    let dir = context(&["a/b", "a/c/d", "f"]);
    let tree = tree(&dir, "");
    for source in ["f", "/f", "./f", "../../f", "a/../f", "f/"] {
        assert_eq!(select(&tree, source, &copy()), ["/f=f:"], "{source}");
    }
    for source in ["a", "a/", "/a/."] {
        assert_eq!(select(&tree, source, &copy()), ["/a=a: b c c/d"], "{source}");
    }
    assert_eq!(select(&tree, ".", &copy()), ["/=: a a/b a/c a/c/d f"]);
}

#[test]
fn a_missing_literal_is_an_error_and_an_unmatched_wildcard_is_not() {
    let dir = context(&["a.txt"]);
    let tree = tree(&dir, "");
    let error = tree.select("b.txt", &copy()).unwrap_err();
    assert_eq!(error.to_string(), "could not find `/b.txt`");
    assert!(matches!(tree.select("a.txt/x", &copy()), Err(SelectError::NotFound { .. })));
    for source in ["*.none", "none/*", "a.txt/*", "a.txt/b/*", "[z]/**/x"] {
        let selection = tree.select(source, &copy()).unwrap();
        assert!(selection.wildcard && selection.matches.is_empty(), "{source}");
    }
    assert!(matches!(tree.select("[", &copy()), Err(SelectError::Pattern(_))));
}

#[test]
fn wildcards_stay_in_one_folder() {
    let dir = context(&["a.txt", "b.txt", "d1/x", "d1/s/y", "d2/x", "x.md", "st*r"]);
    let tree = tree(&dir, "");
    assert_eq!(select(&tree, "*.txt", &copy()), ["/a.txt=a.txt:", "/b.txt=b.txt:"]);
    assert_eq!(select(&tree, "[^a].*", &copy()), ["/b.txt=b.txt:", "/x.md=x.md:"]);
    assert_eq!(select(&tree, "d*/x", &copy()), ["/d1/x=x:", "/d2/x=x:"]);
    assert_eq!(select(&tree, "d?", &copy()), ["/d1=d1: s s/y x", "/d2=d2: x"]);
    assert_eq!(select(&tree, "**/x", &copy()), ["/d1/x=x:", "/d2/x=x:"]);
    assert_eq!(select(&tree, "st[*]r", &copy()), ["/st*r=st*r:"]);
    // A backslash without a wildcard beside it is a backslash.
    assert!(tree.select("st\\*r", &copy()).is_err());
    assert_eq!(select(&tree, "st*r", &SelectOptions::default()), ["/st*r=st*r:"]);
}

#[test]
fn a_link_that_is_named_is_followed_and_keeps_its_name() {
    let dir = context(&["real/f", "real/g"]);
    let link = |target: &str, name: &str| symlink(target, dir.path().join(name)).unwrap();
    link("/real/f", "absolute");
    link("../../../real", "folder");
    link("f", "real/inner");
    let tree = tree(&dir, "");
    assert_eq!(select(&tree, "absolute", &copy()), ["/real/f=absolute:"]);
    assert_eq!(select(&tree, "abs*", &copy()), ["/real/f=absolute:"]);
    assert_eq!(select(&tree, "folder", &copy()), ["/real=folder: f g inner"]);
    assert_eq!(select(&tree, "folder/g", &copy()), ["/real/g=g:"]);
    assert_eq!(select(&tree, "folder/*", &copy()).len(), 3);
    let selection = tree.select("real", &copy()).unwrap();
    assert_eq!(selection.matches[0].entries[3].meta.kind, FileKind::Symlink("f".into()));
    link("nowhere", "dangling");
    let error = tree.select("dangling", &copy()).unwrap_err().to_string();
    assert_eq!(error, "could not follow the symbolic link `/dangling`: there is no `/nowhere`");
    link("/etc/passwd", "escape");
    assert!(tree.select("escape", &copy()).is_err(), "the host's file is not reached");
}

#[test]
fn ignored_files_are_not_there_and_the_error_says_why() {
    let dir = context(&["a.log", "keep/b.log", "keep/c", "out/x", "secret"]);
    symlink("secret", dir.path().join("link")).unwrap();
    let tree = tree(&dir, "# comment\n*.log\nout\nsecret\n");
    assert_eq!(select(&tree, ".", &copy()), ["/=: keep keep/b.log keep/c link"]);
    let error = tree.select("a.log", &copy()).unwrap_err().to_string();
    assert_eq!(error, "could not find `/a.log`: line 2 of the ignore file excludes it: `*.log`");
    assert!(tree.select("out", &copy()).is_err() && tree.select("out/x", &copy()).is_err());
    assert!(tree.select("link", &copy()).is_err());
    assert!(select(&tree, "*.log", &copy()).is_empty() && select(&tree, "o*", &copy()).is_empty());
    assert!(tree.ignored("out/x") && tree.ignored("/a.log") && !tree.ignored("keep"));
}

#[test]
fn an_ignored_folder_with_something_taken_back_is_walked() {
    let dir = context(&["ok/a", "ok/b/c", "no/x", "no/deep/keep.rs", "no/deep/drop.c", "top"]);
    let all = tree(&dir, "**\n!ok\n");
    assert_eq!(select(&all, ".", &copy()), ["/=: ok ok/a ok/b ok/b/c"]);
    assert_eq!(select(&all, "ok/a", &copy()), ["/ok/a=a:"]);
    assert!(all.select("no", &copy()).is_err());
    let deep = tree(&dir, "no\n!no/**/*.rs\n");
    assert_eq!(select(&deep, "no", &copy()), ["/no=no: deep deep/keep.rs"]);
    assert_eq!(select(&deep, "n*", &copy()), ["/no=no: deep deep/keep.rs"]);
    let exclusion_last = tree(&dir, "*\n!no/**\nno/deep/*\n!no/deep/keep.rs\n");
    assert_eq!(select(&exclusion_last, ".", &copy()), ["/=: no no/deep no/deep/keep.rs no/x"]);
}

#[test]
fn folders_where_nothing_is_taken_back_are_not_read() {
    let dir = context(&["no/x", "yes/y"]);
    fs::set_permissions(dir.path().join("no"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(select(&tree(&dir, "no\n!yes/*\n"), ".", &copy()), ["/=: yes yes/y"]);
    fs::set_permissions(dir.path().join("no"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn exclude_applies_below_a_folder_but_not_to_a_named_file() {
    let dir = context(&["d/a.md", "d/b.txt", "d/s/c.md", "x.md"]);
    let tree = tree(&dir, "");
    let with = |patterns: &[&str]| {
        let exclude = patterns.iter().map(|text| (*text).to_owned()).collect();
        SelectOptions { exclude, ..copy() }
    };
    assert_eq!(select(&tree, "d", &with(&["*.md"])), ["/d=d: b.txt s s/c.md"]);
    assert_eq!(select(&tree, "d", &with(&["**/*.md"])), ["/d=d: b.txt s"]);
    assert_eq!(select(&tree, "d", &with(&["**/*.md", "!s/c.md"])), ["/d=d: b.txt s s/c.md"]);
    assert_eq!(select(&tree, "x.md", &with(&["*.md"])), ["/x.md=x.md:"]);
    assert_eq!(select(&tree, ".", &with(&["d/s"])), ["/=: d d/a.md d/b.txt x.md"]);
    assert!(tree.select("d", &with(&["!"])).is_err());
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let dir = context(&["a/b/c/deep.txt", "a/b/one.txt", "a/z/one.txt", "x/one.txt", "e/"]);
    let tree = tree(&dir, "");
    let select = |source| select(&tree, source, &parents());
    assert_eq!(select("a/b/one.txt"), ["/=: a a/b a/b/one.txt"]);
    assert_eq!(select("a/b"), ["/=: a a/b a/b/c a/b/c/deep.txt a/b/one.txt"]);
    assert_eq!(select("a/*/one.txt"), ["/=: a a/b a/b/one.txt a/z a/z/one.txt"]);
    assert_eq!(select("**/one.txt"), ["/=: a a/b a/b/one.txt a/z a/z/one.txt x x/one.txt"]);
    assert_eq!(select("a/./b/c"), ["/a=: b b/c b/c/deep.txt"]);
    assert_eq!(select("./a/./b/one.txt"), ["/a=: b b/one.txt"]);
    assert_eq!(select("./x/one.txt"), ["/=: x x/one.txt"]);
    assert_eq!(select("a/b/**"), ["/=: a a/b a/b/c a/b/c/deep.txt a/b/one.txt"]);
    assert_eq!(select("e"), ["/=: e"]);
    assert!(select("none/*").is_empty());
    assert!(tree.select("none", &parents()).is_err() && tree.select("a/./none", &parents()).is_err());
}

#[test]
fn parents_do_not_lead_through_links() {
    let dir = context(&["d/x"]);
    symlink("d", dir.path().join("ld")).unwrap();
    symlink("d/x", dir.path().join("lf")).unwrap();
    let tree = tree(&dir, "");
    assert!(tree.select("ld/x", &parents()).is_err());
    assert_eq!(select(&tree, "lf", &parents()), ["/=: lf"]);
    assert_eq!(select(&tree, "ld/./x", &parents()), ["/d=: x"]);
}

#[test]
fn in_a_context_everything_is_roots_and_sockets_are_files() {
    let dir = context(&["f"]);
    let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
    let _ = rustix::fs::setxattr(dir.path().join("f"), "user.note", b"x", rustix::fs::XattrFlags::empty());
    let tree = tree(&dir, "");
    let selection = tree.select(".", &copy()).unwrap();
    for entry in &selection.matches[0].entries {
        assert_eq!((entry.meta.uid, entry.meta.gid), (0, 0));
    }
    let socket = &selection.matches[0].entries[2].meta;
    assert!(socket.is_file() && socket.size == 0);
    assert!(tree.content(&"/socket".into(), socket).unwrap().is_none());
    assert!(tree.xattrs(&"/f".into()).unwrap().is_empty());

    let rootfs = Tree::rootfs(Root::open(dir.path()).unwrap());
    let selection = rootfs.select(".", &copy()).unwrap();
    assert_eq!(selection.matches[0].entries[2].meta.kind, FileKind::Socket);
}

#[test]
fn hard_links_are_told_by_their_inode() {
    let dir = context(&["d/a"]);
    fs::hard_link(dir.path().join("d/a"), dir.path().join("d/b")).unwrap();
    let selection = tree(&dir, "").select("d", &copy()).unwrap();
    let entries = &selection.matches[0].entries;
    assert_eq!(
        (entries[1].meta.device, entries[1].meta.inode),
        (entries[2].meta.device, entries[2].meta.inode)
    );
    assert_eq!(entries[1].meta.nlink, 2);
}

#[test]
fn depth_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 1500].join("/");
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    let selection = tree(&dir, "").select(".", &copy()).unwrap();
    assert_eq!(selection.matches[0].entries.len(), 1501);
}
