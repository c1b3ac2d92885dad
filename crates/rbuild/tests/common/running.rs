//! A build under way: wait for what it says, send it a signal, see what is left.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Run;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the value goes.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    said: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts a command.
    pub(crate) fn of(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // The thread ends with the process, whose standard error it reads.
        thread::spawn(move || {
            stderr.split(b'\n').map_while(Result::ok).for_each(|line| {
                _ = sender.send(String::from_utf8_lossy(&line).into_owned() + "\n");
            });
        });
        let mut stdout = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        Running { child, lines, said: String::new(), stdout: Some(stdout) }
    }

    /// Waits until a line of its standard error holds these words.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push_str(&line),
                Err(_) => panic!("no word of `{words}`:\n{}", self.said),
            }
            if self.said.lines().last().is_some_and(|line| line.contains(words)) {
                return;
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("it does not end:\n{}", self.said),
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        let stdout = self.stdout.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
        self.said.extend(self.lines.iter());
        let stderr = std::mem::take(&mut self.said);
        Run::ended(status, stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already dead is as good.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The command lines of living processes that hold these words. A process that has just been killed gets a moment to go.
pub(crate) fn alive(words: &str) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let found = processes(words);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn processes(words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        // Processes come and go while we look.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(words) {
            found.push(format!("{} {line}", entry.file_name().display()));
        }
    }
    found
}
