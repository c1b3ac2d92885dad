//! What must survive everything: kills at any moment, Ctrl-C, a full disk, a registry that lies, many builds at once.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rbuild_store::{Store, StoreOptions, VerifyOptions};
use rbuild_testkit::registry::{Effect, Fault};
use rbuild_testkit::{TarEntry, TestRegistry, TinyImage, tiny_image};

use crate::common::{RBUILD, Run, Test, alive, is_root, names, text, tool};

/// The machine is at fault.
const ENVIRONMENT: i32 = 3;
/// A registry or the network is at fault.
const REGISTRY: i32 = 4;
/// Ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// What `rbuild cache verify` would say of a store, and what nothing but a living process may leave in it.
#[track_caller]
pub(crate) fn assert_sound(root: &std::path::Path) {
    let id_map = names(&root.join("snapshots")).pop().unwrap_or_else(|| "root".to_owned());
    for folder in ["tmp", "leases", "partial", "locks"] {
        assert_eq!(names(&root.join(folder)), [""; 0], "left in {folder}");
    }
    let options = StoreOptions { root: root.to_owned(), id_map, boot_id: "test".to_owned() };
    let found = Store::open(&options).unwrap().verify(&VerifyOptions { read_blobs: true }).unwrap();
    assert!(found.is_empty(), "{}", found.iter().map(|fault| format!("{fault}\n")).collect::<String>());
}

/// The names beside the context that no test made: a half-written output would be one.
fn beside(test: &Test) -> Vec<String> {
    let known = ["context", "home", "registries.conf", "store"];
    names(test.context().parent().unwrap())
        .into_iter()
        .filter(|name| !known.contains(&name.as_str()))
        .collect()
}

#[test]
fn sixty_kills_at_random_moments() {
    let seed = RandomState::new().build_hasher().finish();
    // Two at a time: more would only wait for each other.
    thread::scope(|scope| {
        for half in 0..2_u64 {
            scope.spawn(move || {
                for store in 0..5 {
                    kill_and_build_again(seed ^ (half * 5 + store));
                }
            });
        }
    });
}

/// Six kills on a new store, then a build that must know nothing of them.
fn kill_and_build_again(seed: u64) {
    let test = Test::new("");
    // Found in the command lines of what RUN starts, and of rbuild itself by its store's path.
    let mark = format!("mark-{}", text(&test.store()).rsplit('/').nth(1).unwrap());
    test.dockerfile(&format!(
        "FROM busybox AS one\nARG ROUND\nRUN : {mark}; mkdir /d && seq 1000 > /d/one && echo $ROUND > /d/round\n\
         FROM busybox AS two\nARG ROUND\nCOPY . /src\nRUN : {mark}; cp -r /src /copy && chown -R 33:44 /copy && echo $ROUND > /copy/round\n\
         FROM busybox\nCOPY --from=one /d /one\nCOPY --from=two /copy /two\nRUN : {mark}; cat /one/round /two/round > /rounds && rm -r /one\n"
    ));
    for index in 0..50 {
        test.file(&format!("folder/{index}"), vec![b'x'; 5000]);
    }
    let archive = test.beside("image.tar");
    let output = format!("type=oci,dest={}", text(&archive));
    let mut random = seed;
    for round in 0..6 {
        // A step of Knuth's MMIX generator; the upper bits are the good ones.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_millis(5 + (random >> 33) % 700);
        let build = test.start(&["--build-arg", &format!("ROUND={round}"), "-t", "killed", "-o", &output]);
        thread::sleep(moment);
        build.signal(Signal::SIGKILL);
        build.end();
        assert_eq!(alive(&mark), [""; 0], "left after a kill at {moment:?}, seed {seed}");
        if archive.exists() {
            assert!(crate::common::Image::read(&archive).has("/rounds"), "half an archive, seed {seed}");
            fs::remove_file(&archive).unwrap();
        }
    }
    assert_eq!(alive(text(&test.store())), [""; 0], "seed {seed}");
    let image = test.build(&["--build-arg", "ROUND=last", "-t", "killed"]);
    assert_eq!(image.text("/rounds"), "last\nlast\n", "seed {seed}");
    assert_eq!((image.entry("/two/folder/0").uid, image.entry("/two/folder/0").content.len()), (33, 5000));
    assert!(!image.has("/one"));
    assert_eq!(beside(&test), ["image.tar"], "seed {seed}");
    assert_sound(&test.store());
}

