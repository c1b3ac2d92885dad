//! Results that one machine gives and another takes. Each `Test` is a machine: it has a store of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_image::{Manifest, MediaType};
use rbuild_testkit::TestRegistry;
use rbuild_testkit::registry::{Effect, Fault, Logged};

use crate::common::{Image, Run, Test, is_root};

/// Two stages, and steps of all kinds.
const APP: &str = "FROM busybox AS build\nWORKDIR /src\nCOPY src .\nRUN cat * > /all; cat /proc/sys/kernel/random/uuid > /stamp\n\
     FROM busybox\nRUN echo tools > /tools\nCOPY --from=build /all /stamp /app/\nRUN cat /app/all > /copied\n";

/// A machine with the context of [`APP`].
fn machine(dockerfile: &str) -> Test {
    let test = Test::new(dockerfile);
    test.file("src/a", "one");
    test.file("src/b", "two");
    test
}

fn from(registry: &TestRegistry) -> String {
    format!("type=registry,ref={}/cache", registry.address())
}

fn to(registry: &TestRegistry) -> String {
    format!("{},mode=max", from(registry))
}

/// Builds into an archive and gives all results to the cache.
fn give(test: &Test, registry: &TestRegistry) -> (Image, Run) {
    test.build_and_say(&["--cache-from", &from(registry), "--cache-to", &to(registry)])
}

/// How many blobs a machine has fetched from the cache.
fn fetched(registry: &TestRegistry) -> usize {
    registry.count("GET", "/cache/blobs/")
}

#[test]
fn what_one_machine_built_another_takes() {
    let registry = TestRegistry::start();
    let first = give(&machine(APP), &registry).0;
    let other = machine(APP);
    let (second, run) = other.build_and_say(&["--cache-from", &from(&registry)]);
    assert_eq!(run.cached(), 6, "{}", run.stderr);
    assert_eq!(first.text("/app/stamp"), second.text("/app/stamp"));
    assert_eq!(first.config["rootfs"], second.config["rootfs"]);
    // Now it is in this machine's store as well.
    assert_eq!(other.run(&[]).succeeds().cached(), 6);
}

#[test]
fn a_build_that_is_wholly_cached_moves_manifests_only() {
    let registry = TestRegistry::start();
    let image = format!("{}/app:1", registry.address());
    let push = ["-t", &image, "--push", "--cache-from", &from(&registry), "--cache-to", &to(&registry)];
    machine(APP).run(&push).succeeds();
    let pushed = registry.manifest("app", "1").unwrap();
    // The blob that all entries share came by one thread, once.
    let empty = "/cache/blobs/sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(registry.count("HEAD", empty), 1);
    let (blobs, before) = (fetched(&registry), registry.requests().len());

    let other = machine(APP);
    let again = format!("{}/app:2", registry.address());
    let run =
        other.run(&["-t", &again, "--push", "--cache-from", &from(&registry), "--cache-to", &to(&registry)]);
    assert_eq!(run.succeeds().cached(), 6, "{}", run.stderr);
    assert_eq!(fetched(&registry), blobs, "a layer was fetched");
    assert!(other.stored("layers").is_empty() && other.stored("snapshots").is_empty());
    let layers = |bytes: &[u8]| Manifest::parse(bytes).unwrap().layers;
    assert_eq!(layers(&pushed), layers(&registry.manifest("app", "2").unwrap()));
    // What was sent: the manifest, and the config where its times are this build's.
    let since = &registry.requests()[before..];
    let sent: Vec<usize> = since.iter().map(|request| request.received).filter(|bytes| *bytes > 0).collect();
    assert!(sent.len() <= 2 && sent.iter().sum::<usize>() < 10_000, "{sent:?}");
    assert!(since.len() < 40, "{} requests", since.len());
    // What another machine was told by the cache it does not ask again to export it.
    let asked: Vec<_> =
        since.iter().filter(|request| request.target.contains("/manifests/content-")).collect();
    assert_eq!(asked.len(), 2, "once for each source of the COPY: {asked:?}");
}

