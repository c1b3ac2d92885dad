//! Mounts where nothing can be mounted. What has to stay in memory is a link to a file in memory; folders are renamed into
//! place and back, or copied; what lay in the way waits aside. Afterwards all is as it was, times included.
//!
//! What differs from a mount: nothing is read-only, and a link is seen to be one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rbuild_fs::{FileKind, FinalSymlink, Meta, NewDir, Root, RootfsPath, Timestamp};
use rustix::io::Errno;

use super::trees::{copy, copy_contents, move_in, move_out};
use crate::{Mount, MountKind, SandboxError, Source};

/// Where a file system in memory is looked for.
const MEMORY: &str = "/dev/shm";
/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: i64 = 0x0102_1994;

type Result<T> = std::result::Result<T, SandboxError>;

/// The mounts of one RUN. [`Emulated::take_back`] has to be called, whatever happened.
#[derive(Debug)]
pub(super) struct Emulated<'a> {
    root: &'a Root,
    /// Paths that the container runtime has mounted something on.
    kept: &'a [PathBuf],
    /// On the root's file system, out of the way.
    aside: PathBuf,
    memory: PathBuf,
    undo: Vec<Undo>,
    /// Folders in which something was made.
    times: BTreeMap<RootfsPath, Times>,
    put_back: Vec<RootfsPath>,
}

/// A folder's time before something was made in it, and after that.
#[derive(Debug)]
struct Times {
    inode: u64,
    before: Timestamp,
    after: Timestamp,
}

#[derive(Debug)]
enum Undo {
    /// A folder on the way to a mount point; it stays if something was put into it.
    Folder(RootfsPath),
    Remove(RootfsPath),
    /// Renames a folder back to its source.
    MoveBack(RootfsPath, PathBuf),
    /// Copies what is in a folder to its source.
    CopyBack(RootfsPath, PathBuf),
    PutBack(RootfsPath, PathBuf),
}

impl<'a> Emulated<'a> {
    /// None yet. `home` is a folder on the root's file system.
    pub(super) fn new(root: &'a Root, kept: &'a [PathBuf], home: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rbuild-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (aside, memory) = (home.join(format!(".{name}")), Path::new(MEMORY).join(name));
        let (undo, times, put_back) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { root, kept, aside, memory, undo, times, put_back }
    }

    /// Makes them, parents before children.
    pub(super) fn make_all(&mut self, mounts: &[Mount]) -> Result<()> {
        let mut sorted: Vec<&Mount> = mounts.iter().collect();
        sorted.sort_by_key(|mount| RootfsPath::new(&mount.target).components().count());
        sorted.into_iter().try_for_each(|mount| self.make(mount))
    }

    fn make(&mut self, mount: &Mount) -> Result<()> {
        let at = self.root.resolve(&RootfsPath::new(&mount.target), FinalSymlink::Follow).map_err(fault)?;
        let is_file = matches!(mount.kind, MountKind::File { .. });
        if self.kept.iter().any(|kept| kept == at.as_path()) {
            // The container's own /etc/hosts and /etc/resolv.conf do as well.
            return if is_file {
                Ok(())
            } else {
                Err(refused(&mount.target, "the container has a mount there"))
            };
        }
        if at.is_root() {
            return Err(refused(&mount.target, "all of the root cannot be covered"));
        }
        self.make_room(&at)?;
        let parent = at.parent().unwrap_or_else(RootfsPath::root);
        match &mount.kind {
            MountKind::File { content, mode, uid, gid, .. } => {
                self.file(&at, content, *mode, (*uid, *gid))?;
                self.undo.push(Undo::Remove(at));
            }
            MountKind::Tmpfs { mode, .. } => {
                let meta = Meta::new(FileKind::Directory, *mode, 0, 0, Timestamp::now());
                self.root.make(&at, &meta, None).map_err(fault)?;
                self.undo.push(Undo::Remove(at));
            }
            MountKind::Bind { source: Source::Path(source), read_only } => {
                self.bind(&at, source, *read_only)?
            }
            MountKind::Bind { source: Source::Tree { lowers, path }, .. }
            | MountKind::Overlay { source: Source::Tree { lowers, path }, .. } => {
                self.tree(&at, lowers, path)?
            }
            MountKind::Device { .. } => {
                return Err(refused(&mount.target, "devices are the container's"));
            }
            MountKind::Bind { .. } | MountKind::Overlay { .. } => {
                return Err(refused(&mount.target, "such a source cannot be copied"));
            }
        }
        self.changed(&parent)
    }

