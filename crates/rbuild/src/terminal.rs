//! The user's terminal while something else has it: raw mode, its size, and the signals that are passed on.

use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use rbuild_engine::Stream;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::CliError;

/// What a terminal is taken for whose size nobody knows.
const USUAL_SIZE: (u16, u16) = (80, 24);
/// Signals that concern the command rather than us.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// Standard input in raw mode, until the value goes.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Nothing where standard input is no terminal.
    pub(crate) fn begin() -> Option<Raw> {
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows.
pub(crate) fn size() -> (u16, u16) {
    let known = |size: rustix::termios::Winsize| (size.ws_col > 0).then_some((size.ws_col, size.ws_row));
    let stdin = tcgetwinsize(stdin()).ok().and_then(known);
    stdin.or_else(|| tcgetwinsize(stdout()).ok().and_then(known)).unwrap_or(USUAL_SIZE)
}

/// A terminal that keys come from is needed, where both are asked for.
pub(crate) fn is_there_for(interactive: bool, tty: bool) -> Result<(), CliError> {
    if !(interactive && tty) || stdin().is_terminal() {
        return Ok(());
    }
    let failure = CliError::usage("the input device is not a terminal");
    Err(failure.help("leave out `-t`: input and output are passed on without it"))
}

/// A shell is of no use without somebody at it.
pub(crate) fn is_there_for_shell() -> Result<(), CliError> {
    if stdin().is_terminal() {
        return Ok(());
    }
    let failure = CliError::usage("could not open a shell: standard input is no terminal");
    Err(failure.help("in a script, keep the failed step with `--keep-failed` and enter it from a terminal with `rbuild shell`"))
}

/// Somebody who takes signals and input from here: a container's monitor, or a shell in a step's files.
pub(crate) trait Other: Send + Sync {
    /// The command gets a signal.
    fn signal(&self, signal: i32);
    /// The command's terminal gets this size.
    fn resize(&self, columns: u16, rows: u16);
    /// The command gets input; an error when it will take no more.
    fn input(&self, bytes: &[u8]) -> Result<(), ()>;
    /// There is no more input.
    fn end_of_input(&self);
}

/// Signals that come to this process go to the other one, as soon as there is one.
#[derive(Clone, Default)]
pub(crate) struct PassedOn(Arc<Mutex<Option<Arc<dyn Other>>>>);

impl PassedOn {
    /// Takes the signals of this process. Call it before there is any other thread: all inherit what is blocked here. Until there
    /// is somebody to pass them on to, they end the process as they would have, after `abandon`.
    pub(crate) fn begin(abandon: impl Fn() + Send + 'static) -> Result<PassedOn, CliError> {
        let passed_on = PassedOn::default();
        let signals: SigSet = PASSED_ON.into_iter().chain([Signal::SIGWINCH]).collect();
        signals
            .thread_block()
            .map_err(|error| CliError::environment("could not take the signals".to_owned(), error))?;
        let to = passed_on.clone();
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                let other = to.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match (other, signal) {
                    (Some(other), Signal::SIGWINCH) => {
                        let (columns, rows) = size();
                        other.resize(columns, rows);
                    }
                    (Some(other), signal) => other.signal(signal as i32),
                    (None, Signal::SIGWINCH) => {}
                    (None, signal) => {
                        abandon();
                        std::process::exit(128 + signal as i32);
                    }
                }
            }
        });
        Ok(passed_on)
    }

    /// From now on they go there.
    pub(crate) fn to(&self, other: Arc<dyn Other>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
    }
}

/// Passes changes of the terminal's size on, by a thread that lives as long as this process. SIGWINCH is blocked everywhere.
pub(crate) fn pass_size_to(other: Arc<dyn Other>) {
    let resized: SigSet = [Signal::SIGWINCH].into_iter().collect();
    std::thread::spawn(move || {
        while resized.wait().is_ok() {
            let (columns, rows) = size();
            other.resize(columns, rows);
        }
    });
}

/// Passes standard input on by a thread, until it ends.
pub(crate) fn pass_input_to(other: Arc<dyn Other>) {
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match stdin().read(&mut bytes) {
                Ok(0) => break,
                Ok(length) if other.input(&bytes[..length]).is_ok() => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        other.end_of_input();
    });
}

/// Writes a command's output to our own stream of that name. A reader that went away has what it wanted.
pub(crate) fn show(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => stdout().write_all(bytes).and_then(|()| stdout().flush()),
        Stream::Stderr => stderr().write_all(bytes),
    };
}
