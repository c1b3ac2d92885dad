//! Starting, ending and reading a command.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rbuild_executor::{
    Cancel, ExitReport, OutsideCommand, Resource, Rlimit, SandboxSpec, Stream, enter, run, signal_name,
};

use crate::fixture::{Box, Test, has_other_ids, place, run_spec, shell};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("exit_codes_and_signals", exit_codes_and_signals),
        ("programs_that_cannot_start", programs_that_cannot_start),
        ("stdin_is_empty_and_streams_are_apart", stdin_is_empty_and_streams_are_apart),
        ("a_user_opens_the_streams_by_name", a_user_opens_the_streams_by_name),
        ("output_is_binary_safe", output_is_binary_safe),
        ("a_hundred_megabytes_stay_flat", a_hundred_megabytes_stay_flat),
        ("umask_and_limits", umask_and_limits),
        ("environment_is_exact", environment_is_exact),
        ("outside_runs_as_the_caller", outside_runs_as_the_caller),
        ("setup_can_be_printed", setup_can_be_printed),
    ]
}

fn exit_codes_and_signals() {
    assert_eq!(shell("exit 7").report, ExitReport::Exited(7));
    let ran = shell("kill -9 $$");
    assert_eq!(ran.report, ExitReport::Signaled(9));
    assert_eq!((signal_name(9).as_str(), ran.report.code()), ("SIGKILL", 137));
    assert_eq!(shell("kill -TERM $$").report, ExitReport::Signaled(15));
    assert_eq!(shell("kill -SEGV $$").report, ExitReport::Signaled(11));
}

fn programs_that_cannot_start() {
    let sandbox = || Box::new();
    for (argv, code, words) in [
        (&["no-such-thing"][..], 127, "exec: \"no-such-thing\": executable file not found in $PATH\n"),
        (&["/no/such"], 127, "exec: \"/no/such\": stat /no/such: no such file or directory\n"),
        (&["/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied\n"),
        (&["/etc"], 126, "exec: \"/etc\": is a directory\n"),
        (
            &["/etc/script"],
            127,
            "exec /etc/script: no such file or directory (the file is there: its interpreter or loader is missing)\n",
        ),
        (&[""], 127, "exec: \"\": executable file not found in $PATH\n"),
        (&[], 127, "exec: \"\": executable file not found in $PATH\n"),
    ] {
        let sandbox = sandbox();
        let ran = run_spec(&sandbox.spec(argv));
        assert_eq!((ran.report, ran.stderr.as_str()), (ExitReport::Exited(code), words), "{argv:?}");
    }
}

fn stdin_is_empty_and_streams_are_apart() {
    let ran = shell("cat; test -p /dev/stdin && echo out; cat /dev/stdin; echo err >&2");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

fn a_user_opens_the_streams_by_name() {
    let sandbox = Box::new();
    let mut spec =
        sandbox.spec(&["sh", "-c", "cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr"]);
    (spec.uid, spec.gid) = (33, 33);
    let ran = run_spec(&spec);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

fn output_is_binary_safe() {
    let sandbox = Box::new();
    let mut bytes = Vec::new();
    let spec = sandbox.spec(&["sh", "-c", "echo -ne '\\0\\xff\\xfe\\n\\0'"]);
    run(&spec, &mut |_, chunk: &[u8]| bytes.extend_from_slice(chunk), &Cancel::new().unwrap()).unwrap();
    assert_eq!(bytes, b"\0\xff\xfe\n\0");
}

fn a_hundred_megabytes_stay_flat() {
    let sandbox = Box::new();
    let before = resident();
    let (mut total, mut largest) = (0u64, 0);
    let spec = sandbox.spec(&["dd", "if=/dev/zero", "bs=1M", "count=100"]);
    let mut sink = |stream: Stream, bytes: &[u8]| {
        if stream == Stream::Stdout {
            total += bytes.len() as u64;
        }
        largest = largest.max(bytes.len());
    };
    assert!(run(&spec, &mut sink, &Cancel::new().unwrap()).unwrap().success());
    assert_eq!(total, 100 << 20);
    assert!(largest <= 64 << 10);
    assert!(resident().saturating_sub(before) < 20 << 10, "grew from {before} to {} KiB", resident());
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn umask_and_limits() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["sh", "-c", "umask; ulimit -n; ulimit -c"]);
    spec.rlimits = vec![
        Rlimit { resource: Resource::Nofile, soft: Some(123), hard: Some(u64::MAX / 2) },
        Rlimit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
    ];
    assert_eq!(run_spec(&spec).stdout, "0022\n123\n0\n");
}

fn environment_is_exact() {
    let sandbox = Box::new();
    let mut spec = sandbox.spec(&["env"]);
    spec.env.push(("NAME".into(), "two words = \u{e9}".into()));
    let mut lines: Vec<_> = run_spec(&spec).stdout.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["NAME=two words = \u{e9}", "PATH=/usr/bin:/bin"]);
}

fn outside_runs_as_the_caller() {
    let outside = place().outside();
    let command = OutsideCommand {
        argv: ["sh", "-c", "cat; readlink /proc/self/ns/user; echo $VAR; echo err >&2; exit 3"]
            .map(Into::into)
            .to_vec(),
        env: vec![("VAR".into(), "value".into()), ("PATH".into(), "/usr/bin:/bin".into())],
        cwd: None,
        stdin: b"in\n".to_vec(),
    };
    let workers: Vec<_> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..4).map(|_| scope.spawn(|| outside.run(&command).unwrap())).collect();
        spawned.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let inside = std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    for output in workers {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("in\nuser:[") && text.ends_with("]\nvalue\n"), "{text:?}");
        let same = text.contains(&inside);
        assert_eq!(same, place().kind() == rbuild_executor::PlaceKind::Root, "{text:?} {inside}");
        assert_eq!((output.status.code(), output.stderr), (Some(3), b"err\n".to_vec()));
    }
    let missing = OutsideCommand { argv: vec!["no-such-program".into()], ..OutsideCommand::default() };
    assert_eq!(outside.run(&missing).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // A megabyte each way, to a command that answers while it reads.
    let large = OutsideCommand {
        argv: vec!["/bin/cat".into()],
        stdin: vec![7; 1 << 20],
        ..OutsideCommand::default()
    };
    assert_eq!(outside.run(&large).unwrap().stdout.len(), 1 << 20);
}