    /// Makes folders that are missing on the way, and moves away what has the name.
    fn make_room(&mut self, at: &RootfsPath) -> Result<()> {
        let parent = at.parent().unwrap_or_else(RootfsPath::root);
        let mut there = parent.clone();
        while self.root.meta(&there).map_err(fault)?.is_none() {
            there = there.parent().unwrap_or_else(RootfsPath::root);
        }
        self.changes(&there)?;
        let new = NewDir { mode: 0o755, uid: 0, gid: 0, mtime: None };
        let made = self.root.create_dir_all(&parent, &new).map_err(fault)?;
        self.undo.extend(made.into_iter().map(Undo::Folder));
        self.changed(&there)?;
        self.changes(&parent)?;
        let Some(meta) = self.root.meta(at).map_err(fault)? else { return Ok(()) };
        fs::create_dir_all(&self.aside).map_err(|e| SandboxError::path("create", &self.aside, e))?;
        let aside = self.aside.join(self.undo.len().to_string());
        if !move_out(self.root, at, &aside).map_err(fault)? {
            return Err(refused(at.as_path(), "what the image has there cannot be moved out of the way"));
        }
        self.undo.push(Undo::PutBack(at.clone(), aside));
        if !meta.is_dir() {
            // A rename changes the time by which a file is known; of folders more is known.
            self.put_back.push(at.clone());
        }
        Ok(())
    }

    /// In memory: there, or elsewhere and linked to.
    fn file(&self, at: &RootfsPath, content: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
        let meta = Meta::new(FileKind::File, mode, uid, gid, Timestamp::now());
        let parent = self.root.open_dir(&at.parent().unwrap_or_else(RootfsPath::root)).map_err(fault)?;
        if rustix::fs::fstatfs(&parent).is_ok_and(|fs| fs.f_type == TMPFS) {
            return self.root.make(at, &meta, Some(&mut &*content)).map_err(fault);
        }
        if !rustix::fs::statfs(MEMORY).is_ok_and(|fs| fs.f_type == TMPFS) {
            return Err(refused(at.as_path(), "there is no file system in memory on /dev/shm"));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.memory);
        made.map_err(|e| SandboxError::path("create", &self.memory, e))?;
        let file = self.memory.join(self.undo.len().to_string());
        let written = fs::write(&file, "")
            .and_then(|()| fs::set_permissions(&file, PermissionsExt::from_mode(0o600)))
            .and_then(|()| fs::write(&file, content))
            .and_then(|()| chown(&file, Some(uid), Some(gid)))
            .and_then(|()| fs::set_permissions(&file, PermissionsExt::from_mode(mode)));
        written.map_err(|e| SandboxError::path("write", &file, e))?;
        let link = Meta::new(FileKind::Symlink(file), 0o777, 0, 0, Timestamp::now());
        self.root.make(at, &link, None).map_err(fault)
    }

