//! Bad input: one clear message with place and remedy, the right exit code, never a panic.
//!
//! Most cases are data: a file of `testdata/errors` holds a command line, the files of the context, the exit code, and all
//! that rbuild says. `RBUILD_BLESS=1` writes down what it says now; look at the difference before you believe it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use rbuild_image::MediaType;
use rbuild_testkit::registry::{Effect, Fault, Login};
use rbuild_testkit::{TarEntry, TestRegistry, tiny_image};

use crate::common::{Run, Test, names, registry, text};

/// The Dockerfile or the context is at fault.
const BUILD: i32 = 1;
/// The request, or a file that goes with it, is at fault.
const USAGE: i32 = 2;
/// A registry or the network is at fault.
const REGISTRY: i32 = 4;
/// Begins a part of a case's file.
const PART: &str = "==== ";
const EXIT_CODE: &str = "exit code ";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/errors")
}

#[test]
fn every_wrong_input_has_its_message() {
    let cases = Mutex::new(names(&folder()));
    let count = cases.lock().unwrap().len();
    assert!(count >= 180, "only {count} cases");
    let wrong = Mutex::new(String::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(name) = { cases.lock().unwrap().pop() } {
                    let said = try_case(&name);
                    wrong.lock().unwrap().push_str(&said);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong}");
}

/// Runs one case; what was wrong with it.
fn try_case(name: &str) -> String {
    let file = folder().join(name);
    let written = fs::read_to_string(&file).unwrap();
    let (input, _) = written.split_once(&format!("{PART}{EXIT_CODE}")).expect("an exit code");
    let mut parts = input.split(PART);
    let command_line = parts.next().unwrap().trim().strip_prefix("$ rbuild").expect("a command line");
    let test = Test::new("");
    fs::remove_file(test.context().join("Dockerfile")).unwrap();
    let filled = |words: &str| {
        let words = words.replace("REGISTRY", &registry().address).replace("CONTEXT", text(&test.context()));
        words.replace("TEST", text(test.context().parent().unwrap()))
    };
    for part in parts {
        let (path, content) = part.split_once('\n').unwrap();
        test.file(path, filled(content));
    }
    let mut command = test.command();
    if !command_line.contains("--progress") {
        command.args(["--progress", "quiet"]);
    }
    let run = Run::of(command.args(filled(command_line).split_whitespace()));
    let said = test.steady(&run.stderr).replace("TEST/context", "CONTEXT");
    let now = format!("{input}{PART}{EXIT_CODE}{}\n{said}", run.code);
    let mut wrong = String::new();
    let mut complain = |what: &str| writeln!(wrong, "\n{name}: {what}\n{now}").unwrap();
    if now != written {
        match std::env::var_os("RBUILD_BLESS") {
            Some(_) => fs::write(&file, &now).unwrap(),
            None => complain("it says something else than is written"),
        }
    }
    // What holds for all of them, whatever is written.
    if ![1, 2, 3, 4].contains(&run.code) || said.contains("panicked") {
        complain("not an error of the user's");
    }
    if !said.starts_with("error: ") || said.matches("error: ").count() > 8 {
        complain("not a message for each fault");
    }
    if !test.stored("tmp").is_empty() || !test.stored("leases").is_empty() {
        complain("it left something in the store");
    }
    wrong
}

#[test]
fn the_last_words_of_a_failing_run_are_shown_in_quiet_mode_too() {
    let test = Test::new("FROM busybox\nRUN seq 100; exit 7\n");
    let quiet = Run::of(test.command().arg("-q").arg(test.context()));
    quiet.fails(BUILD, &["\n             100\n", "exit code: 7"]);
    assert!(!quiet.stderr.contains("\n             50\n"), "only the last lines:\n{}", quiet.stderr);
    let log = quiet.stderr.lines().find_map(|line| line.strip_prefix("whole output: ")).unwrap();
    let whole: String = (1..=100).map(|number| format!("{number}\n")).collect();
    assert_eq!(fs::read_to_string(log).unwrap(), whole);
}

/// Builds `FROM SERVER/…` and compares all that is said; `SERVER` stands for the registry's address.
#[track_caller]
fn server_says(server: &TestRegistry, image: &str, code: i32, expected: &str) {
    let test = Test::new(&format!("FROM {}\nCOPY Dockerfile /\n", server.reference(image)));
    let (actual_code, said) = test.complaint(&[]);
    // The line below the name is longer by what the address is longer than its stand-in.
    let marks = "^".repeat(server.address().len() - "SERVER".len());
    let said = said.replace(&server.address(), "SERVER").replacen(&marks, "", 1);
    assert_eq!((said.as_str(), actual_code), (expected, code), "\n{said}");
}

#[test]
fn a_registry_that_wants_a_login() {
    let server = TestRegistry::start();
    server.put_image("private", "1", &tiny_image().layer(&[TarEntry::file("x", "x")]));
    server.require(Login::Basic("ada".to_owned(), "secret".to_owned()));
    server_says(
        &server,
        "private:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/private:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/private:1
  |      ^^^^^^^^^^^^^^^^
  |
caused by: GET http://SERVER/v2/private/manifests/1: 401: authentication required
help: log in with `rbuild login SERVER` or `docker login`; a repository that does not exist also answers so
",
    );
}

#[test]
fn a_registry_that_is_out_of_order() {
    let server = TestRegistry::start();
    server.fault(Fault::once("GET", "/manifests/", Effect::status(503)).times(100));
    server_says(
        &server,
        "x:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/x:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/x:1
  |      ^^^^^^^^^^
  |
caused by: GET http://SERVER/v2/x/manifests/1: 503: scripted 503 (tried 6 times)
",
    );
}

#[test]
fn a_registry_that_has_had_enough() {
    let server = TestRegistry::start();
    server.fault(Fault::once("GET", "/manifests/", Effect::too_many_requests("3600")).times(100));
    server_says(
        &server,
        "x:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/x:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/x:1
  |      ^^^^^^^^^^
  |
caused by: GET http://SERVER/v2/x/manifests/1: 429: slow down
help: log in with `rbuild login SERVER`: accounts may ask more often than strangers; or name a mirror (registries.conf), or wait 60 minutes
",
    );
}

#[test]
fn a_manifest_that_is_none() {
    let server = TestRegistry::start();
    server.put_manifest("odd", "1", &MediaType::ImageManifest, b"<html>hello</html>");
    server_says(
        &server,
        "odd:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/odd:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/odd:1
  |      ^^^^^^^^^^^^
  |
caused by: could not accept SERVER/odd@sha256:7e537e903df5bfa9c9de2dc590d2646f8b4aa71dd14877bd3e2eceda829a4618
caused by: could not read the manifest
caused by: expected value at line 1 column 1
",
    );
}

#[test]
fn an_image_for_other_machines_only() {
    let server = TestRegistry::start();
    let image = |platform| tiny_image().layer(&[TarEntry::file("x", "x")]).platform(platform);
    server.put_index("other", "1", &[image("linux/s390x"), image("windows/amd64")]);
    server_says(
        &server,
        "other:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/other:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/other:1
  |      ^^^^^^^^^^^^^^
  |
caused by: no image for platform linux/amd64; the index offers linux/s390x, windows/amd64
",
    );
}

#[test]
fn a_config_that_contradicts_the_manifest() {
    let server = TestRegistry::start();
    let mut image = tiny_image().layer(&[TarEntry::file("x", "x")]);
    image.config.rootfs.diff_ids.clear();
    server.put_image("odd", "1", &image);
    server_says(
        &server,
        "odd:1",
        REGISTRY,
        "\
error: could not get the image `SERVER/odd:1`
 --> Dockerfile:1:6
  |
1 | FROM SERVER/odd:1
  |      ^^^^^^^^^^^^
  |
caused by: could not use the image config: it lists 0 diff IDs, the manifest 1 layers
",
    );
}

#[test]
fn registries_conf_blocks_and_may_be_wrong() {
    let test = Test::new("FROM busybox\n");
    let file = test.beside("registries.conf");
    fs::write(&file, "[[registry]]\nprefix = \"docker.io\"\nblocked = true\n").unwrap();
    let (code, said) = test.complaint(&[]);
    let blocked =
        "caused by: could not use `docker.io/library/busybox:latest`: registries.conf blocks `docker.io`\n";
    assert!(code == REGISTRY && said.ends_with(blocked), "{code}\n{said}");
    fs::write(&file, "[[registry]\nprefix = 7\n").unwrap();
    let (code, said) = test.complaint(&[]);
    let wrong =
        "error: could not prepare the registry client\ncaused by: could not use `TEST/registries.conf`: ";
    assert!(code == USAGE && said.starts_with(wrong), "{code}\n{said}");
}

#[test]
fn a_failed_build_writes_no_output_and_no_tag() {
    let test = Test::new("FROM busybox\nRUN exit 1\n");
    let (archive, iid) = (test.beside("image.tar"), test.beside("iid"));
    let output = format!("type=oci,dest={}", text(&archive));
    test.run(&["-o", &output, "-t", "failed", "--iidfile", text(&iid)]).fails(BUILD, &[]);
    assert!(!archive.exists() && !iid.exists() && test.stored("tags").is_empty());
}
