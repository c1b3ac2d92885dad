//! A root file system that is not all ours: the container's own, in which a build works in place. What the container runtime
//! has mounted there, and rbuild itself, is neither wiped nor filled nor looked at.

use std::collections::BTreeSet;

use rbuild_fs::{FileKind, Meta, Root, RootfsPath, Timestamp};

use crate::LayerError;

/// Paths that are left alone, with all below them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(BTreeSet<RootfsPath>);

impl Kept {
    /// These paths.
    pub fn new(paths: impl IntoIterator<Item = RootfsPath>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// Whether a path, or a folder that it lies in, is kept.
    pub fn contains(&self, path: &RootfsPath) -> bool {
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|_| !self.0.is_empty()) {
            if self.0.contains(&path) {
                return true;
            }
            at = path.parent();
        }
        false
    }

    /// Whether something is kept below a path.
    fn is_below(&self, path: &RootfsPath) -> bool {
        self.0.iter().any(|kept| kept != path && kept.starts_with(path))
    }

    /// Whether a file of an image can have its place. A link where the way to something kept leads can not: it is left
    /// alone from then on.
    pub fn lets_in(&mut self, path: &RootfsPath, meta: &Meta) -> bool {
        if !meta.is_dir() && self.is_below(path) {
            self.0.insert(path.clone());
        }
        !self.contains(path)
    }

    /// Removes all else from a root. Folders on the way to what is kept stay, as if newly made.
    ///
    /// # Errors
    /// What cannot be removed; the rest may be gone by then.
    pub fn wipe(&self, root: &Root) -> Result<(), LayerError> {
        self.wipe_folder(root, &RootfsPath::root())
    }

    fn wipe_folder(&self, root: &Root, path: &RootfsPath) -> Result<(), LayerError> {
        for name in root.read_dir(path)? {
            let below = path.join(&name);
            if self.0.contains(&below) {
                continue;
            }
            match self.is_below(&below) {
                true => self.wipe_folder(root, &below)?,
                false => root.remove_all(&below)?,
            }
        }
        let new = Meta::new(FileKind::Directory, 0o755, 0, 0, Timestamp::from_seconds(0));
        Ok(root.set_meta(path, &new)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn kept(paths: &[&str]) -> Kept {
        Kept::new(paths.iter().map(RootfsPath::new))
    }

    /// Everything in a folder, sorted.
    fn names(folder: &Path) -> Vec<String> {
        let mut out = Vec::new();
        let mut todo = vec![folder.to_owned()];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                out.push(path.strip_prefix(folder).unwrap().display().to_string());
                if path.symlink_metadata().unwrap().is_dir() {
                    todo.push(path);
                }
            }
        }
        out.sort();
        out
    }

    #[test]
    fn what_is_kept_survives_a_wipe_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "").unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["rbuild/store", "etc/ssl", "var/run/secrets/token", "usr/bin", "closed/in"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["etc/hosts", "etc/passwd", "usr/bin/sh", "rbuild/rbuild", "etcetera", ".dockerenv"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(outside.path(), at("link")).unwrap();
        symlink(outside.path(), at("etc/link")).unwrap();
        fs::set_permissions(at("closed"), PermissionsExt::from_mode(0o0)).unwrap();
        let root = Root::open(folder.path()).unwrap();
        kept(&["/rbuild", "/etc/hosts", "/var/run/secrets"]).wipe(&root).unwrap();
        let left = ["etc", "etc/hosts", "rbuild", "rbuild/rbuild", "rbuild/store", "var", "var/run"];
        let below = ["var/run/secrets", "var/run/secrets/token"];
        assert_eq!(names(folder.path()), [&left[..], &below].concat());
        assert_eq!(names(outside.path()), ["precious"]);
    }

    #[test]
    fn a_link_in_the_way_of_something_kept_is_not_let_in() {
        let mut kept = kept(&["/var/run/secrets", "/etc/hosts"]);
        let meta = |kind| Meta::new(kind, 0o777, 0, 0, Timestamp::from_seconds(0));
        let mut lets_in = |path: &str, kind| kept.lets_in(&RootfsPath::new(path), &meta(kind));
        assert!(lets_in("/var", FileKind::Directory));
        assert!(lets_in("/etc/hostsx", FileKind::File));
        assert!(!lets_in("/etc/hosts", FileKind::File));
        assert!(!lets_in("/var/run", FileKind::Symlink("/run".into())));
        assert!(kept.contains(&RootfsPath::new("/var/run/utmp")));
    }
}
