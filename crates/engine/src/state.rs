//! What a stage has become so far: a fold over its instructions.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_dockerfile::{Command, CommandLine, Expose, Healthcheck, Lookup, Span, parse_port};
use rbuild_fs::RootfsPath;
use rbuild_image::{ContainerConfig, HistoryEntry, ImageConfig, Platform};
use rbuild_store::SnapshotId;
use serde_json::json;

use crate::image::{Image, ImageLayer, LayerStack};
use crate::shared_cache::Made;

/// The `PATH` that an image without one gets (reference: dockerfile2llb, `system.DefaultPathEnv`).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root file system as it stands.
#[derive(Debug, Clone)]
pub(crate) enum Rootfs {
    /// Nothing: `FROM scratch`.
    Empty,
    /// Layers of a base image or of a shared cache; they need not be here yet.
    Layers(Arc<LayerStack>),
    /// What the last step left.
    Snapshot(SnapshotId),
}

/// A stage between two instructions.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    /// The config as it would be written now; its history holds the base image's entries and this build's.
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<ImageLayer>,
    pub(crate) rootfs: Rootfs,
    /// What the key of the next step builds on: identifies the root file system by how it was made.
    pub(crate) key: String,
    /// Chain ID of the layers, `scratch` where there are none; nothing where it would have to be worked out first.
    pub(crate) chain: Option<String>,
    /// The steps that led here, for those who want their results as well.
    pub(crate) made: Vec<Made>,
    /// What variables mean now, and what RUN gets: the config's `Env` and the build args, in order of definition.
    pub(crate) environment: Vec<(String, String)>,
    /// The build args that have a value, in order of declaration.
    pub(crate) args: Vec<(String, String)>,
    /// Times of history entries of this build that made a layer, by position; the others take the image's.
    pub(crate) step_times: BTreeMap<usize, i64>,
    /// Where the Dockerfile names the image that this is built on, in this stage or one before.
    pub(crate) base: Option<Span>,
    /// `CMD` was given in this stage, so that ENTRYPOINT leaves it alone.
    cmd_given: bool,
}

