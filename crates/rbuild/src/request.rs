//! From what was typed to what the engine takes.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rbuild_context::ContextSource;
use rbuild_engine::{
    BuildRequest, CacheUse, Context, NamedContext, Network, Output, RunOptions, SecretSource,
};
use rbuild_image::{Platform, Reference};

use crate::args::BuildArgs;
use crate::failure::CliError;
use crate::{csv, output_spec, size, surroundings};

type Result<T> = std::result::Result<T, CliError>;

/// Names under which a Dockerfile is looked for in the context.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Reads the command line, the Dockerfile and the ignore file.
pub(crate) fn read(args: &BuildArgs) -> Result<BuildRequest> {
    let where_from = args.context.as_deref().unwrap_or(".");
    let (context, mut stdin) = open_context(where_from, args.file.as_deref())?;
    let (dockerfile, dockerfile_name, dockerfile_path) = read_dockerfile(&context, args.file.as_deref(), &mut stdin)?;
    let ignore = match &context {
        Context::Directory(root) => read_ignore(root, dockerfile_path.as_deref())?,
        Context::Empty => None,
    };
    let tags = args.tags.iter().map(|tag| image_name(tag)).collect::<Result<Vec<_>>>()?;
    let build_args = pairs_or_environment(&args.build_args);
    let mut request = BuildRequest {
        dockerfile,
        dockerfile_name,
        context,
        ignore,
        named_contexts: args.build_contexts.iter().map(|text| named_context(text)).collect::<Result<_>>()?,
        target: args.target.clone(),
        platform: platform(&args.platforms)?,
        build_platform: Platform::host(),
        labels: args.labels.iter().map(|label| name_value(label)).collect(),
        annotations: args.annotations.iter().map(|annotation| name_value(annotation)).collect(),
        cache: CacheUse {
            none: args.no_cache,
            except_stages: args.no_cache_filter.iter().map(|stage| stage.to_lowercase()).collect(),
            pull: args.pull,
        },
        run: run_options(args)?,
        epoch: epoch(&build_args)?,
        build_args,
        tags,
        outputs: Vec::new(),
        rewrite_timestamp: false,
        strict_docker: args.strict_docker,
        git_environment: surroundings::environment(),
    };
    read_outputs(args, &mut request)?;
    Ok(request)
}

