//! Many builders at once: on one store, and each with a store of its own on one registry's cache.
//!
//! `RBUILD_FLEET=1,5,10,25,50` simulates fleets of these sizes and prints what they moved; the suite simulates a small one.

use std::thread;
use std::time::Instant;

use rbuild_testkit::TestRegistry;

use crate::common::{Run, Test};

const BUILDERS: usize = 20;

/// A step that takes a while, common to all, then one for each.
const COMMON: &str = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /common && sleep 0.2\nARG WHO\nRUN echo $WHO > /who\n";

#[test]
fn twenty_builds_share_a_store_and_lose_nothing() {
    let test = Test::new(COMMON);
    let build = |who: usize| test.run(&["--build-arg", &format!("WHO={who}")]);
    thread::scope(|scope| {
        let builds: Vec<_> = (0..BUILDERS).map(|who| scope.spawn(move || build(who))).collect();
        let runs: Vec<Run> = builds.into_iter().map(|build| build.join().unwrap()).collect();
        // The common step ran once; whoever came while it ran waited for it.
        let common = runs.iter().filter(|run| !run.succeeds().was_cached("RUN cat")).count();
        assert_eq!(common, 1, "{}", runs.iter().map(|run| run.stderr.as_str()).collect::<String>());
    });
    for who in 0..BUILDERS {
        assert_eq!(build(who).succeeds().cached(), 2, "the result of build {who} is lost");
    }
    Run::of(test.command().args(["cache", "verify", "--read-blobs"])).succeeds();
}

/// What one wave of builds did.
#[derive(Debug, Default)]
struct Wave {
    steps: usize,
    hits: usize,
    /// Bytes that runners fetched from the registry, and gave to it.
    down: usize,
    up: usize,
    requests: usize,
    seconds: f64,
}

const STEPS: usize = 5;

/// A runner with an empty store, at a branch of the project.
fn runner(branch: usize) -> Test {
    let test = Test::new(
        "FROM busybox AS build\nRUN head -c 300000 /bin/busybox > /tools\nCOPY src /src\nRUN cat /src/* /tools > /out\n\
         FROM busybox\nRUN mkdir /app\nCOPY --from=build /out /app/out\n",
    );
    test.file("src/main", "the same for all");
    test.file("src/branch", branch.to_string());
    test
}

fn wave(registry: &TestRegistry, branches: &[usize]) -> Wave {
    let from = format!("type=registry,ref={}/cache", registry.address());
    let to = format!("{from},mode=max");
    let (before, begun) = (registry.requests().len(), Instant::now());
    let runs: Vec<Run> = thread::scope(|scope| {
        let build = |branch: usize| runner(branch).run(&["--cache-from", &from, "--cache-to", &to]);
        let builds: Vec<_> = branches.iter().map(|&branch| scope.spawn(move || build(branch))).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let requests = &registry.requests()[before..];
    for run in &runs {
        assert!(!run.succeeds().stderr.contains("warning"), "{}", run.stderr);
    }
    Wave {
        steps: STEPS * runs.len(),
        hits: runs.iter().map(Run::cached).sum(),
        down: requests.iter().map(|request| request.sent).sum(),
        up: requests.iter().map(|request| request.received).sum(),
        requests: requests.len(),
        seconds,
    }
}

#[test]
fn a_fleet_shares_one_cache_and_no_entry_is_lost() {
    let sizes = std::env::var("RBUILD_FLEET").unwrap_or_else(|_| "4".to_owned());
    for size in sizes.split(',').map(|size| size.parse::<usize>().unwrap()) {
        let registry = TestRegistry::start();
        let branches: Vec<usize> = (1..=size).collect();
        let first = wave(&registry, &[0]);
        // All at once, each with a change of its own: what they add, they add at the same time.
        let own = wave(&registry, &branches);
        // The same branches on machines that have never seen them.
        let taken = wave(&registry, &branches);
        for (name, wave) in [("first", &first), ("own", &own), ("taken", &taken)] {
            eprintln!(
                "fleet of {size:2} {name:5} hits {:3}/{:3}  down {:8}  up {:8}  requests {:5}  {:.1} s",
                wave.hits, wave.steps, wave.down, wave.up, wave.requests, wave.seconds
            );
        }
        assert_eq!(first.hits, 0);
        // Both stages begin with a step that no branch changes.
        assert_eq!(own.hits, 2 * size, "what the first runner made was not there for all");
        assert_eq!(taken.hits, STEPS * size, "an entry is lost");
        // Nobody had to see a file: what came down are documents.
        assert!(taken.down < 40_000 * size, "{} bytes", taken.down);
    }
}
