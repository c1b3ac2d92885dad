//! Images by the places where they are: layouts, archives and registries, wherever a name is taken; and the forms in which they come.

use rbuild_image::{Descriptor, Digest, Manifest, MediaType};
use rbuild_testkit::registry::{Effect, Fault};
use rbuild_testkit::{TarEntry, TestRegistry, layer_tar, tiny_image};

use crate::common::{Run, Test, registry, text, tool};

fn rbuild(test: &Test, arguments: &[&str]) -> Run {
    Run::of(test.command().args(arguments))
}

/// What rbuild prints; it must succeed.
#[track_caller]
fn printed(test: &Test, arguments: &[&str]) -> String {
    let run = rbuild(test, arguments);
    assert_eq!(run.code, 0, "rbuild {}:\n{}", arguments.join(" "), run.stderr);
    run.said().to_owned()
}

const PLACES: [&str; 3] = ["oci:layout:v1", "oci-archive:image.tar:v1", "docker-archive:docker.tar:app:1"];

#[test]
fn layouts_and_archives_are_pushed_to_and_pulled_from() {
    let test = Test::new("FROM busybox\nRUN echo moved > /made\n");
    test.run(&["-t", "app:1"]).succeeds();
    let id = printed(&test, &["inspect", "-f", "{{.Id}}", "app:1"]);
    for place in PLACES {
        let digest = printed(&test, &["push", "-q", "app:1", place]);
        assert!(digest.starts_with("sha256:"), "{place}: {digest}");
        assert_eq!(printed(&test, &["inspect", "-f", "{{.Id}}", place]), id, "{place}");
        assert!(printed(&test, &["manifest", "inspect", place]).contains("\"layers\""), "{place}");
    }
    // A layout gains what is pushed to it.
    test.dockerfile("FROM busybox\nRUN echo second > /made\n");
    test.run(&["-t", "app:2"]).succeeds();
    printed(&test, &["push", "-q", "app:2", "oci:layout:v2"]);
    assert_eq!(printed(&test, &["inspect", "-f", "{{.Id}}", "oci:layout:v1"]), id);
    for place in PLACES {
        let other = Test::new("FROM scratch\n");
        let absolute = beside(&test, place);
        printed(&other, &["pull", &absolute]);
        assert_eq!(printed(&other, &["images", "-q", "--no-trunc"]), id, "{place}");
    }
    rbuild(&test, &["push", "app:1", "app:2", "oci:x"])
        .fails(2, &["could not push to `oci:x`", "rbuild push IMAGE"]);
    rbuild(&test, &["push", "none:1", "oci:x"]).fails(1, &["no image"]);
}

#[test]
fn builds_stand_on_layouts_and_archives() {
    let test = Test::new("FROM busybox\nRUN echo base > /made\n");
    test.run(&["-t", "app:1"]).succeeds();
    for place in PLACES {
        printed(&test, &["push", "-q", "app:1", place]);
    }
    test.dockerfile("FROM base\nCOPY --from=base /made /copied\n");
    for place in PLACES {
        let other = Test::new("FROM base\nCOPY --from=base /made /copied\n");
        let absolute = beside(&test, place);
        let image = other.build(&["--build-context", &format!("base={absolute}")]);
        assert_eq!(image.text("/copied"), "base\n", "{place}");
    }
    test.run(&["--build-context", "base=oci:missing"]).fails(1, &["missing"]);
    test.run(&["--build-context", "base=dir:layout"]).fails(2, &["`dir:` is no transport of rbuild"]);
}

#[test]
fn containers_run_from_layouts_and_archives() {
    let test = Test::new("FROM busybox\nRUN echo held > /made\nCMD [\"cat\", \"/made\"]\n");
    test.run(&["-t", "app:1"]).succeeds();
    for place in PLACES {
        printed(&test, &["push", "-q", "app:1", place]);
    }
    // More than one image: the name says which.
    test.dockerfile("FROM busybox\nCMD [\"echo\", \"second\"]\n");
    test.run(&["-t", "app:2"]).succeeds();
    printed(&test, &["push", "-q", "app:2", "oci:layout:v2"]);
    for (place, says) in PLACES.iter().map(|place| (*place, "held")).chain([("oci:layout:v2", "second")]) {
        let other = Test::new("FROM scratch\n");
        let absolute = beside(&test, place);
        assert_eq!(printed(&other, &["run", "--rm", "--network", "host", &absolute]), says, "{place}");
        assert_eq!(
            printed(&other, &["run", "--rm", "--network", "host", &absolute, "echo", "typed"]),
            "typed"
        );
    }
    let several = rbuild(&test, &["run", "--rm", "oci:layout"]);
    assert_eq!(several.code, 125, "{}", several.stderr);
    assert!(several.stderr.contains("error: ") && several.stderr.contains("layout"), "{}", several.stderr);
    let missing = rbuild(&test, &["run", "--rm", "oci-archive:none.tar"]);
    assert!(missing.code == 125 && missing.stderr.contains("none.tar"), "{}", missing.stderr);
    let pulled = registry().name("run/by-transport:1");
    test.run(&["-t", &pulled, "--push"]).succeeds();
    let other = Test::new("FROM scratch\n");
    assert_eq!(
        printed(&other, &["run", "--rm", "--network", "host", &format!("docker://{pulled}")]),
        "second"
    );
}

