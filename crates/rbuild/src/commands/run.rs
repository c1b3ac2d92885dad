//! `rbuild run` and `rbuild exec`, and the monitor that `run` starts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use rbuild_container::{Connection, Container, Containers, Ending, ExecRequest, Told, Writer};
use rbuild_engine::{ContainerImage, Failure, FailureKind, Location, stored};
use rbuild_executor::{Place, PlaceKind};

use super::run_args::{ExecArgs, Pull, RunArgs};
use super::run_settings::{settings, variables};
use super::{Work, platform, print};
use crate::args::GlobalArgs;
use crate::diagnostics::{Style, render_warnings};
use crate::failure::CliError;
use crate::surroundings;
use crate::terminal::{self, Other, PassedOn, Raw};

/// What Docker's `run` ends with when it is not the command that failed.
const OURS: u8 = 125;

/// Runs an image; ends with the command's exit code.
pub(crate) fn run(args: &RunArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let (container, connection, passed_on) = start(args, global, place).map_err(|error| error.coded(OURS))?;
    let Some(connection) = connection else {
        print(&format!("{}\n", container.settings.id));
        return Ok(());
    };
    let settings = &container.settings;
    let ending = converse(connection, settings.terminal.is_some(), settings.stdin, &passed_on)?;
    ended_with(exit_code(&container, ending)?)
}