fn read_outputs(args: &BuildArgs, request: &mut BuildRequest) -> Result<()> {
    let mut texts = args.outputs.clone();
    if args.push {
        texts.push("type=registry".to_owned());
    }
    let tags = request.tags.clone();
    for text in &texts {
        let spec = output_spec::parse(text, &tags).map_err(CliError::usage)?;
        if matches!(&spec.output, Some(Output::Registry { names, .. }) if names.is_empty()) {
            return Err(CliError::usage("could not push: the image has no name").help("name it with `-t REGISTRY/NAME:TAG`"));
        }
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

fn open_context(text: &str, file: Option<&Path>) -> Result<(Context, Option<String>)> {
    let source = ContextSource::parse(text)
        .map_err(|error| CliError::from(rbuild_engine::Failure::new(rbuild_engine::FailureKind::Usage, format!("could not understand the context `{text}`")).caused_by(error)))?;
    match source {
        ContextSource::Path(path) if path.is_dir() => Ok((Context::Directory(path), None)),
        ContextSource::Path(path) if path.exists() => {
            let failure = CliError::usage(format!("the build context `{}` is not a folder", path.display()));
            Err(failure.help("name the folder, and the Dockerfile with `-f`"))
        }
        ContextSource::Path(path) => {
            let failure = CliError::usage(format!("there is no build context `{}`", path.display()));
            Err(failure.help("the last argument is the folder whose files COPY reads, often `.`"))
        }
        ContextSource::Stdin if file == Some(Path::new("-")) => {
            Err(CliError::usage("standard input cannot be both the context and the Dockerfile"))
        }
        ContextSource::Stdin => {
            let mut bytes = Vec::new();
            io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| CliError::environment("could not read standard input".to_owned(), error))?;
            match String::from_utf8(bytes) {
                Ok(text) => Ok((Context::Empty, Some(text))),
                Err(_) => Err(CliError::usage("a context archive on standard input is not supported yet")
                    .help("unpack it and name the folder")),
            }
        }
        other => Err(CliError::usage(format!("the context `{text}` ({other:?}) cannot be fetched yet"))
            .help("fetch it first and name the folder")),
    }
}

/// The Dockerfile's text, the name to show, and its path where it has one.
fn read_dockerfile(context: &Context, file: Option<&Path>, stdin: &mut Option<String>) -> Result<(String, String, Option<PathBuf>)> {
    if let Some(text) = stdin.take() {
        return Ok((text, "-".to_owned(), None));
    }
    if file == Some(Path::new("-")) {
        let text = io::read_to_string(io::stdin())
            .map_err(|error| CliError::environment("could not read the Dockerfile from standard input".to_owned(), error))?;
        return Ok((text, "-".to_owned(), None));
    }
    let path = match (file, context) {
        // As with Docker, a relative name is relative to where the command runs; one in the context is found as well.
        (Some(file), Context::Directory(root)) if !file.exists() && root.join(file).exists() => root.join(file),
        (Some(file), _) => file.to_owned(),
        (None, Context::Directory(root)) => {
            let found = DOCKERFILES.iter().map(|name| root.join(name)).find(|path| path.exists());
            found.ok_or_else(|| {
                let failure = CliError::usage(format!("there is no Dockerfile in `{}`", root.display()));
                failure.help("name it with `-f FILE`")
            })?
        }
        (None, Context::Empty) => return Err(CliError::usage("there is no Dockerfile")),
    };
    let fault = format!("could not read the Dockerfile `{}`", path.display());
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::usage(format!("there is no Dockerfile `{}`", path.display())),
        io::ErrorKind::IsADirectory => CliError::usage(format!("`{}` is a folder, not a Dockerfile", path.display())),
        _ => CliError::environment(fault.clone(), error),
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|error| CliError::usage(format!("{fault}: it is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
    let name = match context {
        Context::Directory(root) => path.strip_prefix(root).unwrap_or(&path).display().to_string(),
        Context::Empty => path.display().to_string(),
    };
    Ok((text, name, Some(path)))
}

/// The ignore file beside the Dockerfile before the ones at the context's root.
fn read_ignore(root: &Path, dockerfile: Option<&Path>) -> Result<Option<(String, String)>> {
    let mut candidates = Vec::new();
    if let Some(path) = dockerfile {
        for ending in [".dockerignore", ".containerignore"] {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            candidates.push(PathBuf::from(name));
        }
    }
    candidates.extend([root.join(".dockerignore"), root.join(".containerignore")]);
    for path in candidates {
        match fs::read(&path) {
            Ok(bytes) => return Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), path.display().to_string()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::environment(format!("could not read `{}`", path.display()), error)),
        }
    }
    Ok(None)
}

fn named_context(text: &str) -> Result<(String, NamedContext)> {
    let bad = |why: String| CliError::usage(format!("could not understand `--build-context {text}`: {why}"));
    let (name, place) = text.split_once('=').ok_or_else(|| bad("write it as NAME=WHERE".to_owned()))?;
    let context = match ContextSource::parse_named(place).map_err(|error| bad(error.to_string()))? {
        ContextSource::Image(name) if name == "scratch" => NamedContext::Scratch,
        ContextSource::Image(name) => NamedContext::Image(image_name(&name)?),
        ContextSource::OciLayout(rest) => oci_layout(&rest).map_err(bad)?,
        ContextSource::Path(path) if path.is_dir() => {
            let ignore = read_ignore(&path, None)?.map(|(text, _)| text);
            NamedContext::Directory { path, ignore }
        }
        ContextSource::Path(path) => return Err(bad(format!("there is no folder `{}`", path.display()))),
        other => return Err(bad(format!("contexts of this kind ({other:?}) cannot be fetched yet"))),
    };
    Ok((name.to_lowercase(), context))
}

/// `PATH[:TAG][@DIGEST]`.
fn oci_layout(text: &str) -> std::result::Result<NamedContext, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|error| format!("`{digest}` is no digest: {error}"))?)),
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(NamedContext::OciLayout { path: path.into(), tag, digest })
}

fn run_options(args: &BuildArgs) -> Result<RunOptions> {
    let (resolv_conf, hosts) = surroundings::name_lookup();
    let network = match args.network.as_deref() {
        None | Some("default" | "host") => Network::Host,
        Some("none") => Network::None,
        Some(other) => {
            return Err(CliError::usage(format!("unknown network `{other}`")).help("there are `default`, `host` and `none`"));
        }
    };
    let allowed = |name: &str| args.allow.iter().any(|allow| allow == name);
    if let Some(unknown) = args.allow.iter().find(|allow| !["security.insecure", "network.host"].contains(&allow.as_str())) {
        return Err(CliError::usage(format!("unknown entitlement `{unknown}`")).help("there are `security.insecure` and `network.host`"));
    }
    Ok(RunOptions {
        network,
        extra_hosts: args.add_hosts.iter().map(|text| extra_host(text)).collect::<Result<_>>()?,
        resolv_conf,
        hosts,
        secrets: args.secrets.iter().map(|text| secret(text)).collect::<Result<_>>()?,
        ssh_agents: args.ssh.iter().map(|text| ssh_agent(text)).collect::<Result<_>>()?,
        host_certificates: args.host_certs.as_deref().map(surroundings::host_certificates).transpose()?,
        shm_size: args.shm_size.as_deref().map(size::parse_size).transpose().map_err(CliError::usage)?,
        ulimits: args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
        capabilities_added: args.cap_add.clone(),
        capabilities_dropped: args.cap_drop.clone(),
        allow_insecure: allowed("security.insecure"),
        allow_network_host: allowed("network.host"),
    })
}

