//! `rbuild login` and `rbuild logout`.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};

use nix::sys::signal::{SigSet, Signal};
use rbuild_engine::{Failure, FailureKind};
use rbuild_executor::Place;
use rbuild_registry::{Credential, ErrorKind, LoginPlace, forget_login, keep_login, registry_name};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::args::{LoginArgs, LogoutArgs};
use super::print;
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

const DOCKER_HUB: &str = "docker.io";

pub(crate) fn login(args: &LoginArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let registry = registry_name(args.registry.as_deref().unwrap_or(DOCKER_HUB));
    let credential = ask(args, &registry)?;
    let client = surroundings::client(global, place)?;
    let credential = client.check_login(&registry, &credential).map_err(|error| {
        let refused = matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied);
        let failure =
            Failure::new(FailureKind::Registry, format!("could not log in to `{registry}`")).caused_by(error);
        if refused {
            failure.help("are user name and password right? some registries want an access token as password")
        } else {
            failure
        }
    })?;
    let path = surroundings::login_file();
    let kept =
        keep_login(&path, &registry, &credential, &*surroundings::helper_runner(place)).map_err(|error| {
            CliError::environment(format!("could not keep the login in `{}`", path.display()), error)
        })?;
    if kept == LoginPlace::File {
        let text = format!(
            "warning: the password is kept unencrypted in `{}`; a credential helper (`credsStore` there) keeps it better\n",
            path.display()
        );
        tell(&text);
    }
    print("Login Succeeded\n");
    Ok(())
}

pub(crate) fn logout(args: &LogoutArgs, place: &'static Place) -> Result<(), CliError> {
    let registry = registry_name(args.registry.as_deref().unwrap_or(DOCKER_HUB));
    let path = surroundings::login_file();
    let known = forget_login(&path, &registry, &*surroundings::helper_runner(place)).map_err(|error| {
        CliError::environment(format!("could not forget the login in `{}`", path.display()), error)
    })?;
    match known {
        true => print(&format!("Removing login credentials for {registry}\n")),
        false => print(&format!("Not logged in to {registry}\n")),
    }
    Ok(())
}

/// User and password from the options, standard input, or the terminal.
fn ask(args: &LoginArgs, registry: &str) -> Result<Credential, CliError> {
    if args.password_stdin {
        let username = args.username.clone().ok_or_else(|| {
            CliError::usage("could not log in: `--password-stdin` needs the user's name")
                .help("add `--username NAME`")
        })?;
        let mut password = String::new();
        stdin().lock().read_to_string(&mut password).map_err(unreadable)?;
        // `echo`'s line end is no part of it.
        let password = password.trim_end_matches(['\n', '\r']).to_owned();
        return checked(username, password);
    }
    if let Some(password) = &args.password {
        tell("warning: others can see a password on the command line; use `--password-stdin`\n");
        if let Some(username) = &args.username {
            return checked(username.clone(), password.clone());
        }
    }
    if !stdin().is_terminal() {
        let message =
            format!("could not ask for the password for `{registry}`: standard input is no terminal");
        return Err(CliError::usage(message).help("pass it with `--username NAME --password-stdin`"));
    }
    let username = match &args.username {
        Some(username) => username.clone(),
        None => prompt("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None => hidden_prompt("Password: ")?,
    };
    checked(username, password)
}

fn checked(username: String, password: String) -> Result<Credential, CliError> {
    match (username.is_empty(), password.is_empty()) {
        (true, _) => Err(CliError::usage("could not log in: the user name is empty")),
        (_, true) => Err(CliError::usage("could not log in: the password is empty")),
        _ if username.contains(':') => Err(CliError::usage("could not log in: a user name has no colon")),
        _ => Ok(Credential::Basic { username, password }),
    }
}

fn prompt(text: &str) -> Result<String, CliError> {
    tell(text);
    let mut line = String::new();
    stdin().lock().read_line(&mut line).map_err(unreadable)?;
    Ok(line.trim().to_owned())
}

/// The terminal's echo is off while the line is typed, and on again on every way out.
fn hidden_prompt(text: &str) -> Result<String, CliError> {
    let before = tcgetattr(stdin()).map_err(|error| unreadable(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    restore_when_interrupted(before.clone())?;
    tcsetattr(stdin(), OptionalActions::Now, &silent).map_err(|error| unreadable(error.into()))?;
    let line = prompt(text);
    let restored = tcsetattr(stdin(), OptionalActions::Now, &before);
    tell("\n");
    restored.map_err(|error| unreadable(error.into()))?;
    line
}

/// Ctrl-C and its like end the process, from here on by way of a thread that sets the terminal right first.
fn restore_when_interrupted(before: Termios) -> Result<(), CliError> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|error| unreadable(error.into()))?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            // The process ends: there is no better way left if this fails.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
            tell("\n");
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}

/// Nobody is left to tell if standard error is gone.
fn tell(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

fn unreadable(error: std::io::Error) -> CliError {
    CliError::environment("could not read the login from standard input".to_owned(), error)
}
