//! Devices as the container device interface describes them: files of JSON or YAML in a few folders of this machine, each with
//! the devices of one kind and what a container needs for them.
//!
//! Its format is the interface's SPEC.md, version 1.0. A file that cannot be read has no devices; who asks for one that is
//! nowhere is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::parse_bool;
use serde::Deserialize;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// By this annotation a device belongs to a class, which can be asked for instead of its name.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// By this one it needs no `--allow`.
const ALLOWED: &str = "org.mobyproject.buildkit.device.autoallow";
const END_JSON: &str = "json";
const END_YAML: [&str; 2] = ["yaml", "yml"];

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
        self.annotations.get(ALLOWED).and_then(|text| parse_bool(text)).unwrap_or(false)
    }
}

/// The devices of this machine by their whole names, `VENDOR/CLASS=NAME`.
#[derive(Debug, Default)]
pub(super) struct Devices {
    devices: BTreeMap<String, Device>,
    /// Files that could not be read, and why.
    pub(super) unread: Vec<(PathBuf, String)>,
}

impl Devices {
    /// Reads all folders; of devices of one name the one in the later folder counts, and two in the same folder make neither.
    pub(super) fn read(folders: &[PathBuf]) -> Devices {
        let mut devices = Devices::default();
        for folder in folders {
            let (mut found, mut twice) = (BTreeMap::new(), BTreeSet::new());
            for path in files(folder) {
                match Specification::read(&path) {
                    Ok(specification) => add(specification, &mut found, &mut twice),
                    Err(why) => devices.unread.push((path, why)),
                }
            }
            found.retain(|name, _| !twice.contains(name));
            devices.devices.extend(found);
        }
        devices
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

/// Specifications in the order of their names; a folder that is not there has none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        path.extension().is_some_and(|end| END_JSON == end || END_YAML.iter().any(|e| *e == end))
    };
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_one).collect();
    files.sort();
    files
}

impl Specification {
    fn read(path: &Path) -> Result<Specification, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        if path.extension().is_some_and(|end| end == END_JSON) {
            return serde_json::from_str(&text).map_err(|error| error.to_string());
        }
        let documents = YamlLoader::load_from_str(&text).map_err(|error| error.to_string())?;
        let [document] = documents.as_slice() else {
            return Err(format!("it holds {} documents instead of one", documents.len()));
        };
        serde_json::from_value(json(document)?).map_err(|error| error.to_string())
    }
}

/// YAML as Go reads it for this interface: by way of JSON.
fn json(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Real(digits) => {
            Value::from(digits.parse::<f64>().map_err(|error| format!("`{digits}`: {error}"))?)
        }
        Yaml::Boolean(boolean) => Value::from(*boolean),
        Yaml::Null => Value::Null,
        Yaml::Array(values) => Value::Array(values.iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Hash(pairs) => {
            let pair = |(key, value): (&Yaml, &Yaml)| {
                let key = key.as_str().ok_or("a key is no text")?;
                Ok::<_, String>((key.to_owned(), json(value)?))
            };
            Value::Object(pairs.iter().map(pair).collect::<Result<_, _>>()?)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("an alias leads nowhere".to_owned()),
    })
}

