//! A daemonless, rootless builder of container images: the command line.
//!
//! Glue only: what was typed becomes a request ([`request`]), the engine builds it, [`ui`] shows its events, and what
//! fails is printed once, here ([`diagnostics`]).

mod args;
mod build;
mod check;
mod commands;
mod context;
mod csv;
mod diagnostics;
mod dockerfile;
mod failure;
mod outline;
mod output_spec;
mod request;
mod size;
mod surroundings;
mod ui;
mod workshop;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use rbuild_executor::Place;

use crate::args::{Cli, Command};
use crate::commands::{
    archive, cache, copy, doctor, du, history, images, inspect, login, manifest, prune, remove, transfer,
};
use crate::diagnostics::Style;
use crate::failure::CliError;

fn main() -> ExitCode {
    // First of all, while there is one thread: from here on file work is done as root of a user namespace.
    let entered = rbuild_executor::enter();
    let cli = Cli::parse_from(args::arranged(std::env::args_os()));
    let style = Style { colour: colour(std::io::stderr().is_terminal()) };
    let result = match entered {
        // The place lives as long as the process: client and threads refer to it.
        Ok(place) => run(cli, Box::leak(Box::new(place))),
        Err(error) => {
            let help = error.remedy();
            let failure = CliError::environment("could not enter a user namespace".to_owned(), error);
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

fn run(cli: Cli, place: &'static Place) -> Result<(), CliError> {
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
    }
}

/// Prints an error and says which exit code goes with it.
fn report(error: CliError, style: Style) -> ExitCode {
    let (text, code) = match &error {
        CliError::Build { error, source, name } => {
            (diagnostics::render_error(error, source, name, style), diagnostics::exit_code(error))
        }
        CliError::Plain(_) => {
            let CliError::Plain(failure) = error else { return ExitCode::from(70) };
            let error = rbuild_engine::BuildError::Failed(failure);
            (diagnostics::render_error(&error, "", "", style), diagnostics::exit_code(&error))
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