/// Interrupts a build after these words, and looks for what it left.
#[track_caller]
fn interrupt(test: &Test, arguments: &[&str], words: &str, signal: Signal) -> Run {
    let mut build = test.start(arguments);
    build.wait_for(words);
    let asked = Instant::now();
    build.signal(signal);
    let run = build.end();
    let took = asked.elapsed();
    run.fails(INTERRUPTED, &["cancelled"]);
    // Far below what the builds interrupted here would still take, far above what a loaded machine needs.
    assert!(took < Duration::from_secs(10), "it took {took:?} to end");
    assert_eq!(alive(text(&test.store())), [""; 0]);
    for folder in ["tmp", "leases"] {
        assert_eq!(test.stored(folder), [""; 0], "left in {folder}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(text(&test.store())), "{mounts}");
    assert_eq!(beside(test), [""; 0]);
    run
}

#[test]
fn ctrl_c_ends_a_run_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let test = Test::new("");
        let mark = format!("{}", 1000 + std::process::id());
        // One process in the foreground, one that left its parent and ignores what it can.
        test.dockerfile(&format!(
            "FROM busybox AS a\nRUN (trap '' INT TERM HUP; setsid sleep {mark}.7 &) ; echo re''ady; sleep {mark}.7\n\
             FROM busybox AS b\nRUN sleep {mark}.7\nFROM busybox\nCOPY --from=a / /\nCOPY --from=b / /\n"
        ));
        let output = format!("type=oci,dest={}", text(&test.beside("image.tar")));
        let run = interrupt(&test, &["-o", &output], "ready", signal);
        assert_eq!(alive(&format!("sleep {mark}.7")), [""; 0]);
        assert!(run.stderr.contains("CANCELED") || run.stderr.contains("CANCELLED"), "{}", run.stderr);
        test.dockerfile("FROM busybox\nRUN touch /x\n");
        assert!(test.build(&[]).has("/x"));
        assert_sound(&test.store());
    }
}

#[test]
fn ctrl_c_ends_a_download_at_once() {
    let server = TestRegistry::start();
    let image = image_of(300_000);
    server.put_image("slow", "1", &image);
    let layer = image.manifest().layers[0].digest.clone();
    server.fault(Fault::once("GET", layer.hex(), Effect::Stall(100_000, Duration::from_secs(30))));
    let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /\n", server.reference("slow:1")));
    interrupt(&test, &[], "fetch and unpack", Signal::SIGINT);
    assert!(test.build(&[]).has("/data"), "the download goes on where it was");
    assert_sound(&test.store());
}

#[test]
fn ctrl_c_ends_an_export_at_once() {
    let test = Test::new("FROM scratch\nCOPY big /\n");
    test.file("big", noise(1_000_000));
    let pipe = test.beside("home").join("pipe");
    tool("mkfifo", &[text(&pipe)]);
    // Who reads has the pipe open and takes nothing: the export would never end.
    let reader = File::options().read(true).write(true).open(&pipe).unwrap();
    interrupt(&test, &["-o", &format!("type=oci,dest={}", text(&pipe))], "exporting", Signal::SIGINT);
    drop(reader);
    assert_sound(&test.store());
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(length);
    bytes
}

/// An image with one layer that holds one file of so many bytes.
fn image_of(length: usize) -> TinyImage {
    tiny_image().layer(&[TarEntry::file("data", noise(length))])
}