fn setup_can_be_printed() {
    struct Recorder(Vec<String>);
    impl rbuild_executor::OutputSink for Recorder {
        fn output(&mut self, _: Stream, _: &[u8]) {}
        fn setup(&mut self, operations: &mut dyn Iterator<Item = &rbuild_executor::SetupOp>) {
            self.0.extend(operations.map(ToString::to_string));
        }
    }
    let sandbox = Box::new();
    let mut recorder = Recorder(Vec::new());
    run(&sandbox.spec(&["true"]), &mut recorder, &Cancel::new().unwrap()).unwrap();
    let at = |line: &str| {
        recorder
            .0
            .iter()
            .position(|l| l.starts_with(line))
            .unwrap_or_else(|| panic!("{line}: {:#?}", recorder.0))
    };
    assert_eq!(at("die with rbuild"), 0);
    assert!(at("make a proc file system") < at("make the image's tree the root"));
    assert!(at("mount /dev") < at("mount /dev/shm"));
    let capabilities = at("set the capabilities to 00000000a80425fb");
    let filter = match rbuild_executor::in_first_user_namespace() {
        true => "load a seccomp filter",
        false => "load a supervised seccomp filter",
    };
    if has_other_ids("setup_can_be_printed: the change of ids") {
        assert!(at(filter) < at("become uid 0, gid 0") && at("become uid 0") < capabilities);
    } else {
        assert!(at(filter) < capabilities);
    }
}

/// Of 40 in a row, as a build of 40 steps would have them.
fn true_on_average() -> Duration {
    let sandboxes: Vec<_> = (0..40).map(|_| Box::new()).collect();
    let start = Instant::now();
    for sandbox in &sandboxes {
        let spec: SandboxSpec<'_> = sandbox.spec(&["true"]);
        assert!(run(&spec, &mut |_, _: &[u8]| {}, &Cancel::new().unwrap()).unwrap().success());
    }
    start.elapsed() / 40
}

/// Of this process and all that it has waited for, trees included: what a busy machine does not change. Ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(4);
    Duration::from_millis(10 * fields.map(|f| f.parse::<u64>().unwrap()).sum::<u64>())
}

/// `EXECUTOR_TEST_ROLE=timing`: only this, for a figure and for a profiler.
pub(crate) fn timing() -> ExitCode {
    crate::fixture::remember(enter(rbuild_executor::Isolation::Auto).expect("enter"));
    let bare = {
        let start = Instant::now();
        for _ in 0..40 {
            assert!(std::process::Command::new("/bin/busybox").arg("true").status().unwrap().success());
        }
        start.elapsed() / 40
    };
    for _ in 0..5 {
        let before = processor_time();
        let (wall, processor) = (true_on_average(), processor_time() - before);
        eprintln!(
            "true in a sandbox: {wall:?}, {:?} of processor; bare fork, exec and wait: {bare:?}",
            processor / 40
        );
    }
    for (what, line) in FILE_WORK {
        let prepare = "mkdir /w; cd /w; seq 2000 | sed 's,.*,/w/f&,' | xargs touch; tar -cf /t .; mkdir /u; ";
        let took = |line: &str| {
            let sandbox = Box::new();
            let start = Instant::now();
            let ran = run_spec(&sandbox.spec(&["sh", "-ec", line]));
            assert!(ran.report.success(), "{ran:?}");
            start.elapsed()
        };
        let bare = took(prepare);
        eprintln!("{what}: {:?}", took(&format!("{prepare}{line}")).saturating_sub(bare));
    }
    crate::fixture::clean();
    ExitCode::SUCCESS
}

/// What a supervisor makes dearer; with other ids at hand the same work is the measure.
const FILE_WORK: [(&str, &str); 4] = [
    ("20,000 lstat", "for n in 0 1 2 3 4 5 6 7 8 9; do ls -l >/dev/null; done"),
    ("tar x of 2,000 files", "cd /u; tar -xf /t"),
    ("chown -R of 2,000 files", "chown -R 0:0 /w"),
    ("200 processes", "for n in $(seq 200); do /bin/true; done"),
];
