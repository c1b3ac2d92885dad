//! Images between the store, registries and archives; logins.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use rbuild_testkit::registry::{Effect, Fault};
use rbuild_testkit::{TarEntry, TestRegistry, tiny_image};
use serde_json::Value;

use crate::common::{Protected, Run, Test, log_in, registry, succeeds_with_password, text, tool};

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

/// A manifest or index of the registry as it is.
fn raw(name: &str) -> String {
    tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
}

#[test]
fn a_pulled_image_needs_no_network_any_more() {
    let test = Test::new("FROM busybox\nRUN echo here > /made\n");
    let said = printed(&test, &["pull", "busybox"]);
    assert!(said.contains("Status: Downloaded newer image for busybox:latest"), "{said}");
    assert!(said.ends_with("docker.io/library/busybox:latest"), "{said}");
    assert!(printed(&test, &["pull", "busybox"]).contains("Image is up to date"));
    assert_eq!(printed(&test, &["pull", "-q", "docker://busybox"]), "docker.io/library/busybox:latest");
    let conf = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n";
    fs::write(test.beside("registries.conf"), conf).unwrap();
    assert_eq!(test.build(&[]).text("/made"), "here\n");
    let digest = printed(&test, &["inspect", "-f", "{{index .RepoDigests 0}}", "busybox"]);
    assert!(digest.starts_with("busybox@sha256:"), "{digest}");
    for name in [digest.clone(), digest.replace('@', ":latest@")] {
        test.dockerfile(&format!("FROM {name}\nRUN echo pinned > /made\n"));
        assert_eq!(test.build(&[]).text("/made"), "pinned\n");
    }
}

#[test]
fn base_images_are_asked_for_at_once() {
    let server = TestRegistry::start();
    let images = ["one", "two"].map(|name| (name, tiny_image().layer(&[TarEntry::file(name, name)])));
    for (name, image) in &images {
        server.put_image(name, "1", image);
    }
    let config = images[0].1.manifest().config.digest.clone();
    // Time enough for the other to be asked for meanwhile.
    server.fault(Fault::once("GET", "/one/manifests/", Effect::Stall(0, Duration::from_secs(2))));
    let [one, two] = ["one:1", "two:1"].map(|name| server.reference(name));
    let test = Test::new(&format!("FROM {one} AS one\nFROM {two}\nCOPY --from=one /one /\n"));
    assert_eq!(test.build(&[]).text("/one"), "one");
    let requests = server.requests();
    let place = |text: &str| requests.iter().position(|entry| entry.target.contains(text)).unwrap();
    assert!(place("/two/manifests/") < place(config.hex()), "{requests:?}");
}

#[test]
fn what_a_registry_does_not_have_is_said() {
    let test = Test::new("FROM scratch\n");
    rbuild(&test, &["pull", &registry().name("no/such")]).fails(4, &["no/such", "404"]);
    rbuild(&test, &["pull", "Upper"]).fails(2, &["lower case"]);
    rbuild(&test, &["pull", "--platform", "linux/nonsense/x/y", "busybox"]).fails(2, &["platform"]);
    rbuild(&test, &["push", &registry().name("no/such")]).fails(1, &["no image"]);
    rbuild(&test, &["copy", "dir:/x", "oci:y"]).fails(2, &["dir:", "oci-archive:"]);
    rbuild(&test, &["copy", "oci:missing", "oci:y"]).fails(1, &["missing"]);
}

#[test]
fn several_names_are_pushed_at_once_and_keep_their_digest() {
    let test = Test::new("FROM busybox\nRUN echo pushed > /made\n");
    let names = ["names/one:1", "names/one:2", "names/two:1"].map(|name| registry().name(name));
    test.run(&["-t", &names[0]]).succeeds();
    printed(&test, &["tag", &names[0], &names[1]]);
    printed(&test, &["tag", &names[0], &names[2]]);
    let pushed = rbuild(&test, &["push", &names[0], &names[1], &names[2]]);
    assert_eq!(pushed.succeeds().said().lines().count(), 3);
    let digest = printed(&test, &["push", "-q", &names[0]]);
    for name in ["names/one:1", "names/one:2", "names/two:1"] {
        assert_eq!(registry().inspect(name)["Digest"], digest.as_str(), "{name}");
    }
    assert!(printed(&test, &["images", "--digests"]).contains(&digest));
    // In another store: pulled, named anew and pushed, it is the same manifest.
    let other = Test::new("FROM scratch\n");
    printed(&other, &["pull", &names[0]]);
    let copy = registry().name("names/three:1");
    printed(&other, &["tag", &names[0], &copy]);
    assert_eq!(printed(&other, &["push", "-q", &copy]), digest);
    assert_eq!(
        printed(&test, &["push", "-qa", &registry().name("names/one")]),
        format!("{digest}\n{digest}")
    );
    let recompressed =
        printed(&test, &["push", "-q", "--compression", "zstd", "--force-compression", &names[2]]);
    assert!(recompressed != digest && raw(&names[2]).contains("tar+zstd"), "{recompressed}");
}

