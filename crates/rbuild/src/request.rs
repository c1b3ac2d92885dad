//! From what was typed to what the engine takes.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::SOURCE_DATE_EPOCH;
use rbuild_engine::{
    BuildRequest, CacheUse, Context, Destination, Network, OnFailure, Output, RunOptions, Secret,
    SecretSource,
};
use rbuild_image::{Platform, Reference};

use crate::args::{BuildArgs, OnError};
use crate::context::Typed;
use crate::entitlements::Entitlements;
use crate::failure::CliError;
use crate::workshop::Workshop;
use crate::{cache_spec, context, csv, output_spec, size, surroundings};

type Result<T> = std::result::Result<T, CliError>;

/// Reads the command line, then the context and the Dockerfile, which may have to be fetched.
pub(crate) fn read(args: &BuildArgs, workshop: &Workshop) -> Result<BuildRequest> {
    let tags = args.tags.iter().map(|tag| image_name(tag)).collect::<Result<Vec<_>>>()?;
    let build_args = build_args(&args.build_args);
    let platforms = platforms(&args.platforms)?;
    let mut request = BuildRequest {
        dockerfile: String::new(),
        dockerfile_name: String::new(),
        context: Context::Empty,
        ignore: None,
        named_contexts: context::named(&args.build_contexts, keep_git_dir(&build_args))?,
        target: args.target.clone(),
        platform: platforms.first().cloned().unwrap_or_else(Platform::host),
        platforms,
        platform_given: !args.platforms.is_empty(),
        build_platform: Platform::host(),
        labels: args.labels.iter().map(|label| name_value(label)).collect(),
        annotations: args.annotations.iter().map(|annotation| name_value(annotation)).collect(),
        cache: CacheUse {
            none: args.no_cache,
            except_stages: args.no_cache_filter.iter().map(|stage| stage.to_lowercase()).collect(),
            pull: args.pull,
            explain: args.explain,
            ..cache_places(args)?
        },
        run: run_options(args)?,
        epoch: None,
        build_args,
        tags,
        outputs: Vec::new(),
        rewrite_timestamp: false,
        strict_docker: args.strict_docker,
        on_failure: on_failure(args),
        enter: None,
        git_environment: surroundings::environment(),
    };
    read_outputs(args, &mut request)?;
    let typed = Typed {
        context: args.context.as_deref().unwrap_or("."),
        file: args.file.as_deref(),
        keep_git_dir: keep_git_dir(&request.build_args),
        is_dated: request.build_args.get(SOURCE_DATE_EPOCH).is_some_and(|value| !value.is_empty()),
    };
    let opened = context::open(&typed, workshop)?;
    (request.context, request.ignore) = (opened.context, opened.ignore);
    (request.dockerfile, request.dockerfile_name) = (opened.dockerfile, opened.name);
    Ok(request)
}

/// Where results are taken from and given to.
fn cache_places(args: &BuildArgs) -> Result<CacheUse> {
    let imports = |option: &str, texts: &[String]| {
        texts
            .iter()
            .map(|text| cache_spec::import(option, text).map_err(CliError::usage))
            .collect::<Result<_>>()
    };
    let to = args.cache_to.iter().map(|text| cache_spec::export(text).map_err(CliError::usage));
    let mounts_to = args
        .cache_mounts_to
        .iter()
        .map(|text| cache_spec::export_place("--cache-mounts-to", text).map_err(CliError::usage));
    Ok(CacheUse {
        from: imports("--cache-from", &args.cache_from)?,
        to: to.collect::<Result<_>>()?,
        mounts_from: imports("--cache-mounts-from", &args.cache_mounts_from)?,
        mounts_to: mounts_to.collect::<Result<_>>()?,
        ..CacheUse::default()
    })
}

fn on_failure(args: &BuildArgs) -> OnFailure {
    match (args.on_error, args.keep_failed) {
        (OnError::Shell, _) => OnFailure::Shell,
        (OnError::Fail, true) => OnFailure::Keep,
        (OnError::Fail, false) => OnFailure::Drop,
    }
}

