//! Several processes on one store, and `kill -9` at any moment. The test binary runs itself as the other processes.

mod common;

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::{assert_whole, layer, list, open, open_as, record, snapshot};
use rbuild_image::{ChainId, DiffId, Digest};
use rbuild_store::{
    CacheResult, ImageRecord, LayerInfo, LayerSlot, MemoLinks, Parent, PartialSlot, PruneOptions, Resource,
    Sharing, Store,
};

/// Role of a process that a test has started, with its arguments.
const ROLE: &str = "RBUILD_STORE_TEST_ROLE";

fn start(root: &Path, role: &str) -> Child {
    Command::new("/proc/self/exe")
        .args(["--exact", "another_process", "--nocapture", "--test-threads=1"])
        .env(ROLE, format!("{role} {}", root.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn assert_success(mut child: Child) {
    assert!(child.wait().unwrap().success());
}

/// No test of its own: what the processes run that the tests start.
#[test]
fn another_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.splitn(3, ' ').collect();
    let (seed, root) = (words[1].parse().unwrap(), PathBuf::from(words[2]));
    match words[0] {
        "work" => work_for_ever(&root, seed),
        "build" => build(&root, seed),
        "fetch" => fetch(&root),
        "unpack" => unpack(&root),
        "records" => put_records(&root, seed),
        "mount" => take_locked_mount(&root),
        other => panic!("no role {other}"),
    }
}

/// A small generator of numbers: the same seed gives the same work.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn everything() -> PruneOptions {
    PruneOptions::everything(SystemTime::now() + Duration::from_secs(5))
}

/// Everything that a store can be asked to do, in random order, until killed.
fn work_for_ever(root: &Path, seed: u64) {
    let mut random = Random(seed);
    loop {
        let store = open(root);
        let mut parent = Parent::Layers(vec![layer(&store, &[random.below(6) as u8; 3000])]);
        for _ in 0..6 {
            parent = work(&store, &mut random, parent);
        }
    }
}

fn work(store: &Store, random: &mut Random, parent: Parent) -> Parent {
    let content = [random.below(6) as u8; 5000];
    match random.below(10) {
        0 => drop(store.begin(&parent).unwrap()),
        1 => drop(download(store, &content)),
        2 => {
            let keeps = vec![Resource::Blob(common::blob(store, &content))];
            store.put_memo("compressed", "x", &1, &MemoLinks { keeps, about: Vec::new() }).unwrap();
        }
        3 => {
            let config = store.put_blob(&content).unwrap().digest;
            let mut keeps = vec![Resource::Blob(config.clone())];
            if let Parent::Snapshot(id) = parent {
                keeps.push(Resource::Snapshot(id));
            }
            let reference = format!("docker.io/library/app:{}", random.below(3));
            let session = String::new();
            store
                .set_tag(ImageRecord {
                    reference,
                    manifest: None,
                    image_id: config,
                    created: 1,
                    keeps,
                    session,
                })
                .unwrap();
        }
        4 => drop(store.remove_tag("docker.io/library/app:1").unwrap()),
        5 => drop(store.prune(&everything()).unwrap()),
        6 => {
            let mut mount = store.cache_mount("npm", Sharing::Private).unwrap();
            fs::write(mount.path().join("x"), content).unwrap();
            mount.set_up().unwrap();
        }
        7 if random.below(8) == 0 => drop(store.finish_build().unwrap()),
        _ => {
            let made = snapshot(store, &parent, &content);
            let text = random.below(20).to_string();
            store.put_cache_record(record(&text, CacheResult::Snapshot(made.id))).unwrap();
            store.set_diff_id(&made.id, &DiffId(Digest::sha256_of(content)), 5000).unwrap();
            return Parent::Snapshot(made.id);
        }
    }
    parent
}

/// Fetches a blob in small pieces, or waits for the one who does; says whether it was this process.
fn download(store: &Store, content: &[u8]) -> bool {
    match store.partial_blob(&Digest::sha256_of(content)).unwrap() {
        PartialSlot::Complete(_) => false,
        PartialSlot::Partial(mut partial) => {
            let from = usize::try_from(partial.len()).unwrap();
            for piece in content[from..].chunks(500) {
                partial.write_all(piece).unwrap();
            }
            partial.finish().unwrap();
            true
        }
    }
}

#[test]
fn a_kill_at_any_instant_leaves_a_store_that_opens_and_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(2);
    for round in 0..60 {
        let workers: Vec<_> =
            (0..2).map(|worker| start(folder.path(), &format!("work {}", round * 2 + worker))).collect();
        sleep(Duration::from_micros(4000 + random.below(50_000)));
        for mut worker in workers {
            assert!(worker.try_wait().unwrap().is_none(), "a worker failed before it was killed");
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        // Now and then the machine "goes down" as well.
        let boot = if round % 7 == 6 { format!("boot-{round}") } else { "boot-1".to_owned() };
        let store = open_as(folder.path(), &boot);
        assert_whole(&store);
        assert_eq!(list(folder.path(), "tmp").len(), 1, "only this session's");
        assert_eq!(list(folder.path(), "leases").iter().filter(|name| !name.starts_with('.')).count(), 1);
    }
    let store = open(folder.path());
    for image in store.tags().unwrap() {
        store.remove_tag(&image.reference).unwrap();
    }
    drop(store);
    let store = open(folder.path());
    store.prune(&everything()).unwrap();
    assert_eq!(store.usage().unwrap().bytes(), 0, "nothing is unreachable for ever");
}

/// The threads and processes that wait for the lock of a file (proc(5), `/proc/locks`).
fn waiters(file: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("-> FLOCK") && line.contains(&inode)).count()
}