#[test]
fn a_blob_that_is_not_what_it_says_is_refused() {
    let effects = [
        ("altered", Effect::Altered, "sha256:"),
        ("too short", Effect::Resized(-10), "its descriptor says"),
        ("too long", Effect::Resized(10), "its descriptor says"),
        ("cut", Effect::Cut(50_000), "closed before the end"),
        ("gone", Effect::status(404), "404"),
    ];
    for (what, effect, words) in effects {
        let server = TestRegistry::start();
        let image = image_of(300_000);
        server.put_image("bad", "1", &image);
        let layer = image.manifest().layers[0].digest.clone();
        server.fault(Fault::once("GET", layer.hex(), effect).times(1000));
        let reference = server.reference("bad:1").to_string();
        let test = Test::new(&format!("FROM {reference}\nCOPY Dockerfile /\n"));
        let run = test.run(&["-t", "built"]);
        run.fails(REGISTRY, &["Dockerfile:1", &reference, words]);
        assert_eq!(
            test.stored("blobs/sha256").iter().filter(|name| *name == layer.hex()).count(),
            0,
            "{what}"
        );
        assert_eq!(test.stored("tags"), [""; 0], "{what}");
        for folder in ["tmp", "leases", "locks"] {
            assert_eq!(test.stored(folder), [""; 0], "{what}: left in {folder}");
        }
        if what != "cut" {
            // What came of a transfer that broke off is right as far as it goes: the next one begins there.
            assert_eq!(test.stored("partial"), [""; 0], "{what}: left in partial");
        }
        let id_map = names(&test.store().join("layers")).pop();
        let layers = id_map.map(|id_map| test.stored(&format!("layers/{id_map}"))).unwrap_or_default();
        assert_eq!(layers, [""; 0], "{what}: a layer of it was unpacked");
    }
}

#[test]
fn after_a_registry_that_lied_the_next_build_works() {
    let server = TestRegistry::start();
    let image = image_of(300_000);
    server.put_image("shaky", "1", &image);
    let layer = image.manifest().layers[0].digest.clone();
    // More often than a build tries.
    server.fault(Fault::once("GET", layer.hex(), Effect::Cut(50_000)).times(3));
    server.fault(Fault::once("GET", layer.hex(), Effect::Altered).times(1));
    let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /\n", server.reference("shaky:1")));
    let first = test.run(&[]);
    assert!([0, REGISTRY].contains(&first.code), "{}", first.stderr);
    assert_eq!(test.build(&[]).entry("/data").content, noise(300_000));
    assert_sound(&test.store());
}

#[test]
fn a_layer_that_is_no_archive_is_refused() {
    let mut half = image_of(300_000);
    half.layers[0].truncate(100_000);
    let mut other = image_of(1000);
    other.layers[0].clone_from(&image_of(2000).layers[0]);
    let mut garbage = image_of(1000);
    garbage.layers[0] = noise(5000);
    let hostile = tiny_image().layer(&[
        TarEntry::symlink("out", "/"),
        TarEntry::symlink("up", "../../../../../../../.."),
        TarEntry::file("out/rbuild-was-here", "x"),
        TarEntry::file("up/rbuild-was-here", "x"),
    ]);
    for (what, image, words) in [
        ("half a gzip stream", half, "could not unpack the layer"),
        ("another layer", other, "the config says"),
        ("garbage", garbage, "could not unpack the layer"),
    ] {
        let server = TestRegistry::start();
        server.put_image("bad", "1", &image);
        let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /\n", server.reference("bad:1")));
        let run = test.run(&[]);
        assert!(run.stderr.contains(words), "{what}: {}", run.stderr);
        run.fails(REGISTRY, &["Dockerfile:1"]);
        assert_sound(&test.store());
    }
    let server = TestRegistry::start();
    server.put_image("hostile", "1", &hostile);
    let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /x\n", server.reference("hostile:1")));
    test.run(&[]);
    assert!(!std::path::Path::new("/rbuild-was-here").exists());
    assert_sound(&test.store());
}

