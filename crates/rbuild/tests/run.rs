//! Containers: run, looked at, spoken to, stopped, removed.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Place, Running, alive, text, typed};

#[test]
fn a_command_runs_and_its_exit_code_is_ours() {
    let place = Place::new();
    let run = place.rbuild(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((run.code, run.said()), (7, "out"), "{}", run.stderr);
    assert!(run.stderr.ends_with("err\n"), "{}", run.stderr);
    // The image is here now; nothing of the container is.
    let again = place.rbuild(&["run", "--rm", "--pull", "never", "busybox", "sh", "-c", "kill -9 $$"]);
    assert_eq!((again.code, &*again.stderr), (137, ""));
    assert_eq!(place.printed(&["ps", "-aq"]), "");
    assert_eq!(place.0.stored("tmp"), [""; 0]);
    place.rbuild(&["run", "busybox", "no-such-program"]).fails(127, &["no-such-program", "not found"]);
    place.rbuild(&["run", "busybox", "/etc/passwd"]).fails(126, &["/etc/passwd", "permission denied"]);
    place.rbuild(&["run", "busybox", "/etc"]).fails(126, &["is a directory"]);
    place.rbuild(&["run", "--pull", "never", "nothing"]).fails(125, &["nothing"]);
    place.rbuild(&["run", "--no-such-option", "busybox"]).fails(125, &["--no-such-option"]);
    assert_eq!(place.printed(&["ps", "-aq"]), "", "what was not started leaves nothing");
}

#[test]
fn the_image_says_what_runs_and_options_say_otherwise() {
    let place = Place::with(
        "FROM busybox\nENV A=image B=image\nWORKDIR /work\nUSER alice\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"cmd\"]\n",
    );
    let run = |arguments: &[&str]| place.printed(&[&["run", "--rm"], arguments].concat());
    assert_eq!(run(&["app"]), "entry cmd");
    assert_eq!(run(&["app", "-x", "--rm"]), "entry -x --rm");
    assert_eq!(run(&["--entrypoint", "id", "app", "-u"]), "1000");
    assert_eq!(run(&["--entrypoint", "pwd", "app"]), "/work");
    assert_eq!(run(&["--entrypoint", "id", "-u", "0:50", "app", "-g"]), "50");
    fs::write(place.0.beside("env"), "# comment\n\nB=file\nC=file\n").unwrap();
    let env = place.0.beside("env");
    let line = "echo $A $B $C $D $HOME $HOSTNAME; pwd";
    let said = run(&[
        "--entrypoint",
        "sh",
        "--env-file",
        text(&env),
        "-e",
        "C=given",
        "-e",
        "D=x y",
        "-h",
        "box",
        "-w",
        "/new/place",
        "app",
        "-c",
        line,
    ]);
    assert_eq!(said, "image file given x y /home/alice box\n/new/place");
    place.rbuild(&["run", "--rm", "-u", "nobody-here", "app"]).fails(125, &["nobody-here"]);
    place.rbuild(&["run", "-e", "=x", "app"]).fails(125, &["=x"]);
    place.rbuild(&["run", "-w", "here", "app"]).fails(125, &["absolute"]);
    place.rbuild(&["run", "--network", "fast", "app"]).fails(125, &["fast", "private"]);
}

#[test]
fn files_are_shown_kept_and_thrown_away() {
    let place = Place::new();
    let shared = place.0.beside("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("in"), "from here\n").unwrap();
    let volume = format!("{}:/shared", shared.display());
    let run = |arguments: &[&str]| place.rbuild(&[&["run", "--rm"], arguments].concat());
    run(&["-v", &volume, "busybox", "sh", "-c", "cat /shared/in; echo back > /shared/out"]).succeeds();
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "back\n");
    let read_only = format!("{volume}:ro");
    let refused = run(&["-v", &read_only, "busybox", "touch", "/shared/new"]);
    refused.fails(1, &["Read-only"]);
    run(&["-v", "name:/shared", "busybox"]).fails(125, &["name", "no named volumes"]);
    // What is written elsewhere is not there the next time.
    run(&["busybox", "sh", "-c", "echo x > /new"]).succeeds();
    run(&["busybox", "cat", "/new"]).fails(1, &["No such file"]);
    let line = "touch /new; touch /mem/new && touch /shared/new && touch /dev/shm/new && echo z > /etc/hosts && ls /mem";
    let run = run(&["--read-only", "--tmpfs", "/mem", "-v", &volume, "busybox", "sh", "-c", line]);
    assert_eq!(run.succeeds().said(), "new");
    assert!(run.stderr.contains("Read-only file system"), "{}", run.stderr);
}

#[test]
fn rights_are_dockers_unless_asked_otherwise() {
    let place = Place::new();
    let rights = |options: &[&str]| {
        let command = ["busybox", "grep", "CapEff", "/proc/self/status"];
        place
            .printed(&[&["run", "--rm"], options, &command[..]].concat())
            .split_whitespace()
            .last()
            .unwrap()
            .to_owned()
    };
    assert_eq!(rights(&[]), "00000000a80425fb");
    assert_eq!(rights(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), "0000000000000001");
    place.rbuild(&["run", "--cap-add", "FLY", "busybox"]).fails(125, &["FLY"]);
}

#[test]
fn input_is_passed_on_when_asked_for() {
    let place = Place::new();
    place.rbuild(&["pull", "busybox"]).succeeds();
    let with_input = |arguments: &[&str]| {
        let mut child = place.0.command();
        child.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        // One who does not read it is no fault.
        let _ = child.stdin.take().unwrap().write_all(&vec![b'x'; 3 << 20]);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(with_input(&["run", "--rm", "-i", "busybox", "wc", "-c"]), (3 << 20).to_string());
    assert_eq!(with_input(&["run", "--rm", "busybox", "wc", "-c"]), "0");
    place.printed(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]);
    assert_eq!(with_input(&["exec", "-i", "other", "wc", "-c"]), (3 << 20).to_string());
    place.rbuild(&["run", "-it", "busybox"]).fails(125, &["not a terminal"]);
}

#[test]
fn a_container_is_left_to_itself_looked_at_stopped_and_removed() {
    let place = Place::with("FROM busybox\nSTOPSIGNAL USR1\n");
    let script = "trap 'echo bye; exit 3' USR1; echo out; echo err >&2; printf unfinished; while :; do sleep 0.05; done";
    let id = place.printed(&["run", "-d", "--name", "web", "-l", "team=x", "app", "sh", "-c", script]);
    assert_eq!(id.len(), 64);
    let known = place.known("web");
    assert_eq!((&known["State"], &known["Image"]), (&"running".into(), &"app".into()));
    assert_eq!(known["Labels"], "team=x");
    assert!(known["Status"].as_str().unwrap().starts_with("Up "), "{known}");
    place.until("it has written", || place.printed(&["logs", "web"]).contains("unfinished"));
    let logs = place.rbuild(&["logs", &id[..8]]);
    assert_eq!((logs.said(), &*logs.stderr), ("out\nunfinished", "err\n"));
    let clash = place.rbuild(&["run", "-d", "--name", "web", "app"]);
    clash
        .fails(125, &["the container name `web` is already in use by container", &id[..12], "rbuild rm web"]);
    place.rbuild(&["rm", "web"]).fails(1, &["web", "running", "-f"]);
    place.rbuild(&["rmi", "app"]).fails(1, &["app", "web", "running"]);
    let mut follower = Running::of(place.0.command().args(["logs", "-f", "web"]));
    follower.wait_for("err");
    assert_eq!(place.printed(&["stop", "web"]), "web");
    let followed = follower.end();
    assert_eq!((followed.code, followed.said()), (0, "out\nunfinishedbye"));
    let known = place.known("web");
    assert_eq!((&known["State"], &known["ExitCode"]), (&"exited".into(), &3.into()));
    assert!(known["Status"].as_str().unwrap().starts_with("Exited (3) "), "{known}");
    assert_eq!(place.printed(&["wait", "web"]), "3");
    assert_eq!(place.printed(&["ps", "-q"]), "");
    assert_eq!(place.printed(&["logs", "-n", "2", "web"]), "unfinishedbye");
    assert_eq!(place.printed(&["rm", "web"]), "web");
    place.rbuild(&["logs", "web"]).fails(1, &["no such container: `web`"]);
    place.rbuild(&["rmi", "app"]).succeeds();
}

#[test]
fn who_does_not_end_is_killed() {
    let place = Place::new();
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    place.printed(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", deaf]);
    place.until("it is ready", || place.printed(&["logs", "deaf"]) == "ready");
    place.printed(&["stop", "-t", "0", "deaf"]);
    assert_eq!(place.known("deaf")["ExitCode"], 137);
    let listens = "trap 'echo heard' USR2; echo ready; while :; do sleep 0.05; done";
    place.printed(&["run", "-d", "--rm", "--name", "listens", "busybox", "sh", "-c", listens]);
    place.until("it is ready", || place.printed(&["logs", "listens"]) == "ready");
    place.printed(&["kill", "-s", "USR2", "listens"]);
    place.until("it has heard", || place.printed(&["logs", "listens"]).ends_with("heard"));
    place.rbuild(&["kill", "-s", "NOPE", "listens"]).fails(2, &["NOPE"]);
    place.printed(&["kill", "listens"]);
    place.rbuild(&["kill", "listens"]).fails(1, &["no such container"]);
    place.rbuild(&["kill", "deaf"]).fails(1, &["deaf", "not running"]);
}

#[test]
fn signals_reach_the_command() {
    let place = Place::new();
    let script = "trap 'exit 9' INT; echo ready >&2; while :; do sleep 0.05; done";
    // No other process stands between.
    let mut command = Command::new(crate::common::RBUILD);
    command.arg("--root").arg(place.0.store()).env_clear().stdin(Stdio::null());
    command
        .env("CONTAINERS_REGISTRIES_CONF", place.0.beside("registries.conf"))
        .env("HOME", place.0.beside("home"));
    let mut running = Running::of(command.args(["run", "--rm", "busybox", "sh", "-c", script]));
    running.wait_for("ready");
    running.signal(Signal::SIGINT);
    assert_eq!(running.end().code, 9);
}

#[test]
fn what_is_written_to_dev_stdout_is_in_the_log() {
    let place = Place::new();
    let script = "echo one > /dev/stdout; echo two > /proc/self/fd/2; head -c 300000 /dev/zero | tr '\\0' x";
    for user in ["root", "alice"] {
        place.printed(&["run", "-d", "--name", user, "-u", user, "busybox", "sh", "-c", script]);
        assert_eq!(place.printed(&["wait", user]), "0");
        let logs = place.rbuild(&["logs", user]);
        assert_eq!((logs.said().len(), &*logs.stderr), (300_004, "two\n"), "{user}");
    }
}

#[test]
fn orphans_are_reaped() {
    let place = Place::new();
    let script = "(sleep 0.01 & sleep 0.01 &); sleep 0.3; ps -o stat,args | grep -c '^Z'";
    let run = place.rbuild(&["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(run.said(), "0", "{}", run.stderr);
}

#[test]
fn health_is_watched() {
    let place = Place::with(
        "FROM busybox\nHEALTHCHECK --interval=50ms --retries=2 CMD test -e /well || { echo ill; exit 5; }\n",
    );
    place.printed(&["run", "-d", "--name", "patient", "app", "sleep", "1000"]);
    let health = || place.known("patient")["Health"].as_str().unwrap().to_owned();
    place.until("it is unwell", || health() == "unhealthy");
    assert_eq!(place.known("patient")["HealthOutput"], "ill\n");
    assert!(place.printed(&["ps"]).contains("(unhealthy)"));
    place.printed(&["exec", "patient", "touch", "/well"]);
    place.until("it is well", || health() == "healthy");
    place.printed(&["run", "-d", "--name", "left", "--no-healthcheck", "app", "sleep", "1000"]);
    assert_eq!(place.known("left")["Health"], Value::Null);
}

#[test]
fn a_health_check_that_hangs_has_failed() {
    let place =
        Place::with("FROM busybox\nHEALTHCHECK --interval=50ms --timeout=100ms --retries=1 CMD sleep 4321\n");
    place.printed(&["run", "-d", "--name", "patient", "app", "sleep", "1000"]);
    place.until("it is unwell", || place.known("patient")["Health"] == "unhealthy");
    assert!(place.known("patient")["HealthOutput"].as_str().unwrap().contains("longer than 0.1 s"));
    place.printed(&["rm", "-f", "patient"]);
    assert_eq!(alive("sleep 4321"), [""; 0]);
}

#[test]
fn other_commands_run_inside() {
    let place = Place::new();
    place.printed(&["run", "-d", "--name", "box", "-e", "A=b", "-h", "box", "busybox", "sleep", "1000"]);
    let line = "echo $A $C $HOME; hostname; id -u; pwd; echo err >&2; exit 6";
    let run = place.rbuild(&["exec", "-e", "C=d", "-w", "/tmp", "-u", "alice", "box", "sh", "-c", line]);
    assert_eq!((run.code, run.said()), (6, "b d /home/alice\nbox\n1000\n/tmp"), "{}", run.stderr);
    assert_eq!(run.stderr, "err\n");
    place.rbuild(&["exec", "box", "no-such-program"]).fails(127, &["no-such-program"]);
    // Its processes are those of the container, and nothing else's.
    let processes = place.printed(&["exec", "box", "ps", "-o", "args"]);
    assert!(processes.contains("sleep 1000") && !processes.contains("cargo"), "{processes}");
    place.printed(&["stop", "-t", "1", "box"]);
    place.rbuild(&["exec", "box", "true"]).fails(1, &["box", "not running"]);
}

#[track_caller]
fn shows(shown: &str, expected: &[&str]) {
    for text in expected {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }
}

#[test]
fn a_terminal_is_a_terminal() {
    let place = Place::new();
    place.rbuild(&["pull", "busybox"]).succeeds();
    let shown =
        typed(&place.0, "rbuild run --rm -it busybox sh", &[("# ", "tty; stty size; echo $TERM; exit 5\n")]);
    shows(&shown, &["\n/dev/pts/0\n", "\n33 101\n", "\nxterm\n", "code 5"]);
    // Ctrl-C is a key here: it interrupts what runs in the terminal, not us.
    let command =
        "rbuild run --rm -it busybox sh -c 'trap \"echo heard; exit 8\" INT; echo ready; sleep 1000'";
    shows(&typed(&place.0, command, &[("ready", "\u{3}")]), &["heard", "code 8"]);
    place.printed(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let shown = typed(&place.0, "rbuild exec -it box sh", &[("# ", "tty; stty size; exit 4\n")]);
    shows(&shown, &["\n/dev/pts/0\n", "\n33 101\n", "code 4"]);
    // Ours is as it was.
    let shown = typed(&place.0, "rbuild run --rm -it busybox true; stty -a", &[]);
    shows(&shown, &[" icanon", " echo "]);
    // Nobody has to be there: what it shows is in the log.
    place.printed(&["run", "-dt", "--name", "shown", "busybox", "tty"]);
    place.printed(&["wait", "shown"]);
    assert_eq!(place.printed(&["logs", "shown"]), "/dev/pts/0");
}

#[test]
fn a_killed_monitor_leaves_nothing() {
    let place = Place::with("FROM busybox\nRUN echo layer > /layer\n");
    let id = place.printed(&["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "app", "sleep", "7654"]);
    // A collection in between takes nothing that it stands on.
    place.printed(&["prune", "--all", "--force"]);
    assert_eq!(place.printed(&["exec", "web", "cat", "/layer"]), "layer");
    let monitors = alive(&format!("container-monitor {id}"));
    let pids = monitors.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap());
    // The first is the parent of init and of what carries the network.
    kill(Pid::from_raw(pids.min().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(alive("sleep 7654"), [""; 0]);
    assert_eq!(alive(&format!("container-monitor {id}")), [""; 0]);
    let known = place.known("web");
    assert_eq!((&known["State"], &known["ExitCode"]), (&"dead".into(), &137.into()));
    assert_eq!(place.printed(&["wait", "web"]), "137");
    place.printed(&["rm", "web"]);
    // Opened since, the store has swept what the container wrote.
    assert_eq!(place.0.stored("tmp"), [""; 0]);
}