/// A note of its size that reached a tree after its deletion had begun would make that fail: "Directory not empty".
#[test]
fn nothing_is_put_into_a_tree_while_another_process_decides_what_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let made = snapshot(&store, &Parent::None, b"content");
    let note = made.fs().parent().unwrap().join("disk");
    let gate = fs::File::open(folder.path().join("lock")).unwrap();
    gate.lock().unwrap();
    std::thread::scope(|scope| {
        // Free again also where an assertion ends this: the threads wait for it.
        let gate = gate;
        for work in [
            |store: &Store| assert!(store.usage().is_ok()),
            |store: &Store| assert!(store.prune(&everything()).is_ok()),
        ] {
            let store = &store;
            scope.spawn(move || work(store));
        }
        // Both have measured, and wait at the gate.
        while waiters(&folder.path().join("lock")) < 2 {
            assert!(!note.exists());
            sleep(Duration::from_millis(1));
        }
        assert!(!note.exists());
        gate.unlock().unwrap();
    });
    assert!(note.exists());
}

#[test]
fn leases_that_never_got_their_name_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let leases = folder.path().join("leases");
    for name in [".new-1-dead", ".new-2-alive"] {
        fs::write(leases.join(name), "").unwrap();
    }
    let alive = fs::File::open(leases.join(".new-2-alive")).unwrap();
    alive.lock().unwrap();
    let _store = open(folder.path());
    let unborn: Vec<_> =
        list(folder.path(), "leases").into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(unborn, [".new-2-alive"]);
}

/// A build of many steps that looks after each whether everything below is still there.
fn build(root: &Path, seed: u64) {
    let store = open(root);
    let base: Vec<_> = (0..3).map(|index| layer(&store, format!("base {index}").as_bytes())).collect();
    let mut parent = Parent::Layers(base);
    let mut blobs = Vec::new();
    for step in 0..40 {
        let made = snapshot(&store, &parent, format!("{seed} {step}").as_bytes());
        store.put_cache_record(record(&format!("{seed} {step}"), CacheResult::Snapshot(made.id))).unwrap();
        blobs.push(common::blob(&store, format!("{seed} {step}").as_bytes()));
        parent = Parent::Snapshot(made.id);
        let lowers = store.lowers(&parent).unwrap();
        assert_eq!(lowers.len(), 3 + step + 1);
        for lower in lowers {
            assert!(lower.join("file").exists() || lower.join("base").exists(), "{}", lower.display());
        }
        assert!(blobs.iter().all(|digest| store.open_blob(digest).is_ok()));
    }
}

