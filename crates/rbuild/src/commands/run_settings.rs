//! What `rbuild run` starts: what was typed, over what the image says.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rbuild_container::{HealthCheck, NetworkMode, Port, Settings, Volume};
use rbuild_engine::{ContainerImage, Failure, FailureKind};
use rbuild_executor::{Cgroups, Limits, Place};
use rbuild_image::ContainerConfig;

use super::run::warn;
use super::run_args::RunArgs;
use crate::failure::CliError;
use crate::{request, size, surroundings, terminal};

/// The search path where the image has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The settings of a new container.
pub(super) fn settings(args: &RunArgs, image: &ContainerImage, place: &Place) -> Result<Settings, CliError> {
    let config = &image.config.config;
    let ports = ports(args, config)?;
    let network = network(args, !ports.is_empty())?;
    if network != NetworkMode::Private && !ports.is_empty() {
        let text = format!(
            "ports lead into a private network only: with `--network={}` they are left out",
            args.network.as_deref().unwrap_or_default()
        );
        warn(&text, None);
    }
    let stop_signal =
        args.stop_signal.as_deref().or(Some(&*config.stop_signal)).filter(|text| !text.is_empty());
    Ok(Settings {
        id: String::new(),
        name: args.name.clone().unwrap_or_default(),
        image: args.words.first().cloned().unwrap_or_default(),
        image_id: image.id.clone(),
        parent: image.parent.clone(),
        id_map: place.id_map().to_string(),
        created: super::show::now(),
        argv: argv(args, config)?,
        env: environment(args, config)?,
        cwd: working_directory(args, config)?,
        user: args.user.clone().unwrap_or_else(|| config.user.clone()),
        hostname: args.hostname.clone().unwrap_or_default(),
        volumes: args.volumes.iter().map(|text| volume(text)).collect::<Result<_, _>>()?,
        tmpfs: args.tmpfs.clone(),
        ports: if network == NetworkMode::Private { ports } else { Vec::new() },
        network,
        extra_hosts: args.add_hosts.iter().map(|text| request::extra_host(text)).collect::<Result<_, _>>()?,
        resolv_conf: surroundings::resolv_conf(),
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        shm_size: args.shm_size.as_deref().map(size::parse_size).transpose().map_err(CliError::usage)?,
        limits: limits(args)?,
        read_only: args.read_only,
        terminal: args.tty.then(terminal::size),
        stdin: args.interactive,
        attached: !args.detach,
        stop_signal: signal(stop_signal.unwrap_or("SIGTERM"))?,
        stop_timeout: args.stop_timeout.unwrap_or(10),
        health: health(args, config),
        remove: args.rm,
        labels: labels(args, config),
    })
}

/// Where nothing can be limited, that is said, and the container runs all the same.
fn limits(args: &RunArgs) -> Result<Option<(Cgroups, Limits)>, CliError> {
    let limits = args.limits.limits(&[])?;
    match args.limits.groups(&limits) {
        Some(Ok(groups)) => Ok(Some((groups, limits))),
        Some(Err(text)) => {
            warn(&text, None);
            Ok(None)
        }
        None => Ok(None),
    }
}

/// A signal's number by name or number.
pub(crate) fn signal(text: &str) -> Result<i32, CliError> {
    let number = rbuild_dockerfile::parse_signal(text).and_then(|number| i32::try_from(number).ok());
    number
        .filter(|number| *number <= 64)
        .ok_or_else(|| CliError::usage(format!("there is no signal `{text}`")))
}

/// Entry point and command, as Docker puts them together.
fn argv(args: &RunArgs, config: &ContainerConfig) -> Result<Vec<String>, CliError> {
    let given = args.words.get(1..).unwrap_or_default();
    let entrypoint = match &args.entrypoint {
        Some(program) => Some(program).filter(|program| !program.is_empty()).into_iter().cloned().collect(),
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    // An image's own command belongs to its own entry point.
    let command = match given.is_empty() && args.entrypoint.is_none() {
        true => config.cmd.clone().unwrap_or_default(),
        false => given.to_vec(),
    };
    let argv = [entrypoint, command].concat();
    if argv.is_empty() {
        let failure = CliError::usage("no command is named, and the image has none");
        return Err(failure.help("name one after the image: `rbuild run IMAGE COMMAND`"));
    }
    Ok(argv)
}

fn environment(args: &RunArgs, config: &ContainerConfig) -> Result<Vec<(String, String)>, CliError> {
    let mut all: Vec<(String, String)> = vec![("PATH".to_owned(), PATH.to_owned())];
    all.extend(args.tty.then(|| ("TERM".to_owned(), "xterm".to_owned())));
    all.extend(
        config
            .env
            .iter()
            .filter_map(|text| text.split_once('='))
            .map(|(name, value)| (name.into(), value.into())),
    );
    all.extend(variables(&args.env_files, &args.env)?);
    // The last of a name counts, where the first stands.
    let mut environment: Vec<(String, String)> = Vec::new();
    for (name, value) in all {
        match environment.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => environment.push((name, value)),
        }
    }
    Ok(environment)
}

