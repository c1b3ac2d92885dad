//! Trees and tars for the tests.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rbuild_fs::{FileKind, FileSidecar, Journal, Meta, Root, RootfsPath, Timestamp};
use rbuild_layer::{AppliedLayer, LayerError, WriteOptions, apply_layer, write_layer};
use tempfile::TempDir;

/// A directory with a journal, so that the tests work as any user.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) root: Root,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("fs")).unwrap();
        let sidecar = FileSidecar::open(dir.path().join("sidecar")).unwrap();
        let root =
            Root::open(dir.path().join("fs")).unwrap().with_journal(Journal::with_sidecar(Arc::new(sidecar)));
        Self { dir, root }
    }

    pub(crate) fn host(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("fs").join(path)
    }

    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        self.node(path, FileKind::File, 0o644, (0, 0), content.as_bytes())
    }

    pub(crate) fn dir(&self, path: &str) -> &Self {
        self.node(path, FileKind::Directory, 0o755, (0, 0), b"")
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) -> &Self {
        self.node(path, FileKind::Symlink(target.into()), 0o777, (0, 0), b"")
    }

    pub(crate) fn whiteout(&self, path: &str) -> &Self {
        self.node(path, FileKind::CharDevice { major: 0, minor: 0 }, 0, (0, 0), b"")
    }

    pub(crate) fn node(
        &self,
        path: &str,
        kind: FileKind,
        mode: u32,
        owner: (u32, u32),
        content: &[u8],
    ) -> &Self {
        let meta = Meta::new(kind, mode, owner.0, owner.1, Timestamp::from_seconds(1_700_000_000));
        let content = &mut &content[..];
        let content = meta.is_file().then_some(content as &mut dyn std::io::Read);
        self.root.make(&RootfsPath::new(path), &meta, content).unwrap();
        self
    }

    pub(crate) fn xattr(&self, path: &str, name: &str, value: &[u8]) -> &Self {
        self.root.set_xattr(&RootfsPath::new(path), name, value).unwrap();
        self
    }

    pub(crate) fn link(&self, existing: &str, new: &str) -> &Self {
        self.root.hard_link(&RootfsPath::new(existing), &RootfsPath::new(new)).unwrap();
        self
    }

    pub(crate) fn meta(&self, path: &str) -> Option<Meta> {
        self.root.meta(&RootfsPath::new(path)).unwrap()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.root.read_to_string(&RootfsPath::new(path), 1 << 20).unwrap()
    }

    /// Every path with a short description: `d0755 0:0`, `l->target`, `f0644 0:0 content`.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        self.describe(&RootfsPath::root(), &mut out);
        out
    }

    fn describe(&self, dir: &RootfsPath, out: &mut BTreeMap<String, String>) {
        for (name, meta) in self.root.read_dir_meta(dir).unwrap() {
            let path = dir.join(name);
            let (mode, uid, gid) = (meta.mode, meta.uid, meta.gid);
            let text = match &meta.kind {
                FileKind::Directory => format!("d{mode:04o} {uid}:{gid}"),
                FileKind::Symlink(target) => format!("l->{}", target.display()),
                FileKind::File => {
                    let content = self.root.read(&path, 1 << 20).unwrap();
                    format!("f{mode:04o} {uid}:{gid} {}", String::from_utf8_lossy(&content).trim_end())
                }
                other => format!("{other:?}"),
            };
            out.insert(path.to_string(), text);
            if meta.is_dir() {
                self.describe(&path, out);
            }
        }
    }
}

/// Asserts a tree against lines `/path description`.
#[track_caller]
pub(crate) fn assert_tree(place: &Place, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    assert_eq!(place.tree(), expected);
}

pub(crate) fn written(root: &Root) -> Vec<u8> {
    let mut out = Vec::new();
    write_layer(root, &WriteOptions::default(), &mut out).unwrap();
    out
}

pub(crate) fn apply(tar: &[u8]) -> (Place, Result<AppliedLayer, LayerError>) {
    let place = Place::new();
    let applied = apply_layer(&mut &tar[..], &place.root);
    (place, applied)
}

/// Applies a tar that must be fine.
#[track_caller]
pub(crate) fn applied(tar: &[u8]) -> (Place, AppliedLayer) {
    let (place, layer) = apply(tar);
    (place, layer.unwrap())
}

/// A tar made entry by entry, with nothing checked on the way.
#[derive(Default)]
pub(crate) struct RawTar(pub(crate) Vec<u8>);

impl RawTar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.header(kind, name, link, content.len() as u64, |_| {});
        self.content(content);
        self
    }

    pub(crate) fn header(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        size: u64,
        change: impl FnOnce(&mut tar::Header),
    ) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(size);
        if matches!(kind, b'3' | b'4') {
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
        }
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    pub(crate) fn content(&mut self, content: &[u8]) {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length =
                (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b'x', b"PaxHeaders/x", b"", &body)
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name.as_bytes(), b"", content.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Whether this process is the machine's root; otherwise says that the test is skipped.
pub(crate) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&format!("{what}: needs root"));
    }
    root
}

/// Whether a program is there; otherwise says that the test is skipped.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !found {
        skip(&format!("needs {program}"));
    }
    found
}

#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skip(why: &str) {
    eprintln!("SKIP: {why}");
}

pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}
