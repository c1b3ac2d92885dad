//! The rooms of the store, within one process.

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use common::{assert_whole, blob, layer, lineage, list, open, record, snapshot};
use rbuild_image::{ChainId, DiffId, Digest};
use rbuild_store::{
    CacheResult, FileChange, FileFacts, FileList, ImageRecord, KeyParts, Lineage, MemoLinks, Parent,
    PartValue, PartialSlot, PruneOptions, Resource, Sharing, Store, StoreError, StoreOptions, VerifyOptions,
};

#[test]
fn a_new_root_is_private_and_a_newer_or_foreign_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("deep/store");
    drop(open(&root));
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    drop(open(&root));
    assert_eq!(list(&root, "tmp"), Vec::<String>::new());
    assert_eq!(list(&root, "leases"), Vec::<String>::new());

    let options = StoreOptions { root: root.clone(), id_map: "test".into(), boot_id: "b".into() };
    fs::write(root.join("version"), "2\n").unwrap();
    let error = Store::open(&options).unwrap_err();
    assert!(matches!(error, StoreError::NewerLayout { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("use a newer rbuild"), "{error}");

    let foreign = folder.path().join("home");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "").unwrap();
    let error = Store::open(&StoreOptions { root: foreign.clone(), ..options.clone() }).unwrap_err();
    assert!(matches!(&error, StoreError::NotAStore { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);

    let error = Store::open(&StoreOptions { id_map: "../up".into(), ..options }).unwrap_err();
    assert!(matches!(error, StoreError::BadName { .. }), "{error}");
}

#[test]
fn a_blob_is_what_its_digest_says_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = Digest::sha256_of(b"hello");
    assert!(matches!(store.open_blob(&digest), Err(StoreError::NoBlob(_))));

    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"hellO").unwrap();
    let error = writer.commit(Some(&digest)).unwrap_err();
    assert!(matches!(&error, StoreError::DigestMismatch { expected, .. } if *expected == digest), "{error}");
    assert_eq!(list(folder.path(), "blobs"), Vec::<String>::new());
    assert_eq!(list(&folder.path().join("tmp"), &list(folder.path(), "tmp")[0]), Vec::<String>::new());

    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"hello").unwrap();
    let found = writer.commit(Some(&digest)).unwrap();
    assert_eq!((found.size, found.read().unwrap()), (5, b"hello".to_vec()));
    found.link(&folder.path().join("tmp/linked")).unwrap();
    assert_eq!(fs::read(folder.path().join("tmp/linked")).unwrap(), b"hello");
    fs::remove_file(folder.path().join("tmp/linked")).unwrap();

    let mut long = rbuild_image::Digester::new(rbuild_image::Algorithm::Sha512);
    long.update(b"hello");
    let long = long.finish();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert_eq!(writer.commit(Some(&long)).unwrap().digest, long);
    assert_whole(&store);
}

#[test]
fn a_download_goes_on_where_it_broke_off_and_a_wrong_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = Digest::sha256_of(b"first second");
    let begin = || match store.partial_blob(&digest).unwrap() {
        PartialSlot::Partial(partial) => partial,
        PartialSlot::Complete(blob) => panic!("{blob:?} is not finished"),
    };
    begin().write_all(b"first ").unwrap();
    let mut partial = begin();
    assert_eq!(partial.len(), 6);
    partial.write_all(b"wrong!").unwrap();
    assert!(matches!(partial.finish(), Err(StoreError::DigestMismatch { .. })));
    assert_eq!((list(folder.path(), "partial").len(), list(folder.path(), "blobs").len()), (0, 0));

    begin().write_all(b"first ").unwrap();
    let mut partial = begin();
    partial.write_all(b"x").unwrap();
    partial.restart().unwrap();
    assert!(partial.is_empty());
    partial.write_all(b"first second").unwrap();
    assert_eq!(partial.finish().unwrap().size, 12);
    assert!(matches!(store.partial_blob(&digest).unwrap(), PartialSlot::Complete(_)));
    assert_eq!(list(folder.path(), "partial").len(), 0);
}

#[test]
fn lowers_are_top_first_and_name_no_directory_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (one, two) = (layer(&store, b"one"), layer(&store, b"two"));
    let base = Parent::Layers(vec![one.clone(), two.clone(), one.clone()]);
    let first = snapshot(&store, &base, b"1");
    let second = snapshot(&store, &Parent::Snapshot(first.id), b"2");
    let expected = vec![
        second.fs(),
        first.fs(),
        store.layer(&one).unwrap().unwrap().fs(),
        store.layer(&two).unwrap().unwrap().fs(),
    ];
    assert_eq!(store.lowers(&Parent::Snapshot(second.id)).unwrap(), expected);
    assert_eq!(store.lowers(&Parent::None).unwrap(), Vec::<std::path::PathBuf>::new());
    let chain: Vec<_> = store.chain(&second.id).unwrap().into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(chain, [second.id, first.id]);

    let diff_id = DiffId(Digest::sha256_of(b"tar"));
    store.set_diff_id(&first.id, &diff_id, 3).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.snapshot(&first.id).unwrap().unwrap().info.diff_id, Some(diff_id));
    assert!(matches!(
        store.begin(&Parent::Layers(vec![ChainId(Digest::sha256_of(b"?"))])),
        Err(StoreError::NoLayer(_))
    ));
    assert_whole(&store);
}