/// A key is known only when the step before it is: an entry says what comes next.
#[test]
fn a_registry_is_asked_ahead_of_what_is_wanted() {
    let registry = TestRegistry::start();
    let steps: String = (0..40).map(|step| format!("RUN echo {step} > /f{step}\n")).collect();
    let dockerfile =
        format!("FROM busybox AS a\nRUN echo a > /a\nFROM busybox\n{steps}COPY --from=a /a /b\n");
    give(&Test::new(&dockerfile), &registry);

    // Each answer takes its time, so that requests one after the other are never under way together.
    registry
        .fault(Fault::once("GET", "/cache/manifests/", Effect::Drip(Duration::from_micros(10))).times(1000));
    let before = registry.requests().len();
    let other = Test::new(&dockerfile);
    let run = other.run(&["--cache-from", &from(&registry)]);
    assert_eq!(run.succeeds().cached(), 42, "{}", run.stderr);
    let since = &registry.requests()[before..];
    let is_entry =
        |request: &&Logged| request.target.contains("/cache/manifests/") && request.method == "GET";
    let mut asked: Vec<&str> = since.iter().filter(is_entry).map(|request| &*request.target).collect();
    let count = asked.len();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), count, "something was asked for twice");
    let together = since.iter().filter(is_entry).filter(|request| request.under_way > 2).count();
    assert!(together > 20, "{together} of {count} requests were under way with others");

    // What the guesses lead away from is found all the same, and what is not there is no harm.
    other.dockerfile(&dockerfile.replace("echo 5 ", "echo five "));
    let run = other.run(&["--cache-from", &from(&registry)]);
    assert_eq!(run.succeeds().cached(), 6, "{}", run.stderr);
    let third = Test::new(&dockerfile.replace("echo 5 ", "echo five "));
    let run = third.run(&["--cache-from", &from(&registry)]);
    assert_eq!(run.succeeds().cached(), 6, "{}", run.stderr);
}

/// CNCF Distribution's answer while another machine gives it a blob of the same manifest.
#[test]
fn a_place_that_is_busy_with_another_machine_is_asked_again() {
    let registry = TestRegistry::start();
    let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#;
    let busy = Effect::Status(400, Vec::new(), body.to_owned());
    registry.fault(Fault::once("PUT", "/cache/manifests/step-", busy).times(2));
    let run = give(&machine(APP), &registry).1;
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    let other = machine(APP).run(&["--cache-from", &from(&registry)]);
    assert_eq!(other.succeeds().cached(), 6, "{}", other.stderr);
}

#[test]
fn layers_come_when_a_step_must_see_them() {
    let registry = TestRegistry::start();
    give(&machine(APP), &registry);
    let other = machine(&format!("{APP}RUN cat /copied /tools > /both\n"));
    let (image, run) = other.build_and_say(&["--cache-from", &from(&registry)]);
    assert_eq!((run.cached(), image.text("/both")), (6, "onetwotools\n"), "{}", run.stderr);
    // The other stage's layers were not wanted: what was copied from it is known by its digest.
    assert_eq!(fetched(&registry), 3, "the three layers of the last stage");

    // On layers of this machine and of the cache together.
    let mixed = Test::new("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /mine\n");
    give(&mixed, &registry);
    mixed.dockerfile(
        "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /mine\nRUN echo theirs > /theirs\n",
    );
    let neighbour =
        Test::new("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /mine\nRUN echo theirs > /theirs\n");
    give(&neighbour, &registry);
    let (_, taken) = mixed.build_and_say(&["--cache-from", &from(&registry)]);
    assert_eq!(taken.cached(), 2, "{}", taken.stderr);
    mixed.dockerfile(
        "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /mine\nRUN echo theirs > /theirs\nRUN cat /mine /theirs > /all\n",
    );
    let (image, run) = mixed.build_and_say(&["--cache-from", &from(&registry)]);
    assert_eq!(run.cached(), 2, "{}", run.stderr);
    assert_eq!(image.text("/all"), format!("{}theirs\n", image.text("/mine")));
}

#[test]
fn who_comes_second_takes_over_what_the_first_has_made() {
    let registry = TestRegistry::start();
    let (one, two) = (machine(APP), machine(APP));
    let two_alone = two.build(&[]);
    let first = give(&one, &registry).0;
    assert_ne!(first.text("/app/stamp"), two_alone.text("/app/stamp"));
    give(&two, &registry);
    // It has its own result, and goes on from the other's.
    let (now, _) = give(&two, &registry);
    assert_eq!(first.config["rootfs"], now.config["rootfs"]);
    let (image, run) = give(&two, &registry);
    assert_eq!((run.cached(), image.text("/app/stamp")), (6, first.text("/app/stamp")), "{}", run.stderr);
}

#[test]
fn what_is_made_anew_replaces_what_was_there() {
    let registry = TestRegistry::start();
    let test = Test::new("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /stamp\n");
    let old = give(&test, &registry).0;
    let new = test.build(&["--no-cache", "--cache-to", &to(&registry)]);
    assert_ne!(old.text("/stamp"), new.text("/stamp"));
    let other = Test::new("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /stamp\n");
    assert_eq!(other.build(&["--cache-from", &from(&registry)]).text("/stamp"), new.text("/stamp"));
}

