//! `RUN --device`, and the devices that the whole build asks for.

use std::path::PathBuf;

use rbuild_dockerfile::{Run, Span, parse_bool};
use rbuild_executor::{Mount, MountKind, SandboxSpec, Source};

use super::cdi::{Devices, Edits};
use crate::build::Builder;
use crate::error::{AtSpan, Failure, FailureKind, Result};
use crate::event::Event;

/// One `--device`.
#[derive(Debug, PartialEq, Eq)]
struct Wish<'a> {
    name: &'a str,
    required: bool,
}

impl<'a> Wish<'a> {
    /// `NAME[,required[=BOOL]]`; the name may be written `name=NAME`.
    fn parse(text: &'a str) -> std::result::Result<Self, String> {
        let (mut name, mut required) = (None, false);
        for field in text.split(',') {
            let lower = field.to_lowercase();
            let key = lower.split('=').next().unwrap_or_default();
            let value = field.split_once('=').map(|(_, value)| value);
            match (key, value) {
                ("required", None) => required = true,
                ("required", Some(value)) => {
                    required =
                        parse_bool(value).ok_or_else(|| format!("invalid value for required: {value}"))?;
                }
                ("name", Some(value)) if name.is_none() => name = Some(value),
                ("name", Some(_)) => {
                    return Err(format!("device name already set to {}", name.unwrap_or_default()));
                }
                _ if name.is_none() => name = Some(field),
                (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
                (key, Some(_)) => return Err(format!("unexpected key '{key}' in '{field}'")),
            }
        }
        match name.filter(|name| !name.is_empty()) {
            Some(name) => Ok(Wish { name, required }),
            None => Err("it names no device".to_owned()),
        }
    }
}

impl Builder<'_> {
    /// What the devices of a RUN need. Looked up also for a RUN that comes from the cache: whether a build may use a device must not
    /// depend on what is cached.
    pub(super) fn plan_devices(&self, run: &Run) -> Result<Vec<Edits>> {
        let options = &self.request.run;
        if run.devices.is_empty() && options.devices.is_empty() {
            return Ok(Vec::new());
        }
        let devices = Devices::read(&options.device_folders);
        let mut names: Vec<String> = Vec::new();
        for name in &options.devices {
            names.extend(self.find(&devices, &Wish { name, required: true }, None)?);
        }
        for word in &run.devices {
            let wish = Wish::parse(&word.text).map_err(|why| {
                Failure::new(
                    FailureKind::Build,
                    format!("could not understand `--device={}`: {why}", word.text),
                )
                .at(word.span)
            })?;
            let aliased = options.allowed_devices.alias(wish.name);
            let meant = Wish { name: aliased.unwrap_or(wish.name), ..wish };
            let found = self.find(&devices, &meant, Some(word.span))?;
            if aliased.is_none() {
                self.are_allowed(&devices, &found).at(word.span)?;
            }
            names.extend(found);
        }
        Ok(self.edits(&devices, names))
    }

    fn find(&self, devices: &Devices, wish: &Wish<'_>, span: Option<Span>) -> Result<Vec<String>> {
        let found = devices.find(wish.name);
        if !found.is_empty() {
            return Ok(found);
        }
        let unread = devices.unread.first();
        let unread = unread.map(|(path, why)| format!("`{}` could not be read: {why}", path.display()));
        if !wish.required {
            let reason = unread.map(|why| format!("; {why}")).unwrap_or_default();
            let text = format!("optional device `{}` is not registered{reason}", wish.name);
            self.events.event(Event::Warning { text: &text });
            return Ok(found);
        }
        let help = unread.unwrap_or_else(|| {
            let folders = self.request.run.device_folders.iter().map(|path| path.display().to_string());
            format!("its specification is looked for in {}", folders.collect::<Vec<_>>().join(" and "))
        });
        let failure = Failure::new(
            FailureKind::Environment,
            format!("required device `{}` is not registered", wish.name),
        )
        .help(help);
        Err(match span {
            Some(span) => failure.at(span).into(),
            None => failure.into(),
        })
    }

