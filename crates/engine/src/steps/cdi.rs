//! Devices as the container device interface describes them: files of JSON in a few folders of this machine, each with the
//! devices of one kind and what a container needs for them.
//!
//! Its format is the interface's SPEC.md, version 1.0. Specifications in YAML are not read; who asks for a device is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Explain, FailureKind, Result};

/// By this annotation a device belongs to a class, which can be asked for instead of its name.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// By this one it needs no `--allow`.
const ALLOWED: &str = "org.mobyproject.buildkit.device.autoallow";

#[derive(Debug, Deserialize)]
struct Specification {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<Listed>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

/// What a command needs to use a device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    /// `NAME=VALUE`.
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<HostMount>,
    pub(super) additional_gids: Vec<u32>,
    /// Programs of the host that would change the container; never run.
    hooks: Vec<serde::de::IgnoredAny>,
    net_devices: Vec<serde::de::IgnoredAny>,
    intel_rdt: Option<serde::de::IgnoredAny>,
}

/// A device node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// In the container.
    pub(super) path: PathBuf,
    /// On this machine, where it has another name.
    pub(super) host_path: Option<PathBuf>,
}

/// A file or folder of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostMount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// One device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    /// Of its specification, then its own.
    pub(super) edits: [Edits; 2],
    annotations: BTreeMap<String, String>,
}

impl Edits {
    /// What is asked for and not done.
    pub(super) fn left_out(&self) -> Vec<&'static str> {
        let parts = [
            ("hooks", !self.hooks.is_empty()),
            ("network devices", !self.net_devices.is_empty()),
            ("cache allocation", self.intel_rdt.is_some()),
        ];
        parts.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
    }
}