    /// Folders are renamed or copied, and what may be written goes back; files are copied, sockets renamed or linked to.
    fn bind(&mut self, at: &RootfsPath, source: &Path, read_only: bool) -> Result<()> {
        let found = fs::metadata(source).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => refused(at.as_path(), "its folder is mounted elsewhere in the same RUN"),
            _ => SandboxError::path("look at", source, e),
        })?;
        let socket = found.file_type().is_socket();
        if (found.is_dir() || socket) && move_in(source, self.root, at).map_err(fault)? {
            self.undo.push(if socket {
                Undo::Remove(at.clone())
            } else {
                Undo::MoveBack(at.clone(), source.into())
            });
            return Ok(());
        }
        if socket {
            let link = Meta::new(FileKind::Symlink(source.into()), 0o777, 0, 0, Timestamp::now());
            self.root.make(at, &link, None).map_err(fault)?;
        } else {
            let (folder, name) =
                (source.parent().unwrap_or(Path::new("/")), source.file_name().unwrap_or_default());
            copy(&Root::open(folder).map_err(fault)?, &RootfsPath::new(name), self.root, at)
                .map_err(fault)?;
        }
        self.undo.push(match found.is_dir() && !read_only {
            true => Undo::CopyBack(at.clone(), source.into()),
            false => Undo::Remove(at.clone()),
        });
        Ok(())
    }

    /// Always a copy: the store's trees are linked to each other.
    fn tree(&mut self, at: &RootfsPath, lowers: &[PathBuf], path: &Path) -> Result<()> {
        let [tree] = lowers else { return Err(refused(at.as_path(), "a stack of trees cannot be copied")) };
        self.undo.push(Undo::Remove(at.clone()));
        copy(&Root::open(tree).map_err(fault)?, &RootfsPath::new(path), self.root, at).map_err(fault)
    }

    /// Something is going to be made in a folder.
    fn changes(&mut self, folder: &RootfsPath) -> Result<()> {
        if let (false, Some(meta)) = (self.times.contains_key(folder), self.root.meta(folder).map_err(fault)?)
        {
            let times = Times { inode: meta.inode, before: meta.mtime, after: meta.mtime };
            self.times.insert(folder.clone(), times);
        }
        Ok(())
    }

    /// Something was made in it.
    fn changed(&mut self, folder: &RootfsPath) -> Result<()> {
        if let (Some(times), Some(meta)) =
            (self.times.get_mut(folder), self.root.meta(folder).map_err(fault)?)
        {
            times.after = meta.mtime;
        }
        Ok(())
    }

    /// Takes all of it back, the last first. The answer names files of the image that have another time of change for it.
    pub(super) fn take_back(mut self) -> Result<Vec<RootfsPath>> {
        let mut first = Ok(());
        // A command that changed such a folder itself has given it its time.
        let times: Vec<(RootfsPath, u64, Timestamp)> = std::mem::take(&mut self.times)
            .into_iter()
            .filter_map(|(folder, Times { inode, before, after })| {
                let now = self.root.meta(&folder).ok()??.mtime;
                Some((folder, inode, if now == after { before } else { now }))
            })
            .collect();
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            first = first.and(self.undo(undo));
        }
        for (folder, inode, time) in times {
            // One that was there for a mount only is gone, or it is again what it hid.
            if matches!(self.root.meta(&folder), Ok(Some(meta)) if meta.inode == inode) {
                first = first.and(self.root.set_mtime(&folder, time).map_err(fault));
            }
        }
        for folder in [&self.memory, &self.aside] {
            first = first.and(rbuild_fs::remove_tree(folder).map_err(fault));
        }
        first.map(|()| self.put_back)
    }

    fn is_folder(&self, path: &RootfsPath) -> Result<bool> {
        Ok(self.root.meta(path).map_err(fault)?.is_some_and(|meta| meta.is_dir()))
    }

    fn undo(&self, undo: Undo) -> Result<()> {
        let root = self.root;
        match undo {
            Undo::Folder(path) => {
                // One with something in it stays, as it would below a mount.
                let empty = root.read_dir(&path).is_ok_and(|names| names.is_empty());
                if empty { root.remove_all(&path).map_err(fault) } else { Ok(()) }
            }
            Undo::Remove(path) => root.remove_all(&path).map_err(fault),
            // Below a mount the command could not have removed it, or put a link in its place, which must not get into the store.
            Undo::MoveBack(path, source) | Undo::CopyBack(path, source) if !self.is_folder(&path)? => {
                root.remove_all(&path).map_err(fault)?;
                fs::create_dir_all(&source).map_err(|e| SandboxError::path("create", &source, e))
            }
            Undo::MoveBack(path, source) => match move_out(root, &path, &source).map_err(fault)? {
                true => Ok(()),
                false => Err(refused(path.as_path(), "it cannot be moved back")),
            },
            Undo::CopyBack(path, source) => {
                let to = Root::open(&source).map_err(fault)?;
                to.remove_all(&RootfsPath::root()).map_err(fault)?;
                copy_contents(root, &path, &to, &RootfsPath::root()).map_err(fault)?;
                root.remove_all(&path).map_err(fault)
            }
            Undo::PutBack(path, aside) => {
                root.remove_all(&path).map_err(fault)?;
                move_in(&aside, root, &path).map_err(fault).map(drop)
            }
        }
    }
}

fn fault(error: rbuild_fs::PathError) -> SandboxError {
    SandboxError::Files(error)
}