    fn are_allowed(&self, devices: &Devices, names: &[String]) -> Result<()> {
        let allowed = &self.request.run.allowed_devices;
        let forbidden = |name: &&String| {
            let granted = allowed.all || allowed.names.iter().any(|grant| devices.find(grant).contains(name));
            !granted && !devices.get(name).is_some_and(|device| device.is_allowed_to_all())
        };
        match names.iter().find(forbidden) {
            None => Ok(()),
            Some(name) => {
                let failure =
                    Failure::new(FailureKind::Build, format!("`RUN --device` of `{name}` is not allowed"));
                Err(failure
                    .help(format!("allow it with `--allow device={name}`, or all with `--allow device`"))
                    .into())
            }
        }
    }

    /// Each device once, and each specification's own edits once.
    fn edits(&self, devices: &Devices, mut names: Vec<String>) -> Vec<Edits> {
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let mut kinds = std::collections::BTreeSet::new();
        let mut all = Vec::new();
        for name in &names {
            let Some(device) = devices.get(name) else { continue };
            let [of_kind, own] = device.edits.clone();
            if kinds.insert(name.split('=').next().unwrap_or_default().to_owned()) {
                all.push(of_kind);
            }
            all.push(own);
        }
        let left_out: std::collections::BTreeSet<_> = all.iter().flat_map(Edits::left_out).collect();
        for part in left_out {
            let text = format!("{part} of a device specification are left out");
            self.events.event(Event::Warning { text: &text });
        }
        all
    }
}

/// Puts devices into a sandbox; its environment is still to be made.
pub(super) fn add(edits: &[Edits], spec: &mut SandboxSpec<'_>, environment: &mut Vec<(String, String)>) {
    for edit in edits {
        for (name, value) in edit.env.iter().filter_map(|text| text.split_once('=')) {
            environment.retain(|(known, _)| known != name);
            environment.push((name.to_owned(), value.to_owned()));
        }
        spec.groups.extend(&edit.additional_gids);
        let nodes = edit.device_nodes.iter().map(|node| Mount {
            target: node.path.clone(),
            kind: MountKind::Device { host: node.host_path.clone().unwrap_or_else(|| node.path.clone()) },
        });
        let mounts = edit.mounts.iter().map(|mount| Mount {
            target: mount.container_path.clone(),
            kind: MountKind::Bind {
                source: Source::Path(PathBuf::from(&mount.host_path)),
                read_only: mount.options.iter().any(|option| option == "ro"),
            },
        });
        spec.mounts.extend(nodes.chain(mounts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_as_the_reference_reads_them() {
        let wish = |name, required| Ok(Wish { name, required });
        for (text, expected) in [
            ("vendor1.com/device=foo", wish("vendor1.com/device=foo", false)),
            ("vendor1.com/device", wish("vendor1.com/device", false)),
            ("vendor1.com/device=foo,required", wish("vendor1.com/device=foo", true)),
            ("vendor1.com/device=foo,required=true", wish("vendor1.com/device=foo", true)),
            ("vendor1.com/device=foo,required=false", wish("vendor1.com/device=foo", false)),
            ("name=vendor1.com/device=foo", wish("vendor1.com/device=foo", false)),
            ("required,name=vendor1.com/device=foo", wish("vendor1.com/device=foo", true)),
            ("a/b=c,name=d/e=f", Err("device name already set to a/b=c".to_owned())),
            ("a/b=c,required=maybe", Err("invalid value for required: maybe".to_owned())),
            ("a/b=c,d", Err("invalid field 'd' must be a key=value pair".to_owned())),
            ("required", Err("it names no device".to_owned())),
        ] {
            assert_eq!(Wish::parse(text), expected, "{text}");
        }
    }
}
