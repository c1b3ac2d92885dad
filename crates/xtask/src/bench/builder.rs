//! The builders that are compared: how each is told to build a context and write an OCI archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::measure::{Sample, measure};
use super::rivals::{buildah, buildctl, buildkit_configuration, daemonless, kaniko};
use crate::process::{Result, find, is_root, run_quietly, tool};
use crate::registry::Registry;
use crate::user::remove_tree;

/// Where the builders work.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) registry: &'a Registry,
    /// The folder of all stores.
    pub(super) stores: &'a Path,
    /// A `registries.conf` that mirrors docker.io to the registry.
    pub(super) conf: PathBuf,
}

/// Where a built image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// An OCI archive with gzip layers.
    Archive,
    /// The builder's own store, in its own form.
    Store,
    /// A registry, with a cache for other machines.
    Registry,
}

impl Output {
    pub(super) fn parse(name: &str) -> Result<Output> {
        match name {
            "archive" => Ok(Output::Archive),
            "store" => Ok(Output::Store),
            "registry" => Ok(Output::Registry),
            other => Err(format!("no output named `{other}`; there are archive, store and registry").into()),
        }
    }
}

/// A builder of this machine.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) name: &'static str,
    kind: Kind,
    place: &'a Place<'a>,
}

#[derive(Debug)]
enum Kind {
    Rbuild(PathBuf),
    Buildah,
    BuildKit,
    /// A buildkitd of its own for each build.
    Daemonless,
    /// With the path of its executor.
    Kaniko(PathBuf),
}

/// A builder's store, empty at first.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) folder: PathBuf,
    daemon: Option<Daemon>,
}

/// A running buildkitd; dropping it stops it.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Child,
    socket: String,
}

/// rbuild, and the others that are installed (or asked for by name).
pub(super) fn present<'a>(
    rbuild: &Path,
    place: &'a Place<'a>,
    with: Option<&[String]>,
) -> Result<Vec<Builder<'a>>> {
    let kaniko = find("kaniko-executor");
    let buildkit = is_root() && find("buildkitd").is_some() && find("buildctl").is_some();
    let all = [
        ("rbuild", Kind::Rbuild(rbuild.to_path_buf()), true),
        ("buildah", Kind::Buildah, find("buildah").is_some()),
        ("buildkit", Kind::BuildKit, buildkit),
        ("daemonless", Kind::Daemonless, buildkit),
        ("kaniko", Kind::Kaniko(kaniko.clone().unwrap_or_default()), is_root() && kaniko.is_some()),
    ];
    if let Some(unknown) =
        with.unwrap_or_default().iter().find(|name| all.iter().all(|(known, ..)| known != name))
    {
        let known = all.map(|(name, ..)| name).join(", ");
        return Err(format!("no builder named `{unknown}`; there are {known}").into());
    }
    let wanted =
        |name: &str, present: bool| with.map_or(present, |names| names.iter().any(|wanted| wanted == name));
    let chosen = all.into_iter().filter(|(name, _, present)| wanted(name, *present));
    Ok(chosen.map(|(name, kind, _)| Builder { name, kind, place }).collect())
}