#[test]
fn an_uncommitted_snapshot_goes_whatever_its_modes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let new = store.begin(&Parent::None).unwrap();
    let upper = new.upper();
    for closed in [new.work().join("work"), upper.join("closed")] {
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("file"), "x").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    }
    drop(new);
    assert!(!upper.exists() && !upper.parent().unwrap().exists());
    assert_whole(&store);
}

#[test]
fn a_record_is_a_hit_until_its_snapshot_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let made = snapshot(&store, &Parent::None, b"1");
    let key = store.put_cache_record(record("true", CacheResult::Snapshot(made.id))).unwrap();
    let diff_id = DiffId(Digest::sha256_of(b"tar"));
    store.set_diff_id(&made.id, &diff_id, 3).unwrap();
    let hit = store.cache_record(&key).unwrap().unwrap();
    assert_eq!((hit.parent(), hit.diff_id), (Some(Parent::Snapshot(made.id)), Some(diff_id)));
    let metadata =
        store.put_cache_record(record("x", CacheResult::Metadata(serde_json::json!({"a": 1})))).unwrap();
    drop(store);

    // Under another id map it is a miss, and stays a hit under its own.
    let other = StoreOptions { root: folder.path().into(), id_map: "other".into(), boot_id: "boot-1".into() };
    assert_eq!(Store::open(&other).unwrap().cache_record(&key).unwrap(), None);
    assert!(open(folder.path()).cache_record(&key).unwrap().is_some());

    fs::remove_dir_all(made.fs().parent().unwrap()).unwrap();
    let store = open(folder.path());
    assert_eq!(store.verify(&VerifyOptions { read_blobs: false }).unwrap().len(), 1);
    assert_eq!(store.cache_record(&key).unwrap(), None);
    assert!(store.cache_record(&metadata).unwrap().is_some());
    assert_eq!(store.cache_records().unwrap().len(), 1);

    // A damaged record is a miss and goes, too.
    let path = folder.path().join(format!("cache/{}/{metadata}.json", &metadata.to_string()[..2]));
    fs::write(&path, "{").unwrap();
    assert_eq!(store.cache_record(&metadata).unwrap(), None);
    assert!(!path.exists());
}

#[test]
fn a_miss_is_explained_against_the_nearest_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let parts = |version: &str, content: &[u8]| {
        let mut parts = KeyParts::new();
        parts
            .text("instruction", "COPY")
            .text("ARG VERSION", version)
            .content("source .", Digest::sha256_of(content));
        parts
    };
    let facts = |mode, content: &str| FileFacts { mode, uid: 0, gid: 0, content: content.into() };
    let files = |list: &[(&str, FileFacts)]| -> FileList {
        list.iter().map(|(path, facts)| ((*path).to_owned(), facts.clone())).collect()
    };
    assert_eq!(store.explain(&lineage(), &parts("1", b"a")).unwrap(), None);
    for (version, content) in [("1", b"a"), ("2", b"b")] {
        let mut new = record("", CacheResult::Metadata(serde_json::Value::Null));
        new.parts = parts(version, content);
        store.put_cache_record(new).unwrap();
    }
    let before =
        files(&[("a.js", facts(0o644, "1")), ("b.js", facts(0o644, "2")), ("old", facts(0o644, "3"))]);
    let now = files(&[("a.js", facts(0o664, "1")), ("b.js", facts(0o644, "9")), ("new", facts(0o644, "3"))]);
    store.put_file_list(&Digest::sha256_of(b"a"), &before).unwrap();
    store.put_file_list(&Digest::sha256_of(b"c"), &now).unwrap();

    let difference = store.explain(&lineage(), &parts("1", b"c")).unwrap().unwrap();
    assert_eq!(difference.earlier, parts("1", b"a").key());
    let [change] = &difference.changes[..] else { panic!("{difference:?}") };
    assert_eq!(change.from, Some(PartValue::Content(Digest::sha256_of(b"a"))));
    let expected = [
        ("a.js", FileChange::Mode { from: 0o644, to: 0o664 }),
        ("b.js", FileChange::Content),
        ("new", FileChange::Added),
        ("old", FileChange::Removed),
    ];
    assert_eq!(change.files, expected.map(|(path, change)| (path.to_owned(), change)));
    let elsewhere = Lineage { index: 1, ..lineage() };
    assert_eq!(store.explain(&elsewhere, &parts("1", b"c")).unwrap(), None);
}

