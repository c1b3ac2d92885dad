//! Resolution against the kernel's own, on trees of links made at random.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use rbuild_fs::{FinalSymlink, Root, RootfsPath};

fn name() -> impl Strategy<Value = String> {
    "[a-d]"
}

fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => name(), 1 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn make(root: &Path, entries: &[(Vec<String>, Option<String>)]) {
    for (path, target) in entries {
        let path = path.iter().fold(root.to_owned(), |path, name| path.join(name));
        // A name in the way of another is left as it is. Links are made before anything goes through them, so
        // nothing of this leaves the root: absolute ones are only followed by `create_dir_all` where they dangle.
        let parent_is_plain =
            path.parent().is_some_and(|parent| parent.canonicalize().is_ok_and(|real| real == parent));
        if !parent_is_plain {
            continue;
        }
        let _ = match target {
            Some(target) => symlink(target, &path),
            None => fs::create_dir(&path),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn both_ways_find_the_same_file(
        entries in prop::collection::vec((prop::collection::vec(name(), 1..3), prop::option::of(target())), 1..14),
        path in prop::collection::vec(name(), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        make(&base, &entries);
        let kernel = Root::open(&base).unwrap();
        let walk = Root::open(&base).unwrap().resolving_in_user_space();
        let path = RootfsPath::new(path.join("/"));

        let found = kernel.open_dir(&path);
        prop_assert_eq!(found.is_ok(), walk.open_dir(&path).is_ok());
        for last in [FinalSymlink::Follow, FinalSymlink::Keep] {
            let (one, two) = (kernel.resolve(&path, last), walk.resolve(&path, last));
            prop_assert_eq!(one.as_ref().ok(), two.as_ref().ok());
        }
        if let (Ok(fd), Ok(resolved)) = (found, walk.resolve(&path, FinalSymlink::Follow)) {
            let stat = rustix::fs::fstat(&fd).unwrap();
            let named = rustix::fs::lstat(base.join(resolved.relative())).unwrap();
            prop_assert_eq!((stat.st_dev, stat.st_ino), (named.st_dev, named.st_ino));
        }
    }
}