fn extra_host(text: &str) -> Result<(String, IpAddr)> {
    let bad = || CliError::usage(format!("could not understand `--add-host {text}`: write it as HOST:IP or HOST=IP"));
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if address == "host-gateway" {
        // RUN is on the host's network: the host is where it is.
        return Ok((host.to_owned(), IpAddr::from([127, 0, 0, 1])));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), address.parse().map_err(|_| bad())?))
}

/// `id=ID[,src=FILE|,env=NAME]`; without a source the variable of that name, else the file.
fn secret(text: &str) -> Result<(String, SecretSource)> {
    let bad = |why: String| CliError::usage(format!("could not understand `--secret {text}`: {why}"));
    let (mut id, mut file, mut environment) = (None, None, None);
    for (key, value) in csv::pairs(text).map_err(bad)? {
        let value = value.ok_or_else(|| bad(format!("`{key}` wants a value")))?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => environment = Some(value),
            "type" if ["file", "env"].contains(&value.as_str()) => {}
            _ => return Err(bad(format!("unknown key `{key}`; there are id, src, env and type"))),
        }
    }
    let id = id.ok_or_else(|| bad("it wants `id=`".to_owned()))?;
    let source = match (file, environment) {
        (Some(file), _) => SecretSource::File(file.into()),
        (None, Some(name)) => SecretSource::Value(surroundings::variable(&name).ok_or_else(|| bad(format!("the variable `{name}` is not set")))?.into_bytes()),
        (None, None) => match surroundings::variable(&id) {
            Some(value) => SecretSource::Value(value.into_bytes()),
            None => SecretSource::File(id.clone().into()),
        },
    };
    if let SecretSource::File(path) = &source {
        if !path.is_file() {
            return Err(bad(format!("there is no file `{}`", path.display())));
        }
    }
    Ok((id, source))
}

/// `default`, `ID` or `ID=SOCKET`.
fn ssh_agent(text: &str) -> Result<(String, PathBuf)> {
    let bad = |why: &str| CliError::usage(format!("could not understand `--ssh {text}`: {why}"));
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id.to_owned(), PathBuf::from(path)),
        None => {
            let socket = surroundings::variable("SSH_AUTH_SOCK").ok_or_else(|| bad("no agent is running (SSH_AUTH_SOCK is not set)"))?;
            (text.to_owned(), socket.into())
        }
    };
    use std::os::unix::fs::FileTypeExt;
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok((id, path)),
        Ok(_) => Err(bad("it wants an agent's socket").help("start an agent with `ssh-agent`, add the key with `ssh-add`")),
        Err(_) => Err(bad(&format!("there is no socket `{}`", path.display()))),
    }
}

fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    let bad = || CliError::usage(format!("could not understand `--ulimit {text}`: write it as NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse().map_err(|_| bad()),
    };
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}

fn platform(given: &[String]) -> Result<Platform> {
    let text = match given {
        [] => match surroundings::variable("DOCKER_DEFAULT_PLATFORM") {
            Some(text) => text,
            None => return Ok(Platform::host()),
        },
        [one] => one.clone(),
        _ => return Err(CliError::usage("one platform at a time, please").help("build each, and join them with an index")),
    };
    Platform::parse(&text).map_err(|error| CliError::usage(format!("could not understand `--platform {text}`: {error}")))
}

/// `SOURCE_DATE_EPOCH` as a build arg, else from the environment.
fn epoch(build_args: &BTreeMap<String, String>) -> Result<Option<i64>> {
    let text = build_args.get("SOURCE_DATE_EPOCH").cloned().or_else(|| surroundings::variable("SOURCE_DATE_EPOCH"));
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(epoch) => Ok(Some(epoch)),
        Err(_) => Err(CliError::usage(format!("SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds"))),
    }
}

pub(crate) fn image_name(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(|error| CliError::usage(format!("could not understand the image name `{text}`: {error}")))
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