#[test]
fn copies_pass_by_the_store() {
    let test = Test::new("FROM busybox\nRUN echo copied > /made\n");
    let name = registry().name("copies/from:1");
    test.run(&["-t", &name, "--push"]).succeeds();
    let elsewhere = registry().name("copies/to:1");
    let digest = printed(&test, &["copy", &format!("docker://{name}"), &format!("docker://{elsewhere}")]);
    assert_eq!(raw(&elsewhere), raw(&name));
    printed(&test, &["copy", &name, "oci:layout:v1"]);
    printed(&test, &["copy", "oci:layout:v1", "oci-archive:image.tar:v2"]);
    printed(&test, &["copy", "oci-archive:image.tar:v2", "docker-archive:docker.tar:app:3"]);
    let id = printed(&test, &["inspect", "-f", "{{.Id}}", &format!("docker://{name}")]);
    assert_eq!(printed(&test, &["images", "-q", "--no-trunc"]), id);
    for archive in ["oci:layout:v1", "oci-archive:image.tar", "docker-archive:docker.tar:app:3"] {
        assert_eq!(printed(&test, &["inspect", "-f", "{{.Id}}", archive]), id, "{archive}");
    }
    let back = registry().name("copies/back:1");
    assert_eq!(printed(&test, &["copy", "-q", "oci-archive:image.tar", &back]), digest);
    assert_eq!(raw(&back), raw(&name));
    let source = format!("docker-archive:{}:app:3", test.beside("docker.tar").display());
    tool("skopeo", &["inspect", &source]);
    tool("umoci", &["stat", "--image", &format!("{}:v1", test.beside("layout").display())]);
    // Nothing of it is in the store, whose place only the build used.
    assert!(!printed(&test, &["images"]).contains("copies/to"));
}

