//! The text of registries.conf, as containers-registries.conf(5) describes it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Mirror, Registry};

/// Which pulls a mirror serves.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PullFrom {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// What a short name means where several registries are searched and no alias says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ShortNameMode {
    /// The first registry that has it.
    #[default]
    Permissive,
    /// The same.
    Disabled,
    /// It is refused: whoever can put an image into one of the registries could stand in for another's.
    Enforcing,
}

/// Keys that mean nothing to us (`additional-layer-store-auth-helper`) are passed over, as containers' tools do.
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    registry: Vec<RegistryTable>,
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, String>,
    #[serde(rename = "unqualified-search-registries")]
    pub(super) search: Option<Vec<String>>,
    #[serde(rename = "short-name-mode")]
    pub(super) short_names: Option<ShortNameMode>,
    #[serde(rename = "credential-helpers")]
    pub(super) helpers: Option<Vec<String>>,
    /// Only version 1 has this table.
    registries: Option<toml::Table>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFrom,
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Document, String> {
        let document: Document = toml::from_str(text).map_err(|error| describe(text, &error))?;
        if document.registries.is_some() {
            return Err("it is written in version 1 of the format; write `[[registry]]` tables (version 2)"
                .to_owned());
        }
        Ok(document)
    }

    pub(super) fn registries(&self) -> Result<Vec<Registry>, String> {
        self.registry.iter().map(RegistryTable::checked).collect()
    }
}

/// One line for an error of the TOML parser, which otherwise draws the source over several.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message().replace('\n', ", "))
}

impl RegistryTable {
    fn checked(&self) -> Result<Registry, String> {
        let prefix = if self.prefix.is_empty() { &self.location } else { &self.prefix };
        if prefix.is_empty() {
            return Err("a [[registry]] has neither `prefix` nor `location`".to_owned());
        }
        check_place(&self.location)?;
        check_prefix(prefix)?;
        let mirrors = self.mirror.iter().map(MirrorTable::checked).collect::<Result<_, String>>()?;
        // Without a location a wildcard keeps the host that was asked for, and so does a plain prefix.
        Ok(Registry {
            prefix: trimmed(prefix),
            location: trimmed(&self.location),
            insecure: self.insecure,
            blocked: self.blocked,
            mirror_by_digest_only: self.mirror_by_digest_only,
            mirrors,
        })
    }
}

impl MirrorTable {
    fn checked(&self) -> Result<Mirror, String> {
        if self.location.is_empty() {
            return Err("a [[registry.mirror]] has an empty `location`".to_owned());
        }
        check_place(&self.location)?;
        Ok(Mirror {
            location: trimmed(&self.location),
            insecure: self.insecure,
            pull_from: self.pull_from_mirror,
        })
    }
}

fn trimmed(place: &str) -> String {
    place.trim_end_matches('/').to_owned()
}

fn check_place(place: &str) -> Result<(), String> {
    if place.contains("://") {
        return Err(format!("`{place}`: write the registry without a scheme, `host[:port][/namespace]`"));
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    check_place(prefix)?;
    let Some(star) = prefix.find('*') else { return Ok(()) };
    let right = star == 0
        && prefix.starts_with("*.")
        && prefix.len() > 2
        && !prefix[1..].contains(['*', '/', ':', '@']);
    if right {
        Ok(())
    } else {
        Err(format!("`{prefix}`: a wildcard stands for subdomains only, `*.example.com`"))
    }
}