/// `--env-file`, then `--env`.
pub(super) fn variables(files: &[PathBuf], given: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let mut texts = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(|error| {
            let failure = Failure::new(FailureKind::Usage, format!("could not read `{}`", file.display()));
            CliError::from(failure.caused_by(error))
        })?;
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        texts.extend(lines.map(str::to_owned));
    }
    texts.extend_from_slice(given);
    let mut variables = Vec::new();
    for text in texts {
        match text.split_once('=') {
            Some(("", _)) => return Err(CliError::usage(format!("invalid environment variable: `{text}`"))),
            Some((name, value)) => variables.push((name.to_owned(), value.to_owned())),
            None => variables.extend(surroundings::variable(&text).map(|value| (text, value))),
        }
    }
    Ok(variables)
}

fn working_directory(args: &RunArgs, config: &ContainerConfig) -> Result<String, CliError> {
    match &args.workdir {
        Some(path) if !path.starts_with('/') => {
            Err(CliError::usage(format!("the working directory `{path}` is not an absolute path")))
        }
        Some(path) => Ok(path.clone()),
        None if config.working_dir.is_empty() => Ok("/".to_owned()),
        None => Ok(config.working_dir.clone()),
    }
}

/// `SOURCE:TARGET[:ro|rw]`; a folder that is not there is made, as Docker does.
fn volume(text: &str) -> Result<Volume, CliError> {
    let bad = |why: &str| CliError::usage(format!("could not understand `--volume {text}`: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(bad("write it as SOURCE:TARGET[:ro]")),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux, consistency and propagation: what they are for is not here.
            "rw" | "z" | "Z" | "cached" | "consistent" | "delegated" | "rprivate" | "private" => {}
            other => return Err(bad(&format!("there is no option `{other}`"))),
        }
    }
    if !source.starts_with(['/', '.', '~']) {
        let error = bad("its source is no path, and there are no named volumes here");
        return Err(error.help(format!("for a folder write `./{source}` or an absolute path")));
    }
    if !target.starts_with('/') {
        return Err(bad("its target is not an absolute path"));
    }
    let source = std::path::absolute(source).unwrap_or_else(|_| source.into());
    if fs::symlink_metadata(&source).is_err() {
        fs::create_dir_all(&source).map_err(|error| {
            CliError::environment(format!("could not make the folder `{}`", source.display()), error)
        })?;
    }
    Ok(Volume { source, target: target.into(), read_only })
}

fn ports(args: &RunArgs, config: &ContainerConfig) -> Result<Vec<Port>, CliError> {
    let parse = |text: &String| {
        Port::parse(text)
            .map_err(|why| CliError::usage(format!("could not understand the port `{text}`: {why}")))
    };
    let mut ports = Vec::new();
    for text in &args.publish {
        ports.extend(parse(text)?);
    }
    for exposed in config.exposed_ports.keys().filter(|_| args.publish_all) {
        ports.extend(parse(exposed)?);
    }
    Ok(ports)
}

fn network(args: &RunArgs, has_ports: bool) -> Result<NetworkMode, CliError> {
    match args.network.as_deref() {
        None | Some("default") => Ok(if has_ports { NetworkMode::Private } else { NetworkMode::Host }),
        Some("host") => Ok(NetworkMode::Host),
        Some("none") => Ok(NetworkMode::None),
        Some("private" | "bridge" | "pasta" | "slirp4netns") => Ok(NetworkMode::Private),
        Some(other) => Err(CliError::usage(format!("unknown network `{other}`"))
            .help("there are `host`, `none` and `private`")),
    }
}

fn health(args: &RunArgs, config: &ContainerConfig) -> Option<HealthCheck> {
    let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
    let shell = if config.shell.is_empty() { &shell[..] } else { &config.shell };
    let check = config.healthcheck.as_ref().filter(|_| !args.no_healthcheck)?;
    HealthCheck::of_image(check, shell)
}

fn labels(args: &RunArgs, config: &ContainerConfig) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    labels.extend(args.labels.iter().map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    }));
    labels
}
