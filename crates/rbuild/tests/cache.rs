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
                 FROM busybox\nCOPY --from=build /artefact /\nRUN cat /proc/sys/kernel/random/uuid > /stamp\n"
        )
    };
    let test = Test::new(&dockerfile("first"));
    let first = test.build(&[]);
    test.dockerfile(&dockerfile("second"));
    let (second, run) = test.build_and_say(&[]);
    assert!(!run.was_cached("echo second"));
    assert!(run.was_cached("random/uuid"), "{}", run.stderr);
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

/// What `--explain` says of the step whose heading holds these words.
#[track_caller]
fn why(run: &crate::common::Run, step: &str) -> String {
    let (_, told) = run.stderr.split_once("\nCache:\n").unwrap_or_else(|| panic!("{}", run.stderr));
    let line = told.lines().find(|line| line.contains(step)).unwrap_or_else(|| panic!("no {step}: {told}"));
    match line.split_once(" → ") {
        Some((head, why)) if head.trim_start().starts_with("miss") => why.to_owned(),
        _ => line.trim_start()[..3].to_owned(),
    }
}

#[test]
fn the_cache_says_why_a_step_ran() {
    let dockerfile = |base: &str, command: &str| {
        format!(
            "FROM {base} AS base\nRUN echo base > /base\nFROM base AS app\nARG VERSION\nARG API_TOKEN\n\
             RUN echo {command} $VERSION > /v\nCOPY src src\nRUN cat src/* > /all\n"
        )
    };
    let test = Test::new(&dockerfile("busybox", "one"));
    test.file("src/main.js", "one");
    test.file("src/other.js", "other");
    let with = |version: &str, token: &str| {
        let (version, token) = (format!("VERSION={version}"), format!("API_TOKEN={token}"));
        test.run(&["--explain", "--target", "app", "--build-arg", &version, "--build-arg", &token])
    };
    let first = with("1.2", "t0p");
    assert_eq!(why(&first, "COPY src"), "it was not carried out here before");
    let same = with("1.2", "t0p");
    assert_eq!((why(&same, "COPY src"), why(&same, "RUN cat")), ("hit".to_owned(), "hit".to_owned()));

    let argument = with("1.3", "t0p");
    assert_eq!(why(&argument, "RUN echo one $VERSION"), "ARG VERSION 1.2 → 1.3");
    assert_eq!(why(&argument, "COPY src"), "a step before it changed");
    let secret = with("1.3", "s3cret");
    assert_eq!(why(&secret, "RUN echo one $VERSION"), "ARG API_TOKEN changed");
    assert!(!secret.stderr.contains("s3cret") && !secret.stderr.contains("t0p"), "{}", secret.stderr);

    test.file("src/main.js", "two");
    test.mode("src/other.js", 0o664);
    test.file("src/new.js", "");
    let files = with("1.3", "s3cret");
    assert_eq!(
        why(&files, "COPY src"),
        "src/main.js changed, src/new.js is new, src/other.js mode 0644 → 0664"
    );
    test.dockerfile(&dockerfile("busybox", "two"));
    assert_eq!(
        why(&with("1.3", "s3cret"), "RUN echo two $VERSION"),
        "the command `echo one $VERSION > /v` → `echo two $VERSION > /v`"
    );
    // Another base under the same name in the Dockerfile.
    test.dockerfile("FROM busybox\nRUN touch /moved\n");
    test.run(&["-t", "moved"]).succeeds();
    test.dockerfile(&dockerfile("moved", "two"));
    assert!(why(&with("1.3", "s3cret"), "RUN echo base").starts_with("base image moved: sha256:"));
}

#[test]
fn an_ordinary_build_says_why_of_the_first_step_that_ran() {
    let test = app();
    test.file("src/main", "two");
    let run = test.run(&[]);
    let told: Vec<&str> = run.stderr.lines().filter(|line| line.contains("not cached")).collect();
    assert_eq!(told.len(), 1, "{}", run.stderr);
    assert!(told[0].ends_with("not cached: src/main changed"), "{told:?}");
    assert!(!test.run(&[]).stderr.contains("not cached"));
}

#[test]
fn a_comment_keeps_a_step_from_the_cache() {
    let test = Test::new(
        "FROM busybox\n# rbuild: no-cache\nRUN cat /proc/sys/kernel/random/uuid > /always\n\
         FROM busybox\n# rbuild: max-age=1d\nRUN cat /proc/sys/kernel/random/uuid > /daily\n# rbuild: max-age=0s\nRUN cat /proc/sys/kernel/random/uuid > /old\n\
         COPY --from=0 /always /always\n",
    );
    test.build(&[]);
    std::thread::sleep(Duration::from_secs(1));
    let (_, again) = test.build_and_say(&["--explain"]);
    assert_eq!(why(&again, "/always"), "# rbuild: no-cache asks for it");
    assert_eq!(why(&again, "/daily"), "hit");
    assert_eq!(why(&again, "/old"), "the cached result is older than max-age allows");
    // To the reference these are comments.
    let (_, strict) = test.build_and_say(&["--strict-docker", "--explain"]);
    assert_eq!((why(&strict, "/always"), why(&strict, "/old")), ("hit".to_owned(), "hit".to_owned()));
    test.dockerfile("FROM busybox\n# rbuild: nocache\nRUN true\n");
    assert!(test.run(&[]).stderr.contains("line 2: `# rbuild: nocache` is not known"));
}