fn refused(target: impl AsRef<Path>, why: &'static str) -> SandboxError {
    SandboxError::InPlace { what: format!("a mount on `{}`", target.as_ref().display()), why }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A root with some files of long ago, and a folder beside it.
    fn trees() -> (TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["root/srv/app", "root/etc", "cache/sub", "home"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["root/srv/app/package.json", "root/etc/motd", "cache/sub/kept", "file"] {
            fs::write(at(name), name).unwrap();
        }
        let root = Root::open(at("root")).unwrap();
        for path in ["/srv/app", "/srv", "/etc", "/"] {
            root.set_mtime(&RootfsPath::new(path), Timestamp::from_seconds(1_000_000)).unwrap();
        }
        (folder, root)
    }

    fn mount(target: &str, kind: MountKind) -> Mount {
        Mount { target: target.into(), kind }
    }

    fn bind(target: &str, source: PathBuf) -> Mount {
        mount(target, MountKind::Bind { source: Source::Path(source), read_only: false })
    }

    fn secret(target: &str) -> Mount {
        let own = fs::metadata("/proc/self").unwrap();
        use std::os::unix::fs::MetadataExt;
        let (uid, gid) = (own.uid(), own.gid());
        let content = b"secret".to_vec();
        mount(target, MountKind::File { content, mode: 0o400, uid, gid, read_only: true })
    }

    /// Every path, with content and time.
    fn listing(root: &Root) -> BTreeMap<RootfsPath, (Timestamp, Vec<u8>)> {
        let mut out = BTreeMap::new();
        let mut todo = vec![RootfsPath::root()];
        while let Some(path) = todo.pop() {
            let meta = root.meta(&path).unwrap().unwrap();
            let content = if meta.is_file() { root.read(&path, 100).unwrap() } else { Vec::new() };
            if meta.is_dir() {
                todo.extend(root.read_dir(&path).unwrap().iter().map(|name| path.join(name)));
            }
            out.insert(path, (meta.mtime, content));
        }
        out
    }

    #[test]
    fn afterwards_the_root_is_as_it_was_and_the_cache_has_what_was_added() {
        let (folder, root) = trees();
        let at = |name: &str| folder.path().join(name);
        let before = listing(&root);
        let mut mounts = Emulated::new(&root, &[], &at("home"));
        let all = [
            secret("/run/secrets/key"),
            secret("/etc/motd"),
            bind("/srv/app", at("cache")),
            bind("/srv/app/file", at("file")),
            mount("/new/scratch", MountKind::Tmpfs { size: None, mode: 0o1777 }),
        ];
        mounts.make_all(&all).unwrap();
        for path in ["root/run/secrets/key", "root/etc/motd"] {
            assert_eq!(fs::read(at(path)).unwrap(), b"secret");
            assert!(fs::read_link(at(path)).unwrap().starts_with("/dev/shm"), "not on disk");
        }
        assert_eq!(fs::read(at("root/srv/app/sub/kept")).unwrap(), b"cache/sub/kept");
        assert_eq!(fs::read(at("root/srv/app/file")).unwrap(), b"file");
        fs::write(at("root/srv/app/added"), "").unwrap();
        fs::write(at("root/new/scratch/x"), "").unwrap();
        let memory = mounts.memory.clone();
        let put_back = mounts.take_back().unwrap();
        assert_eq!(put_back, [RootfsPath::new("/etc/motd")]);
        assert_eq!(listing(&root), before);
        assert!(at("cache/added").exists() && at("cache/sub/kept").exists() && !at("cache/file").exists());
        assert!(!memory.exists() && fs::read_dir(at("home")).unwrap().next().is_none());
    }

    #[test]
    fn what_the_command_did_beside_a_mount_stays() {
        let (folder, root) = trees();
        let mut mounts = Emulated::new(&root, &[], &folder.path().join("home"));
        mounts.make_all(&[secret("/run/secrets/key"), secret("/etc/key")]).unwrap();
        fs::write(folder.path().join("root/run/pid"), "1").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(folder.path().join("root/etc/new"), "2").unwrap();
        mounts.take_back().unwrap();
        let after = listing(&root);
        assert!(after.contains_key(&RootfsPath::new("/run/pid")));
        assert!(!after.contains_key(&RootfsPath::new("/run/secrets")));
        assert_ne!(after[&RootfsPath::new("/etc")].0, Timestamp::from_seconds(1_000_000));
    }

    #[test]
    fn a_link_in_place_of_a_cache_does_not_get_into_the_store() {
        let (folder, root) = trees();
        let at = |name: &str| folder.path().join(name);
        let mut mounts = Emulated::new(&root, &[], &at("home"));
        mounts.make_all(&[bind("/c", at("cache"))]).unwrap();
        fs::remove_dir_all(at("root/c")).unwrap();
        std::os::unix::fs::symlink("/etc", at("root/c")).unwrap();
        mounts.take_back().unwrap();
        assert!(at("cache").symlink_metadata().unwrap().is_dir());
        assert!(at("root/c").symlink_metadata().is_err());
    }

    #[test]
    fn what_cannot_be_had_is_refused_and_all_else_taken_back() {
        let (folder, root) = trees();
        let at = |name: &str| folder.path().join(name);
        let before = listing(&root);
        let kept = [PathBuf::from("/etc")];
        let refused = [
            (vec![bind("/a", at("cache")), bind("/b", at("cache"))], "mounted elsewhere in the same RUN"),
            (vec![bind("/etc", at("cache"))], "the container has a mount there"),
            (vec![bind("/x/..", at("cache"))], "all of the root"),
        ];
        for (all, why) in refused {
            let mut mounts = Emulated::new(&root, &kept, &at("home"));
            let said = mounts.make_all(&all).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
            mounts.take_back().unwrap();
            assert_eq!(listing(&root), before);
            assert!(at("cache/sub/kept").exists());
        }
    }
}
