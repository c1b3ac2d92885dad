//! Images of the store: seen, named, moved by archives, removed.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{RBUILD, Run, Test, text, tool};

const DOCKERFILE: &str = "FROM busybox\nRUN echo content > /file && chown 1000:50 /file\nENV A=b\nLABEL team=x\nCMD [\"cat\", \"/file\"]\n";

/// rbuild with these arguments.
fn rbuild(test: &Test, arguments: &[&str]) -> Run {
    Run::of(test.command().args(arguments))
}

/// What rbuild prints; it must succeed.
#[track_caller]
fn printed(test: &Test, arguments: &[&str]) -> String {
    let run = rbuild(test, arguments);
    run.succeeds();
    run.said().to_owned()
}

/// A test with `app:1` in its store, and the image's ID.
fn with_app() -> (Test, String) {
    let test = Test::new(DOCKERFILE);
    test.run(&["-t", "app:1"]).succeeds();
    let id = printed(&test, &["images", "-q", "--no-trunc"]);
    (test, id)
}

/// No registry answers from here on.
fn offline(test: &Test) {
    let conf = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n";
    fs::write(test.beside("registries.conf"), conf).unwrap();
}

#[test]
fn images_are_listed() {
    let (test, id) = with_app();
    let table = printed(&test, &["images"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert_eq!(words[1][..3], ["app", "1", &id["sha256:".len()..][..12]]);
    assert!(words[1].contains(&"ago") && words[1].last().unwrap().ends_with("MB"), "{table}");
    let document: Value = serde_json::from_str(&printed(&test, &["images", "--format", "json"])).unwrap();
    assert_eq!((&document["Repository"], &document["Tag"]), (&"app".into(), &"1".into()));
    printed(&test, &["tag", "app:1", "other/app"]);
    assert_eq!(
        printed(&test, &["images", "other/app", "--format", "{{.Repository}}:{{.Tag}}"]),
        "other/app:latest"
    );
    assert_eq!(printed(&test, &["images", "-f", "label=team=x", "-q"]).lines().count(), 2);
    for nothing in ["label=team=y", "dangling=true", "reference=nothing*", "until=1h"] {
        assert_eq!(printed(&test, &["images", "-q", "-f", nothing]), "", "{nothing}");
    }
    rbuild(&test, &["images", "-f", "colour=red"]).fails(2, &["colour=red", "dangling"]);
}

#[test]
fn an_image_is_inspected() {
    let (test, id) = with_app();
    let documents: Value =
        serde_json::from_str(&printed(&test, &["inspect", &id["sha256:".len()..][..8]])).unwrap();
    let document = &documents[0];
    assert_eq!(document["Id"], id.as_str());
    assert_eq!(document["RepoTags"][0], "app:1");
    assert_eq!(document["Config"]["Cmd"][0], "cat");
    assert_eq!(document["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(printed(&test, &["inspect", "-f", "{{.Os}} {{index .Config.Env 1}}", "app:1"]), "linux A=b");
    let raw: Value = serde_json::from_str(&printed(&test, &["inspect", "--raw", "app:1"])).unwrap();
    assert_eq!(raw["rootfs"]["diff_ids"], document["RootFS"]["Layers"]);
    let history = printed(&test, &["history", "app:1"]);
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].starts_with("IMAGE") && lines[1].contains("CMD [\"cat\""), "{history}");
    assert!(history.contains("RUN /bin/sh -c echo content") && history.contains('…'), "{history}");
    assert!(printed(&test, &["history", "--no-trunc", "app:1"]).contains("chown 1000:50 /file"));
}

#[test]
fn names_come_and_go() {
    let (test, id) = with_app();
    printed(&test, &["tag", "app:1", "app:2"]);
    assert_eq!(printed(&test, &["rmi", "app:1"]), "Untagged: app:1");
    rbuild(&test, &["rmi", "app:1"]).fails(1, &["no image `app:1`", "did you mean `app:2`?"]);
    assert_eq!(printed(&test, &["rmi", "app:2"]), format!("Untagged: app:2\nDeleted: {id}"));
    assert_eq!(printed(&test, &["images", "-q"]), "");
    // The cache has every step: the image is the same again.
    test.run(&["-t", "a:1", "-t", "b:1"]).succeeds();
    rbuild(&test, &["rmi", &id]).fails(1, &["several repositories", "--force"]);
    assert!(printed(&test, &["rmi", "-f", &id, "missing"]).contains("Deleted: "));
    for (arguments, code, words) in [
        (["tag", "missing", "new"], 1, "no image `missing`"),
        (["tag", "a", "Upper"], 2, "lower case"),
        (["inspect", "missing", "--raw"], 1, "rbuild pull missing"),
        (["save", "missing", "-o=x.tar"], 1, "no image `missing`"),
    ] {
        rbuild(&test, &arguments).fails(code, &[words]);
    }
}

#[test]
fn archives_go_out_and_come_in() {
    let (test, id) = with_app();
    let (docker, oci, folder) = (test.beside("docker.tar"), test.beside("oci.tar"), test.beside("layout"));
    printed(&test, &["save", "-o", text(&docker), "app:1"]);
    printed(&test, &["save", "--format", "oci", "-o", text(&oci), "app:1"]);
    printed(&test, &["save", "--format", "oci-dir", "-o", text(&folder), "app:1"]);
    let skopeo = |source: &str| -> Value {
        serde_json::from_str(&tool("skopeo", &["inspect", "--config", source])).unwrap()
    };
    for source in [
        format!("docker-archive:{}:docker.io/library/app:1", text(&docker)),
        format!("oci-archive:{}:1", text(&oci)),
        format!("oci:{}:1", text(&folder)),
    ] {
        assert_eq!(skopeo(&source)["config"]["Cmd"][0], "cat", "{source}");
    }
    tool("gzip", &["--keep", text(&docker)]);
    offline(&test);
    for archive in ["docker.tar", "docker.tar.gz", "oci.tar", "layout"] {
        printed(&test, &["rmi", "-f", &id]);
        printed(&test, &["prune", "-f", "--until", "0s"]);
        assert_eq!(printed(&test, &["load", "-i", archive]), "Loaded image: app:1", "{archive}");
        assert_eq!(printed(&test, &["images", "-q", "--no-trunc"]), id);
        // Nothing but the archive is there, and no registry answers.
        test.dockerfile("FROM app:1\nRUN grep content /file && echo more > /more\n");
        let file = test.build(&["--no-cache"]).entry("/file").clone();
        assert_eq!((file.content.as_slice(), file.uid, file.gid), (b"content\n".as_slice(), 1000, 50));
    }
}

#[test]
fn load_reads_standard_input_and_what_other_tools_write() {
    let (test, id) = with_app();
    let (saved, theirs) = (test.beside("saved.tar"), test.beside("theirs.tar"));
    let out = fs::File::create(&saved).unwrap();
    assert!(
        test.command().args(["save", "app:1"]).stdout(out).stderr(Stdio::null()).status().unwrap().success()
    );
    printed(&test, &["rmi", "app:1"]);
    let input = fs::File::open(&saved).unwrap();
    assert_eq!(Run::of(test.command().arg("load").stdin(input)).said(), "Loaded image: app:1");
    let (from, to) = (
        format!("docker-archive:{}", text(&saved)),
        format!("docker-archive:{}:skopeo/app:2", text(&theirs)),
    );
    tool("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
    assert_eq!(printed(&test, &["load", "-qi", text(&theirs)]), "Loaded image: skopeo/app:2");
    assert_eq!(
        printed(&test, &["pull", &format!("docker-archive:{}", text(&theirs))]),
        "Loaded image: skopeo/app:2"
    );
    assert_eq!(printed(&test, &["images", "-q", "--no-trunc", "skopeo/app"]), id);
    fs::write(test.beside("bad.tar"), "no archive").unwrap();
    rbuild(&test, &["load", "-i", "bad.tar"]).fails(1, &["bad.tar"]);
    rbuild(&test, &["load", "-i", "missing.tar"]).fails(1, &["missing.tar"]);
}

#[test]
fn podman_loads_what_is_saved() {
    let (test, id) = with_app();
    let archive = test.beside("docker.tar");
    printed(&test, &["save", "-o", text(&archive), "app:1"]);
    let (root, runroot) = (test.beside("podman"), test.beside("podman-run"));
    let storage = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    tool("podman", &[&storage[..], &["load", "--quiet", "-i", text(&archive)]].concat());
    let seen = tool("podman", &[&storage[..], &["images", "--no-trunc", "--quiet"]].concat());
    assert_eq!(seen.trim(), id);
}

#[test]
fn an_image_built_here_is_a_base() {
    let (test, _) = with_app();
    offline(&test);
    test.dockerfile("FROM app:1\nRUN test \"$(cat /file)\" = content && rm /file && echo more > /more\n");
    let image = test.build(&["-t", "app:2"]);
    assert!(image.text("/more") == "more\n" && !image.has("/file"));
    assert_eq!(image.config["config"]["Cmd"][0], "cat");
    test.dockerfile("FROM app:2\nCOPY --from=app:1 /file /again\n");
    assert_eq!(test.build(&[]).text("/again"), "content\n");
}

#[test]
fn the_store_says_who_holds_what_and_lets_go() {
    let (test, _) = with_app();
    let held = printed(&test, &["du"]);
    assert!(held.contains("image") && held.contains("app:1") && held.contains("build cache"), "{held}");
    rbuild(&test, &["prune"]).fails(2, &["--force"]);
    // What has a name stays, and so does a cache that was used just now.
    printed(&test, &["prune", "-f"]);
    assert_eq!(test.run(&["-t", "app:1"]).succeeds().cached(), 1);
    printed(&test, &["prune", "-f", "--until", "0s"]);
    assert_eq!(printed(&test, &["images", "--format", "{{.Repository}}"]), "app");
    test.run(&["-t", "app:1"]).succeeds();
    printed(&test, &["prune", "-af", "--filter", "label=team=y"]);
    assert_eq!(printed(&test, &["images", "--format", "{{.Repository}}"]), "app");
    assert!(printed(&test, &["prune", "-af"]).contains("Untagged: app:1"));
    assert_eq!(printed(&test, &["images", "-q"]), "");
    // An ordinary user's store held files of subordinate ids: now it can be removed by anyone's means.
    let removed = Command::new("rm").arg("-rf").arg(test.beside("store")).status().unwrap();
    assert!(removed.success() && !test.beside("store").exists());
}

#[test]
fn what_a_running_build_holds_stays() {
    let test = Test::new("FROM busybox\nRUN echo kept > /kept\nRUN sleep 3\nRUN cat /kept\n");
    let mut build = test.command();
    let build = build.args(["--progress", "plain", "-t", "app:1", text(&test.context())]);
    let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let snapshots = test.beside("store/snapshots");
    let has_one = || {
        let maps = fs::read_dir(&snapshots).into_iter().flatten().flatten();
        maps.flat_map(|map| fs::read_dir(map.path())).flatten().count() > 0
    };
    while !has_one() {
        assert!(build.try_wait().unwrap().is_none(), "the build ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    printed(&test, &["prune", "-af"]);
    assert!(build.wait().unwrap().success());
    assert_eq!(printed(&test, &["images", "--format", "{{.Repository}}"]), "app");
    // The image is whole.
    printed(&test, &["save", "-o", "image.tar", "app:1"]);
}

#[test]
fn dockers_longer_commands_and_commands_that_are_none() {
    let test = Test::new("FROM busybox\nENV A=1\n");
    let rbuild = |words: &[&str]| Run::of(test.command().args(words));
    rbuild(&["image", "build", "-q", "-t", "app:1", text(&test.context())]).succeeds();
    rbuild(&["image", "tag", "app:1", "app:2"]).succeeds();
    let listed = rbuild(&["image", "ls", "--format", "table {{.Repository}}\\t{{.Tag}}"]);
    assert_eq!(listed.said(), "REPOSITORY   TAG\napp          1\napp          2");
    let format = "{{range .Config.Env}}{{println .}}{{end}}";
    assert!(rbuild(&["image", "inspect", "-f", format, "app:1"]).said().ends_with("A=1"));
    rbuild(&["image", "rm", "app:2"]).succeeds();
    rbuild(&["builder", "prune", "-af"]).succeeds();
    assert!(rbuild(&["help", "push"]).said().contains("--all-tags"));
    assert!(rbuild(&["version"]).said().starts_with("rbuild "));
    for words in [&["start", "web"][..], &["network", "ls"], &["image", "prune"]] {
        let name = format!("there is no command `{}`", words[0]);
        let run = Run::of(Command::new(RBUILD).args(words).current_dir(test.beside("")));
        run.fails(2, &[&name, "rbuild --help"]);
    }
}