#[test]
fn a_folder_is_a_shared_cache_too() {
    let first = machine(APP);
    let folder = first.beside("cache");
    let (to, from) = (
        format!("type=local,dest={},mode=max", folder.display()),
        format!("type=local,src={}", folder.display()),
    );
    let image = first.build(&["--cache-to", &to]);
    let other = machine(APP);
    let (taken, run) = other.build_and_say(&["--cache-from", &from, "-t", "kept"]);
    assert_eq!((run.cached(), &taken.config["rootfs"]), (6, &image.config["rootfs"]), "{}", run.stderr);
    // An image that is kept under a name does not need the folder any more.
    fs::remove_dir_all(&folder).unwrap();
    other.dockerfile("FROM kept\nRUN cat /copied > /again\n");
    assert_eq!(other.build(&[]).text("/again"), "onetwo");
}

#[test]
fn an_image_carries_its_own_cache() {
    let registry = TestRegistry::start();
    let name = format!("{}/app:1", registry.address());
    machine(APP).run(&["-t", &name, "--push", "--cache-to", "type=inline"]).succeeds();
    let one_stage = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /stamp\nRUN echo b > /b\n";
    let single = format!("{}/single:1", registry.address());
    Test::new(one_stage).run(&["-t", &single, "--push", "--cache-to", "type=inline"]).succeeds();
    let other = Test::new(one_stage);
    assert_eq!(other.run(&["--cache-from", &single]).succeeds().cached(), 2);
    // Of several stages it knows what is in the image: the other stage is built again.
    let run = machine(APP).run(&["--cache-from", &format!("type=registry,ref={name}")]);
    assert!(run.succeeds().was_cached("RUN echo tools") && !run.was_cached("COPY src"), "{}", run.stderr);
    // An image on top says nothing of layers that are not its own.
    other.dockerfile(&format!("FROM {single}\nRUN echo c > /c\n"));
    assert!(other.build(&[]).config.get("dev.rbuild.cache.v1").is_none());
}