/// `BUILDKIT_CONTEXT_KEEP_GIT_DIR`; what is no boolean says nothing.
fn keep_git_dir(build_args: &BTreeMap<String, String>) -> Option<bool> {
    rbuild_dockerfile::parse_bool(build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")?)
}

fn read_outputs(args: &BuildArgs, request: &mut BuildRequest) -> Result<()> {
    args.iidfile.iter().chain(&args.metadata_file).try_for_each(|file| has_folder(file))?;
    let mut texts = args.outputs.clone();
    if args.push {
        texts.push("type=registry".to_owned());
    }
    let tags = request.tags.clone();
    for text in &texts {
        let spec = output_spec::parse(text, &tags).map_err(CliError::usage)?;
        if matches!(&spec.output, Some(Output::Registry { names, .. }) if names.is_empty()) {
            return Err(CliError::usage("could not push: the image has no name")
                .help("name it with `-t REGISTRY/NAME:TAG`"));
        }
        spec.output.iter().try_for_each(archive_is_writable)?;
        request.outputs.extend(spec.output);
        request.tags.extend(spec.names);
        request.rewrite_timestamp |= spec.rewrite_timestamp;
        request.epoch = spec.epoch.or(request.epoch);
        request.annotations.extend(spec.annotations);
    }
    request.tags.sort();
    request.tags.dedup();
    Ok(())
}

/// An archive that cannot be written is said before the build, not after it.
fn archive_is_writable(output: &Output) -> Result<()> {
    let (Output::Oci { to, .. } | Output::Docker { to, .. } | Output::Tar(to)) = output else {
        return Ok(());
    };
    let Destination::File(path) = to else { return Ok(()) };
    if path.is_dir() {
        let failure =
            CliError::usage(format!("could not write the archive to `{}`: it is a folder", path.display()));
        return Err(failure.help("name a file, `dest=FILE`, or write a folder with `tar=false`"));
    }
    has_folder(path)
}

/// Whether a file can be made at this path as far as its folder goes.
fn has_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(());
    }
    let failure = CliError::usage(format!(
        "could not write `{}`: there is no folder `{}`",
        path.display(),
        folder.display()
    ));
    Err(failure.help("make the folder first"))
}

fn run_options(args: &BuildArgs) -> Result<RunOptions> {
    let network = match args.network.as_deref() {
        None | Some("default" | "host") => Network::Host,
        Some("none") => Network::None,
        Some("private") => Network::Private,
        Some(other) => {
            return Err(CliError::usage(format!("unknown network `{other}`"))
                .help("there are `default`, `host`, `none` and `private`"));
        }
    };
    let allowed = Entitlements::read(&args.allow)?;
    Ok(RunOptions {
        network,
        extra_hosts: args.add_hosts.iter().map(|text| extra_host(text)).collect::<Result<_>>()?,
        resolv_conf: surroundings::resolv_conf(),
        secrets: args.secrets.iter().map(|text| secret(text)).collect::<Result<_>>()?,
        ssh_agents: args.ssh.iter().map(|text| ssh_agent(text)).collect::<Result<_>>()?,
        host_certificates: args.host_certs.as_deref().map(surroundings::host_certificates).transpose()?,
        shm_size: args.shm_size.as_deref().map(size::parse_size).transpose().map_err(CliError::usage)?,
        ulimits: args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
        // Groups are made when the build begins.
        limits: None,
        cgroup_parent: args.limits.cgroup_parent.clone(),
        capabilities_added: args.cap_add.clone(),
        capabilities_dropped: args.cap_drop.clone(),
        devices: args.devices.clone(),
        device_folders: args.cdi_spec_dirs.clone(),
        allowed_devices: allowed.devices,
        allow_insecure: allowed.insecure,
        allow_network_host: allowed.network_host,
    })
}

pub(crate) fn extra_host(text: &str) -> Result<(String, IpAddr)> {
    let bad = || {
        CliError::usage(format!("could not understand `--add-host {text}`: write it as HOST:IP or HOST=IP"))
    };
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if address == "host-gateway" {
        // RUN is on the host's network: the host is where it is.
        return Ok((host.to_owned(), IpAddr::from([127, 0, 0, 1])));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), address.parse().map_err(|_| bad())?))
}

