//! Nothing outlives the command, the switch or rbuild.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_executor::{Cancel, ExitReport, Stream, enter, run};

use crate::ROLE;
use crate::fixture::{Box, Test, run_spec, shell};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("a_background_process_does_not_hold_us", a_background_process_does_not_hold_us),
        ("orphans_are_reaped", orphans_are_reaped),
        ("cancel_ends_it_at_once", cancel_ends_it_at_once),
        ("cancelled_before_it_starts", cancelled_before_it_starts),
        ("kill_9_of_the_parent_leaves_no_process", kill_9_of_the_parent_leaves_no_process),
        ("a_held_lock_lasts_as_long_as_the_tree", a_held_lock_lasts_as_long_as_the_tree),
        ("many_at_once", many_at_once),
    ]
}

/// Processes of the whole machine with this word in their command line.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.filter(|l| String::from_utf8_lossy(l).split('\0').any(|part| part == word)).count()
}

fn a_background_process_does_not_hold_us() {
    let start = Instant::now();
    let ran = shell("(sleep 98765 &) ; nohup sleep 98765 >/tmp/x & echo done");
    assert_eq!((ran.report, ran.stdout.as_str()), (ExitReport::Exited(0), "done\n"), "{ran:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(processes("98765"), 0);
}

fn orphans_are_reaped() {
    let ran = shell("for i in 1 2 3; do (true & ) ; done; sleep 0.3; cat /proc/[0-9]*/stat | grep -c ') Z '");
    assert_eq!(ran.stdout, "0\n", "{ran:?}");
}

fn cancel_ends_it_at_once() {
    let sandbox = Box::new();
    let cancel = Cancel::new().unwrap();
    let switch = cancel.clone();
    let spec = sandbox.spec(&["sh", "-c", "trap '' TERM INT; echo up; while :; do sleep 87654; done"]);
    let start = Instant::now();
    let mut sink = |_: Stream, bytes: &[u8]| {
        if bytes.starts_with(b"up") {
            switch.cancel();
        }
    };
    assert_eq!(run(&spec, &mut sink, &cancel).unwrap(), ExitReport::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(processes("87654"), 0);
}

fn cancelled_before_it_starts() {
    let mut sandbox = Box::new();
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let report = run(&sandbox.spec(&["touch", "/x"]), &mut |_, _: &[u8]| {}, &cancel).unwrap();
    assert_eq!(report, ExitReport::Cancelled);
    assert!(sandbox.upper().is_empty());
}

fn kill_9_of_the_parent_leaves_no_process() {
    let word = format!("7{}", std::process::id());
    // By its own link: another user may have no way to the folder it lies in.
    let mut command = Command::new("/proc/self/exe");
    // It can't clean up after itself.
    let directory = crate::fixture::directory();
    command.env("EXECUTOR_TEST_DIRECTORY", directory.path());
    command.env(ROLE, "victim").env("EXECUTOR_TEST_WORD", &word).stdout(Stdio::piped());
    let mut victim = Victim(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(victim.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    wait_until("the sandbox does not run", || processes(&word) >= 2);
    victim.0.kill().unwrap();
    victim.0.wait().unwrap();
    wait_until("the sandbox outlived its parent", || processes(&word) == 0);
}

fn wait_until(complaint: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{complaint}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Killed also when the test fails before it comes to that.
struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process that the test kills: runs a sandbox that never ends.
pub(crate) fn victim() -> ExitCode {
    use std::io::Write;
    crate::fixture::remember(enter(rbuild_executor::Isolation::Auto).expect("enter"));
    let word = std::env::var("EXECUTOR_TEST_WORD").expect("a word");
    let sandbox = Box::new();
    let line = format!("echo up; sleep {word} & sleep {word}");
    let mut stdout = std::io::stdout();
    let mut sink = |_: Stream, bytes: &[u8]| stdout.write_all(bytes).and_then(|()| stdout.flush()).unwrap();
    let _ = run(&sandbox.spec(&["sh", "-c", &line]), &mut sink, &Cancel::new().unwrap());
    ExitCode::FAILURE
}

fn a_held_lock_lasts_as_long_as_the_tree() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lock: OwnedFd = file.reopen().unwrap().into();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let other = file.reopen().unwrap();
    let taken = || rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "echo up; sleep 0.3"]);
    spec.held = vec![Arc::new(lock)];
    let mut during = Vec::new();
    run(&spec, &mut |_, _: &[u8]| during.push(taken()), &Cancel::new().unwrap()).unwrap();
    assert_eq!(during, [false]);
    drop(spec);
    // A sandbox that another test starts at this moment has it until it has closed what is not its own.
    wait_until("the lock outlived the sandbox", taken);
}

fn many_at_once() {
    std::thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                let sandbox = Box::new();
                for _ in 0..1 {
                    let ran = run_spec(&sandbox.spec(&["sh", "-c", &format!("echo {n}; exit {n}")]));
                    assert_eq!((ran.report, ran.stdout), (ExitReport::Exited(n), format!("{n}\n")));
                }
            });
        }
    });
}
