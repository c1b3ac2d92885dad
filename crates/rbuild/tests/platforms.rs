//! `--platform` with several: one build, an image for each, an index over them.

use std::fs;

use serde_json::Value;

use crate::common::{RBUILD, Run, Test, registry, text, tool};

const BOTH: [&str; 2] = ["--platform", "linux/amd64,linux/arm/v7"];
/// Nothing of it needs an emulator.
const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM busybox AS make\nRUN echo made > /made\n\
     FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT\nENV FOR=$TARGETPLATFORM\n\
     COPY $TARGETARCH$TARGETVARIANT /file\nCOPY --from=make /made /made\n";

fn test() -> Test {
    let test = Test::new(DOCKERFILE);
    test.file("amd64", "of amd64");
    test.file("armv7", "of arm");
    test
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Platforms and digests of an index, in order.
fn entries(index: &Value) -> Vec<(String, String)> {
    let entry = |entry: &Value| {
        let platform = &entry["platform"];
        let variant = platform["variant"].as_str().map(|variant| format!("/{variant}")).unwrap_or_default();
        let name = format!(
            "{}/{}{variant}",
            platform["os"].as_str().unwrap(),
            platform["architecture"].as_str().unwrap()
        );
        (name, entry["digest"].as_str().unwrap().to_owned())
    };
    index["manifests"].as_array().unwrap().iter().map(entry).collect()
}

/// `FOR` of the image that skopeo takes for a platform.
fn made_for(source: &str, architecture: &[&str]) -> String {
    let plain = ["inspect", "--config", "--tls-verify=false", source];
    let config = json(&tool("skopeo", &[architecture, &plain[..]].concat()));
    let environment = config["config"]["Env"].as_array().unwrap();
    let entry = environment.iter().filter_map(Value::as_str).find_map(|entry| entry.strip_prefix("FOR="));
    entry.unwrap().to_owned()
}

const AMD64: [&str; 2] = ["--override-arch", "amd64"];
const ARM: [&str; 4] = ["--override-arch", "arm", "--override-variant", "v7"];

#[test]
fn an_archive_holds_an_index() {
    let test = test();
    let (archive, iid, metadata) =
        (test.beside("image.tar"), test.beside("iid"), test.beside("metadata.json"));
    let output = format!("type=oci,dest={}", text(&archive));
    let run = test.run(
        &[&BOTH[..], &["-o", &output, "--iidfile", text(&iid), "--metadata-file", text(&metadata)]].concat(),
    );
    run.succeeds();
    let source = format!("oci-archive:{}", text(&archive));
    let index = json(&tool("skopeo", &["inspect", "--raw", &source]));
    let platforms: Vec<_> = entries(&index).into_iter().map(|(platform, _)| platform).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm/v7"]);
    assert_eq!(made_for(&source, &AMD64), "linux/amd64");
    assert_eq!(made_for(&source, &ARM), "linux/arm/v7");
    let metadata = json(&fs::read_to_string(metadata).unwrap());
    assert_eq!(metadata["containerimage.digest"], fs::read_to_string(iid).unwrap());
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert!(metadata.get("containerimage.config.digest").is_none(), "{metadata}");
}

#[test]
fn what_is_for_the_build_platform_runs_once() {
    let test = test();
    let run = test.run(&[&BOTH[..], &["--no-cache"]].concat());
    run.succeeds();
    assert_eq!(run.cached(), 1, "{}", run.stderr);
    for heading in [
        "[linux/amd64 make 2/2] RUN",
        "[linux/amd64 stage-1 1/2] COPY",
        "[linux/arm/v7 stage-1 1/2] COPY",
        "[linux/amd64 internal] load metadata for docker.io/library/busybox",
    ] {
        assert!(run.stderr.contains(heading), "no `{heading}`:\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("[linux/arm/v7 make"), "{}", run.stderr);
}

#[test]
fn a_push_gives_the_tag_the_index() {
    let test = test();
    let name = registry().name("team/platforms:v1");
    let metadata = test.beside("metadata.json");
    test.run(&[&BOTH[..], &["-t", &name, "--push", "--metadata-file", text(&metadata)]].concat()).succeeds();
    let source = format!("docker://{name}");
    assert_eq!(made_for(&source, &AMD64), "linux/amd64");
    assert_eq!(made_for(&source, &ARM), "linux/arm/v7");
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &source]);
    let metadata = json(&fs::read_to_string(metadata).unwrap());
    assert_eq!(metadata["containerimage.descriptor"]["size"], raw.len());
    let copy = format!("dir:{}", test.beside("copy").display());
    tool(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false", &source, &copy],
    );
}

#[test]
fn a_tag_in_the_store_means_all_platforms() {
    let test = test();
    test.run(&[&BOTH[..], &["-t", "app:1"]].concat()).succeeds();
    let rbuild = |arguments: &[&str]| {
        let run = Run::of(test.command().args(arguments));
        run.succeeds();
        run
    };
    let name = registry().name("team/stored:v1");
    rbuild(&["tag", "app:1", &name]);
    rbuild(&["push", &name]);
    Run::of(test.command().args(["manifest", "push", "app:1"])).fails(2, &["`rbuild push app:1`"]);
    let source = format!("docker://{name}");
    assert_eq!(made_for(&source, &AMD64), "linux/amd64");
    assert_eq!(made_for(&source, &ARM), "linux/arm/v7");
    let above = |platform: &str| {
        test.dockerfile("FROM app:1\nCOPY amd64 /above\n");
        let archive = test.beside("above.tar");
        let output = format!("type=oci,dest={}", text(&archive));
        let run = test.run(&["--platform", platform, "-o", &output]);
        (run.code == 0).then(|| made_for(&format!("oci-archive:{}", text(&archive)), &[]))
    };
    assert_eq!(above("linux/arm/v7").as_deref(), Some("linux/arm/v7"));
    assert_eq!(above("linux/amd64").as_deref(), Some("linux/amd64"));
    rbuild(&["rmi", "app:1"]);
    assert_eq!(above("linux/arm/v7"), None, "what is left of a name that was removed");
}

#[test]
fn files_go_to_a_folder_for_each() {
    let test = test();
    let (out, archive) = (test.beside("out"), test.beside("files.tar"));
    let tar = format!("type=tar,dest={}", text(&archive));
    test.run(&[&BOTH[..], &["-o", text(&out), "-o", &tar]].concat()).succeeds();
    assert_eq!(fs::read_to_string(out.join("linux_amd64/file")).unwrap(), "of amd64");
    assert_eq!(fs::read_to_string(out.join("linux_arm_v7/file")).unwrap(), "of arm");
    let listed = tool("tar", &["-tf", text(&archive)]);
    let expected = [
        "linux_amd64/",
        "linux_amd64/file",
        "linux_amd64/made",
        "linux_arm_v7/",
        "linux_arm_v7/file",
        "linux_arm_v7/made",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_docker_archive_holds_one_platform() {
    let test = test();
    let output = format!("type=docker,dest={}", test.beside("docker.tar").display());
    let run = test.run(&[&BOTH[..], &["-o", &output]].concat());
    run.fails(2, &["docker exporter does not currently support exporting manifest lists"]);
    assert!(!run.stderr.contains("RUN echo made > /made\n"), "nothing is built for it");
}

#[test]
fn a_foreign_program_needs_an_emulator() {
    let test = Test::new("FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n");
    let mut program = fs::read(RBUILD).unwrap()[..4096].to_vec();
    // e_machine, of an architecture that no kernel emulates: EM_VAX.
    program[18..20].copy_from_slice(&75_u16.to_le_bytes());
    test.file("program", program);
    test.mode("program", 0o755);
    let run = test.run(&["--platform", "linux/vax"]);
    run.fails(3, &["linux/vax", "qemu-user-static", "binfmt-support"]);
}
