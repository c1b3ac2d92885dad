//! A command that is not alone: with input, at a terminal, in a network that others have a way into.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

use rbuild_executor::{
    Cancel, ExitReport, Network, NetworkNamespace, OutputSink, Sandbox, Stream, WindowSize, run,
};

use crate::fixture::{Box, Test, chain, run_spec};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("input_is_what_it_is_given", input_is_what_it_is_given),
        ("a_terminal_of_its_own", a_terminal_of_its_own),
        ("only_a_program_that_runs_has_started", only_a_program_that_runs_has_started),
        ("signals_reach_the_command", signals_reach_the_command),
        ("a_root_that_refuses_writes", a_root_that_refuses_writes),
        ("a_network_that_was_there_before", a_network_that_was_there_before),
    ]
}

fn input_is_what_it_is_given() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["cat"]);
    let (reading, mut writing) = std::io::pipe().unwrap();
    writing.write_all(b"typed before\n").unwrap();
    drop(writing);
    spec.stdin = Some(Arc::new(reading.into()));
    assert_eq!(run_spec(&spec).stdout, "typed before\n");
}

/// Does something when the command runs, and keeps what it shows.
struct Watcher<F> {
    started: F,
    shown: String,
}

impl<F: FnMut(&Sandbox)> OutputSink for Watcher<F> {
    fn output(&mut self, _stream: Stream, bytes: &[u8]) {
        self.shown += &String::from_utf8_lossy(bytes);
    }

    fn started(&mut self, sandbox: &Sandbox) {
        (self.started)(sandbox);
    }
}

fn a_terminal_of_its_own() {
    let sandbox = Box::new();
    // It reads what is typed after the change of size.
    let line = "tty; read line; busybox stty size; echo got $line";
    let mut spec = sandbox.spec(&["sh", "-c", line]);
    (spec.uid, spec.gid) = (1500, 1501);
    if !crate::fixture::has_other_ids("a_terminal_of_its_own as another user") {
        (spec.uid, spec.gid) = (0, 0);
    }
    spec.terminal = Some(WindowSize { columns: 80, rows: 24 });
    let started = |sandbox: &Sandbox| {
        assert!(sandbox.has_terminal());
        sandbox.resize(WindowSize { columns: 101, rows: 33 });
        sandbox.type_in(b"a line\n").unwrap();
    };
    let mut watcher = Watcher { started, shown: String::new() };
    let report =
        run(&spec, &mut watcher, &Cancel::new().unwrap()).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(report, ExitReport::Exited(0), "{}", watcher.shown);
    let shown = watcher.shown.replace('\r', "");
    for expected in ["/dev/pts/0\n", "33 101\n", "got a line\n"] {
        assert!(shown.contains(expected), "no {expected:?} in {shown:?}");
    }
}

fn only_a_program_that_runs_has_started() {
    for (argv, expected) in [(&["true"][..], 1), (&["no-such-thing"], 0), (&["/etc/passwd"], 0)] {
        let (sandbox, count) = (Box::new(), Mutex::new(0));
        let mut watcher =
            Watcher { started: |_: &Sandbox| *count.lock().unwrap() += 1, shown: String::new() };
        run(&sandbox.spec(argv), &mut watcher, &Cancel::new().unwrap()).unwrap();
        drop(watcher);
        assert_eq!(*count.lock().unwrap(), expected, "{argv:?}");
    }
}

fn signals_reach_the_command() {
    let sandbox = Box::new();
    // A shell without a trap would not wait for a signal that came before it could set one.
    let spec = sandbox.spec(&["sleep", "1000"]);
    let mut watcher = Watcher { started: |sandbox: &Sandbox| sandbox.signal(12), shown: String::new() };
    let report = run(&spec, &mut watcher, &Cancel::new().unwrap()).unwrap();
    assert_eq!(report, ExitReport::Signaled(12));
}

fn a_root_that_refuses_writes() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "touch /new; touch /dev/shm/new && echo kept apart"]);
    spec.read_only = true;
    let ran = run_spec(&spec);
    assert_eq!(ran.stdout, "kept apart\n");
    assert!(ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
}

fn a_network_that_was_there_before() {
    let namespace = Arc::new(NetworkNamespace::new().unwrap());
    let path = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
    let name = std::fs::read_link(path).unwrap();
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "readlink /proc/self/ns/net; ls /sys/class/net; ifconfig lo"]);
    spec.network = Network::Joined(namespace.clone());
    let ran = run_spec(&spec);
    assert!(ran.stdout.starts_with(&format!("{}\nlo\n", name.display())), "{}", ran.stdout);
    assert!(ran.stdout.contains("UP"), "{}", ran.stdout);
    // Another thread comes in, and only that one.
    let inside = std::thread::spawn(move || {
        namespace.join().unwrap();
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    });
    assert_eq!(inside.join().unwrap(), name);
    assert_ne!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), name);
}