impl StageState {
    /// The state right after `FROM scratch`.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::scratch(platform);
        // The reference says so in the config of an image from nothing, too.
        "/".clone_into(&mut config.config.working_dir);
        Self::new(config, Vec::new(), Rootfs::Empty, "scratch".to_owned())
    }

    /// The state right after `FROM image`; the triggers are taken out of the config and returned.
    pub(crate) fn of_image(image: &Arc<Image>) -> (Self, Vec<String>) {
        let rootfs = image.rootfs();
        let key = image.rootfs_key();
        let mut state = Self::new(image.config.clone(), image.layers.clone(), rootfs, key);
        let triggers = std::mem::take(&mut state.config.config.on_build);
        (state, triggers)
    }

    /// The state right after `FROM stage`: everything is inherited, build args included.
    pub(crate) fn of_stage(parent: &StageState) -> (Self, Vec<String>) {
        let mut state = parent.clone();
        state.cmd_given = false;
        let triggers = std::mem::take(&mut state.config.config.on_build);
        (state, triggers)
    }

    fn new(mut config: ImageConfig, layers: Vec<ImageLayer>, rootfs: Rootfs, key: String) -> Self {
        let environment: Vec<(String, String)> =
            config.config.env.iter().map(|entry| split_entry(entry)).collect();
        config.created = None;
        crate::shared_cache::strip_inline(&mut config);
        // As containerd writes platforms: arm64 is v8 without saying so.
        config.variant = config.platform().normalised().variant;
        let mut state = StageState {
            config,
            layers,
            rootfs,
            chain: Some(key.clone()),
            made: Vec::new(),
            key,
            environment,
            args: Vec::new(),
            step_times: BTreeMap::new(),
            base: None,
            cmd_given: false,
        };
        if state.config.os != "windows" && !state.environment.iter().any(|(name, _)| name == "PATH") {
            state.set_env("PATH", DEFAULT_PATH);
        }
        state
    }

    /// What runs in a container of the image.
    pub(crate) fn container(&self) -> &ContainerConfig {
        &self.config.config
    }

    /// The working directory, `/` where none is set.
    pub(crate) fn working_dir(&self) -> &str {
        match self.container().working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// The working directory after `WORKDIR path`: an absolute path as it is written, as in the reference; a joined one cleaned.
    pub(crate) fn directory_after(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => path.to_owned(),
            false => RootfsPath::new(self.working_dir()).join(path).to_string(),
        }
    }

    /// The words before a shell form's text.
    pub(crate) fn shell(&self) -> Vec<String> {
        match self.container().shell.as_slice() {
            [] if self.config.os == "windows" => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
            [] => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
            shell => shell.to_vec(),
        }
    }

    /// Adds a history entry; `empty` for an instruction that makes no layer, otherwise the layer's time in seconds.
    pub(crate) fn record(&mut self, created_by: String, layer: Option<i64>) {
        if let Some(time) = layer {
            self.step_times.insert(self.config.history.len(), time);
        }
        self.config.history.push(HistoryEntry {
            created_by,
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer: layer.is_none(),
            ..HistoryEntry::default()
        });
    }

    /// `ENV`: in the image, and in everything that follows.
    fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|known| split_entry(known).0 == name) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
        self.set_variable(name, value);
    }

    /// A build arg with a value: for what follows in this build, not in the image.
    pub(crate) fn set_arg(&mut self, name: &str, value: &str) {
        replace_or_add(&mut self.args, name, value);
        self.set_variable(name, value);
    }

    fn set_variable(&mut self, name: &str, value: &str) {
        replace_or_add(&mut self.environment, name, value);
    }

    /// Carries out an instruction that only changes the config; its words are expanded. `false` for one that does more.
    pub(crate) fn apply_metadata(&mut self, command: &Command) -> Result<bool, String> {
        match command {
            Command::Env(env) => {
                env.pairs.iter().for_each(|pair| self.set_env(&pair.key.text, &pair.value.text));
            }
            Command::Label(label) => {
                let pairs = label.pairs.iter().map(|pair| (pair.key.text.clone(), pair.value.text.clone()));
                self.config.config.labels.extend(pairs);
            }
            Command::Expose(expose) => self.expose(expose)?,
            Command::Volume(volumes) => {
                for volume in volumes {
                    if volume.text.is_empty() {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
                    self.config.config.volumes.insert(volume.text.clone(), json!({}));
                }
            }
            Command::User(user) => self.config.config.user = user.text.clone(),
            Command::StopSignal(signal) => {
                rbuild_dockerfile::parse_signal(&signal.text)
                    .ok_or_else(|| format!("`{}` is no signal", signal.text))?;
                self.config.config.stop_signal = signal.text.clone();
            }
            Command::Shell(words) => {
                self.config.config.shell = words.iter().map(|word| word.text.clone()).collect()
            }
            Command::Cmd(line) => {
                self.config.config.cmd = Some(line.arguments(&self.shell()));
                self.config.config.args_escaped = true;
                self.cmd_given = true;
            }
            Command::Entrypoint(line) => self.entrypoint(line),
            Command::Healthcheck(check) => self.config.config.healthcheck = Some(healthcheck(check)),
            Command::Onbuild(trigger) => self.config.config.on_build.push(trigger.text.clone()),
            Command::Maintainer(author) => self.config.author = author.text.clone(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn expose(&mut self, expose: &Expose) -> Result<(), String> {
        for word in &expose.ports {
            for port in parse_port(&word.text)? {
                self.config.config.exposed_ports.insert(port.to_string(), json!({}));
            }
        }
        Ok(())
    }

    /// An ENTRYPOINT drops the CMD that was inherited, not one of this stage.
    fn entrypoint(&mut self, line: &CommandLine) {
        self.config.config.entrypoint = Some(line.arguments(&self.shell()));
        if !self.cmd_given {
            self.config.config.cmd = None;
        }
    }
}

impl Lookup for StageState {
    fn get(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.environment.iter().map(|(name, _)| name.as_str()).collect()
    }
}

fn healthcheck(check: &Healthcheck) -> rbuild_image::Healthcheck {
    rbuild_image::Healthcheck {
        test: check.test(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: i64::from(check.retries),
        ..rbuild_image::Healthcheck::default()
    }
}

fn split_entry(entry: &str) -> (String, String) {
    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
    (name.to_owned(), value.to_owned())
}

fn replace_or_add(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}
