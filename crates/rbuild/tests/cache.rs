//! What a second build does not do again.

use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::Test;

/// Four steps: two before the sources are copied, the copy, one after it.
const APP: &str = "FROM busybox\nWORKDIR /app\nRUN echo tools > tools\nCOPY src src\nRUN cat src/* > all\n";

fn app() -> Test {
    let test = Test::new(APP);
    test.file("src/main", "one");
    test.build(&[]);
    test
}

#[test]
fn nothing_changed_nothing_runs() {
    let test = app();
    let (_, again) = test.build_and_say(&[]);
    for step in ["WORKDIR", "RUN echo", "COPY src", "RUN cat"] {
        assert!(again.was_cached(step), "{step} ran again:\n{}", again.stderr);
    }
}

#[test]
fn a_touched_file_is_an_unchanged_file() {
    let test = app();
    let file = std::fs::File::options().write(true).open(test.context().join("src/main")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    let (_, again) = test.build_and_say(&[]);
    assert!(again.was_cached("COPY src") && again.was_cached("RUN cat"));
}

#[test]
fn a_changed_file_runs_from_its_copy_on() {
    let test = app();
    test.file("src/main", "two");
    let (image, again) = test.build_and_say(&[]);
    assert!(again.was_cached("WORKDIR") && again.was_cached("RUN echo"));
    assert!(!again.was_cached("COPY src") && !again.was_cached("RUN cat"));
    assert_eq!(image.text("/app/all"), "two");
}

#[test]
fn a_changed_mode_is_a_change() {
    let test = app();
    test.mode("src/main", 0o755);
    let (image, again) = test.build_and_say(&[]);
    assert!(!again.was_cached("COPY src"));
    assert_eq!(image.entry("/app/src/main").mode, 0o755);
}

#[test]
fn no_cache_runs_everything() {
    let test = app();
    let (_, again) = test.build_and_say(&["--no-cache"]);
    assert_eq!(again.cached(), 0, "{}", again.stderr);
}

#[test]
fn a_build_arg_counts_where_it_is_declared_and_used() {
    let test = Test::new("FROM busybox\nRUN touch /before\nARG VERSION=1\nRUN echo $VERSION > /after\n");
    test.build(&[]);
    let (image, again) = test.build_and_say(&["--build-arg", "VERSION=2"]);
    assert!(again.was_cached("RUN touch") && !again.was_cached("RUN echo"));
    assert_eq!(image.text("/after"), "2\n");
    let (image, back) = test.build_and_say(&[]);
    assert!(back.was_cached("RUN echo"), "the first build's result is still known");
    assert_eq!(image.text("/after"), "1\n");
}

#[test]
fn an_unchanged_artefact_of_a_changed_stage_stops_the_rebuild() {
    let dockerfile = |note: &str| {
        format!(
            "FROM busybox AS build\nRUN echo {note} > /note\nRUN echo same > /artefact\n\
                 FROM busybox\nCOPY --from=build /artefact /\nRUN date +%N > /stamp\n"
        )
    };
    let test = Test::new(&dockerfile("first"));
    let first = test.build(&[]);
    test.dockerfile(&dockerfile("second"));
    let (second, run) = test.build_and_say(&[]);
    assert!(!run.was_cached("echo second"));
    assert!(run.was_cached("date"), "{}", run.stderr);
    assert_eq!(first.text("/stamp"), second.text("/stamp"));
}

#[test]
fn a_cached_build_gives_the_same_image() {
    let test = app();
    let (first, second) = (test.build(&[]), test.build(&[]));
    assert_eq!(first.digest, second.digest);
}

#[test]
fn two_builds_share_a_store_at_one_time() {
    let test = Test::new("FROM busybox\nRUN sleep 1 && touch /x\nARG WHO\nRUN echo $WHO > /who\n");
    thread::scope(|scope| {
        for who in ["one", "two", "three"] {
            let test = &test;
            scope.spawn(move || {
                let archive = test.beside(who);
                let output = format!("type=oci,dest={}", archive.display());
                test.run(&["--build-arg", &format!("WHO={who}"), "-o", &output]).succeeds();
                let image = crate::common::Image::read(&archive);
                assert_eq!(image.text("/who"), format!("{who}\n"));
            });
        }
    });
}
