//! Wall time and peak memory of a command and everything it starts.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Result;
use crate::report::{seconds, size};

/// How often the memory of the process tree is read.
const INTERVAL: Duration = Duration::from_millis(25);

/// One measured run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sample {
    pub(super) wall: Duration,
    /// Bytes: the highest sum over all processes, shared pages divided among those that share them.
    pub(super) peak: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} {:>9}", seconds(self.wall), size(self.peak))
    }
}

/// Runs a command to its end, silently; its last words are in the error if it fails. `also` is a process beside it
/// whose tree does part of the work, such as a daemon.
pub(super) fn measure(command: &mut Command, also: Option<u32>) -> Result<Sample> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = tempfile_for_output()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.1);
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("could not run `{name}`: {error}"))?;
    let done = AtomicBool::new(false);
    let roots: Vec<u32> = std::iter::once(child.id()).chain(also).collect();
    let (status, wall, peak) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&roots, &done));
        let status = child.wait();
        let wall = started.elapsed();
        done.store(true, Ordering::Relaxed);
        (status, wall, watcher.join().unwrap_or(0))
    });
    let status = status?;
    let said = fs::read_to_string(&log.0).unwrap_or_default();
    fs::remove_file(&log.0)?;
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n  ");
        return Err(format!("`{name}` ended with {status}:\n  {end}").into());
    }
    Ok(Sample { wall, peak })
}

/// A file for a command's messages: a pipe that nobody empties would stop it.
fn tempfile_for_output() -> Result<(std::path::PathBuf, fs::File)> {
    let path = std::env::temp_dir().join(format!(
        "rbuild-bench-{}-{:?}.log",
        std::process::id(),
        thread::current().id()
    ));
    let file = fs::File::create(&path)?;
    Ok((path, file))
}

/// The peak until `done`. A process once seen stays in the tree, also when its parent has gone.
fn watch(roots: &[u32], done: &AtomicBool) -> u64 {
    let mut tree: HashSet<u32> = roots.iter().copied().collect();
    let mut peak = 0;
    while !done.load(Ordering::Relaxed) {
        add_children(&mut tree);
        peak = peak.max(tree.iter().filter_map(|&process| memory(process)).sum());
        thread::sleep(INTERVAL);
    }
    peak
}

/// Adds every process whose parent is in the tree, and theirs.
fn add_children(tree: &mut HashSet<u32>) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        processes.filter_map(|process| Some((process, parent(process)?))).collect();
    tree.retain(|process| parents.iter().any(|(alive, _)| alive == process));
    loop {
        let before = tree.len();
        for (process, parent) in &parents {
            if tree.contains(parent) {
                tree.insert(*process);
            }
        }
        if tree.len() == before {
            return;
        }
    }
}

/// The fourth field of `/proc/PID/stat`, counted after the name, which may hold anything.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Memory in bytes, from proc(5)'s `smaps_rollup`; none for processes of which it may not be read.
fn memory(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_count() {
        // `sort` holds its whole input, 50 MB, in a grandchild of this process.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "head -c 50000000 /dev/zero | tr '\\0' 'x' | sort | (sleep 0.5; cat) > /dev/null; true",
        ]);
        let sample = measure(&mut command, None).unwrap();
        assert!(sample.peak > 40_000_000, "{sample}");
        assert!(sample.wall > Duration::from_millis(500), "{sample}");
    }

    #[test]
    fn a_failure_shows_the_last_words() {
        let error =
            measure(Command::new("sh").args(["-c", "echo last words >&2; exit 3"]), None).unwrap_err();
        assert!(error.to_string().contains("last words"), "{error}");
    }
}
