//! Making an image from layer archives, with umoci: the tests' and the benchmark's inputs must not come from the
//! code they judge.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::process::{Result, run_quietly, tool};

/// Every time in the images made here: 2025-01-01T00:00:00Z.
pub(crate) const EPOCH: &str = "1735689600";
const CREATED: &str = "2025-01-01T00:00:00Z";

/// A folder in the OCI image layout with one image, tagged `latest`.
#[derive(Debug)]
pub(crate) struct Layout(PathBuf);

/// The parts of an image's config that the images made here use; keys are those of `recipe.toml`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    env: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    exposed_ports: Vec<String>,
    stop_signal: Option<String>,
    labels: Vec<String>,
}

impl Config {
    /// What nearly every image has: a `PATH` and a shell.
    pub(crate) fn shell() -> Config {
        Config {
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            cmd: vec!["sh".into()],
            ..Config::default()
        }
    }

    fn flags(&self) -> Vec<String> {
        let lists = [
            ("env", &self.env),
            ("entrypoint", &self.entrypoint),
            ("cmd", &self.cmd),
            ("exposedports", &self.exposed_ports),
            ("label", &self.labels),
        ];
        let mut flags: Vec<String> = lists
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| format!("--config.{name}={value}")))
            .collect();
        flags.extend(self.stop_signal.iter().map(|signal| format!("--config.stopsignal={signal}")));
        flags
    }
}

impl Layout {
    /// An image that was made before.
    pub(crate) fn at(folder: &Path) -> Layout {
        Layout(folder.to_path_buf())
    }

    /// Makes an image of these uncompressed layers, lowest first, in a folder that does not exist yet.
    pub(crate) fn create(folder: &Path, layers: &[PathBuf], config: &Config) -> Result<Layout> {
        let layout = Layout(folder.to_path_buf());
        let image = layout.tagged();
        run_quietly(tool("umoci").args(["init", "--layout"]).arg(folder))?;
        run_quietly(tool("umoci").arg("new").arg("--image").arg(&image))?;
        for layer in layers {
            run_quietly(
                tool("umoci")
                    .args(["raw", "add-layer", "--history.created", CREATED, "--image"])
                    .arg(&image)
                    .arg(layer),
            )?;
        }
        run_quietly(
            tool("umoci")
                .args(["config", "--history.created", CREATED, "--created", CREATED, "--image"])
                .arg(&image)
                .args(config.flags()),
        )?;
        run_quietly(tool("umoci").args(["gc", "--layout"]).arg(folder))?;
        Ok(layout)
    }

    /// The image as skopeo names it.
    pub(crate) fn source(&self) -> OsString {
        let mut source = OsString::from("oci:");
        source.push(self.tagged());
        source
    }

    fn tagged(&self) -> OsString {
        let mut name = self.0.clone().into_os_string();
        name.push(":latest");
        name
    }
}

/// Packs a folder as a layer: sorted, owned by root, with fixed times and modes.
pub(crate) fn pack(folder: &Path, into: &Path) -> Result<()> {
    run_quietly(
        tool("tar")
            .args([
                "--create",
                "--sort=name",
                "--numeric-owner",
                "--owner=0",
                "--group=0",
                "--mode=u=rwX,go=rX",
            ])
            .arg(format!("--mtime=@{EPOCH}"))
            .arg("--file")
            .arg(into)
            .arg("--directory")
            .arg(folder)
            .arg("."),
    )
}