impl Device {
    /// The one who wrote the specification says that any build may use it.
    pub(super) fn is_allowed_to_all(&self) -> bool {
        let text = self.annotations.get(ALLOWED).map(String::as_str);
        matches!(text, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

/// The devices of this machine by their whole names, `VENDOR/CLASS=NAME`.
#[derive(Debug, Default)]
pub(super) struct Registry {
    devices: BTreeMap<String, Device>,
    /// Files that are not read.
    pub(super) yaml: Vec<PathBuf>,
}

impl Registry {
    /// Reads all folders; of devices of one name the one in the later folder counts, and two in the same folder make neither.
    pub(super) fn read(folders: &[PathBuf]) -> Result<Registry> {
        let mut registry = Registry::default();
        for folder in folders {
            let (mut found, mut twice) = (BTreeMap::new(), BTreeSet::new());
            for path in files(folder) {
                match path.extension().and_then(|name| name.to_str()) {
                    Some("json") => add(&path, &mut found, &mut twice)?,
                    Some("yaml" | "yml") => registry.yaml.push(path),
                    _ => {}
                }
            }
            found.retain(|name, _| !twice.contains(name));
            registry.devices.extend(found);
        }
        Ok(registry)
    }

    /// One of these names.
    pub(super) fn get(&self, name: &str) -> Option<&Device> {
        self.devices.get(name)
    }

    /// The names that are meant: `VENDOR/CLASS=NAME` itself, all with `=*`, the first of `VENDOR/CLASS`; else all of a class by
    /// annotation.
    pub(super) fn find(&self, asked: &str) -> Vec<String> {
        let (kind, name) = asked.split_once('=').unwrap_or((asked, ""));
        let of_kind =
            || self.devices.keys().filter(|key| key.split_once('=').is_some_and(|(own, _)| own == kind));
        let named: Vec<String> = match name {
            _ if !kind.contains('/') => Vec::new(),
            "" => of_kind().take(1).cloned().collect(),
            "*" => of_kind().cloned().collect(),
            _ => self.devices.get_key_value(asked).map(|(key, _)| key.clone()).into_iter().collect(),
        };
        if !named.is_empty() {
            return named;
        }
        let in_class = |device: &Device| device.annotations.get(CLASS).is_some_and(|class| class == asked);
        self.devices.iter().filter(|(_, device)| in_class(device)).map(|(key, _)| key.clone()).collect()
    }
}

/// In the order of their names; a folder that is not there has none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn add(path: &Path, found: &mut BTreeMap<String, Device>, twice: &mut BTreeSet<String>) -> Result<()> {
    let fault = || format!("could not read the device specification `{}`", path.display());
    let text = fs::read(path).explain(FailureKind::Environment, fault)?;
    let Specification { kind, annotations, devices, edits } =
        serde_json::from_slice(&text).explain(FailureKind::Environment, fault)?;
    for listed in devices {
        let name = format!("{kind}={}", listed.name);
        let mut annotations = annotations.clone();
        annotations.extend(listed.annotations);
        let device = Device { edits: [edits.clone(), listed.edits], annotations };
        if found.insert(name.clone(), device).is_some() {
            twice.insert(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTI: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor1.com/multi", "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
        "containerEdits": {"env": ["ALL=1"]}, "devices": [
        {"name": "foo", "containerEdits": {"env": ["FOO=1"]}},
        {"name": "bar", "annotations": {"org.mobyproject.buildkit.device.class": "class1"}, "containerEdits": {"hooks": [{"hookName": "x", "path": "/x"}]}}]}"#;
    const SINGLE: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor1.com/single", "devices": [
        {"name": "one", "annotations": {"org.mobyproject.buildkit.device.class": "class1"}, "containerEdits": {}}]}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn read(folders: &[&tempfile::TempDir]) -> Registry {
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        Registry::read(&paths).unwrap()
    }

    #[test]
    fn devices_are_found_as_the_reference_finds_them() {
        let folder =
            folder(&[("a.json", MULTI), ("b.json", SINGLE), ("c.yaml", "kind: x"), ("notes.txt", "")]);
        let registry = read(&[&folder]);
        for (asked, expected) in [
            ("vendor1.com/multi=foo", &["vendor1.com/multi=foo"][..]),
            ("vendor1.com/multi", &["vendor1.com/multi=bar"]),
            ("vendor1.com/multi=*", &["vendor1.com/multi=bar", "vendor1.com/multi=foo"]),
            ("class1", &["vendor1.com/multi=bar", "vendor1.com/single=one"]),
            ("vendor1.com/multi=none", &[]),
            ("vendor1.com/mult", &[]),
            ("other", &[]),
        ] {
            assert_eq!(registry.find(asked), expected, "{asked}");
        }
        assert_eq!(registry.yaml, [folder.path().join("c.yaml")]);
        let bar = registry.get("vendor1.com/multi=bar").unwrap();
        assert!(
            bar.is_allowed_to_all() && !registry.get("vendor1.com/single=one").unwrap().is_allowed_to_all()
        );
        assert_eq!((&*bar.edits[0].env, bar.edits[1].left_out()), (&["ALL=1".to_owned()][..], vec!["hooks"]));
    }

    #[test]
    fn later_folders_win_and_equals_cancel_out() {
        let other = MULTI.replace("FOO=1", "FOO=2");
        let (first, second) = (folder(&[("a.json", MULTI)]), folder(&[("x.json", &other)]));
        let registry = read(&[&first, &second]);
        assert_eq!(registry.get("vendor1.com/multi=foo").unwrap().edits[1].env, ["FOO=2"]);
        let both = folder(&[("a.json", MULTI), ("b.json", &other), ("c.json", SINGLE)]);
        assert_eq!(read(&[&both]).find("vendor1.com/multi=*"), [""; 0]);
        assert_eq!(read(&[&both]).find("vendor1.com/single").len(), 1);
        assert!(Registry::read(&["/no/such/folder".into()]).unwrap().find("x").is_empty());
    }

    #[test]
    fn a_broken_specification_is_named() {
        let folder = folder(&[("a.json", "{\"kind\": 5}")]);
        let error = Registry::read(&[folder.path().to_owned()]).unwrap_err();
        assert!(error.to_string().ends_with("a.json`"), "{error}");
    }
}
