//! Bad input: one clear message with place and remedy, the right exit code, never a panic.

use std::fs;

use crate::common::{Run, Test, registry, text};

/// The Dockerfile or the context is at fault.
const BUILD: i32 = 1;
/// The command line is at fault.
const USAGE: i32 = 2;
/// A registry or the network is at fault.
const REGISTRY: i32 = 4;

#[test]
fn faults_of_a_dockerfile() {
    let cases: [(&str, &[&str]); 24] = [
        ("", &["Dockerfile"]),
        ("# only a comment\n", &["Dockerfile"]),
        ("RUN echo hi\n", &["Dockerfile:1", "FROM"]),
        ("FROM busybox\nRUNN echo hi\n", &["Dockerfile:2", "RUNN", "RUN"]),
        ("FROM\n", &["Dockerfile:1", "FROM"]),
        ("FROM busybox AS\n", &["Dockerfile:1"]),
        ("FROM busybox AS 1stage\n", &["Dockerfile:1", "1stage"]),
        ("FROM Busybox\n", &["Dockerfile:1", "Busybox"]),
        ("FROM bad:tag:here\n", &["Dockerfile:1", "bad:tag:here"]),
        ("ARG BASE\nFROM $BASE\n", &["Dockerfile:2"]),
        ("FROM busybox\nCOPY --from=biuld /x /y\n", &["Dockerfile:2", "biuld"]),
        (
            "FROM busybox AS a\nCOPY --from=b /x /y\nFROM busybox AS b\nCOPY --from=a /x /y\n",
            &["Dockerfile:2", "b"],
        ),
        ("FROM busybox AS a\nCOPY --from=a /x /y\n", &["Dockerfile:2"]),
        ("FROM busybox\nCOPY missing /\n", &["Dockerfile:2", "missing"]),
        ("FROM busybox\nCOPY *.none /\n", &["Dockerfile:2", "*.none"]),
        ("FROM busybox\nCOPY onlyone\n", &["Dockerfile:2", "COPY"]),
        ("FROM busybox\nCOPY ../outside /\n", &["Dockerfile:2", "outside"]),
        ("FROM busybox\nCOPY Dockerfile Dockerfile /notafolder\n", &["Dockerfile:2", "/notafolder"]),
        ("FROM busybox\nCOPY --chown=nobodyhere Dockerfile /\n", &["Dockerfile:2", "nobodyhere"]),
        ("FROM busybox\nCOPY --nosuchflag Dockerfile /\n", &["Dockerfile:2", "nosuchflag"]),
        ("FROM busybox\nENV\n", &["Dockerfile:2", "ENV"]),
        ("FROM busybox\nEXPOSE lots\n", &["Dockerfile:2", "lots"]),
        ("FROM busybox\nENV A=${B\n", &["Dockerfile:2"]),
        ("FROM busybox\nUSER nobodyhere\nRUN true\n", &["Dockerfile:3", "nobodyhere"]),
    ];
    for (dockerfile, mentions) in cases {
        let run = Test::new(dockerfile).run(&[]);
        assert!(!run.stderr.trim().is_empty(), "silent about:\n{dockerfile}");
        assert!(run.code == BUILD, "exit code {} for:\n{dockerfile}\n{}", run.code, run.stderr);
        run.fails(BUILD, mentions);
    }
}

#[test]
fn all_faults_of_a_dockerfile_are_said_at_once() {
    Test::new("FROM busybox\nRUNN one\nCOPPY two\n").run(&[]).fails(BUILD, &["RUNN", "COPPY"]);
}

#[test]
fn a_misspelt_stage_is_shown_with_the_one_that_was_meant() {
    let run = Test::new("FROM busybox AS build\nFROM busybox\nCOPY --from=biuld /x /y\n").run(&[]);
    run.fails(BUILD, &["no stage named `biuld`", "did you mean `build`?", "Dockerfile:3"]);
}

#[test]
fn a_failing_run_shows_its_code_and_last_words() {
    let test = Test::new("FROM busybox\nRUN echo famous last words; exit 7\n");
    test.run(&[]).fails(BUILD, &["Dockerfile:2", "famous last words", "exit code 7"]);
    let quiet = Run::of(test.command().arg("-q").arg(test.context()));
    quiet.fails(BUILD, &["famous last words", "exit code 7"]);
}

#[test]
fn a_run_ended_by_a_signal_names_it() {
    Test::new("FROM busybox\nRUN kill -TERM $$\n").run(&[]).fails(BUILD, &["Dockerfile:2", "SIGTERM"]);
}

#[test]
fn a_missing_command_is_named() {
    Test::new("FROM busybox\nRUN [\"/no/such/program\"]\n")
        .run(&[])
        .fails(BUILD, &["Dockerfile:2", "/no/such/program"]);
}

#[test]
fn faults_of_the_command_line() {
    let test = Test::new("FROM busybox\n");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--no-such-option"], &["--no-such-option"]),
        (&["-o", "type=hologram"], &["hologram"]),
        (&["-o", "type=oci,colour=red,dest=x"], &["colour"]),
        (&["-t", "Upper/Case"], &["Upper/Case"]),
        (&["-t", "name:bad tag"], &["bad tag"]),
        (&["--build-context", "nothing"], &["nothing"]),
        (&["--progress", "interpretive-dance"], &["interpretive-dance"]),
        (&["--add-host", "nohost"], &["nohost"]),
    ];
    for (arguments, mentions) in cases {
        test.run(arguments).fails(USAGE, mentions);
    }
    Run::of(&mut test.command()).fails(USAGE, &["CONTEXT"]);
}

#[test]
fn a_target_that_is_no_stage() {
    let test = Test::new("FROM busybox AS build\n");
    test.run(&["--target", "bulid"]).fails(BUILD, &["bulid", "build"]);
}

#[test]
fn a_context_or_dockerfile_that_is_not_there() {
    let test = Test::new("FROM busybox\n");
    Run::of(test.command().arg("no/such/folder")).fails(BUILD, &["no/such/folder"]);
    test.run(&["-f", "no/such/Dockerfile"]).fails(BUILD, &["no/such/Dockerfile"]);
    fs::remove_file(test.context().join("Dockerfile")).unwrap();
    test.run(&[]).fails(BUILD, &["Dockerfile"]);
}

#[test]
fn an_image_that_the_registry_does_not_have() {
    let test = Test::new("FROM busybox:nosuchtag\n");
    test.run(&[]).fails(REGISTRY, &["busybox:nosuchtag", "Dockerfile:1"]);
    let missing = registry().name("no/such:image");
    Test::new(&format!("FROM {missing}\n")).run(&[]).fails(REGISTRY, &["no/such"]);
}

#[test]
fn a_registry_that_does_not_answer() {
    // Nothing listens on the port of a listener that was closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    Test::new(&format!("FROM {address}/x\n")).run(&[]).fails(REGISTRY, &[&address]);
    Test::new("FROM busybox\n").run(&["-t", &format!("{address}/x"), "--push"]).fails(REGISTRY, &[&address]);
}

#[test]
fn an_output_that_cannot_be_written() {
    let test = Test::new("FROM busybox\n");
    let destination = test.beside("no/such/folder/image.tar");
    test.run(&["-o", &format!("type=oci,dest={}", text(&destination))]).fails(BUILD, &["no/such/folder"]);
}

#[test]
fn a_failed_build_writes_no_output() {
    let test = Test::new("FROM busybox\nRUN exit 1\n");
    let archive = test.beside("image.tar");
    test.run(&["-o", &format!("type=oci,dest={}", text(&archive))]).fails(BUILD, &[]);
    assert!(!archive.exists());
}
