//! `SOURCE_DATE_EPOCH` by name: the build context, a named context, a stage.

use std::fs::{self, File};

use crate::common::{GitServer, Image, Run, Test, archive, commit, serve_dated, text, tool};

/// The Dockerfile or the context is at fault.
const BUILD: i32 = 1;
/// The command line is at fault.
const USAGE: i32 = 2;

/// What `Last-Modified` says of [`SERVED`].
const LAST_MODIFIED: Option<&str> = Some("Tue, 14 Nov 2023 22:13:20 GMT");
const SERVED: &str = "2023-11-14T22:13:20Z";
/// The files of `archive` are one second old.
const PACKED: &str = "1970-01-01T00:00:01Z";
/// A commit's time.
const COMMITTED: u64 = 1_000_000_000;
const COMMITTED_TEXT: &str = "2001-09-09T01:46:40Z";

/// A Dockerfile whose image tells what RUN saw.
const TELLING: &str =
    "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo \"${SOURCE_DATE_EPOCH-unset}\" > /seen\n";

/// A build of anything that is no folder beside the test; standard input comes from a file.
fn build_of(test: &Test, context: &str, arguments: &[&str]) -> Image {
    let output = format!("type=oci,dest={}", test.beside("image.tar").display());
    let mut command = test.command();
    let stdin = File::open(test.beside("stdin")).map_or_else(|_| std::process::Stdio::null(), Into::into);
    command.args(["--progress", "plain", "-o", &output]).args(arguments).arg(context).stdin(stdin);
    Run::of(&mut command).succeeds();
    Image::read(&test.beside("image.tar"))
}

fn created(image: &Image) -> &str {
    let history = image.config["history"].as_array().unwrap();
    assert_eq!(history.last().unwrap()["created"], image.config["created"]);
    image.config["created"].as_str().unwrap()
}

/// A repository with one commit, and its server.
fn repository(test: &Test, dockerfile: &str) -> (GitServer, String) {
    let repository = test.beside("repositories/r.git");
    fs::create_dir_all(repository.join("sub")).unwrap();
    tool("git", &["init", "-q", "-b", "main", text(&repository)]);
    fs::write(repository.join("Dockerfile"), dockerfile).unwrap();
    fs::write(repository.join("sub/f"), "x").unwrap();
    commit(&repository, COMMITTED);
    tool("git", &["-C", text(&repository), "update-server-info"]);
    let server = GitServer::of(&test.beside("repositories"));
    let address = format!("{}/r.git", server.address());
    (server, address)
}

const CONTEXT: [&str; 2] = ["--build-arg", "SOURCE_DATE_EPOCH=context"];

#[test]
fn a_git_context_dates_the_image_by_its_commit() {
    let test = Test::new("");
    let (_server, address) = repository(&test, TELLING);
    let image = build_of(&test, &address, &CONTEXT);
    assert_eq!((created(&image), image.text("/seen")), (COMMITTED_TEXT, "1000000000\n"));

    let default = format!("ARG SOURCE_DATE_EPOCH=context\n{TELLING}COPY sub/f /\n");
    fs::write(test.beside("repositories/r.git/Dockerfile"), default).unwrap();
    commit(&test.beside("repositories/r.git"), COMMITTED);
    let image = build_of(&test, &address, &[]);
    assert_eq!((created(&image), image.text("/seen")), (COMMITTED_TEXT, "1000000000\n"));
    assert!(
        image.entry("/f").mtime > COMMITTED,
        "the Dockerfile's wish says nothing of the checkout's times"
    );
    // Times are no part of a cache key.
    let again = [&["--no-cache"], &CONTEXT[..]].concat();
    let image = build_of(&test, &address, &again);
    assert_eq!(image.entry("/f").mtime, COMMITTED, "a build arg does");
    let image = build_of(&test, &format!("{address}?mtime=checkout"), &again);
    assert!(image.entry("/f").mtime > COMMITTED, "the address goes first");
}