#[test]
fn collection_takes_what_nothing_uses_and_says_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let everything = PruneOptions::everything(SystemTime::now() + Duration::from_secs(5));
    let (kept, base, config);
    {
        let store = open(folder.path());
        base = layer(&store, b"base");
        layer(&store, b"unused base");
        let parent = snapshot(&store, &Parent::Layers(vec![base.clone()]), b"parent");
        kept = snapshot(&store, &Parent::Snapshot(parent.id), b"kept");
        snapshot(&store, &Parent::Snapshot(kept.id), b"orphan");
        config = blob(&store, b"config");
        let compressed = store.put_blob(b"compressed").unwrap();
        store.put_compressed_blob(&DiffId(base.0.clone()), "gzip 6", &compressed).unwrap();
        store.put_content_digest(&kept.id, "/file", &Digest::sha256_of(b"x")).unwrap();
        let unused = snapshot(&store, &Parent::None, b"unused");
        store.put_cache_record(record("unused", CacheResult::Snapshot(unused.id))).unwrap();
        let keeps = vec![Resource::Blob(config.clone()), Resource::Snapshot(kept.id)];
        let reference = "docker.io/library/app:1".to_owned();
        let image = ImageRecord {
            reference,
            manifest: None,
            image_id: config.clone(),
            created: 1,
            keeps,
            session: String::new(),
        };
        store.set_tag(image).unwrap();
        // All of it is held by this very session: only records, which nobody holds, go.
        let report = store.prune(&everything).unwrap();
        assert_eq!((report.snapshots.count, report.layers.count, report.blobs.count), (0, 0, 0));
        assert_whole(&store);
    }
    let store = open(folder.path());
    let before = store.usage().unwrap();
    assert_eq!((before.layers.bytes, before.snapshots.count), (15, 4));
    let report = store.prune(&everything).unwrap();
    let after = store.usage().unwrap();
    assert_eq!(before.bytes() - after.bytes(), report.bytes());
    assert_eq!((report.snapshots.count, report.snapshots.bytes), (2, 12));
    assert_eq!((report.layers.bytes, report.blobs.bytes), (11, 10));
    assert!(store.snapshot(&kept.id).unwrap().is_some() && store.layer(&base).unwrap().is_some());
    assert_whole(&store);

    assert!(store.remove_tag("docker.io/library/app:1").unwrap());
    drop(store);
    let store = open(folder.path());
    store.prune(&everything).unwrap();
    assert_eq!(store.usage().unwrap().bytes(), 0);
    assert!(!store.has_blob(&config).unwrap());
}

#[test]
fn limits_of_age_and_size_take_what_was_used_longest_ago() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let keys: Vec<_> = {
        let store = open(folder.path());
        let put = |hours: u64| {
            let made = snapshot(&store, &Parent::None, &[b'x'; 100]);
            let key =
                store.put_cache_record(record(&hours.to_string(), CacheResult::Snapshot(made.id))).unwrap();
            let path = folder.path().join(format!("cache/{}/{key}.json", &key.to_string()[..2]));
            let file = fs::File::options().append(true).open(path).unwrap();
            file.set_modified(now - Duration::from_secs(hours * 3600)).unwrap();
            key
        };
        [5, 2, 9, 40].map(put).into()
    };
    // A hit renews the time of last use.
    assert!(open(folder.path()).cache_record(&keys[2]).unwrap().is_some());
    let store = open(folder.path());
    let there = |store: &Store| {
        let records = store.cache_records().unwrap();
        keys.iter().map(|key| records.iter().any(|(record, _)| record.key == *key)).collect::<Vec<_>>()
    };
    let limits =
        PruneOptions { max_age: Some(Duration::from_secs(86400)), max_bytes: None, mounts: false, now };
    assert_eq!(store.prune(&limits).unwrap().cache.count, 1);
    assert_eq!(there(&store), [true, true, true, false]);
    let limits = PruneOptions { max_age: None, max_bytes: Some(250), mounts: false, now };
    let report = store.prune(&limits).unwrap();
    assert_eq!((report.cache.count, report.snapshots.bytes), (1, 100));
    assert_eq!(there(&store), [false, true, true, false]);
    let if_due = |now: SystemTime| {
        let limits = PruneOptions { now, ..limits };
        store.prune_if_due(&limits, Duration::from_secs(60)).unwrap().is_some()
    };
    assert!(!if_due(now), "a new store");
    assert!(!if_due(now + Duration::from_secs(30)));
    assert!(if_due(now + Duration::from_secs(90)));
    assert!(!if_due(now), "just done");
}