#[test]
fn images_of_several_machines_become_one_index() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /one\n");
    let (one, two, list) =
        (registry().name("lists/one:1"), registry().name("lists/two:1"), registry().name("lists/all:1"));
    test.run(&["-t", &one, "--push"]).succeeds();
    test.dockerfile("FROM scratch\nCOPY Dockerfile /two\n");
    test.run(&["-t", &two, "--push"]).succeeds();
    rbuild(&test, &["manifest", "push", &list]).fails(1, &["no index"]);
    printed(&test, &["manifest", "create", &list, &one, &two]);
    rbuild(&test, &["manifest", "create", &list, &one]).fails(1, &["--amend"]);
    printed(&test, &["manifest", "annotate", &list, &two, "--arch", "arm64", "--variant", "v8"]);
    rbuild(&test, &["manifest", "annotate", &list, "other", "--arch", "arm64"])
        .fails(1, &["not in the index"]);
    assert!(!printed(&test, &["images"]).contains("lists/all"));
    let digest = printed(&test, &["manifest", "push", "--purge", &list]);
    let pushed: Value = serde_json::from_str(&raw(&list)).unwrap();
    assert_eq!(pushed["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(pushed["manifests"][1]["platform"]["architecture"], "arm64");
    assert_eq!(pushed["manifests"][1]["annotations"], Value::Null);
    let seen: Value = serde_json::from_str(&printed(&test, &["manifest", "inspect", &list])).unwrap();
    assert_eq!(seen, pushed);
    // All of it goes along, or one image of it.
    let copy = registry().name("lists/copy:1");
    assert_eq!(printed(&test, &["copy", "-q", &list, &copy]), digest);
    assert_eq!(raw(&copy), raw(&list));
    printed(&test, &["copy", "--platform", "linux/arm64", &list, "oci:arm:v1"]);
    printed(&test, &["copy", &list, "oci:all:v1"]);
    assert_eq!(printed(&test, &["copy", "-q", "oci:all:v1", &copy]), digest);
    printed(&test, &["pull", "--platform", "linux/arm64", &list]);
}

#[test]
fn logins_are_kept_as_docker_keeps_them() {
    let server = Protected::start();
    let test = Test::new("FROM scratch\nCOPY Dockerfile /\n");
    let conf = format!("{}\n", fs::read_to_string(test.beside("registries.conf")).unwrap());
    fs::write(test.beside("registries.conf"), conf).unwrap();
    let name = format!("{}/private/app:1", server.address);
    test.run(&["-t", &name]).succeeds();
    rbuild(&test, &["push", &name]).fails(4, &["401", "rbuild login"]);
    let config = test.beside("home/.docker/config.json");
    rbuild(&test, &["login", "-u", "ci", "-p", "wrong", &server.address])
        .fails(4, &["could not log in", "401"]);
    assert!(!config.exists());
    rbuild(&test, &["login", "-u", "ci", &server.address]).fails(2, &["no terminal", "--password-stdin"]);
    rbuild(&test, &["login", "--password-stdin", &server.address]).fails(2, &["--username"]);
    log_in(&test, &server.address);
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    let document: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    assert_eq!(document["auths"][&server.address]["auth"], "Y2k6c2VjcmV0IHdvcmQ=");
    printed(&test, &["push", &name]);
    printed(&test, &["rmi", &name]);
    printed(&test, &["pull", &name]);
    // skopeo finds the login where we put it.
    let authfile = format!("--authfile={}", config.display());
    tool("skopeo", &["inspect", "--tls-verify=false", &authfile, &format!("docker://{name}")]);
    assert_eq!(
        printed(&test, &["logout", &server.address]),
        format!("Removing login credentials for {}", server.address)
    );
    assert_eq!(printed(&test, &["logout", &server.address]), format!("Not logged in to {}", server.address));
    rbuild(&test, &["pull", &name]).fails(4, &["401"]);
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    let server = Protected::start();
    let test = Test::new("FROM scratch\n");
    let login = format!("{} login {}", env!("CARGO_BIN_EXE_rbuild"), server.address);
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &login, "/dev/null"]).env("HOME", test.beside("home"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut terminal = child.stdin.take().unwrap();
    let mut seen = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    for (prompt, answer) in [("Username: ", "ci"), ("Password: ", Protected::PASSWORD)] {
        while !String::from_utf8_lossy(&seen).ends_with(prompt) {
            let mut byte = [0];
            assert_eq!(
                std::io::Read::read(&mut stdout, &mut byte).unwrap(),
                1,
                "{}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend(byte);
        }
        terminal.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    std::io::Read::read_to_end(&mut stdout, &mut seen).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(child.wait().unwrap().success() && seen.contains("Login Succeeded"), "{seen}");
    assert!(!seen.contains(Protected::PASSWORD), "{seen}");
}

#[test]
fn credential_helpers_keep_logins() {
    let server = Protected::start();
    let test = Test::new("FROM scratch\nCOPY Dockerfile /\n");
    let folder = test.beside("bin");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(test.beside("home/.docker")).unwrap();
    fs::write(test.beside("home/.docker/config.json"), "{\"credsStore\": \"test\"}").unwrap();
    let helper = folder.join("docker-credential-test");
    let script = "#!/bin/sh\ncase $1 in\nstore) cat > \"$HOME/kept\";;\nget) cat \"$HOME/kept\" 2>/dev/null || { echo credentials not found in native keychain; exit 1; };;\nerase) rm \"$HOME/kept\";;\nesac\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", text(&folder), std::env::var("PATH").unwrap());
    let with_helper = |arguments: &[&str]| Run::of(test.command().env("PATH", &path).args(arguments));
    let mut login = test.command();
    login.env("PATH", &path).args(["login", "-u", "ci", "--password-stdin", &server.address]);
    succeeds_with_password(&mut login);
    assert!(!fs::read_to_string(test.beside("home/.docker/config.json")).unwrap().contains("auth\""));
    let name = format!("{}/private/helped:1", server.address);
    with_helper(&["-t", &name, "--push", text(&test.context())]).succeeds();
    with_helper(&["logout", &server.address]).succeeds();
    assert!(!test.beside("home/kept").exists());
    with_helper(&["pull", &name]).fails(4, &["401"]);
}
