//! What rbuild takes from its surroundings: environment, home, the host's files. Nothing below this crate reads them.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rbuild_executor::Place;
use rbuild_registry::{
    Client, ClientOptions, CredentialStore, HelperOutput, HelperRunner, ProxyConf, RegistriesConf,
};
use rbuild_store::{Store, StoreOptions};

use crate::args::GlobalArgs;
use crate::failure::CliError;

/// Where distributions keep their bundle of certificate authorities.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A variable of the environment that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn folder(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from)
}

fn home() -> PathBuf {
    folder("HOME").unwrap_or_else(|| PathBuf::from("/"))
}

fn config_home() -> PathBuf {
    folder("XDG_CONFIG_HOME").unwrap_or_else(|| home().join(".config"))
}

/// `--root`, `RBUILD_ROOT`, or `rbuild` in the XDG data home.
pub(crate) fn store_root(given: Option<&Path>) -> PathBuf {
    let default = || folder("XDG_DATA_HOME").unwrap_or_else(|| home().join(".local/share")).join("rbuild");
    given.map(Path::to_owned).or_else(|| folder("RBUILD_ROOT")).unwrap_or_else(default)
}

/// Opens the store.
pub(crate) fn open_store(root: Option<&Path>, place: &Place) -> Result<Store, CliError> {
    open_store_as(root, &place.id_map().to_string())
}

/// Opens the store for the trees of an id map.
pub(crate) fn open_store_as(root: Option<&Path>, id_map: &str) -> Result<Store, CliError> {
    let root = store_root(root);
    let root = std::path::absolute(&root).unwrap_or(root);
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let options = StoreOptions { root, id_map: id_map.to_owned(), boot_id: boot_id.trim().to_owned() };
    Store::open(&options).map_err(|error| {
        CliError::environment(format!("could not open the store `{}`", options.root.display()), error)
    })
}

/// This program's own configuration.
pub(crate) fn config_file() -> PathBuf {
    config_home().join("rbuild/config.toml")
}

/// Docker's `config.json`, where logins are written.
pub(crate) fn docker_config() -> PathBuf {
    folder("DOCKER_CONFIG").unwrap_or_else(|| home().join(".docker")).join("config.json")
}

/// A registry client that knows this user's registries, logins and proxies.
pub(crate) fn client(global: &GlobalArgs, place: &'static Place) -> Result<Client, CliError> {
    if let Some(folder) = global.cert_dir.as_deref().filter(|folder| !folder.is_dir()) {
        let text = format!("could not read certificates: there is no folder `{}`", folder.display());
        return Err(CliError::usage(text));
    }
    let fault = |error| CliError::registry("could not prepare the registry client".to_owned(), error);
    let wrong_file = |error| {
        let message = "could not prepare the registry client";
        CliError::from(
            rbuild_engine::Failure::new(rbuild_engine::FailureKind::Usage, message).caused_by(error),
        )
    };
    let (registries, logins) = registries_and_logins().map_err(wrong_file)?;
    let any_case = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
    let options = ClientOptions {
        registries,
        credentials: logins,
        helper: Some(helper_runner(place)),
        cert_dir: global.cert_dir.clone(),
        certs_dirs: vec![
            "/etc/containers/certs.d".into(),
            "/etc/docker/certs.d".into(),
            config_home().join("containers/certs.d"),
            config_home().join("docker/certs.d"),
        ],
        proxies: ProxyConf {
            http: any_case("HTTP_PROXY"),
            https: any_case("HTTPS_PROXY"),
            no_proxy: any_case("NO_PROXY").unwrap_or_default(),
        },
        ..ClientOptions::default()
    };
    let client = Client::new(options).map_err(fault)?;
    if place.in_place().is_some() {
        // A base image's own would take their place.
        client.read_authorities();
    }
    Ok(client)
}

/// Where images live and who we are there: podman's files, and what Docker's daemon is told.
fn registries_and_logins() -> rbuild_registry::Result<(RegistriesConf, CredentialStore)> {
    let of_user = config_home().join("containers");
    let files = match folder("CONTAINERS_REGISTRIES_CONF") {
        Some(file) => vec![file],
        None => {
            let own = of_user.join("registries.conf");
            let main = if own.exists() { own } else { "/etc/containers/registries.conf".into() };
            vec![main, "/etc/containers/registries.conf.d".into(), of_user.join("registries.conf.d")]
        }
    };
    let mut registries = RegistriesConf::load(&files)?;
    // The daemon of root, and the user's own (rootless Docker).
    for file in [config_home().join("docker/daemon.json"), "/etc/docker/daemon.json".into()] {
        registries.load_docker(&file)?;
    }
    let mut files = Vec::from_iter(folder("REGISTRY_AUTH_FILE"));
    files.push(docker_config());
    files.extend(folder("XDG_RUNTIME_DIR").map(|runtime| runtime.join("containers/auth.json")));
    files.push(of_user.join("auth.json"));
    let mut logins = CredentialStore::load(&files)?;
    logins.add_helpers(registries.credential_helpers());
    Ok((registries, logins))
}

/// Credential helpers run as the calling user, outside our user namespace.
struct Helpers(&'static Place);

impl HelperRunner for Helpers {
    fn run(&self, program: &str, argument: &str, stdin: &[u8]) -> io::Result<HelperOutput> {
        let argv = [program, argument].map(OsString::from).to_vec();
        let command = rbuild_executor::OutsideCommand {
            argv,
            env: environment().into_iter().collect(),
            cwd: None,
            stdin: stdin.to_vec(),
        };
        let output = self.0.outside().run(&command)?;
        Ok(HelperOutput { success: output.status.success(), stdout: output.stdout })
    }
}

/// Runs credential helpers.
pub(crate) fn helper_runner(place: &'static Place) -> std::sync::Arc<dyn HelperRunner> {
    std::sync::Arc::new(Helpers(place))
}

/// Where `login` keeps credentials: podman's file where the environment names one, else Docker's.
pub(crate) fn login_file() -> PathBuf {
    folder("REGISTRY_AUTH_FILE").unwrap_or_else(docker_config)
}

/// The whole environment, for programs that run as the caller.
pub(crate) fn environment() -> BTreeMap<OsString, OsString> {
    env::vars_os().collect()
}

/// The bundle of certificate authorities that this machine trusts: `SSL_CERT_FILE`, or where distributions keep it.
pub(crate) fn host_certificates(given: &str) -> Result<Vec<u8>, CliError> {
    let candidates: Vec<PathBuf> = match given {
        "" => folder("SSL_CERT_FILE").into_iter().chain(BUNDLES.map(PathBuf::from)).collect(),
        file => vec![file.into()],
    };
    if !given.is_empty() && !candidates[0].is_file() {
        return Err(CliError::usage(format!(
            "could not read the certificate authorities: there is no file `{given}`"
        )));
    }
    let Some(file) = candidates.iter().find(|file| file.is_file()) else {
        let failure =
            CliError::usage("could not find a bundle of certificate authorities on this machine".to_owned());
        return Err(failure.help("name it: `--host-certs=FILE`"));
    };
    fs::read(file)
        .map_err(|error| CliError::environment(format!("could not read `{}`", file.display()), error))
}

/// The host's `/etc/resolv.conf`, empty where there is none.
pub(crate) fn resolv_conf() -> Vec<u8> {
    // A machine without it has no names to look up: that is no reason not to build.
    fs::read("/etc/resolv.conf").unwrap_or_default()
}