#[test]
#[expect(clippy::print_stderr, reason = "what is not tried must be seen")]
fn a_full_disk_is_said_and_the_next_build_works() {
    let test = Test::new(
        "FROM busybox AS one\nRUN head -c 1000000 /dev/urandom > /one\n\
         FROM busybox\nCOPY --from=one /one /\nCOPY file /two\n",
    );
    test.file("file", noise(1_000_000));
    // The store is on a file system of its own in a mount namespace of its own, for root and the ordinary user alike.
    let script = "set -u; mkdir \"$STORE\"; mount -t tmpfs -o size=$SIZE tmpfs \"$STORE\" || exit 99\n\
         \"$@\" 2> \"$OUT.full\"; echo $? > \"$OUT.code\"\n\
         mount -o remount,size=100m \"$STORE\" || exit 98\n\
         \"$@\" 2> \"$OUT.free\" || exit 97\n\
         cp -a \"$STORE\" \"$OUT.store\"\n";
    for size in ["8k", "300k", "2m", "4m", "5m", "6m", "8m"] {
        let out = test.beside(&format!("out-{size}"));
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--map-root-user", "--map-auto"]);
        }
        let archive = format!("type=oci,dest={}.tar", text(&out));
        command.args(["--mount", "sh", "-c", script, "sh", RBUILD, "--progress", "plain", "--root"]);
        command.args([text(&test.beside("full")), "-t", "full", "-o", &archive, text(&test.context())]);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", test.beside("home"))
            .env("CONTAINERS_REGISTRIES_CONF", test.beside("registries.conf"))
            .env("STORE", test.beside("full"))
            .env("SIZE", size)
            .env("OUT", &out)
            .stdin(Stdio::null());
        let whole = Run::of(&mut command);
        let read = |ending: &str| fs::read_to_string(format!("{}.{ending}", text(&out))).unwrap_or_default();
        if whole.code == 99 {
            eprintln!("SKIP: no tmpfs can be mounted here, so no disk can be filled: {}", whole.stderr);
            assert!(!is_root(), "root can mount a tmpfs");
            return;
        }
        assert_eq!(whole.code, 0, "size {size}: {}{}", whole.stderr, read("free"));
        let full =
            Run { code: read("code").trim().parse().unwrap(), stdout: Vec::new(), stderr: read("full") };
        // A command that finds the disk full fails by itself.
        if full.code == 1 && full.stderr.contains("did not complete successfully") {
            // busybox has no words for it.
            full.fails(1, &["last output: head: standard output: "]);
        } else if full.code != 0 {
            full.fails(ENVIRONMENT, &["No space left on device", "help: "]);
        }
        assert_sound(std::path::Path::new(&format!("{}.store", text(&out))));
        fs::remove_dir(test.beside("full")).unwrap();
    }
    assert_ne!(fs::read_to_string(test.beside("out-8k.code")).unwrap(), "0\n");
}

#[test]
fn eight_builds_share_a_store_at_one_time() {
    let server = TestRegistry::start();
    // Several layers: whoever unpacks one must not wait for another that waits for it.
    let base = (0..6).fold(tiny_image(), |base, layer| {
        base.layer(&[TarEntry::file(&format!("data-{layer}"), noise(50_000))])
    });
    server.put_image("base", "1", &base);
    let test = Test::new(&format!(
        "FROM {} AS base\nCOPY Dockerfile /same\nFROM busybox AS make\nARG WHO\nRUN echo same > /same\nRUN echo $WHO > /who\n\
         FROM base\nCOPY --from=make /same /who /made/\n",
        server.reference("base:1")
    ));
    thread::scope(|scope| {
        for who in 0..8 {
            let (test, server) = (&test, &server);
            scope.spawn(move || {
                let archive = test.beside(&format!("{who}.tar"));
                let output = format!("type=oci,dest={}", text(&archive));
                let name = format!("{}/pushed/{who}", server.address());
                test.run(&["--build-arg", &format!("WHO={who}"), "-o", &output, "-t", &name, "--push"])
                    .succeeds();
                let image = crate::common::Image::read(&archive);
                assert_eq!(image.text("/made/who"), format!("{who}\n"));
                assert_eq!(image.entry("/data-5").content.len(), 50_000);
                assert!(server.manifest(&format!("pushed/{who}"), "latest").is_some());
            });
        }
    });
    for layer in base.manifest().layers {
        assert_eq!(server.count("GET", layer.digest.hex()), 1, "a base layer was fetched more than once");
    }
    assert_sound(&test.store());
}