#[test]
fn a_context_behind_a_url_has_the_servers_time_or_that_of_its_newest_file() {
    let packed = archive(&[("Dockerfile", TELLING)]);
    let server = serve_dated(vec![
        ("/dated.tar", packed.clone(), LAST_MODIFIED),
        ("/undated.tar", packed, None),
        ("/dated/Dockerfile", TELLING.into(), LAST_MODIFIED),
        ("/undated/Dockerfile", TELLING.into(), None),
    ]);
    let test = Test::new("");
    for (path, time, seen) in [
        ("dated.tar", SERVED, "1700000000\n"),
        ("undated.tar", PACKED, "1\n"),
        ("dated/Dockerfile", SERVED, "1700000000\n"),
    ] {
        let image = build_of(&test, &format!("{server}/{path}"), &CONTEXT);
        assert_eq!((created(&image), image.text("/seen")), (time, seen), "{path}");
    }
    let image = build_of(&test, &format!("{server}/undated/Dockerfile"), &CONTEXT);
    assert_eq!(image.text("/seen"), "unset\n");
    assert!(created(&image) > "2024", "nothing tells the time of such a file");
}

#[test]
fn an_archive_on_standard_input_has_the_time_of_its_newest_file() {
    let test = Test::new("");
    fs::write(test.beside("stdin"), archive(&[("Dockerfile", TELLING)])).unwrap();
    let image = build_of(&test, "-", &CONTEXT);
    assert_eq!((created(&image), image.text("/seen")), (PACKED, "1\n"));
}

#[test]
fn a_folder_has_no_time_and_leaves_the_arg_unset() {
    let test = Test::new(TELLING);
    let (image, run) = test.build_and_say(&CONTEXT);
    assert!(run.stderr.contains("`SOURCE_DATE_EPOCH=context` has no effect"), "{}", run.stderr);
    assert_eq!(image.text("/seen"), "unset\n");
    assert!(created(&image) > "2024");

    test.dockerfile(&format!("ARG SOURCE_DATE_EPOCH=context\n{TELLING}"));
    let (image, run) = test.build_and_say(&[]);
    assert!(!run.stderr.contains("has no effect"), "a Dockerfile may be for git as well: {}", run.stderr);
    assert_eq!(image.text("/seen"), "unset\n");
}

#[test]
fn named_contexts_date_the_image() {
    let test = Test::new("");
    let (_git, repository) = repository(&test, "");
    let server = serve_dated(vec![
        ("/dated.tar", archive(&[("f", "x")]), LAST_MODIFIED),
        ("/undated.tar", archive(&[("f", "x")]), None),
    ]);
    let text = format!("ARG SOURCE_DATE_EPOCH=src\n{TELLING}COPY --from=src / /src/\n");
    test.dockerfile(&text);
    for (place, time, file) in [
        (format!("{server}/dated.tar"), SERVED, "/src/f"),
        (format!("{server}/undated.tar"), PACKED, "/src/f"),
        (repository, COMMITTED_TEXT, "/src/sub/f"),
    ] {
        let (image, run) = test.build_and_say(&["--build-context", &format!("src={place}")]);
        assert_eq!(created(&image), time, "{place}");
        assert_eq!(image.text(file), "x", "{place}");
        let fetches = run.stderr.lines().filter(|line| line.contains("] [internal] ")).count();
        assert!(fetches <= 1, "what has a time is fetched once: {}", run.stderr);
    }
    // A reference that unpacks nothing by itself looks into the archive all the same.
    let strict = ["--strict-docker", "--build-context", &format!("src={server}/undated.tar")];
    let image = test.build(&strict);
    assert_eq!(created(&image), PACKED);
    assert!(image.has("/src/context"));
    // Folders and images have no time, and a stage of that name is not asked.
    test.dockerfile(&text.replace("FROM", "FROM scratch AS src\nCOPY a /\nFROM"));
    for place in [text_of(&test), "docker-image://busybox".to_owned()] {
        let image = test.build(&["--build-context", &format!("src={place}")]);
        assert_eq!(image.text("/seen"), "unset\n", "{place}");
    }
}

fn text_of(test: &Test) -> String {
    text(&test.context()).to_owned()
}

