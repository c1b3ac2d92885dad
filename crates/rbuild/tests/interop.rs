//! Every place that rbuild writes to, read by every tool that can; and every place that those write to, read by rbuild.

use std::fs;
use std::path::PathBuf;

use rbuild_image::Digest;
use serde_json::Value;

use crate::common::{Run, Test, registry, text, tool};

/// Links, owners, modes, removed files, and a config with most of its fields.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN echo gone > /gone && mkdir -p /deep/er && echo x > /deep/er/file\n\
    RUN rm /gone && rm -r /deep && mkdir -m 750 /deep && echo new > /deep/file && chown 33:44 /deep/file\n\
    RUN echo content > /file && ln /file /hard && ln -s file /soft && chmod 4755 /file\n\
    WORKDIR /work\nENV A=1 B=\"two words\"\nEXPOSE 80/tcp 53/udp\nVOLUME /data\nUSER 33:44\nLABEL a=b\n\
    ENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"cat /file\"]\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK CMD true\n";

/// A builder's own store for one test.
struct Store {
    root: PathBuf,
    runroot: PathBuf,
}

impl Store {
    fn of(test: &Test, program: &str) -> Store {
        Store { root: test.beside(program), runroot: test.beside(&format!("{program}-run")) }
    }

    /// Runs podman or buildah with this store.
    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let options =
            ["--root", text(&self.root), "--runroot", text(&self.runroot), "--storage-driver", "vfs"];
        tool(program, &[&options[..], arguments].concat()).trim().to_owned()
    }
}

fn skopeo(arguments: &[&str]) -> String {
    tool("skopeo", &[&["--insecure-policy"], arguments].concat())
}

#[track_caller]
fn printed(test: &Test, arguments: &[&str]) -> String {
    let run = Run::of(test.command().args(arguments));
    assert_eq!(run.code, 0, "rbuild {}:\n{}", arguments.join(" "), run.stderr);
    run.said().to_owned()
}

fn image_id(test: &Test, name: &str) -> String {
    printed(test, &["inspect", "-f", "{{.Id}}", name])
}

