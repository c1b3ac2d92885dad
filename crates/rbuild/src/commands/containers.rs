//! `rbuild ps`, `stop`, `kill`, `wait` and `rm`.

use rbuild_container::{Container, Containers, Ending, State, Status};
use rbuild_engine::{BuildError, Failure, FailureKind};
use rbuild_executor::Place;
use serde_json::{Value, json};

use super::run_args::{KillArgs, PsArgs, RmArgs, StopArgs, WaitArgs};
use super::run_settings::signal;
use super::template::Format;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

/// SIGKILL.
const KILL: i32 = 9;
/// Characters of a command that the table shows.
const COMMAND_WIDTH: usize = 20;

pub(crate) fn open(global: &GlobalArgs, place: &Place) -> Result<Containers, CliError> {
    Ok(Containers::of(&surroundings::open_store(global.root.as_deref(), place)?)?)
}

pub(crate) fn ps(args: &PsArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let mut lines = Vec::new();
    for container in open(global, place)?.list()? {
        let state = container.state()?;
        if args.all || state.status == Status::Running {
            lines.push(Line { container, state, whole: args.no_trunc });
        }
    }
    if args.quiet {
        print(&lines.iter().map(|line| format!("{}\n", line.id())).collect::<String>());
        return Ok(());
    }
    let now = show::now();
    let documents: Vec<Value> = lines.iter().map(|line| line.document(now)).collect();
    print(&format.show(&documents).unwrap_or_else(|| table(&lines, now)));
    Ok(())
}

struct Line {
    container: Container,
    state: State,
    whole: bool,
}

impl Line {
    fn id(&self) -> String {
        let settings = &self.container.settings;
        if self.whole { settings.id.clone() } else { settings.short_id().to_owned() }
    }

    fn command(&self) -> String {
        let command = self.container.settings.argv.join(" ");
        let short: String = command.chars().take(COMMAND_WIDTH - 1).collect();
        match self.whole || command.chars().count() <= COMMAND_WIDTH {
            true => format!("\"{command}\""),
            false => format!("\"{short}…\""),
        }
    }

    /// In Docker's words.
    fn status(&self, now: i64) -> String {
        let State { started, finished, exit_code, health, .. } = &self.state;
        let since = |time: &Option<i64>| show::ago(time.unwrap_or(now), now);
        match self.state.status {
            Status::Created => "Created".to_owned(),
            Status::Dead => "Dead".to_owned(),
            Status::Exited => format!("Exited ({}) {}", exit_code.unwrap_or_default(), since(finished)),
            Status::Running => {
                let health = match health {
                    Some(health) if health.status == "starting" => " (health: starting)".to_owned(),
                    Some(health) => format!(" ({})", health.status),
                    None => String::new(),
                };
                format!("Up {}{health}", since(started).trim_end_matches(" ago"))
            }
        }
    }

    fn ports(&self) -> String {
        let running = self.state.ports.iter().filter(|_| self.state.status == Status::Running);
        running.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Docker's keys, and the exit code.
    fn document(&self, now: i64) -> Value {
        let settings = &self.container.settings;
        let labels: Vec<String> =
            settings.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        json!({
            "Command": self.command(),
            "CreatedAt": show::date(settings.created),
            "ExitCode": self.state.exit_code,
            "Health": self.state.health.as_ref().map(|health| &health.status),
            "HealthOutput": self.state.health.as_ref().map(|health| &health.output),
            "ID": self.id(),
            "Image": settings.image,
            "Labels": labels.join(","),
            "Names": settings.name,
            "Networks": settings.network,
            "Ports": self.ports(),
            "RunningFor": show::ago(settings.created, now),
            "State": self.state.status,
            "Status": self.status(now),
        })
    }
}

fn table(lines: &[Line], now: i64) -> String {
    let row = |line: &Line| {
        let settings = &line.container.settings;
        vec![
            line.id(),
            settings.image.clone(),
            line.command(),
            show::ago(settings.created, now),
            line.status(now),
            line.ports(),
            settings.name.clone(),
        ]
    };
    let headings = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    show::table(&headings, &lines.iter().map(row).collect::<Vec<_>>())
}

/// Does it to each that is named, prints the names of those it was done to, and fails afterwards if one could not be.
fn each(
    names: &[String],
    containers: &Containers,
    mut work: impl FnMut(&Container) -> Result<String, BuildError>,
) -> Result<(), CliError> {
    let mut failures = Vec::new();
    for name in names {
        match containers.find(name).and_then(|container| work(&container)) {
            Ok(line) => print(&format!("{line}\n")),
            Err(error) => failures.push((name.clone(), error)),
        }
    }
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0).1.into()),
        count => {
            let said: Vec<String> = failures.iter().map(|(_, error)| error.to_string()).collect();
            let failure = Failure::new(FailureKind::Build, format!("failed for {count} containers"));
            Err(failure.caused_by(said.join("; ")).into())
        }
    }
}

pub(crate) fn stop(args: &StopArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let wanted = args.signal.as_deref().map(signal).transpose()?;
    each(&args.containers, &open(global, place)?, |container| {
        // One that does not run is stopped.
        if let Some(connection) = container.connection()? {
            connection.stop(wanted, args.time)?;
            container.wait_unminded()?;
        }
        Ok(container.settings.name.clone())
    })
}

pub(crate) fn kill(args: &KillArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let wanted = signal(&args.signal)?;
    each(&args.containers, &open(global, place)?, |container| {
        container.running()?.signal(wanted);
        if wanted == KILL {
            container.wait_unminded()?;
        }
        Ok(container.settings.name.clone())
    })
}

pub(crate) fn wait(args: &WaitArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    each(&args.containers, &open(global, place)?, |container| {
        if let Some(connection) = container.connection()?
            && let Ending::Exited(code) = connection.wait()?
        {
            return Ok(code.to_string());
        }
        container.wait_unminded()?;
        Ok(container.state()?.exit_code.unwrap_or_default().to_string())
    })
}

pub(crate) fn rm(args: &RmArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let containers = open(global, place)?;
    each(&args.containers, &containers, |container| {
        if args.force
            && let Some(connection) = container.connection()?
        {
            connection.signal(KILL);
            container.wait_unminded()?;
        }
        container.remove()?;
        Ok(container.settings.name.clone())
    })
}