#[test]
fn a_stage_is_built_again_alone() {
    let test = Test::new(
        "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n\
         FROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n",
    );
    test.build(&[]);
    let (_, run) = test.build_and_say(&["--no-cache-filter", "One"]);
    assert!(!run.was_cached("RUN echo 1") && run.was_cached("RUN echo 2"), "{}", run.stderr);
    assert!(run.was_cached("COPY --from=one"), "what it made is the same: {}", run.stderr);
}

#[test]
fn a_secret_counts_where_it_is_asked_to() {
    let test = Test::new("FROM busybox\nRUN --mount=type=secret,id=k wc -c < /run/secrets/k > /n\n");
    let with = |value: &str, key: &str| {
        std::fs::write(test.beside("secret"), value).unwrap();
        let secret = format!("id=k,src={}{key}", test.beside("secret").display());
        let (_, run) = test.build_and_say(&["--explain", "--secret", &secret]);
        assert!(!run.stderr.contains(value));
        run
    };
    with("first-value", "");
    assert!(with("second-one", "").was_cached("wc -c"), "a secret is no part of the key by itself");
    assert_eq!(why(&with("second-one", ",cache-key=digest"), "wc -c"), "secret k is new");
    assert!(with("second-one", ",cache-key=digest").was_cached("wc -c"));
    assert_eq!(why(&with("third-value", ",cache-key=digest"), "wc -c"), "secret k changed");
    let grep = std::process::Command::new("grep")
        .args(["-rlE", "second-one|third-value"])
        .arg(test.store())
        .output()
        .unwrap();
    assert_eq!((grep.status.code(), grep.stdout), (Some(1), Vec::new()), "a secret was written down");
}

#[test]
fn records_are_listed_looked_at_and_removed() {
    let test = app();
    let rbuild = |arguments: &[&str]| crate::common::Run::of(test.command().args(arguments));
    let keys = |step: &str| -> Vec<String> {
        let list = rbuild(&["cache", "ls", "--format", "{{.Key}} {{.CreatedBy}}"]);
        let lines = list.succeeds().said().lines().filter(|line| line.contains(step)).map(str::to_owned);
        lines.map(|line| line[..64].to_owned()).collect()
    };
    assert!(rbuild(&["cache", "ls"]).said().contains("RUN echo tools > tools"));
    let key = &keys("COPY src")[0];
    let record: serde_json::Value =
        serde_json::from_str(rbuild(&["cache", "inspect", &key[..10]]).succeeds().said()).unwrap();
    assert_eq!(record["Key"], **key);
    assert!(record["Parts"].as_array().unwrap().iter().any(|part| part["Name"] == "source src"), "{record}");
    rbuild(&["cache", "inspect", "nothing"]).fails(1, &["no cache record has the key `nothing`"]);
    rbuild(&["cache", "verify", "--read-blobs"]).succeeds();
    assert_eq!(rbuild(&["cache", "rm", key]).succeeds().said(), key);
    let (_, again) = test.build_and_say(&[]);
    assert!(again.was_cached("RUN echo tools") && !again.was_cached("COPY src"), "{}", again.stderr);
    assert!(rbuild(&["cache", "prune", "--all"]).succeeds().said().contains("cache records"));
    assert_eq!(keys(""), Vec::<String>::new());
    assert_eq!(test.build_and_say(&[]).1.cached(), 0);
}

#[test]
fn a_build_keeps_the_limits_and_what_it_uses_itself() {
    let dockerfile = |name: &str| format!("FROM busybox\nRUN head -c 100000 /bin/busybox > /{name}\n");
    let test = Test::new(&dockerfile("one"));
    test.build(&[]);
    test.dockerfile(&dockerfile("two"));
    let (_, run) = test.build_and_say(&["--cache-max-size", "0"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    assert!(test.build_and_say(&[]).1.was_cached("/two"), "what the build itself used is gone");
    test.dockerfile(&dockerfile("one"));
    assert!(!test.build_and_say(&[]).1.was_cached("/one"), "what was beyond the limit is still there");
    test.run(&["--cache-max-age", "soon"]).fails(2, &["`soon` is no age"]);
}
