//! What a RUN of `true` costs over a bare fork, exec and wait; the aim is at most 8 ms.

#![expect(clippy::print_stderr, reason = "a benchmark that cannot run says so")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::Criterion;
use rbuild_executor::{Cancel, Isolation, Overlay, PlaceKind, SandboxSpec, Stream, enter, run};

/// A tree with a shell and the folders that a sandbox mounts on.
fn base(folder: &Path) -> PathBuf {
    let base = folder.join("base");
    for name in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(base.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
    symlink("busybox", base.join("bin/true")).unwrap();
    base
}

/// One RUN, from the specification to the exit report; its tree is mounted before, as a build does it for every step.
fn timed_run(folder: &Path, base: &Path, number: u64) -> Duration {
    let own = folder.join(number.to_string());
    let (upper, work) = (own.join("upper"), own.join("work"));
    for path in [&upper, &work] {
        fs::create_dir_all(path).unwrap();
    }
    let lowers = [base.to_owned()];
    let root = Overlay { lowers: &lowers, upper: Some(&upper), work: Some(&work) }.mount().unwrap();
    let start = Instant::now();
    let report =
        run(&SandboxSpec::new(&root, ["/bin/true"]), &mut |_: Stream, _: &[u8]| {}, &Cancel::new().unwrap());
    let took = start.elapsed();
    assert!(report.unwrap().success());
    drop(root);
    let _ = fs::remove_dir_all(own);
    took
}

fn main() {
    // Before the first thread, as rbuild does it.
    let place = enter(Isolation::Auto).unwrap();
    if place.kind() == PlaceKind::None || !Path::new("/bin/busybox").exists() {
        eprintln!("SKIP: RUN start wants user namespaces and a static /bin/busybox");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let base = base(folder.path());
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("bare fork, exec and wait", |bencher| {
        bencher.iter(|| assert!(Command::new("/bin/busybox").arg("true").status().unwrap().success()));
    });
    let mut number = 0;
    criterion.bench_function("RUN start", |bencher| {
        bencher.iter_custom(|iterations| {
            let next = number..number + iterations;
            number = next.end;
            next.map(|number| timed_run(folder.path(), &base, number)).sum()
        });
    });
    criterion.final_summary();
}
