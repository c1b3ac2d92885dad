//! `--memory` and its like: a control group of its own where that can be had, else one clear warning.

use crate::common::Test;

const NO_EFFECT: &str = "limits have no effect here: ";

/// Which of both it is, this machine decides.
#[test]
fn limits_hold_or_are_warned_of_once() {
    let test = Test::new(
        "FROM busybox\nRUN cat /sys/fs/cgroup/memory.max >/limit || true\nRUN cat /sys/fs/cgroup/cpu.max >>/limit || true\n",
    );
    let (image, run) = test.build_and_say(&["--memory", "64m", "--resource", "cpus=0.5"]);
    match run.stderr.matches(NO_EFFECT).count() {
        0 => assert_eq!(image.text("/limit"), "67108864\n50000 100000\n"),
        warnings => {
            assert_eq!(warnings, 1, "{}", run.stderr);
            let line = run.stderr.lines().find(|line| line.contains(NO_EFFECT)).unwrap();
            assert!(line.contains("systemd"), "the warning says what to ask for: {line}");
        }
    }
    let again = test.run(&["--memory", "32m"]);
    assert_eq!(again.succeeds().cached(), 2, "limits are no part of a key: {}", again.stderr);
}

#[test]
fn a_parent_that_is_not_there_is_warned_of() {
    let test = Test::new("FROM busybox\nRUN true\n");
    let run = test.run(&["--cgroup-parent", "/no/such/group"]);
    assert!(run.succeeds().stderr.contains(NO_EFFECT), "{}", run.stderr);
}

#[test]
fn senseless_limits_are_refused() {
    let test = Test::new("FROM scratch\n");
    for (arguments, why) in [
        (&["--memory", "much"][..], "`--memory much`"),
        (&["--memory-swap", "1g"], "add `--memory`"),
        (&["--resource", "colour=red"], "unknown key `colour`"),
        (&["--cpuset-cpus", "3-1"], "`3-1` is no list"),
    ] {
        test.run(arguments).fails(2, &[why]);
    }
}

/// Also of a container.
#[test]
fn containers_take_limits() {
    let test = Test::new("FROM busybox\n");
    test.run(&["-t", "app"]).succeeds();
    let run = crate::common::Run::of(test.command().args([
        "run",
        "--rm",
        "-m",
        "64m",
        "app",
        "cat",
        "/sys/fs/cgroup/memory.max",
    ]));
    assert!(run.stdout == b"67108864\n" || run.stderr.contains(NO_EFFECT), "{}", run.stderr);
}