impl Builder<'_> {
    /// A store in a new folder.
    pub(super) fn new_store(&self, workload: &str, round: usize) -> Result<Store> {
        let folder = self.place.stores.join(format!("{}-{workload}-{round}", self.name));
        fs::create_dir_all(&folder)?;
        let daemon = match self.kind {
            Kind::BuildKit => Some(self.start_buildkit(&folder)?),
            _ => None,
        };
        Ok(Store { folder, daemon })
    }

    /// Builds the context, into an archive or only the store.
    pub(super) fn build(&self, store: &Store, context: &Path, output: Output) -> Result<Sample> {
        let archive = store.folder.join("image.tar");
        let archive = (output == Output::Archive).then_some(archive.as_path());
        let oci = archive.map(|archive| format!("type=oci,dest={}", archive.display()));
        let command = match &self.kind {
            Kind::Rbuild(binary) => {
                let mut command = store.rbuild(binary, &["--progress", "plain", "--host-certs"]);
                command.args(oci.iter().flat_map(|oci| ["-o", oci])).arg(context);
                command
            }
            Kind::Buildah => {
                let push = archive.map_or(String::new(), |archive| {
                    let archive = archive.display();
                    format!("rm -f {archive}; $buildah push --quiet bench oci-archive:{archive}")
                });
                buildah(store, context, "", &push)
            }
            Kind::BuildKit | Kind::Daemonless => {
                let mut command = buildctl(self.client(store)?, context, &store.folder)?;
                command.args(oci.iter().flat_map(|oci| ["--output", oci]));
                command
            }
            Kind::Kaniko(executor) => {
                let archive = if archive.is_some() { "--tar-path /kaniko/image.tar" } else { "" };
                kaniko(executor, store, context, self.place.registry, &format!("--no-push {archive}"))?
            }
        };
        self.measured(command, store)
    }

    /// Builds the context with what other machines left in the registry, pushes the image there, and the cache of all steps.
    pub(super) fn build_in_fleet(&self, store: &Store, context: &Path, fleet: &Registry) -> Result<Sample> {
        let (image, cache) = (format!("{}/app", fleet.address), format!("{}/cache", fleet.address));
        let command = match &self.kind {
            Kind::Rbuild(binary) => {
                let from = format!("type=registry,ref={cache}");
                let to = format!("{from},mode=max");
                let mut command = store.rbuild(binary, &["--progress", "plain", "--host-certs"]);
                command.args(["--cache-from", &from, "--cache-to", &to, "--push", "-t", &image]).arg(context);
                command
            }
            Kind::Buildah => {
                let options = format!("--tls-verify=false --cache-from {cache} --cache-to {cache}");
                let push = format!("$buildah push --quiet --tls-verify=false bench docker://{image}");
                buildah(store, context, &options, &push)
            }
            Kind::BuildKit | Kind::Daemonless => {
                let from = format!("type=registry,ref={cache},registry.insecure=true");
                let output = format!("type=image,name={image},push=true,registry.insecure=true");
                let mut command = buildctl(self.client(store)?, context, &store.folder)?;
                command.args(["--import-cache", &from, "--export-cache", &format!("{from},mode=max")]);
                command.args(["--output", &output]);
                command
            }
            Kind::Kaniko(executor) => {
                let options = format!(
                    "--destination {image} --insecure --cache --cache-copy-layers --cache-repo {cache}"
                );
                kaniko(executor, store, context, self.place.registry, &options)?
            }
        };
        self.measured(command, store)
    }

    /// Can it bring an image here, and send it on, without a build?
    pub(super) fn transfers(&self) -> bool {
        !matches!(self.kind, Kind::Kaniko(_))
    }

    /// Brings an image of docker.io here and unpacks it; `context` builds on it.
    pub(super) fn pull(&self, store: &Store, image: &str, context: &Path) -> Result<Sample> {
        let command = match &self.kind {
            Kind::Rbuild(binary) => store.rbuild(binary, &["pull", "--quiet", image]),
            Kind::Buildah => store.buildah(&["pull", "--quiet", image]),
            Kind::BuildKit | Kind::Daemonless => buildctl(self.client(store)?, context, &store.folder)?,
            Kind::Kaniko(_) => return Err("it only builds".into()),
        };
        self.measured(command, store)
    }

    /// Sends the image that was pulled to a registry.
    pub(super) fn push(
        &self,
        store: &Store,
        image: &str,
        context: &Path,
        target: &Registry,
    ) -> Result<Sample> {
        let name = format!("{}/{image}:pushed", target.address);
        let command = match &self.kind {
            Kind::Rbuild(binary) => {
                run_quietly(&mut store.rbuild(binary, &["tag", image, &name]))?;
                store.rbuild(binary, &["push", "--quiet", &name])
            }
            Kind::Buildah => {
                let to = format!("docker://{name}");
                store.buildah(&["push", "--quiet", "--tls-verify=false", image, &to])
            }
            Kind::BuildKit | Kind::Daemonless => {
                let mut command = buildctl(self.client(store)?, context, &store.folder)?;
                let output = format!("type=image,name={name},push=true,registry.insecure=true");
                command.args(["--output", &output]);
                command
            }
            Kind::Kaniko(_) => return Err("it only builds".into()),
        };
        self.measured(command, store)
    }

    fn measured(&self, mut command: Command, store: &Store) -> Result<Sample> {
        command.env("CONTAINERS_REGISTRIES_CONF", &self.place.conf);
        let programs: &[&str] = match self.kind {
            Kind::Rbuild(_) => &["rbuild"],
            Kind::Buildah => &["buildah"],
            Kind::BuildKit | Kind::Daemonless => &["buildkitd", "buildctl", "buildkit-runc", "runc"],
            Kind::Kaniko(_) => &["executor"],
        };
        measure(&mut command, programs, store.daemon.as_ref().map(|daemon| daemon.process.id()))
    }

    /// buildctl with a buildkitd to speak to.
    fn client(&self, store: &Store) -> Result<Command> {
        match self.kind {
            Kind::Daemonless => daemonless(&store.folder, self.place.registry),
            _ => {
                let daemon = store.daemon.as_ref().ok_or("buildkitd is not running")?;
                let mut command = tool("buildctl");
                command.args(["--addr", &daemon.socket]);
                Ok(command)
            }
        }
    }

    fn start_buildkit(&self, folder: &Path) -> Result<Daemon> {
        let socket = format!("unix://{}", folder.join("socket").display());
        let configuration = buildkit_configuration(folder, self.place.registry)?;
        let process = tool("setpriv")
            .args(["--pdeathsig", "TERM", "buildkitd", "--addr", &socket, "--oci-worker-net=host", "--root"])
            .arg(folder.join("root"))
            .arg("--config")
            .arg(configuration)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let daemon = Daemon { process, socket };
        for _ in 0..100 {
            if run_quietly(tool("buildctl").args(["--addr", &daemon.socket, "debug", "workers"])).is_ok() {
                return Ok(daemon);
            }
            sleep(Duration::from_millis(100));
        }
        Err(format!("buildkitd does not answer; see {}", folder.join("log").display()).into())
    }
}

impl Store {
    /// Deletes it, once its daemon has ended.
    pub(super) fn discard(self) -> Result<()> {
        let Store { folder, daemon } = self;
        drop(daemon);
        remove_tree(&folder)
    }

    /// Where a registry for pushes keeps its content.
    pub(super) fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    fn rbuild(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.arg("--root").arg(self.folder.join("root")).args(arguments);
        command
    }

    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut command = tool("buildah");
        command.arg("--root").arg(self.folder.join("root")).arg("--runroot").arg(self.folder.join("run"));
        command.args(arguments);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM first: it unmounts what it has mounted.
        let _ = run_quietly(tool("kill").arg(self.process.id().to_string()));
        for _ in 0..50 {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
