//! A daemonless, rootless builder of container images: the command line.
//!
//! Glue only: what was typed becomes a request ([`request`]), the engine builds it, [`ui`] shows its events, and what
//! fails is printed once, here ([`diagnostics`]).

mod args;
mod build;
mod cache_spec;
mod check;
mod commands;
mod context;
mod csv;
mod diagnostics;
mod docker_words;
mod dockerfile;
mod entitlements;
mod failure;
mod limits;
mod outline;
mod output_spec;
mod request;
mod resources;
mod size;
mod surroundings;
mod terminal;
mod timings;
mod ui;
mod workshop;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use rbuild_executor::{EnterError, Place};

use crate::args::{Cli, Command};
use crate::commands::{
    archive, cache, containers, copy, doctor, du, history, images, inspect, login, logs, manifest, prune,
    remove, run, shell, transfer,
};
use crate::diagnostics::Style;
use crate::failure::CliError;

fn main() -> ExitCode {
    let arguments = args::arranged(std::env::args_os());
    let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| {
        if let Some(name) = docker_words::unknown_command(&arguments, &error) {
            let failure = CliError::usage(format!("there is no command `{name}`"));
            let style = Style { colour: colour(std::io::stderr().is_terminal()) };
            report(failure.help("`rbuild --help` lists them; a build takes one context"), style);
            std::process::exit(error.exit_code());
        }
        // Nobody is left to tell if standard error is gone.
        let _ = error.print();
        // Docker's `run` keeps 1 and 2 for the command that it runs.
        let is_run = arguments.get(1).is_some_and(|command| command == "run" || command == "exec");
        std::process::exit(if is_run && error.use_stderr() { 125 } else { error.exit_code() })
    });
    // Before anything else, while there is one thread: from here on file work is done as root of a user namespace.
    let entered = rbuild_executor::enter(cli.global.isolation.into());
    let style = Style { colour: colour(std::io::stderr().is_terminal()) };
    let result = match entered {
        // The place lives as long as the process: client and threads refer to it.
        Ok(place) => carry_out(cli, Box::leak(Box::new(place))),
        Err(error) => {
            let help = error.remedy();
            let what = match &error {
                EnterError::NotInPlace(_) => "could not build in place",
                _ => "could not enter a user namespace",
            };
            let failure = CliError::environment(what.to_owned(), error);
            Err(match help {
                Some(help) => failure.help(help),
                None => failure,
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(error, style),
    }
}

fn carry_out(cli: Cli, place: &'static Place) -> Result<(), CliError> {
    let Cli { command, build, global } = cli;
    match command {
        None => build::run(&build, &global, place),
        Some(Command::Build(build)) => build::run(&build, &global, place),
        Some(Command::Dockerfile { command }) => dockerfile::run(&command),
        Some(Command::Plan(plan)) => dockerfile::plan(&plan, &global, place),
        Some(Command::Pull(pull)) => transfer::pull(&pull, &global, place),
        Some(Command::Push(push)) => transfer::push(&push, &global, place),
        Some(Command::Tag(tag)) => remove::tag(&tag, &global, place),
        Some(Command::Images(images)) => images::run(&images, &global, place),
        Some(Command::Inspect(inspect)) => inspect::run(&inspect, &global, place),
        Some(Command::History(history)) => history::run(&history, &global, place),
        Some(Command::Rmi(rmi)) => remove::rmi(&rmi, &global, place),
        Some(Command::Save(save)) => archive::save(&save, &global, place),
        Some(Command::Load(load)) => archive::load(&load, &global, place),
        Some(Command::Login(login)) => login::login(&login, &global, place),
        Some(Command::Logout(logout)) => login::logout(&logout, place),
        Some(Command::Du(du)) => du::run(&du, &global, place),
        Some(Command::Prune(prune)) => prune::run(&prune, &global, place),
        Some(Command::Cache { command }) => cache::run(&command, &global, place),
        Some(Command::Copy(copy)) => copy::run(&copy, &global, place),
        Some(Command::Manifest { command }) => manifest::run(&command, &global, place),
        Some(Command::Doctor) => doctor::run(&global, place),
        Some(Command::Shell(args)) => shell::run(&args, &global, place),
        Some(Command::Run(run)) => run::run(&run, &global, place),
        Some(Command::Exec(exec)) => run::exec(&exec, &global, place),
        Some(Command::Ps(ps)) => containers::ps(&ps, &global, place),
        Some(Command::Logs(logs)) => logs::run(&logs, &global, place),
        Some(Command::Stop(stop)) => containers::stop(&stop, &global, place),
        Some(Command::Kill(kill)) => containers::kill(&kill, &global, place),
        Some(Command::Wait(wait)) => containers::wait(&wait, &global, place),
        Some(Command::Rm(rm)) => containers::rm(&rm, &global, place),
        Some(Command::ContainerMonitor { id }) => run::monitor(&id),
    }
}

/// Prints an error and says which exit code goes with it.
fn report(error: CliError, style: Style) -> ExitCode {
    let (text, code) = match &error {
        CliError::Build { error, source, name } => {
            (diagnostics::render_error(error, source, name, style), diagnostics::exit_code(error))
        }
        CliError::Plain(failure) => {
            let error = rbuild_engine::BuildError::Failed(failure.clone());
            (diagnostics::render_error(&error, "", "", style), diagnostics::exit_code(&error))
        }
        CliError::Coded(failure, code) => {
            let error = rbuild_engine::BuildError::Failed(failure.clone());
            (diagnostics::render_error(&error, "", "", style), *code)
        }
        CliError::Quiet(code) => (String::new(), *code),
    };
    // Nobody is left to tell if standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// Colour where a terminal shows it and nobody objects.
pub(crate) fn colour(terminal: bool) -> bool {
    terminal
        && surroundings::variable("NO_COLOR").is_none()
        && surroundings::variable("TERM").as_deref() != Some("dumb")
}
