//! What is in a content digest and what is not.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rbuild_context::{ContentDigest, SelectOptions, StatCache, Tree};
use rbuild_fs::{Meta, Root, RootfsPath};

fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    dir
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("s/sub")).unwrap();
    fs::write(dir.join("s/a"), "one").unwrap();
    fs::write(dir.join("s/sub/b"), "two").unwrap();
    fs::write(dir.join("s/empty"), "").unwrap();
    symlink("a", dir.join("s/link")).unwrap();
    for (path, mode) in [("s/a", 0o644), ("s/sub/b", 0o755), ("s/empty", 0o600), ("s/sub", 0o755)] {
        fs::set_permissions(dir.join(path), Permissions::from_mode(mode)).unwrap();
    }
}

fn digest_of(tree: &Tree, source: &str) -> ContentDigest {
    let options = SelectOptions { wildcards: true, ..SelectOptions::default() };
    tree.digest(&tree.select(source, &options).unwrap(), None).unwrap()
}

fn digest(dir: &Path, source: &str) -> ContentDigest {
    digest_of(&Tree::directory(dir, None).unwrap(), source)
}

/// The paths whose digest differs.
fn changed(before: &ContentDigest, after: &ContentDigest) -> Vec<PathBuf> {
    let paths: BTreeSet<_> = before.entries.keys().chain(after.entries.keys()).collect();
    paths.into_iter().filter(|path| before.entries.get(*path) != after.entries.get(*path)).cloned().collect()
}