#[test]
fn collection_never_takes_what_a_running_build_holds() {
    let folder = tempfile::tempdir().unwrap();
    let mut builds: Vec<_> = (0..3).map(|seed| start(folder.path(), &format!("build {seed}"))).collect();
    let store = open(folder.path());
    let mut collections = 0;
    while builds.iter_mut().any(|build| build.try_wait().unwrap().is_none()) {
        store.prune(&everything()).unwrap();
        collections += 1;
    }
    builds.into_iter().for_each(assert_success);
    assert!(collections > 1);
    assert_whole(&store);
    store.prune(&everything()).unwrap();
    assert_eq!(store.usage().unwrap().bytes(), 0);
}

fn fetch(root: &Path) {
    let store = open(root);
    if download(&store, &[7; 40_000]) {
        fs::File::create_new(root.join("logs-fetched")).expect("only one fetches");
    }
}

fn unpack(root: &Path) {
    let store = open(root);
    let diff_id = ChainId(Digest::sha256_of(b"layer"));
    if let LayerSlot::New(new) = store.begin_layer(&diff_id).unwrap() {
        fs::File::create_new(root.join("logs-unpacked")).expect("only one unpacks");
        sleep(Duration::from_millis(30));
        fs::write(new.fs().join("base"), "x").unwrap();
        new.commit(LayerInfo::default()).unwrap();
    }
    assert!(store.layer(&diff_id).unwrap().unwrap().fs().join("base").exists());
}

#[test]
fn a_layer_and_a_blob_are_made_once_whoever_wants_them() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let roles = ["fetch 0", "unpack 0"].repeat(4);
    let children: Vec<_> = roles.into_iter().map(|role| start(folder.path(), role)).collect();
    children.into_iter().for_each(assert_success);
    assert!(folder.path().join("logs-unpacked").exists() && folder.path().join("logs-fetched").exists());
    assert_eq!(list(folder.path(), "locks").len(), 0);
    assert_whole(&open(folder.path()));
}

fn put_records(root: &Path, seed: u64) {
    for round in 0..5 {
        let store = open(root);
        for step in 0..5 {
            let made = snapshot(&store, &Parent::None, b"x");
            let text = format!("{seed} {round} {step}");
            store.put_cache_record(record(&text, CacheResult::Snapshot(made.id))).unwrap();
        }
    }
}

#[test]
fn twenty_at_once_lose_no_record() {
    let folder = tempfile::tempdir().unwrap();
    // The store does not exist yet: they make it at once, too.
    let children: Vec<_> = (0..20).map(|seed| start(folder.path(), &format!("records {seed}"))).collect();
    children.into_iter().for_each(assert_success);
    let store = open(folder.path());
    assert_eq!(store.cache_records().unwrap().len(), 20 * 25);
    assert_whole(&store);
}

fn take_locked_mount(root: &Path) {
    let store = open(root);
    let mount = store.cache_mount("npm", Sharing::Locked).unwrap();
    assert_eq!(fs::read(mount.path().join("done")).unwrap(), b"yes", "it was not waited for");
}

#[test]
fn a_locked_mount_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut mount = store.cache_mount("npm", Sharing::Locked).unwrap();
    mount.set_up().unwrap();
    let mut waiting = start(folder.path(), "mount 0");
    let until = Instant::now() + Duration::from_millis(150);
    while Instant::now() < until {
        assert!(waiting.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(5));
    }
    fs::write(mount.path().join("done"), "yes").unwrap();
    // As the sandbox's init would: the lock goes with the last descriptor.
    let init = mount.try_clone_lock().unwrap();
    drop(mount);
    assert!(waiting.try_wait().unwrap().is_none());
    drop(init);
    assert_success(waiting);
}

#[test]
fn a_crash_between_snapshot_and_record_costs_only_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let made = snapshot(&open(folder.path()), &Parent::None, b"12345");
    let store = open(folder.path());
    assert_whole(&store);
    assert_eq!(store.prune(&everything()).unwrap().snapshots.bytes, 5);
    assert!(store.snapshot(&made.id).unwrap().is_none());
}