#[test]
fn memos_go_with_what_they_are_about() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let made = snapshot(&store, &Parent::None, b"1");
    store.put_content_digest(&made.id, "/a", &Digest::sha256_of(b"a")).unwrap();
    store.put_memo("resolve", "alpine amd64", &"sha256:…", &MemoLinks::default()).unwrap();
    assert_eq!(store.content_digest(&made.id, "/a").unwrap(), Some(Digest::sha256_of(b"a")));
    assert_eq!(store.content_digest(&made.id, "/b").unwrap(), None);
    drop(store);
    let store = open(folder.path());
    let limits = PruneOptions { max_age: None, max_bytes: None, mounts: false, now: SystemTime::now() };
    let report = store.prune(&limits).unwrap();
    assert_eq!((report.snapshots.count, report.memos.count), (1, 1));
    assert_eq!(store.memo::<String>("resolve", "alpine amd64").unwrap().as_deref(), Some("sha256:…"));
}

#[test]
fn lock_files_of_the_dead_are_swept_and_held_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let key = KeyParts::new().key();
    let turn = store.try_turn(&key).unwrap().expect("nobody has it");
    fs::write(folder.path().join("locks/step-root-dead"), "").unwrap();
    let other = open(folder.path());
    assert_eq!(list(folder.path(), "locks").len(), 1);
    assert!(other.try_turn(&key).unwrap().is_none(), "it is still held");
    drop(turn);
    assert!(list(folder.path(), "locks").is_empty());
}

/// Those who waited for the first content share the mount with whoever made it.
#[test]
fn a_new_shared_mount_lets_everybody_in_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let end = std::sync::RwLock::new(());
    std::thread::scope(|scope| {
        let until_all_came = end.write().unwrap();
        for _ in 0..8 {
            let (store, arrived, end) = (&store, arrived.clone(), &end);
            scope.spawn(move || {
                let mut mount = store.cache_mount("npm", Sharing::Shared).unwrap();
                let is_new = mount.is_new();
                if is_new {
                    // Let the others wait.
                    std::thread::sleep(Duration::from_millis(100));
                    mount.set_up().unwrap();
                }
                arrived.send(is_new).unwrap();
                drop(end.read());
            });
        }
        let all: Vec<_> = (0..8).map(|_| arrivals.recv_timeout(Duration::from_secs(20))).collect();
        drop(until_all_came);
        assert_eq!(all.iter().filter(|one| **one == Ok(true)).count(), 1, "{all:?}");
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    });
}

#[test]
fn cache_mounts_are_shared_waited_for_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut first = store.cache_mount("/root/.npm", Sharing::Shared).unwrap();
    assert!(first.is_new());
    fs::write(first.path().join("half"), "").unwrap();
    // Not set up: nobody else gets it, and dropped so it begins anew.
    assert!(store.try_cache_mount("/root/.npm", Sharing::Shared).unwrap().is_none());
    drop(first);
    first = store.cache_mount("/root/.npm", Sharing::Shared).unwrap();
    assert!(first.is_new() && fs::read_dir(first.path()).unwrap().count() == 0);
    fs::write(first.path().join("content"), "x").unwrap();
    first.set_up().unwrap();

    let second = store.try_cache_mount("/root/.npm", Sharing::Shared).unwrap().expect("shared");
    assert!(!second.is_new() && second.path() == first.path());
    assert!(store.try_cache_mount("/root/.npm", Sharing::Locked).unwrap().is_none());
    let private = store.try_cache_mount("/root/.npm", Sharing::Private).unwrap().expect("a copy of its own");
    assert!(private.is_new() && private.path() != first.path());

    // The lock lasts as long as any descriptor of it.
    let init = first.try_clone_lock().unwrap();
    drop((first, second, private));
    assert!(store.try_cache_mount("/root/.npm", Sharing::Locked).unwrap().is_none());
    drop(init);
    let locked = store.try_cache_mount("/root/.npm", Sharing::Locked).unwrap().expect("free");
    assert!(locked.path().join("content").exists());
    let everything = PruneOptions::everything(SystemTime::now() + Duration::from_secs(5));
    assert_eq!(store.prune(&everything).unwrap().mounts.bytes, 0);
    drop(locked);
    assert_eq!(store.prune(&everything).unwrap().mounts.bytes, 1);
    assert!(store.cache_mount("/root/.npm", Sharing::Locked).unwrap().is_new());
}

#[test]
fn an_ordinary_open_reads_no_record() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let shard = folder.path().join("cache/ab");
    fs::create_dir(&shard).unwrap();
    let name = format!("ab{}.json", "0".repeat(62));
    fs::write(shard.join(&name), "{").unwrap();
    // Whoever reads it, drops it.
    drop(open(folder.path()));
    assert!(shard.join(&name).exists());
    assert_eq!(open(folder.path()).cache_record(&name[..64].parse().unwrap()).unwrap(), None);
    assert!(!shard.join(&name).exists());
}