/// What podman and buildah call an image: the digest of its config without the algorithm.
fn bare(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

#[test]
fn what_rbuild_writes_every_tool_reads() {
    let test = Test::new(DOCKERFILE);
    let name = registry().name("interop/ours:1");
    test.run(&["-t", &name, "--push"]).succeeds();
    let id = image_id(&test, &name);
    // podman makes an image's name of a layout's path, which must not have upper case then.
    let folder = format!("rbuild-interop-{}", std::process::id());
    let folder = tempfile::Builder::new().prefix(&folder).rand_bytes(0).tempdir().unwrap();
    let at = |file: &str| folder.path().join(file).display().to_string();
    let places = [
        format!("docker://{name}"),
        format!("oci:{}:v1", at("layout")),
        format!("oci-archive:{}:v1", at("image.tar")),
        format!("docker-archive:{}:app:1", at("docker.tar")),
    ];
    for place in &places[1..] {
        printed(&test, &["push", "-q", &name, place]);
    }
    let zstd = registry().name("interop/ours:zstd");
    printed(&test, &["tag", &name, &zstd]);
    printed(&test, &["push", "-q", "--compression", "zstd", "--force-compression", &zstd]);

    let (podman, buildah) = (Store::of(&test, "podman"), Store::of(&test, "buildah"));
    for place in places.iter().chain([&format!("docker://{zstd}")]) {
        let verify: &[&str] = if place.starts_with("docker://") { &["--tls-verify=false"] } else { &[] };
        // skopeo reads every blob, and checks it.
        let raw = skopeo(&[&["inspect", "--config", "--raw"], verify, &[place.as_str()]].concat());
        assert_eq!(Digest::sha256_of(raw.as_bytes()).to_string(), id, "{place}");
        let verify_source: &[&str] = if verify.is_empty() { &[] } else { &["--src-tls-verify=false"] };
        let copy = format!("dir:{}", at("copy"));
        skopeo(&[&["copy", "--quiet"], verify_source, &[place.as_str(), &copy]].concat());
        for (program, store) in [("podman", &podman), ("buildah", &buildah)] {
            let seen = store.run(program, &[&["pull", "--quiet"], verify, &[place.as_str()]].concat());
            assert_eq!(seen.lines().last(), Some(bare(&id)), "{program} {place}");
        }
    }
    let shown: Value = serde_json::from_str(&podman.run("podman", &["image", "inspect", bare(&id)])).unwrap();
    let config = &shown[0]["Config"];
    assert_eq!((&config["WorkingDir"], &config["User"]), (&"/work".into(), &"33:44".into()));
    assert_eq!((&config["Labels"]["a"], &config["StopSignal"]), (&"b".into(), &"SIGQUIT".into()));
    // umoci unpacks the layout: links, whiteouts and contents are right.
    let bundle = test.beside("bundle");
    tool("umoci", &["unpack", "--rootless", "--image", &format!("{}:v1", at("layout")), text(&bundle)]);
    let inside = |path: &str| bundle.join("rootfs").join(path);
    assert_eq!(fs::read_to_string(inside("hard")).unwrap(), "content\n");
    assert_eq!(fs::read_to_string(inside("deep/file")).unwrap(), "new\n");
    assert!(!inside("gone").exists() && !inside("deep/er").exists());
    podman.run("podman", &["rmi", "--all", "--force"]);
    buildah.run("buildah", &["rmi", "--all", "--force"]);
}

#[test]
fn what_every_tool_writes_rbuild_reads() {
    let test = Test::new(DOCKERFILE);
    let name = registry().name("interop/first:1");
    test.run(&["-t", &name, "--push"]).succeeds();
    let id = image_id(&test, &name);
    let source = format!("docker://{name}");
    let at = |file: &str| test.beside(file).display().to_string();

    // skopeo, in every form that it has.
    let mut places = Vec::new();
    for (number, (place, options)) in [
        (format!("oci:{}:v1", at("skopeo-layout")), vec![]),
        (format!("oci-archive:{}:v1", at("skopeo.tar")), vec![]),
        (format!("docker-archive:{}:docker.io/library/app:1", at("skopeo-docker.tar")), vec![]),
        (format!("docker://{}", registry().name("interop/skopeo:oci")), vec!["--format=oci"]),
        (format!("docker://{}", registry().name("interop/skopeo:v2s2")), vec!["--format=v2s2"]),
        (format!("oci:{}:v1", at("skopeo-zstd")), vec!["--dest-compress-format=zstd", "--dest-compress"]),
        (format!("oci:{}:v1", at("skopeo-plain")), vec!["--dest-decompress"]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut arguments = vec!["copy", "--quiet", "--src-tls-verify=false"];
        if place.starts_with("docker://") {
            arguments.push("--dest-tls-verify=false");
        }
        arguments.extend(&options);
        arguments.extend([source.as_str(), place.as_str()]);
        skopeo(&arguments);
        places.push((format!("skopeo {number}"), place));
    }
    // podman and buildah, from their own stores.
    for program in ["podman", "buildah"] {
        let store = Store::of(&test, program);
        store.run(program, &["pull", "--quiet", "--tls-verify=false", &source]);
        let pushed = registry().name(&format!("interop/{program}:1"));
        store.run(program, &["push", "--quiet", "--tls-verify=false", &name, &format!("docker://{pushed}")]);
        places.push((format!("{program} push"), format!("docker://{pushed}")));
        for kind in ["oci-archive", "docker-archive"] {
            let place = format!("{kind}:{}:app:1", at(&format!("{program}-{kind}.tar")));
            store.run(program, &["push", "--quiet", &name, &place]);
            places.push((format!("{program} {kind}"), place));
        }
        if program == "podman" {
            let file = at("podman-save.tar");
            store.run(program, &["save", "--quiet", "-o", &file, &name]);
            places.push(("podman save".to_owned(), format!("docker-archive:{file}")));
        }
        store.run(program, &["rmi", "--all", "--force"]);
    }
    for (writer, place) in &places {
        let other = Test::new("FROM scratch\n");
        printed(&other, &["pull", place]);
        // podman writes an image's other names into an archive, too.
        let ids = printed(&other, &["images", "-q", "--no-trunc"]);
        assert!(!ids.is_empty() && ids.lines().all(|line| line == id), "{writer}: {place}: {ids}");
    }
    // umoci makes an image of its own on ours.
    let layout = at("skopeo-layout");
    tool("umoci", &["config", "--image", &format!("{layout}:v1"), "--tag", "umoci", "--config.env=C=3"]);
    let place = format!("oci:{layout}:umoci");
    let expected = printed(&test, &["inspect", "-f", "{{.Id}}", &place]);
    let other = Test::new("FROM base\nUSER 0\nRUN test \"$C\" = 3 && cat /deep/file > /read\n");
    let image = other.build(&["--build-context", &format!("base={place}")]);
    assert_eq!(image.text("/read"), "new\n");
    assert_ne!(expected, id);
}