fn touch(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().read(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn times_place_and_links_on_disk_do_not_count() {
    let dir = made();
    let before = digest(dir.path(), "s");
    touch(&dir.path().join("s/a"), 5);
    touch(&dir.path().join("s/sub"), 5);
    assert_eq!(digest(dir.path(), "s"), before);

    let other = tempfile::tempdir().unwrap();
    fill(&other.path().join("elsewhere"));
    assert_eq!(digest(&other.path().join("elsewhere"), "s"), before);
    assert_eq!(
        digest(other.path(), "elsewhere/s").digest,
        before.digest,
        "the folder's own path is not in it"
    );

    fs::hard_link(dir.path().join("s/a"), dir.path().join("hard")).unwrap();
    fs::set_permissions(dir.path().join("s"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        digest(dir.path(), "s"),
        before,
        "hard links, and the mode of the folder itself, which is not copied"
    );
}

#[test]
fn every_other_change_counts_and_names_its_file() {
    type Change = fn(&Path);
    let changes: &[(&str, Change)] = &[
        ("s/a", |dir| fs::write(dir.join("s/a"), "ONE").unwrap()),
        ("s/a", |dir| fs::write(dir.join("s/a"), "longer").unwrap()),
        ("s/empty", |dir| fs::set_permissions(dir.join("s/empty"), Permissions::from_mode(0o601)).unwrap()),
        ("s/sub", |dir| fs::set_permissions(dir.join("s/sub"), Permissions::from_mode(0o750)).unwrap()),
        ("s/a", |dir| fs::set_permissions(dir.join("s/a"), Permissions::from_mode(0o4644)).unwrap()),
        ("s/new", |dir| fs::write(dir.join("s/new"), "").unwrap()),
        ("s/empty", |dir| fs::remove_file(dir.join("s/empty")).unwrap()),
        ("s/link", |dir| {
            fs::remove_file(dir.join("s/link")).unwrap();
            symlink("b", dir.join("s/link")).unwrap();
        }),
        ("s/empty", |dir| {
            fs::remove_file(dir.join("s/empty")).unwrap();
            fs::create_dir(dir.join("s/empty")).unwrap();
            fs::set_permissions(dir.join("s/empty"), Permissions::from_mode(0o600)).unwrap();
        }),
    ];
    for (index, (path, change)) in changes.iter().enumerate() {
        let dir = made();
        let before = digest(dir.path(), "s");
        change(dir.path());
        let after = digest(dir.path(), "s");
        assert_ne!(after.digest, before.digest, "change {index}");
        assert_eq!(changed(&before, &after), [PathBuf::from(path)], "change {index}");
    }
}

#[test]
fn a_renamed_file_counts() {
    let dir = made();
    let (inside, alone) = (digest(dir.path(), "s"), digest(dir.path(), "s/a"));
    fs::rename(dir.path().join("s/a"), dir.path().join("s/A")).unwrap();
    assert_ne!(digest(dir.path(), "s").digest, inside.digest);
    assert_ne!(
        digest(dir.path(), "s/A").digest,
        alone.digest,
        "a file's name is its name at the destination"
    );
}

#[test]
fn owners_and_attributes_count_in_a_root_file_system_only() {
    let dir = made();
    let rootfs = || digest_of(&Tree::rootfs(Root::open(dir.path()).unwrap()), "s");
    let (before, context) = (rootfs(), digest(dir.path(), "s"));
    rustix::fs::setxattr(dir.path().join("s/a"), "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let noted = rootfs();
    assert_eq!(changed(&before, &noted), [PathBuf::from("s/a")]);
    // Where the kernel refuses the owner, the journal has it.
    let (root, sub) = (Root::open(dir.path()).unwrap(), RootfsPath::new("s/sub"));
    let meta = root.meta(&sub).unwrap().unwrap();
    root.set_meta(&sub, &Meta { uid: 7, gid: 8, ..meta }).unwrap();
    assert_eq!(changed(&noted, &rootfs()), [PathBuf::from("s/sub")]);
    assert_eq!(digest(dir.path(), "s"), context);
}

#[test]
fn a_cache_gives_the_same_digest_and_notices_changes() {
    let dir = made();
    let old = SystemTime::now() - Duration::from_secs(60);
    let tree = Tree::directory(dir.path(), None).unwrap();
    let select = || tree.select("s", &SelectOptions::default()).unwrap();
    let cache = StatCache::default();
    let plain = tree.digest(&select(), None).unwrap();
    assert_eq!(tree.digest(&select(), Some(&cache)).unwrap(), plain);
    assert_eq!(cache.len(), 0, "files made just now are not trusted");

    // A change of the same length with the old time put back still shows in ctime.
    fs::write(dir.path().join("s/a"), "ONE").unwrap();
    File::open(dir.path().join("s/a")).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
    let after = tree.digest(&select(), Some(&cache)).unwrap();
    assert_eq!(changed(&plain, &after), [PathBuf::from("s/a")]);
}

#[test]
fn a_cached_digest_is_used_once_the_file_is_old_enough() {
    let dir = made();
    std::thread::sleep(Duration::from_millis(3100));
    let tree = Tree::directory(dir.path(), None).unwrap();
    let select = || tree.select("s", &SelectOptions::default()).unwrap();
    let cache = StatCache::default();
    let first = tree.digest(&select(), Some(&cache)).unwrap();
    assert_eq!(cache.len(), 2, "the two files with content");
    assert_eq!(tree.digest(&select(), Some(&cache)).unwrap(), first);
    fs::write(dir.path().join("s/a"), "ONE").unwrap();
    let second = tree.digest(&select(), Some(&cache)).unwrap();
    assert_eq!(changed(&first, &second), [PathBuf::from("s/a")]);
    assert_eq!(second, tree.digest(&select(), None).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// Two trees have the same digest exactly if they have the same names, modes and contents.
    #[test]
    fn digests_are_equal_exactly_if_the_trees_are(
        one in prop::collection::btree_map("[ab]{1,2}", ("[xy]{0,2}", prop::bool::ANY), 0..4),
        two in prop::collection::btree_map("[ab]{1,2}", ("[xy]{0,2}", prop::bool::ANY), 0..4),
    ) {
        let digest_of = |files: &std::collections::BTreeMap<String, (String, bool)>| {
            let dir = tempfile::tempdir().unwrap();
            for (name, (content, executable)) in files {
                fs::write(dir.path().join(name), content).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
            }
            digest(dir.path(), ".").digest
        };
        prop_assert_eq!(digest_of(&one) == digest_of(&two), one == two);
    }
}
