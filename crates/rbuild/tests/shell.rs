//! Shells in failed and in cached steps, at a terminal of the test's own.

use std::process::Stdio;

use crate::common::{Run, Test, text, typed};

const FAILING: &str = "FROM busybox AS first\nENV A=b\nWORKDIR /work\nRUN echo made > /work/made\n\
     FROM first AS second\nUSER alice\nARG C=d\n\
     RUN --mount=type=cache,target=/cache,mode=0777 --mount=type=secret,id=word,env=WORD touch /tmp/left 2>/dev/null; echo $$ > /dev/shm/x; \
     echo kept > /cache/kept; false\n";

/// rbuild on the test's context, where `CONTEXT` stands.
fn at_terminal(test: &Test, command: &str, keys: &[(&str, &str)]) -> String {
    typed(test, &command.replace("CONTEXT", text(&test.context())), keys)
}

#[track_caller]
fn shows(shown: &str, expected: &[&str]) {
    for text in expected {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }
}

#[test]
fn a_shell_opens_where_a_run_failed() {
    let test = Test::new(FAILING);
    std::fs::write(test.beside("word"), "hush").unwrap();
    let command =
        format!("rbuild --on-error shell --secret id=word,src={} CONTEXT", text(&test.beside("word")));
    let keys = "id -un; pwd; echo $A-$C-$WORD; cat made /cache/kept; tty; stty size; echo more > /cache/more; exit 3\n";
    let shown = at_terminal(&test, &command, &[("/work $ ", keys)]);
    shows(&shown, &["a shell where [second 1/1] failed", "`exit` leaves it"]);
    shows(&shown, &["\nalice\n/work\nb-d-hush\nmade\nkept\n/dev/pts/0\n33 101\n"]);
    // The build has failed as ever, and the cache mount is the real one.
    shows(&shown, &["did not complete successfully: exit code: 1", "code 1"]);
    let shown = at_terminal(&test, &command, &[("/work $ ", "cat /cache/more; exit\n")]);
    shows(&shown, &["\nmore\n"]);
}

#[test]
fn what_a_failed_run_left_is_kept_to_be_entered() {
    let test =
        Test::new("FROM busybox\nENV A=b\nWORKDIR /work\nUSER alice\nRUN echo left > /home/left; exit 9\n");
    test.dockerfile("FROM busybox\nRUN chown alice /home\nENV A=b\nWORKDIR /work\nUSER alice\nRUN echo left > /home/left; exit 9\n");
    let failed = test.run(&["--keep-failed"]);
    failed.fails(1, &["exit code: 9", "the failed step is kept: look around in it with `rbuild shell "]);
    let (_, after) = failed.stderr.split_once("`rbuild shell ").unwrap();
    let (name, _) = after.split_once('`').unwrap();
    for command in ["rbuild shell".to_owned(), format!("rbuild shell {name}")] {
        let shown = at_terminal(
            &test,
            &command,
            &[("$ ", "id -un; pwd; echo $A; cat /home/left; rm /home/left; exit 4\n")],
        );
        shows(&shown, &["a shell at [4/4]", "\nalice\n/work\nb\nleft\n", "code 4"]);
    }
    // Neither a hit nor an image came of it.
    test.run(&[]).fails(1, &["exit code: 9"]);
    shows(&at_terminal(&test, "rbuild shell nothing", &[]), &["there is no kept step `nothing`", "code 2"]);
}

#[test]
fn any_step_can_be_entered() {
    let test = Test::new(
        "FROM busybox AS one\nRUN echo 1 > /one\nRUN echo 2 > /two\nFROM one\nRUN echo 3 > /three\n",
    );
    test.run(&[]).succeeds();
    let list = "echo $(cd /; ls -d one two three); exit\n";
    for (step, there) in [
        ("one:1", "\n\n"),
        ("one:2", "\none\n"),
        ("one:3", "\none two\n"),
        ("stage-1:1", "\none three two\n"),
    ] {
        let shown = at_terminal(&test, &format!("rbuild shell --at {step} CONTEXT 2>&1"), &[("# ", list)]);
        let without_complaints: String =
            shown.lines().filter(|line| !line.starts_with("ls: ")).map(|line| format!("{line}\n")).collect();
        shows(&without_complaints, &[there, "code 0"]);
        if step != "one:1" {
            shows(&shown, &[&format!("a shell at [{}", step.replace(':', " "))]);
        }
    }
    let shown = at_terminal(&test, "rbuild shell --at one:9 CONTEXT", &[]);
    shows(&shown, &["there is no step 9 in that stage", "--at build:3", "code 2"]);
}

#[test]
fn without_a_terminal_a_shell_is_refused() {
    let test = Test::new(FAILING);
    test.run(&["--on-error=shell"]).fails(2, &["could not open a shell", "no terminal", "--keep-failed"]);
    for arguments in [&["shell"][..], &["shell", "--at", "first:1", "."]] {
        let run = Run::of(test.command().args(arguments).stdin(Stdio::null()));
        run.fails(2, &["could not open a shell", "no terminal"]);
    }
}
