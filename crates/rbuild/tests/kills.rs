//! Any process of a build's tree is killed, at any moment: rbuild itself, the broker, a sandbox's init, a command, what that
//! started.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Test, alive, text};
use crate::faults::assert_sound;

/// How long the dead have to be put away by the kernel.
const MOMENT: Duration = Duration::from_secs(5);

/// A process that no later one of the same number is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    id: i32,
    started: String,
}

/// Parent, state and time of start of all processes.
fn processes() -> BTreeMap<i32, (i32, Process)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        // Processes come and go while we look.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let started = fields.get(19)?.to_string();
        (fields[0] != "Z").then(|| (id, (fields[1].parse().unwrap_or(0), Process { id, started })))
    })
    .collect()
}

/// A process, its children, theirs, in the order of their numbers.
fn tree(root: i32) -> Vec<Process> {
    let all = processes();
    let mut ids = HashSet::from([root]);
    loop {
        let known = ids.len();
        ids.extend(
            all.iter().filter(|(_, (parent, _))| ids.contains(parent)).map(|(id, _)| *id).collect::<Vec<_>>(),
        );
        if ids.len() == known {
            return all
                .into_iter()
                .filter(|(id, _)| ids.contains(id))
                .map(|(_, (_, process))| process)
                .collect();
        }
    }
}

/// Those that live on, after a moment.
fn left(processes_before: &[Process]) -> Vec<Process> {
    let deadline = Instant::now() + MOMENT;
    loop {
        let now = processes();
        let lives = |process: &&Process| now.get(&process.id).is_some_and(|(_, other)| other == *process);
        let left: Vec<Process> = processes_before.iter().filter(lives).cloned().collect();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The processes in whose mount namespace something of the store is mounted.
fn mounted_by(store: &str) -> Vec<String> {
    let paths = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("mountinfo"));
    paths
        .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(store)))
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn thirty_kills_of_any_process() {
    let seed = RandomState::new().build_hasher().finish();
    // Two at a time: more would only wait for each other.
    thread::scope(|scope| {
        let halves = [0, 1].map(|half| scope.spawn(move || fifteen_kills(seed ^ half)));
        let most = halves.map(|half| half.join().unwrap()).into_iter().max();
        assert!(
            most >= Some(4),
            "rbuild, init, the shell and its child at least are there to be killed: {most:?}"
        );
    });
}

/// On one store, after each of which the next build must work. Returns how many different members of the tree were killed while a command ran.
fn fifteen_kills(seed: u64) -> usize {
    let test = Test::new("");
    let mark = format!("mark-{}", text(&test.store()).rsplit('/').nth(1).unwrap());
    test.dockerfile(&format!(
        "FROM busybox\nARG ROUND\n\
         RUN --mount=type=cache,target=/cache,sharing=locked : {mark}; echo $ROUND >/cache/round; mkdir /made && seq 2000 >/made/here; echo re''ady; \
         if [ $ROUND != last ]; then (trap '' TERM; /bin/sleep 9) & /bin/sleep 0.5; fi\n\
         RUN : {mark}; cat /made/here | wc -l >/lines\n"
    ));
    let (mut random, mut killed) = (seed, HashSet::new());
    for round in 0..15 {
        // A step of Knuth's MMIX generator; the upper bits are the good ones.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut build = test.start(&["--build-arg", &format!("ROUND={round}")]);
        // In turn while the command runs, and any at any time.
        let ready = round % 3 > 0;
        match ready {
            true => build.wait_for("ready"),
            false => thread::sleep(Duration::from_millis((random >> 33) % 120)),
        }
        let root = build.id();
        let members = tree(root);
        let index = if ready { round / 3 * 2 + round % 3 - 1 } else { (random >> 40) as usize };
        let index = index % members.len().max(1);
        if let Some(victim) = members.get(index) {
            // One that has just ended, or that is root's for a moment (newuidmap), is no loss.
            let _ = kill(Pid::from_raw(victim.id), Signal::SIGKILL);
            if ready {
                killed.insert(index);
            }
        }
        // With an error, or without where nothing depended on the victim.
        let run = build.end();
        let case =
            format!("member {index} of {} in round {round}, seed {seed}:\n{}", members.len(), run.stderr);
        assert_eq!(left(&members), [], "left after {case}");
        assert_eq!(alive(&mark), [""; 0], "left after {case}");
        assert_eq!(mounted_by(text(&test.store())), [""; 0], "mounted after {case}");
        if run.code != 0 && members.get(index).is_some_and(|victim| victim.id != root) {
            assert!(
                run.stderr.contains("error:") && run.code < 128,
                "a sentence and not a crash, {}: {case}",
                run.code
            );
        }
    }
    // Also the lock of the cache mount is free.
    let image = test.build(&["--build-arg", "ROUND=last"]);
    assert_eq!(image.text("/lines"), "2000\n", "seed {seed}");
    assert_sound(&test.store());
    killed.len()
}
