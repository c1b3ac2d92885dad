//! The rules of power loss: another boot id at open stands for the loss.

mod common;

use std::fs;

use common::{assert_whole, blob, layer, list, open_as, record, snapshot};
use rbuild_image::Digest;
use rbuild_store::{CacheResult, ImageRecord, Parent, Resource, Sharing};

#[test]
fn what_a_sync_covered_stays_and_the_rest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_as(folder.path(), "boot-1");
    assert!(!store.finish_build().unwrap(), "nothing was published");
    let durable = snapshot(&store, &Parent::None, b"durable");
    let durable_key = store.put_cache_record(record("durable", CacheResult::Snapshot(durable.id))).unwrap();
    store.begin_sync();
    store.begin_sync();
    assert_eq!(list(folder.path(), "undurable").len(), 1, "the end alone says that all is covered");
    assert!(store.finish_build().unwrap());
    assert_eq!(list(folder.path(), "undurable").len(), 0);
    store.begin_sync();
    assert!(!store.finish_build().unwrap(), "nothing was published since");
    drop(store);

    let store = open_as(folder.path(), "boot-1");
    let lost = snapshot(&store, &Parent::Snapshot(durable.id), b"lost");
    let lost_key = store.put_cache_record(record("lost", CacheResult::Snapshot(lost.id))).unwrap();
    let base = layer(&store, b"lost");
    let mut mount = store.cache_mount("npm", Sharing::Shared).unwrap();
    mount.set_up().unwrap();
    drop((mount, store));
    assert_eq!(list(folder.path(), "undurable").len(), 1);

    // The same boot: killed, but nothing lost.
    let store = open_as(folder.path(), "boot-1");
    assert!(store.cache_record(&lost_key).unwrap().is_some());
    drop(store);

    let store = open_as(folder.path(), "boot-2");
    assert!(store.cache_record(&durable_key).unwrap().is_some());
    assert!(store.cache_record(&lost_key).unwrap().is_none());
    assert!(store.snapshot(&lost.id).unwrap().is_none() && store.layer(&base).unwrap().is_none());
    assert!(store.cache_mount("npm", Sharing::Shared).unwrap().is_new());
    assert_eq!(list(folder.path(), "snapshots/test").len(), 1);
    assert_whole(&store);
}

#[test]
fn what_stands_on_something_lost_goes_too() {
    let folder = tempfile::tempdir().unwrap();
    // One session is alive and unfinished while another builds on its work and finishes.
    let unfinished = open_as(folder.path(), "boot-1");
    let below = snapshot(&unfinished, &Parent::None, b"below");
    let config = blob(&unfinished, b"config");
    let finished = open_as(folder.path(), "boot-1");
    let above = snapshot(&finished, &Parent::Snapshot(below.id), b"above");
    finished.put_cache_record(record("above", CacheResult::Snapshot(above.id))).unwrap();
    let keeps = vec![Resource::Snapshot(above.id), Resource::Blob(config.clone())];
    let reference = "docker.io/library/app:1".to_owned();
    finished
        .set_tag(ImageRecord {
            reference,
            manifest: None,
            image_id: config.clone(),
            created: 1,
            keeps,
            session: String::new(),
        })
        .unwrap();
    finished.finish_build().unwrap();
    assert_eq!(list(folder.path(), "undurable").len(), 1);
    drop((unfinished, finished));

    let store = open_as(folder.path(), "boot-2");
    assert_eq!(list(folder.path(), "snapshots/test").len(), 0);
    assert_eq!((store.tags().unwrap().len(), store.cache_records().unwrap().len()), (0, 0));
    assert!(store.has_blob(&config).unwrap(), "its bytes are right");
    assert_whole(&store);
}

#[test]
fn torn_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_as(folder.path(), "boot-1");
    let (whole, torn) = (blob(&store, b"whole"), blob(&store, b"torn"));
    let made = snapshot(&store, &Parent::None, b"x");
    let key = store.put_cache_record(record("x", CacheResult::Snapshot(made.id))).unwrap();
    let memo = rbuild_store::MemoLinks { keeps: vec![Resource::Blob(torn.clone())], about: Vec::new() };
    store.put_memo("compressed", "x", &1, &memo).unwrap();
    drop(store);
    let path = folder.path().join("blobs/sha256").join(torn.hex());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::write(folder.path().join(format!("cache/{}/{key}.json", &key.to_string()[..2])), "").unwrap();
    fs::write(made.fs().with_file_name("info.json"), "").unwrap();

    let store = open_as(folder.path(), "boot-2");
    assert!(store.has_blob(&whole).unwrap() && !store.has_blob(&torn).unwrap());
    assert_eq!(store.memo::<u8>("compressed", "x").unwrap(), None);
    assert_whole(&store);
    assert_eq!(Digest::sha256_of(b"whole"), whole);
}

#[test]
fn a_later_sync_covers_the_dead_of_the_same_boot() {
    let folder = tempfile::tempdir().unwrap();
    let dead = open_as(folder.path(), "boot-1");
    let early = snapshot(&dead, &Parent::None, b"early");
    drop(dead);
    let store = open_as(folder.path(), "boot-1");
    snapshot(&store, &Parent::None, b"later");
    store.finish_build().unwrap();
    assert_eq!(list(folder.path(), "undurable").len(), 0);
    drop(store);
    assert!(open_as(folder.path(), "boot-2").snapshot(&early.id).unwrap().is_some());
}