#[test]
fn other_tools_transports_are_refused_with_a_sentence() {
    let test = Test::new("FROM scratch\n");
    for transport in ["dir:/x", "containers-storage:x", "docker-daemon:x:1"] {
        for arguments in [
            vec!["pull", transport],
            vec!["push", "app", transport],
            vec!["inspect", transport],
            vec!["run", transport],
            vec!["copy", transport, "oci:y"],
            vec!["copy", "app", transport],
            vec!["manifest", "create", "list", transport],
            vec!["manifest", "inspect", transport],
        ] {
            let code = if arguments[0] == "run" { 125 } else { 2 };
            rbuild(&test, &arguments).fails(code, &["is no transport of rbuild", "oci-archive:"]);
        }
    }
}

#[test]
fn indexes_are_joined_from_layouts_too() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /one\n");
    let (one, list) = (registry().name("joined/one:1"), registry().name("joined/all:1"));
    test.run(&["-t", &one, "--push"]).succeeds();
    test.dockerfile("FROM scratch\nCOPY Dockerfile /two\n");
    test.run(&["--platform", "linux/arm64", "-o", "type=oci,dest=two.tar"]).succeeds();
    printed(&test, &["manifest", "create", &list, &one, "oci-archive:two.tar"]);
    printed(&test, &["manifest", "annotate", &list, "oci-archive:two.tar", "--variant", "v8"]);
    rbuild(&test, &["manifest", "push", &list, "docker-archive:all.tar"])
        .fails(2, &["holds one image", "oci-archive:FILE"]);
    // The same index wherever it goes; what it takes from registries and archives is in it.
    let mut digests: Vec<String> = ["oci:layout:v1", "oci-archive:all.tar:v1"]
        .iter()
        .map(|place| {
            let digest = printed(&test, &["manifest", "push", &list, place]);
            let third = registry().name("joined/third:1");
            tool(
                "skopeo",
                &[
                    "copy",
                    "--all",
                    "-q",
                    "--dest-tls-verify=false",
                    &beside(&test, place),
                    &format!("docker://{third}"),
                ],
            );
            let seen = printed(&test, &["manifest", "inspect", &third]);
            assert!(
                seen.contains("\"arm64\"") && seen.contains("\"v8\"") && !seen.contains("two.tar"),
                "{seen}"
            );
            digest
        })
        .collect();
    digests.push(printed(&test, &["manifest", "push", &list]));
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let seen = printed(&test, &["manifest", "inspect", &list]);
    assert!(seen.contains("\"arm64\"") && seen.contains("\"v8\"") && !seen.contains("two.tar"), "{seen}");
    printed(&test, &["copy", &list, "oci:all:v1"]);
    // An index of a layout, with all of its images.
    let second = registry().name("joined/second:1");
    printed(&test, &["manifest", "create", &second, "oci:all:v1"]);
    printed(&test, &["manifest", "push", &second]);
    printed(&test, &["pull", "--platform", "linux/arm64/v8", &second]);
}

/// A place beside the test's context, for tools that run elsewhere.
fn beside(test: &Test, place: &str) -> String {
    place.replacen(':', &format!(":{}/", test.beside("").display()), 1)
}

#[test]
fn all_tags_are_pulled() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /\n");
    let names = ["1", "2", "3"].map(|tag| registry().name(&format!("all/tags:{tag}")));
    test.run(&["-t", &names[0], "-t", &names[1], "-t", &names[2], "--push"]).succeeds();
    let other = Test::new("FROM scratch\n");
    let repository = registry().name("all/tags");
    assert_eq!(printed(&other, &["pull", "-qa", &repository]), names.join("\n"));
    assert_eq!(printed(&other, &["images", "--format", "{{.Tag}}"]).lines().count(), 3);
    rbuild(&other, &["pull", "-a", &names[0]]).fails(2, &["it names one"]);
    rbuild(&other, &["pull", "-a", "oci:x"]).fails(2, &["--all-tags"]);
    rbuild(&other, &["pull", "-a", &registry().name("no/such")]).fails(4, &["404"]);
}