fn add(specification: Specification, found: &mut BTreeMap<String, Device>, twice: &mut BTreeSet<String>) {
    let Specification { kind, annotations, devices, edits } = specification;
    for listed in devices {
        let name = format!("{kind}={}", listed.name);
        let mut annotations = annotations.clone();
        annotations.extend(listed.annotations);
        let device = Device { edits: [edits.clone(), listed.edits], annotations };
        if found.insert(name.clone(), device).is_some() {
            twice.insert(name);
        }
    }
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

    fn read(folders: &[&tempfile::TempDir]) -> Devices {
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        Devices::read(&paths)
    }

    #[test]
    fn devices_are_found_as_the_reference_finds_them() {
        let folder = folder(&[("a.json", MULTI), ("b.json", SINGLE), ("notes.txt", "")]);
        let devices = read(&[&folder]);
        for (asked, expected) in [
            ("vendor1.com/multi=foo", &["vendor1.com/multi=foo"][..]),
            ("vendor1.com/multi", &["vendor1.com/multi=bar"]),
            ("vendor1.com/multi=*", &["vendor1.com/multi=bar", "vendor1.com/multi=foo"]),
            ("class1", &["vendor1.com/multi=bar", "vendor1.com/single=one"]),
            ("vendor1.com/multi=none", &[]),
            ("vendor1.com/mult", &[]),
            ("other", &[]),
        ] {
            assert_eq!(devices.find(asked), expected, "{asked}");
        }
        assert_eq!(devices.unread, []);
        let bar = devices.get("vendor1.com/multi=bar").unwrap();
        assert!(
            bar.is_allowed_to_all() && !devices.get("vendor1.com/single=one").unwrap().is_allowed_to_all()
        );
        assert_eq!((&*bar.edits[0].env, bar.edits[1].left_out()), (&["ALL=1".to_owned()][..], vec!["hooks"]));
    }

    #[test]
    fn later_folders_win_and_equals_cancel_out() {
        let other = MULTI.replace("FOO=1", "FOO=2");
        let (first, second) = (folder(&[("a.json", MULTI)]), folder(&[("x.json", &other)]));
        let devices = read(&[&first, &second]);
        assert_eq!(devices.get("vendor1.com/multi=foo").unwrap().edits[1].env, ["FOO=2"]);
        let both = folder(&[("a.json", MULTI), ("b.json", &other), ("c.json", SINGLE)]);
        assert_eq!(read(&[&both]).find("vendor1.com/multi=*"), [""; 0]);
        assert_eq!(read(&[&both]).find("vendor1.com/single").len(), 1);
        assert!(Devices::read(&["/no/such/folder".into()]).find("x").is_empty());
    }

    /// As nvidia-ctk writes it: JSON's words with YAML's indents, numbers and lists.
    const YAML: &str = "---
cdiVersion: 0.6.0
kind: vendor1.com/gpu
containerEdits:
    env:
        - VISIBLE=void
devices:
    - containerEdits:
        additionalGids: [44]
        deviceNodes:
            - path: /dev/null
              hostPath: /dev/zero
              major: 1
      name: \"0\"
    - name: all
      containerEdits: {env: []}
";

    #[test]
    fn yaml_says_the_same() {
        let folder = folder(&[("a.yaml", YAML), ("b.yml", "kind: v.com/x\ndevices: [{name: y}]\n")]);
        let devices = read(&[&folder]);
        assert_eq!(devices.unread, []);
        assert_eq!(devices.find("vendor1.com/gpu=*"), ["vendor1.com/gpu=0", "vendor1.com/gpu=all"]);
        assert_eq!(devices.find("v.com/x"), ["v.com/x=y"]);
        let [of_kind, own] = &devices.get("vendor1.com/gpu=0").unwrap().edits;
        assert_eq!((&*of_kind.env, &*own.additional_gids), (&["VISIBLE=void".to_owned()][..], &[44][..]));
        let node = &own.device_nodes[0];
        assert_eq!(
            (&*node.path, node.host_path.as_deref()),
            (Path::new("/dev/null"), Some(Path::new("/dev/zero")))
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_and_spoils_nothing_else() {
        let folder = folder(&[
            ("a.json", "{\"kind\": 5}"),
            ("b.json", SINGLE),
            ("c.yaml", "kind: [x"),
            ("d.yaml", "a: 1\n---\nb: 2\n"),
            ("e.yaml", "kind: *none\n"),
        ]);
        fs::create_dir(folder.path().join("f.json")).unwrap();
        let devices = read(&[&folder]);
        let unread: Vec<_> =
            devices.unread.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
        assert_eq!(unread, ["a.json", "c.yaml", "d.yaml", "e.yaml", "f.json"]);
        assert!(devices.unread[0].1.starts_with("invalid type: integer `5`"), "{:?}", devices.unread);
        assert!(devices.unread[2].1.contains("2 documents"), "{:?}", devices.unread);
        assert_eq!(devices.find("vendor1.com/single").len(), 1);
    }
}