#[test]
fn a_bad_or_missing_cache_never_fails_a_build() {
    let missing = TestRegistry::start();
    let run = machine(APP).run(&["--cache-from", &from(&missing)]);
    assert!(run.succeeds().cached() == 0 && !run.stderr.contains("warning"), "{}", run.stderr);
    let refused = ["--cache-from", "127.0.0.1:1/cache", "--cache-to", "type=registry,ref=127.0.0.1:1/cache"];
    let run = machine(APP).run(&refused);
    assert!(
        run.succeeds().stderr.contains("the cache `127.0.0.1:1/cache:latest` is not used"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("could not export the cache"), "{}", run.stderr);

    for damage in [damage_documents as fn(&TestRegistry), damage_layers, swap_entries] {
        let registry = TestRegistry::start();
        give(&machine(APP), &registry);
        damage(&registry);
        let other = machine(&format!("{APP}RUN cat /copied > /last\n"));
        let (image, run) = other.build_and_say(&["--cache-from", &from(&registry)]);
        assert_eq!(image.text("/last"), "onetwo");
        assert!(run.stderr.contains("warning"), "{}", run.stderr);
    }
}

/// Every entry is some JSON.
fn damage_documents(registry: &TestRegistry) {
    for (tag, _) in entries(registry) {
        registry.put_manifest("cache", &tag, &MediaType::ImageManifest, b"{\"schemaVersion\":2}");
    }
}

/// No layer's bytes are what they were.
fn damage_layers(registry: &TestRegistry) {
    registry.fault(Fault::once("GET", "/cache/blobs/", Effect::Altered).times(1000));
}

/// Every entry names a layer that is there, and not the one of its diff ID.
fn swap_entries(registry: &TestRegistry) {
    let layer = b"not a layer at all";
    registry.put_blob("cache", layer);
    for (tag, mut manifest) in entries(registry) {
        manifest.layers = vec![rbuild_image::Descriptor::of(MediaType::ImageLayerGzip, layer)];
        registry.put_manifest("cache", &tag, &MediaType::ImageManifest, &manifest.to_bytes());
    }
}

fn entries(registry: &TestRegistry) -> Vec<(String, Manifest)> {
    let tags: std::collections::BTreeSet<String> = registry
        .requests()
        .iter()
        .filter_map(|request| Some(request.target.split_once("/cache/manifests/")?.1.to_owned()))
        .collect();
    let known = |tag: String| {
        let manifest = Manifest::parse(&registry.manifest("cache", &tag)?).unwrap();
        Some((tag, manifest))
    };
    let found: Vec<_> = tags.into_iter().filter_map(known).collect();
    assert!(found.len() >= 6, "{found:?}");
    found
}

#[test]
fn cache_mounts_travel() {
    let registry = TestRegistry::start();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c echo more >> /c/list && chown 5:6 /c/list && wc -l < /c/list > /n\n";
    let place = from(&registry);
    let first = Test::new(dockerfile);
    first.run(&["--cache-mounts-to", &place]).succeeds();
    let image = first.build(&["--no-cache", "--cache-mounts-to", &place]);
    assert_eq!(image.text("/n"), "2\n");
    let (image, run) = Test::new(dockerfile).build_and_say(&["--cache-mounts-from", &place]);
    assert_eq!(image.text("/n"), "3\n", "{}", run.stderr);
    // A folder does as well, and a mount that is here already is not replaced.
    let folder: PathBuf = first.beside("mounts");
    first
        .run(&["--no-cache", "--cache-mounts-to", &format!("type=local,dest={}", folder.display())])
        .succeeds();
    let source = format!("type=local,src={}", folder.display());
    let other = Test::new(dockerfile);
    assert_eq!(other.build(&["--cache-mounts-from", &source]).text("/n"), "4\n");
    assert_eq!(other.build(&["--no-cache", "--cache-mounts-from", &source]).text("/n"), "5\n");
}

/// An overlay has 500 lowers at most, and a step that is taken from a cache is one of them. `RBUILD_DEEP=450` says how many
/// steps there are; they take too long for the suite.
#[test]
fn many_cached_steps_under_one_that_runs() {
    let Ok(count) = std::env::var("RBUILD_DEEP") else {
        eprintln!("SKIP many_cached_steps_under_one_that_runs: RBUILD_DEEP is not set");
        return;
    };
    let count: usize = count.parse().unwrap();
    let steps: String = (0..count).map(|step| format!("COPY <<EOF /s{}\n{step}\nEOF\n", step % 7)).collect();
    let first = Test::new(&format!("FROM scratch\n{steps}"));
    let folder = first.beside("cache");
    first
        .run(&["--cache-to", &format!("type=local,dest={},compression=uncompressed", folder.display())])
        .succeeds();
    let other = Test::new(&format!("FROM scratch\n{steps}COPY --chown=1 <<EOF /last\nx\nEOF\n"));
    let (image, run) =
        other.build_and_say(&["--cache-from", &format!("type=local,src={}", folder.display())]);
    assert_eq!(run.cached(), count);
    assert_eq!(image.text("/s3"), format!("{}\n", (0..count).rfind(|step| step % 7 == 3).unwrap()));
}

#[test]
fn options_are_understood_or_refused() {
    let test = Test::new("FROM scratch\n");
    test.run(&["--cache-to", "type=gha"]).fails(2, &["unknown type `gha`"]);
    test.run(&["--cache-from", "type=local"]).fails(2, &["add `src=DIR`"]);
}

/// The same keys whoever builds, and however: a user with one id, who builds under supervision, takes from root and gives.
#[test]
fn keys_are_the_same_for_every_user() {
    if !is_root() {
        eprintln!("SKIP keys_are_the_same_for_every_user: only root can build as somebody else as well");
        return;
    }
    let registry = TestRegistry::start();
    let root = machine(APP);
    give(&root, &registry);
    let user = machine(APP);
    let as_nobody = |extra: &[&str]| {
        let output =
            std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(user.beside("")).status();
        assert!(output.unwrap().success());
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", crate::common::RBUILD]);
        command.arg("--root").arg(user.store()).args(["--progress", "plain"]).args(extra).arg(user.context());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", user.beside("home"));
        command.env("CONTAINERS_REGISTRIES_CONF", user.beside("registries.conf")).current_dir("/");
        Run::of(&mut command)
    };
    let taken = as_nobody(&["--cache-from", &from(&registry)]);
    assert_eq!(taken.succeeds().cached(), 6, "{}", taken.stderr);

    // And back: what the user makes, root takes.
    user.file("src/a", "three");
    let made = as_nobody(&["--cache-from", &from(&registry), "--cache-to", &to(&registry)]);
    assert!(!made.succeeds().was_cached("COPY src"), "{}", made.stderr);
    root.file("src/a", "three");
    let (image, run) = root.build_and_say(&["--cache-from", &from(&registry)]);
    assert_eq!((run.cached(), image.text("/copied")), (6, "threetwo"), "{}", run.stderr);
}