#[test]
fn a_stage_that_is_one_add_dates_the_image() {
    let test = Test::new("");
    let (_git, repository) = repository(&test, "");
    let server = serve_dated(vec![
        ("/dated.tar", archive(&[("f", "x")]), LAST_MODIFIED),
        ("/undated.tar", archive(&[("f", "x")]), None),
        ("/file", b"x".to_vec(), LAST_MODIFIED),
    ]);
    for (source, time) in [
        (format!("{server}/dated.tar"), SERVED),
        (format!("{server}/undated.tar"), PACKED),
        (format!("{server}/file"), SERVED),
        (repository.clone(), COMMITTED_TEXT),
        (format!("{repository}#main:sub"), COMMITTED_TEXT),
    ] {
        let from = if source.contains("/r.git") { "/" } else { "/*" };
        let stage = format!("FROM scratch AS Upstream\nARG URL={source}\nADD $URL /\n{TELLING}");
        test.dockerfile(&format!("{stage}COPY --from=upstream {from} /src/\n"));
        let given = ["--build-arg", "SOURCE_DATE_EPOCH=upstream"];
        assert_eq!(created(&test.build(&given)), time, "{source}");
        test.dockerfile(&format!("ARG SOURCE_DATE_EPOCH=upstream\n{stage}"));
        let image = test.build(&[]);
        assert_eq!(created(&image), time, "{source}, by the Dockerfile");
        let seconds = image.text("/seen").trim().parse::<i64>().unwrap();
        assert!(seconds > 0, "RUN sees the seconds");
        let given = test.build(&["--build-arg", "SOURCE_DATE_EPOCH=7"]);
        assert_eq!((created(&given), given.text("/seen")), ("1970-01-01T00:00:07Z", "7\n"));
        assert_eq!(test.build(&["--build-arg", "SOURCE_DATE_EPOCH="]).text("/seen"), "unset\n");
    }
}

#[test]
fn what_has_no_time_is_refused_with_its_place() {
    let server = serve_dated(vec![("/file", b"x".to_vec(), LAST_MODIFIED)]);
    let wrong = "0".repeat(64);
    let test = Test::new("");
    for (stage, words) in [
        ("FROM busybox AS time\nADD https://x.test/a /".to_owned(), "Dockerfile:2"),
        ("FROM scratch AS time\nCOPY a /".to_owned(), "unsupported COPY instruction"),
        ("FROM scratch AS time\nADD a /".to_owned(), "must be a single HTTP(S) or Git ADD"),
        ("FROM scratch AS time".to_owned(), "exactly one remote ADD"),
        (format!("FROM scratch AS time\nADD {server}/missing /"), "404"),
        (format!("FROM scratch AS time\nADD --checksum=sha256:{wrong} {server}/file /"), "digest mismatch"),
    ] {
        test.dockerfile(&format!("ARG SOURCE_DATE_EPOCH=time\n{stage}\nFROM scratch\n"));
        let run = test.run(&[]);
        assert_ne!(run.code, 0, "{stage}");
        assert!(run.stderr.contains(words) && run.stderr.contains("Dockerfile:"), "{stage}: {}", run.stderr);
    }
    test.dockerfile("ARG SOURCE_DATE_EPOCH=tme\nFROM scratch AS time\nADD https://x.test/a /\n");
    test.run(&[]).fails(BUILD, &["invalid SOURCE_DATE_EPOCH: tme", "Dockerfile:1", "did you mean `time`?"]);
    test.run(&["--check"]).fails(BUILD, &["invalid SOURCE_DATE_EPOCH: tme"]);
    test.run(&["--build-arg", "SOURCE_DATE_EPOCH=2024-01-01"])
        .fails(USAGE, &["invalid SOURCE_DATE_EPOCH: 2024-01-01", "git log -1 --format=%ct"]);
}

#[test]
fn the_environments_epoch_is_a_build_arg() {
    let test = Test::new(&format!("ARG SOURCE_DATE_EPOCH=5\n{TELLING}"));
    let output = format!("type=oci,dest={}", test.beside("image.tar").display());
    let mut command = test.command();
    command.env("SOURCE_DATE_EPOCH", "1700000000").args(["-o", &output]).arg(test.context());
    Run::of(&mut command).succeeds();
    let image = Image::read(&test.beside("image.tar"));
    assert_eq!((created(&image), image.text("/seen")), (SERVED, "1700000000\n"));
}