/// A container that runs, and, unless it is left to itself, the connection to it.
fn start(
    args: &RunArgs,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<(Container, Option<Connection>, PassedOn), CliError> {
    can_run(place, "a container")?;
    terminal::is_there_for(args.interactive, args.tty && !args.detach)?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    // Before anything else makes a thread.
    let passed_on = PassedOn::begin(store.abandon())?;
    let work = Work::begin(global, place, false)?;
    let image = image(args, &work)?;
    work.ui.finish();
    let settings = settings(args, &image, place)?;
    let (container, lock) = Containers::of(&store)?.create(settings)?;
    let outcome = begin(&container, lock, &store);
    match outcome {
        Ok(connection) => {
            if let Some(file) = &args.cidfile {
                fs::write(file, &container.settings.id).map_err(|error| {
                    CliError::environment(format!("could not write `{}`", file.display()), error)
                })?;
            }
            Ok((container, connection, passed_on))
        }
        Err(error) => {
            // Nothing has run, so there is nothing to keep: the name is free for the next try.
            container.wait_unminded()?;
            container.remove()?;
            Err(error)
        }
    }
}

/// A container and a shell need a sandbox; its remedy is that of RUN.
pub(crate) fn can_run(place: &Place, what: &str) -> Result<(), CliError> {
    if !matches!(place.kind(), PlaceKind::None | PlaceKind::InPlace) {
        return Ok(());
    }
    let text = format!("could not start {what}: there is no sandbox to be had here");
    let failure = Failure::new(FailureKind::Environment, text);
    let (failure, help) = match place.shortfall() {
        Some(why) => (failure.caused_by(why.to_string()), why.remedy()),
        None => (failure, None),
    };
    let error = CliError::from(failure);
    Err(match help {
        Some(help) => error.help(help),
        None => error,
    })
}

/// The image of the store, or the registry's, as `docker run` finds it; or one in a layout or an archive, which is loaded.
fn image(args: &RunArgs, work: &Work) -> Result<ContainerImage, CliError> {
    let name = args.words.first().map(String::as_str).unwrap_or_default();
    let platform = platform(args.platform.as_deref())?;
    let transfers = work.transfers();
    if Location::has_transport(name)
        && let Some((path, inside)) = Location::parse(name)?.archive()
    {
        return match transfers.load(path, inside, &platform)?.as_slice() {
            [one] => Ok(transfers.container_image(one.id.as_ref())?),
            several => {
                let failure = CliError::usage(format!("`{name}` holds {} images", several.len()));
                Err(failure.help("name one of them: `TRANSPORT:PATH:NAME`, or `TRANSPORT:PATH@DIGEST`"))
            }
        };
    }
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let is_here = stored::find(&work.store, name).is_ok();
    if args.pull == Pull::Always || (args.pull == Pull::Missing && !is_here) {
        transfers.pull(name, &platform)?;
    }
    Ok(transfers.container_image(name)?)
}

/// Starts the monitor, and hears from it until the command runs.
fn begin(
    container: &Container,
    lock: File,
    store: &rbuild_store::Store,
) -> Result<Option<Connection>, CliError> {
    let (mut monitor, told) = start_monitor(container, lock, store.root())?;
    let mut connection = None;
    for told in BufReader::new(told).lines() {
        let told = told.ok().and_then(|line| serde_json::from_str(&line).ok());
        match told {
            Some(Told::Listening) if container.settings.attached => {
                // One that has failed since will say why.
                connection = container.connection()?.filter(|connection| connection.attach().is_ok());
            }
            Some(Told::Listening) => {}
            Some(Told::Warning { text, help }) => warn(&text, help.as_deref()),
            Some(Told::Started) => return Ok(connection),
            Some(Told::Failed { message, causes, help, code }) => {
                return Err(failed(message, causes, help).coded(u8::try_from(code).unwrap_or(OURS)));
            }
            None => break,
        }
    }
    let said = fs::read_to_string(container.monitor_log_path()).unwrap_or_default();
    let status = monitor.wait().map(|status| status.to_string()).unwrap_or_default();
    Err(CliError::environment(
        "could not start the container: its monitor ended".to_owned(),
        format!("{status}: {said}"),
    ))
}

/// The monitor is this program in a session of its own; the lock of the container is its standard input.
fn start_monitor(container: &Container, lock: File, root: &Path) -> Result<(Child, ChildStdout), CliError> {
    let fault = |error| CliError::environment("could not start the container's monitor".to_owned(), error);
    let log = File::create(container.monitor_log_path()).map_err(fault)?;
    // What stands in its command line, the container can read: init is a copy of it.
    let mut monitor = Command::new("/proc/self/exe")
        .arg0("rbuild")
        .args(["container-monitor", &container.settings.id])
        .env_clear()
        .env("RBUILD_ROOT", root)
        .current_dir("/")
        .stdin(lock)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(fault)?;
    let told = monitor.stdout.take().ok_or_else(|| CliError::usage("the monitor has no output"))?;
    Ok((monitor, told))
}

pub(super) fn warn(text: &str, help: Option<&str>) {
    let help = help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
    let style = Style { colour: crate::colour(std::io::IsTerminal::is_terminal(&std::io::stderr())) };
    // Nobody is left to warn if standard error is gone.
    let _ = std::io::stderr().write_all(render_warnings(&[format!("{text}{help}")], style).as_bytes());
}

fn failed(message: String, causes: Vec<String>, help: Option<String>) -> CliError {
    let mut failure = Failure::new(FailureKind::Environment, message);
    if !causes.is_empty() {
        failure = failure.caused_by(causes.join(": "));
    }
    match help {
        Some(help) => failure.help(help).into(),
        None => failure.into(),
    }
}

/// The monitor's own life: [`start_monitor`] says what it has for a beginning.
pub(crate) fn monitor(id: &str) -> Result<(), CliError> {
    let fault = |error| CliError::environment("could not leave the session".to_owned(), error);
    rustix::process::setsid().map_err(fault)?;
    let root = surroundings::store_root(None);
    let container = Container::reopen(&root, id)?;
    let store = surroundings::open_store_as(Some(&root), &container.settings.id_map)?;
    let mut tell = |told: &Told| {
        let mut line = serde_json::to_string(told).unwrap_or_default();
        line.push('\n');
        // The one who started us may have gone.
        let _ = std::io::stdout().write_all(line.as_bytes());
    };
    Ok(rbuild_container::monitor(&store, container, &mut tell)?)
}

/// The other side of a connection, for the user's terminal.
struct Monitored(Writer);

impl Other for Monitored {
    // A monitor that is gone is seen by the one who reads from it.
    fn signal(&self, signal: i32) {
        let _ = self.0.signal(signal);
    }

    fn resize(&self, columns: u16, rows: u16) {
        let _ = self.0.resize(columns, rows);
    }

    fn input(&self, bytes: &[u8]) -> Result<(), ()> {
        self.0.input(bytes).map_err(drop)
    }

    fn end_of_input(&self) {
        let _ = self.0.end_of_input();
    }
}

/// Passes input, signals and output on until the end.
fn converse(
    connection: Connection,
    tty: bool,
    interactive: bool,
    passed_on: &PassedOn,
) -> Result<Ending, CliError> {
    let other: Arc<dyn Other> = Arc::new(Monitored(connection.writer()));
    passed_on.to(other.clone());
    let raw = if tty && interactive { Raw::begin() } else { None };
    if tty {
        let (columns, rows) = terminal::size();
        other.resize(columns, rows);
    }
    if interactive {
        terminal::pass_input_to(other);
    }
    let ending = connection.follow(&mut terminal::show)?;
    drop(raw);
    Ok(ending)
}

/// The code that the container ended with, also where its monitor could not say it any more.
fn exit_code(container: &Container, ending: Ending) -> Result<i32, CliError> {
    match ending {
        Ending::Exited(code) => Ok(code),
        Ending::Lost => {
            container.wait_unminded()?;
            Ok(container.state()?.exit_code.unwrap_or(137))
        }
    }
}

fn ended_with(code: i32) -> Result<(), CliError> {
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(CliError::Quiet(code)),
        Err(_) => Err(CliError::Quiet(255)),
    }
}

/// Runs a command in a running container; ends with its exit code.
pub(crate) fn exec(args: &ExecArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    terminal::is_there_for(args.interactive, args.tty)?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let passed_on = PassedOn::begin(store.abandon())?;
    let (name, argv) = args.words.split_first().ok_or_else(|| CliError::usage("no container is named"))?;
    let container = Containers::of(&store)?.find(name)?;
    let connection = container.running()?;
    let mut env = variables(&[], &args.env)?;
    if args.tty {
        env.insert(0, ("TERM".to_owned(), "xterm".to_owned()));
    }
    connection.exec(ExecRequest {
        argv: argv.to_vec(),
        env,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        terminal: args.tty.then(terminal::size),
        stdin: args.interactive,
    })?;
    let ending = converse(connection, args.tty, args.interactive, &passed_on)?;
    ended_with(exit_code(&container, ending)?)
}
