//! What the tests of the store share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rbuild_image::{ChainId, Digest};
use rbuild_store::{
    CacheResult, KeyParts, LayerInfo, LayerSlot, Lineage, NewRecord, Parent, Snapshot, SnapshotInfo, Store,
    StoreOptions, VerifyOptions,
};

/// Opens the store at `root` under the boot `boot`.
pub(crate) fn open_as(root: &Path, boot: &str) -> Store {
    let options = StoreOptions { root: root.to_owned(), id_map: "test".into(), boot_id: boot.into() };
    Store::open(&options).expect("the store opens")
}

pub(crate) fn open(root: &Path) -> Store {
    open_as(root, "boot-1")
}

/// A snapshot with one file of these bytes.
pub(crate) fn snapshot(store: &Store, parent: &Parent, content: &[u8]) -> Snapshot {
    let new = store.begin(parent).expect("the parent is held");
    fs::write(new.upper().join("file"), content).unwrap();
    new.commit(SnapshotInfo { created_by: "RUN test".into(), ..SnapshotInfo::default() })
        .expect("it is committed")
}

pub(crate) fn layer(store: &Store, content: &[u8]) -> ChainId {
    let chain_id = ChainId(Digest::sha256_of(content));
    match store.begin_layer(&chain_id).unwrap() {
        LayerSlot::Ready(_) => {}
        LayerSlot::New(new) => {
            fs::write(new.fs().join("base"), content).unwrap();
            new.commit(LayerInfo { size: content.len() as u64, ..LayerInfo::default() }).unwrap();
        }
    }
    chain_id
}

pub(crate) fn blob(store: &Store, content: &[u8]) -> Digest {
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(content).unwrap();
    writer.commit(None).unwrap().digest
}

pub(crate) fn lineage() -> Lineage {
    Lineage { stage: "build".into(), instruction: "RUN".into(), index: 0 }
}

pub(crate) fn record(text: &str, result: CacheResult) -> NewRecord {
    let mut parts = KeyParts::new();
    parts.text("instruction", "RUN").text("command", text);
    NewRecord {
        parts,
        lineage: lineage(),
        result,
        diff_id: None,
        created: 7,
        created_by: String::new(),
        log: None,
    }
}

/// Nothing in the store is wrong, every blob read.
pub(crate) fn assert_whole(store: &Store) {
    let violations = store.verify(&VerifyOptions { read_blobs: true }).expect("the store can be read");
    assert!(violations.is_empty(), "{}", violations.iter().map(|one| format!("{one}\n")).collect::<String>());
}

/// Names in a folder below the root.
pub(crate) fn list(root: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
