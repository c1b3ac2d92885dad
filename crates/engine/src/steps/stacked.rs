//! The journal of a merged tree: that of the layer on top which has the file.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_executor::{Mounted, in_first_user_namespace};
use rbuild_fs::{FileSidecar, Owner, PathError, RootfsPath, Sidecar};

/// The sidecars of a stack, top first; what is kept now goes to the upper's.
#[derive(Debug)]
pub(crate) struct StackedSidecar {
    layers: Vec<(PathBuf, FileSidecar)>,
    has_upper: bool,
}

impl StackedSidecar {
    /// The journal beside the directories of a mounted tree, unless it is empty and will stay so.
    pub(crate) fn of(mounted: &Mounted) -> Result<Option<Arc<Self>>, PathError> {
        let directories = mounted.upper().into_iter().chain(mounted.lowers().iter().map(PathBuf::as_path));
        let layers = directories
            .map(|fs| Ok((fs.to_owned(), FileSidecar::open(fs.with_file_name("sidecar"))?)))
            .collect::<Result<Vec<_>, PathError>>()?;
        let has_upper = mounted.upper().is_some();
        let is_needed =
            has_upper && !in_first_user_namespace() || layers.iter().any(|(_, sidecar)| !sidecar.is_empty());
        Ok(is_needed.then(|| Arc::new(Self { layers, has_upper })))
    }

    /// Whether some file of the tree has an entry of its own.
    pub(crate) fn is_marked(&self) -> bool {
        self.layers.iter().any(|(_, sidecar)| sidecar.is_marked())
    }
}

impl Sidecar for StackedSidecar {
    fn get(&self, path: &RootfsPath) -> Option<Owner> {
        let has_it = |fs: &Path| fs.join(path.relative()).symlink_metadata().is_ok();
        let (_, sidecar) = self.layers.iter().find(|(fs, _)| has_it(fs))?;
        sidecar.get(path)
    }

    fn set(&self, path: &RootfsPath, owner: Option<Owner>) -> io::Result<()> {
        match self.layers.first() {
            Some((_, sidecar)) if self.has_upper => sidecar.set(path, owner),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn entries(&self) -> Vec<(RootfsPath, Owner)> {
        let paths: BTreeSet<RootfsPath> =
            self.layers.iter().flat_map(|(_, sidecar)| sidecar.entries()).map(|(path, _)| path).collect();
        paths.into_iter().filter_map(|path| self.get(&path).map(|owner| (path, owner))).collect()
    }

    fn is_empty(&self) -> bool {
        self.layers.iter().all(|(_, sidecar)| sidecar.is_empty())
    }

    fn mark(&self) -> io::Result<()> {
        match self.layers.first() {
            Some((_, sidecar)) if self.has_upper => sidecar.mark(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_topmost_layer_that_has_the_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str, links: &[&str], owners: &[(&str, u32)]| {
            let fs = directory.path().join(name).join("fs");
            fs::create_dir_all(&fs).unwrap();
            links.iter().for_each(|link| symlink("x", fs.join(link)).unwrap());
            let sidecar = FileSidecar::open(fs.with_file_name("sidecar")).unwrap();
            for (path, uid) in owners {
                sidecar.set(&RootfsPath::new(path), Some(Owner { uid: *uid, gid: 0 })).unwrap();
            }
            (fs, sidecar)
        };
        let layers = vec![
            layer("upper", &["b"], &[]),
            layer("middle", &["a"], &[("/a", 2)]),
            layer("base", &["a", "b", "c"], &[("/a", 1), ("/b", 1), ("/c", 1)]),
        ];
        let stack = StackedSidecar { layers, has_upper: true };
        let uid = |path: &str| stack.get(&RootfsPath::new(path)).map(|owner| owner.uid);
        assert_eq!([uid("/a"), uid("/b"), uid("/c"), uid("/d")], [Some(2), None, Some(1), None]);
        stack.set(&RootfsPath::new("/b"), Some(Owner { uid: 5, gid: 5 })).unwrap();
        assert_eq!(uid("/b"), Some(5));
        assert_eq!(stack.entries().len(), 3);
    }
}
