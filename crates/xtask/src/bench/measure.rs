//! Wall time, peak memory and disk traffic of a command and everything it starts.

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sample {
    pub(super) wall: Duration,
    /// Peak memory of the builder's own programs. Bytes, shared pages divided among those that share them.
    pub(super) own: u64,
    /// Peak memory of all processes, those of RUN too.
    pub(super) tree: u64,
    pub(super) disk: Disk,
}

/// Bytes that came from disks, and that are to go there (proc(5), `/proc/PID/io`); what the page cache answers is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk {
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Disk {
    /// Of a process and all children that it has waited for; nothing where it may not be read.
    fn of(process: &str) -> Disk {
        let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Disk { read: field("read_bytes:"), written: field("write_bytes:") }
    }

    fn of_all(also: Option<u32>) -> Disk {
        let (own, beside) =
            (Disk::of("self"), also.map_or(Disk::default(), |process| Disk::of(&process.to_string())));
        Disk { read: own.read + beside.read, written: own.written + beside.written }
    }

    fn since(self, before: Disk) -> Disk {
        Disk {
            read: self.read.saturating_sub(before.read),
            written: self.written.saturating_sub(before.written),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disk { read, written } = self.disk;
        let [own, tree, read, written] = [self.own, self.tree, read, written].map(size);
        write!(f, "{:>7} {own:>9} {tree:>9} {read:>9} {written:>9}", seconds(self.wall))
    }
}

/// Runs a command to its end, silently; its last words are in the error if it fails. `also` is a process beside it
/// whose tree does part of the work, such as a daemon; `programs` are the file names of the builder's own.
pub(super) fn measure(command: &mut Command, programs: &[&str], also: Option<u32>) -> Result<Sample> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = tempfile_for_output()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.1);
    let before = Disk::of_all(also);
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("could not run `{name}`: {error}"))?;
    let done = AtomicBool::new(false);
    let roots: Vec<u32> = std::iter::once(child.id()).chain(also).collect();
    let (status, wall, (own, tree)) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&roots, programs, &done));
        let status = child.wait();
        let wall = started.elapsed();
        done.store(true, Ordering::Relaxed);
        (status, wall, watcher.join().unwrap_or_default())
    });
    let status = status?;
    let said = fs::read_to_string(&log.0).unwrap_or_default();
    fs::remove_file(&log.0)?;
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n  ");
        return Err(format!("`{name}` ended with {status}:\n  {end}").into());
    }
    Ok(Sample { wall, own, tree, disk: Disk::of_all(also).since(before) })
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

/// The peaks until `done`, of `programs` and of all. A process once seen stays in the tree, also when its parent has gone.
fn watch(roots: &[u32], programs: &[&str], done: &AtomicBool) -> (u64, u64) {
    let mut tree: HashSet<u32> = roots.iter().copied().collect();
    let mut peaks = (0, 0);
    while !done.load(Ordering::Relaxed) {
        add_children(&mut tree);
        let (mut own, mut all) = (0, 0);
        for &process in &tree {
            let memory = memory(process).unwrap_or(0);
            all += memory;
            own += if runs(process, programs) { memory } else { 0 };
        }
        peaks = (own.max(peaks.0), all.max(peaks.1));
        thread::sleep(INTERVAL);
    }
    peaks
}

/// Does it run one of these programs?
fn runs(process: u32, programs: &[&str]) -> bool {
    let Ok(executable) = fs::read_link(format!("/proc/{process}/exe")) else { return false };
    executable.file_name().is_some_and(|name| programs.iter().any(|program| name == *program))
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
        let sample = measure(&mut command, &["sort"], None).unwrap();
        assert!(sample.tree >= sample.own && sample.own > 40_000_000, "{sample}");
        assert!(sample.wall > Duration::from_millis(500), "{sample}");
    }

    #[test]
    fn a_failure_shows_the_last_words() {
        let error =
            measure(Command::new("sh").args(["-c", "echo last words >&2; exit 3"]), &[], None).unwrap_err();
        assert!(error.to_string().contains("last words"), "{error}");
    }
}