/// `id=ID[,src=FILE|,env=NAME][,cache-key=digest]`; without a source the variable of that name, else the file.
fn secret(text: &str) -> Result<(String, Secret)> {
    let bad = |why: String| CliError::usage(format!("could not understand `--secret {text}`: {why}"));
    let (mut id, mut file, mut environment) = (None, None, None);
    let mut in_key = false;
    for (key, value) in csv::pairs(text).map_err(bad)? {
        let value = value.ok_or_else(|| bad(format!("`{key}` wants a value")))?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => environment = Some(value),
            "cache-key" if ["digest", "none"].contains(&value.as_str()) => in_key = value == "digest",
            "cache-key" => return Err(bad("`cache-key` is `digest` or `none`".to_owned())),
            "type" if ["file", "env"].contains(&value.as_str()) => {}
            _ => return Err(bad(format!("unknown key `{key}`; there are id, src, env, cache-key and type"))),
        }
    }
    let id = id.ok_or_else(|| bad("it wants `id=`".to_owned()))?;
    let source = match (file, environment) {
        (Some(file), _) => SecretSource::File(file.into()),
        (None, Some(name)) => SecretSource::Value(
            surroundings::variable(&name)
                .ok_or_else(|| bad(format!("the variable `{name}` is not set")))?
                .into_bytes(),
        ),
        (None, None) => match surroundings::variable(&id) {
            Some(value) => SecretSource::Value(value.into_bytes()),
            None => SecretSource::File(id.clone().into()),
        },
    };
    if let SecretSource::File(path) = &source
        && !path.is_file()
    {
        return Err(bad(format!("there is no file `{}`", path.display())));
    }
    Ok((id, Secret { source, in_key }))
}

/// `default`, `ID` or `ID=SOCKET`.
fn ssh_agent(text: &str) -> Result<(String, PathBuf)> {
    let bad = |why: &str| CliError::usage(format!("could not understand `--ssh {text}`: {why}"));
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id.to_owned(), PathBuf::from(path)),
        None => {
            let socket = surroundings::variable("SSH_AUTH_SOCK")
                .ok_or_else(|| bad("no agent is running (SSH_AUTH_SOCK is not set)"))?;
            (text.to_owned(), socket.into())
        }
    };
    use std::os::unix::fs::FileTypeExt;
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok((id, path)),
        Ok(_) => Err(bad("it wants an agent's socket")
            .help("start an agent with `ssh-agent`, add the key with `ssh-add`")),
        Err(_) => Err(bad(&format!("there is no socket `{}`", path.display()))),
    }
}

fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    let bad =
        || CliError::usage(format!("could not understand `--ulimit {text}`: write it as NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse().map_err(|_| bad()),
    };
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}

fn platforms(given: &[String]) -> Result<Vec<Platform>> {
    let default = surroundings::variable("DOCKER_DEFAULT_PLATFORM").filter(|_| given.is_empty());
    let parse = |text: &String| {
        Platform::parse(text)
            .map_err(|error| CliError::usage(format!("could not understand `--platform {text}`: {error}")))
    };
    given.iter().chain(&default).map(parse).collect()
}

pub(crate) fn image_name(text: &str) -> Result<Reference> {
    Reference::parse(text)
        .map_err(|error| CliError::usage(format!("could not understand the image name `{text}`: {error}")))
}

/// `--build-arg`; `SOURCE_DATE_EPOCH` of the environment is one unless it is given, as with Docker.
fn build_args(texts: &[String]) -> BTreeMap<String, String> {
    let mut pairs = pairs_or_environment(texts);
    if let Some(epoch) = surroundings::variable(SOURCE_DATE_EPOCH) {
        pairs.entry(SOURCE_DATE_EPOCH.to_owned()).or_insert(epoch);
    }
    pairs
}

/// `NAME=VALUE`, or `NAME` with the environment's value where that has one.
fn pairs_or_environment(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    };
    texts.iter().filter_map(pair).collect()
}

fn name_value(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}