/// A registry with an image of one layer in this form.
fn serve(media_type: &str, blob: &[u8], tar: &[u8], urls: &[String]) -> TestRegistry {
    let server = TestRegistry::start();
    let image = tiny_image().layer_of(tar);
    let mut manifest: Manifest = image.manifest();
    manifest.layers =
        vec![Descriptor { urls: urls.to_vec(), ..Descriptor::of(MediaType::from(media_type), blob) }];
    server.put_blob("app", &image.config.to_bytes());
    server.put_manifest("app", "1", &manifest.media_type.clone().unwrap(), &manifest.to_bytes());
    server
}

#[test]
fn layers_in_every_form() {
    let tar = layer_tar(&[TarEntry::file("file", "content")]);
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for (media_type, blob) in [
        ("application/vnd.oci.image.layer.v1.tar+zstd", &zstd),
        ("application/vnd.oci.image.layer.v1.tar", &tar),
        ("application/vnd.docker.image.rootfs.diff.tar", &tar),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", &zstd),
    ] {
        let server = serve(media_type, blob, &tar, &[]);
        server.put_blob("app", blob);
        let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /more\n", server.reference("app:1")));
        assert_eq!(test.build(&[]).text("/file"), "content", "{media_type}");
        printed(&test, &["pull", &server.reference("app:1").to_string()]);
    }
}

#[test]
fn foreign_layers_are_fetched_where_they_lie() {
    let tar = layer_tar(&[TarEntry::file("file", "far away")]);
    let elsewhere = TestRegistry::start();
    let digest = elsewhere.put_blob("files", &tar);
    let urls = [
        format!("http://{}/gone", elsewhere.address()),
        format!("http://{}/v2/files/blobs/{digest}", elsewhere.address()),
    ];
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ] {
        let server = serve(media_type, &tar, &tar, &urls);
        let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /more\n", server.reference("app:1")));
        assert_eq!(test.build(&[]).text("/file"), "far away", "{media_type}");
    }
    let nowhere = serve("application/vnd.oci.image.layer.nondistributable.v1.tar", &tar, &tar, &[]);
    let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /more\nRUN x\n", nowhere.reference("app:1")));
    test.run(&[]).fails(4, &["404"]);
}

#[test]
fn schema_1_is_refused_with_a_sentence() {
    let server = TestRegistry::start();
    let document = br#"{"schemaVersion":1,"name":"app","tag":"old","fsLayers":[],"history":[]}"#;
    let media_type = MediaType::from("application/vnd.docker.distribution.manifest.v1+prettyjws");
    server.put_manifest("app", "old", &media_type, document);
    let test = Test::new(&format!("FROM {}\n", server.reference("app:old")));
    test.run(&[]).fails(4, &["schema 1"]);
    rbuild(&test, &["pull", &server.reference("app:old").to_string()]).fails(4, &["schema 1"]);
}

#[test]
fn a_registry_that_counts_pulls_is_explained() {
    let server = TestRegistry::start();
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}"#;
    let headers = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "0;w=21600")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    server.fault(Fault::once("GET", "/manifests/", Effect::Status(429, headers, body.to_owned())).times(9));
    let test = Test::new("FROM scratch\n");
    let hub = format!("[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\n", server.address());
    std::fs::write(test.beside("registries.conf"), hub).unwrap();
    rbuild(&test, &["pull", "busybox"]).fails(
        4,
        &[
            "429: You have reached your unauthenticated pull rate limit. (0 of 100 pulls in 6 hours are left)",
            "help: log in with `rbuild login`: Docker Hub counts strangers by their address",
            "registry-mirrors",
            "wait 360 minutes",
        ],
    );
    assert_eq!(server.count("GET", "/manifests/"), 1);
}

#[test]
fn digests_of_blobs_are_those_of_their_content() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /\n");
    test.run(&["-t", "app:1"]).succeeds();
    printed(&test, &["push", "-q", "app:1", "oci:layout:latest"]);
    let blobs = test.beside("layout/blobs/sha256");
    let wrong: Vec<_> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap();
            Digest::sha256_of(bytes).hex() != entry.file_name().to_str().unwrap()
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    tool("umoci", &["stat", "--image", text(&test.beside("layout"))]);
}
