//! `registries.conf`, version 2 (containers-registries.conf(5)), and what Docker's daemon.json says of it: where an image is looked for.

mod docker;
mod document;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rbuild_image::Reference;

use crate::{RegistryError, Result};
use docker::InsecureRegistry;
use document::Document;
pub(crate) use document::PullFrom;
use document::ShortNameMode;

/// Where images live: registries with their mirrors, short names.
#[derive(Clone, Debug, Default)]
pub struct RegistriesConf {
    registries: Vec<Registry>,
    aliases: BTreeMap<String, String>,
    search: Vec<String>,
    short_names: ShortNameMode,
    helpers: Vec<String>,
    /// Docker's mirrors of its Hub.
    hub_mirrors: Vec<Mirror>,
    /// Docker's list of registries whose certificates are not checked.
    insecure: Vec<InsecureRegistry>,
}

/// One `[[registry]]` table.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// `host[:port][/namespace]`, or `*.domain`.
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirrors: Vec<Mirror>,
}

/// One `[[registry.mirror]]` table.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    location: String,
    insecure: bool,
    pull_from: PullFrom,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The image's name at that place.
    pub reference: Reference,
    /// Certificates are not checked, and plain HTTP will do.
    pub insecure: bool,
    /// It is a mirror, not the registry itself.
    pub mirror: bool,
}

impl RegistriesConf {
    /// Reads the main file and the `*.conf` files of drop-in folders, in order; later ones override tables of the same prefix. Paths
    /// that do not exist are passed over.
    pub fn load(paths: &[PathBuf]) -> Result<RegistriesConf> {
        let mut conf = RegistriesConf::default();
        for path in paths {
            if path.is_dir() {
                for file in drop_ins(path)? {
                    conf.load_file(&file)?;
                }
            } else {
                conf.load_file(path)?;
            }
        }
        Ok(conf)
    }

    fn load_file(&mut self, path: &Path) -> Result<()> {
        match fs::read_to_string(path) {
            Ok(text) => self.add(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(RegistryError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Adds the text of one file; `path` names it in errors.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<()> {
        let wrong = |reason| RegistryError::Configuration { path: path.to_owned(), reason };
        let document = Document::parse(text).map_err(wrong)?;
        for registry in document.registries().map_err(wrong)? {
            self.registries.retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        // An empty alias in a drop-in switches an earlier one off.
        self.aliases.extend(document.aliases);
        self.aliases.retain(|_, name| !name.is_empty());
        if let Some(search) = document.search {
            self.search = search;
        }
        self.short_names = document.short_names.unwrap_or(self.short_names);
        if let Some(helpers) = document.helpers {
            self.helpers = helpers;
        }
        Ok(())
    }

    /// Programs (`docker-credential-NAME`) that keep logins for every registry, in the order to ask; `containers-auth.json` among them
    /// stands for the files.
    pub fn credential_helpers(&self) -> &[String] {
        &self.helpers
    }

    /// What a name written without a registry may mean, in the order to try; a full name means itself. Without aliases and
    /// search registries a short name is Docker Hub's, as for Docker.
    pub fn candidates(&self, text: &str) -> Result<Vec<Reference>> {
        if !Reference::is_short(text) {
            return Ok(vec![Reference::parse(text)?]);
        }
        let end = text.find(['@', ':']).unwrap_or(text.len());
        let (name, suffix) = text.split_at(end);
        if let Some(target) = self.aliases.get(name) {
            return Ok(vec![Reference::parse(&format!("{target}{suffix}"))?]);
        }
        if self.search.is_empty() {
            return Ok(vec![Reference::parse(text)?]);
        }
        let found = self.search.iter().map(|registry| Reference::parse(&format!("{registry}/{text}")));
        let found: Vec<Reference> = found.collect::<Result<_, _>>()?;
        if self.short_names == ShortNameMode::Enforcing && found.len() > 1 {
            let (name, candidates) = (text.to_owned(), found.iter().map(Reference::to_string).collect());
            return Err(RegistryError::ShortName { name, candidates });
        }
        Ok(found)
    }

    /// Where to pull `reference` from: its mirrors in order, then the registry itself.
    pub fn resolve(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let by_itself = Endpoint { reference: reference.clone(), insecure: false, mirror: false };
        let mut endpoints = match self.find(reference) {
            Some((registry, matched)) => registry.endpoints(reference, matched)?,
            None => vec![by_itself],
        };
        if reference.domain() == "docker.io" {
            let own = endpoints.len().saturating_sub(1);
            for mirror in self.hub_mirrors.iter().rev() {
                endpoints.insert(own, mirror.endpoint(reference, &format!("/{}", reference.path()))?);
            }
        }
        for endpoint in &mut endpoints {
            endpoint.insecure |= self.insecure.iter().any(|known| known.covers(endpoint.reference.domain()));
        }
        Ok(endpoints)
    }

    /// Where to push `reference`: mirrors are not pushed to.
    pub fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint> {
        let mut endpoints = self.resolve(reference)?;
        let own = endpoints.pop();
        Ok(own.unwrap_or(Endpoint { reference: reference.clone(), insecure: false, mirror: false }))
    }

    /// The registry table with the longest prefix that matches, and how many bytes of the name it covers.
    fn find(&self, reference: &Reference) -> Option<(&Registry, usize)> {
        let name = reference.repository();
        let full = reference.to_string();
        let matches = |registry: &Registry| registry.matches(&name, &full, reference.domain());
        let found = self.registries.iter().filter_map(|registry| Some((registry, matches(registry)?)));
        found.max_by_key(|(registry, _)| registry.prefix.len())
    }
}

impl Mirror {
    fn endpoint(&self, reference: &Reference, rest: &str) -> Result<Endpoint> {
        let reference = relocated(reference, &self.location, rest)?;
        Ok(Endpoint { reference, insecure: self.insecure, mirror: true })
    }
}

impl Registry {
    /// Its mirrors, then itself, for a reference of whose name it covers `matched` bytes.
    fn endpoints(&self, reference: &Reference, matched: usize) -> Result<Vec<Endpoint>> {
        if self.blocked {
            let (reference, prefix) = (reference.to_string(), self.prefix.clone());
            return Err(RegistryError::Blocked { reference, prefix });
        }
        let name = reference.repository();
        let rest = &name[matched..];
        let by_digest = reference.digest().is_some();
        let mirrors = self.mirrors.iter().filter(|mirror| self.allows(mirror, by_digest));
        let mut endpoints: Vec<Endpoint> =
            mirrors.map(|mirror| mirror.endpoint(reference, rest)).collect::<Result<_>>()?;
        endpoints.push(self.own_endpoint(reference, rest)?);
        Ok(endpoints)
    }

    fn matches(&self, name: &str, full: &str, domain: &str) -> Option<usize> {
        if let Some(suffix) = self.prefix.strip_prefix('*') {
            let host = crate::url::host_of(domain);
            return (host.len() > suffix.len() && host.ends_with(suffix) || domain.ends_with(suffix))
                .then_some(domain.len());
        }
        let rest = full.strip_prefix(&self.prefix)?;
        let whole = rest.is_empty() || rest.starts_with(['/', ':', '@']);
        whole.then_some(self.prefix.len().min(name.len()))
    }

    fn allows(&self, mirror: &Mirror, by_digest: bool) -> bool {
        match mirror.pull_from {
            PullFrom::All => by_digest || !self.mirror_by_digest_only,
            PullFrom::DigestOnly => by_digest,
            PullFrom::TagOnly => !by_digest,
        }
    }

    fn own_endpoint(&self, reference: &Reference, rest: &str) -> Result<Endpoint> {
        let reference = match self.location.as_str() {
            "" => reference.clone(),
            location => relocated(reference, location, rest)?,
        };
        Ok(Endpoint { reference, insecure: self.insecure, mirror: false })
    }
}

fn relocated(reference: &Reference, location: &str, rest: &str) -> Result<Reference> {
    Ok(reference.with_repository(&format!("{location}{rest}"))?)
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |source| RegistryError::File { action: "list", path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
unqualified-search-registries = ["docker.io", "quay.io"]
short-name-mode = "permissive"

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:5000"
insecure = true
[[registry.mirror]]
location = "mirror.example/hub"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "quay.io/team"
location = "internal.example/quay-team"
insecure = true

[[registry]]
prefix = "quay.io/team/secret"
blocked = true

[[registry]]
prefix = "*.corp.example"
blocked = true

[[registry]]
prefix = "only.example"
location = "only.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example"
"#;
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.add(Path::new("registries.conf"), text).unwrap();
        conf
    }

    fn resolved(conf: &RegistriesConf, text: &str) -> Vec<String> {
        let show = |endpoint: Endpoint| {
            let insecure = if endpoint.insecure { " insecure" } else { "" };
            format!("{}{insecure}", endpoint.reference)
        };
        match conf.resolve(&Reference::parse(text).unwrap()) {
            Ok(endpoints) => endpoints.into_iter().map(show).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn mirrors_prefixes_and_blocks() {
        let conf = conf(CONF);
        let pinned = format!("node@{DIGEST}");
        let only = format!("only.example/a@{DIGEST}");
        for (text, expected) in [
            (
                "node:18",
                vec![
                    "127.0.0.1:5000/library/node:18 insecure".to_owned(),
                    "tags.example/library/node:18".into(),
                    "docker.io/library/node:18".into(),
                ],
            ),
            (
                &pinned,
                vec![
                    format!("127.0.0.1:5000/library/node@{DIGEST} insecure"),
                    format!("mirror.example/hub/library/node@{DIGEST}"),
                    format!("docker.io/library/node@{DIGEST}"),
                ],
            ),
            ("quay.io/team/app:1", vec!["internal.example/quay-team/app:1 insecure".into()]),
            ("quay.io/teams/app:1", vec!["quay.io/teams/app:1".into()]),
            (
                "quay.io/team/secret:1",
                vec![
                    "could not use `quay.io/team/secret:1`: registries.conf blocks `quay.io/team/secret`"
                        .into(),
                ],
            ),
            (
                "a.b.corp.example/x",
                vec![
                    "could not use `a.b.corp.example/x:latest`: registries.conf blocks `*.corp.example`"
                        .into(),
                ],
            ),
            (
                "a.corp.example:5000/x",
                vec![
                    "could not use `a.corp.example:5000/x:latest`: registries.conf blocks `*.corp.example`"
                        .into(),
                ],
            ),
            ("corp.example/x", vec!["corp.example/x:latest".into()]),
            ("only.example/a", vec!["only.example/a:latest".into()]),
            (&only, vec![format!("m.example/a@{DIGEST}"), only.clone()]),
        ] {
            assert_eq!(resolved(&conf, text), expected, "{text}");
        }
    }

    #[test]
    fn short_names() {
        let named = |conf: &RegistriesConf, text: &str| -> Vec<String> {
            conf.candidates(text).unwrap().iter().map(Reference::to_string).collect()
        };
        let conf = conf(CONF);
        assert_eq!(named(&conf, "fedora:40"), ["registry.fedoraproject.org/fedora:40"]);
        assert_eq!(named(&conf, "node:18"), ["docker.io/library/node:18", "quay.io/node:18"]);
        assert_eq!(named(&conf, "r.io/node"), ["r.io/node:latest"]);
        assert_eq!(named(&RegistriesConf::default(), "node"), ["docker.io/library/node:latest"]);
    }

    #[test]
    fn short_names_that_could_mean_several_images_are_refused_where_that_is_wanted() {
        let search = "unqualified-search-registries = [\"docker.io\", \"quay.io\"]\n";
        let aliases = "[aliases]\n\"fedora\" = \"r.io/fedora\"\n";
        for (mode, allowed) in [("enforcing", false), ("permissive", true), ("disabled", true)] {
            let conf = conf(&format!("{search}short-name-mode = \"{mode}\"\n{aliases}"));
            assert_eq!(conf.candidates("node:1").is_ok(), allowed, "{mode}");
            assert!(conf.candidates("fedora").is_ok() && conf.candidates("r.io/node").is_ok());
        }
        let enforcing = conf(&format!("{search}short-name-mode = \"enforcing\"\n"));
        let error = enforcing.candidates("node:1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the short name `node:1` could mean docker.io/library/node:1 or quay.io/node:1, and registries.conf forbids to guess (short-name-mode)"
        );
        let one = conf("unqualified-search-registries = [\"quay.io\"]\nshort-name-mode = \"enforcing\"\n");
        assert_eq!(one.candidates("node").unwrap()[0].to_string(), "quay.io/node:latest");
    }

    #[test]
    fn credential_helpers_are_named() {
        let conf = conf("credential-helpers = [\"containers-auth.json\", \"pass\"]\n");
        assert_eq!(conf.credential_helpers(), ["containers-auth.json", "pass"]);
    }

    #[test]
    fn drop_ins_override_by_prefix_and_are_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let drop_in = folder.path().join("registries.conf.d");
        fs::create_dir(&drop_in).unwrap();
        let main = folder.path().join("registries.conf");
        fs::write(&main, "[[registry]]\nlocation=\"r.io\"\nblocked=true\n").unwrap();
        fs::write(drop_in.join("20.conf"), "[[registry]]\nprefix=\"r.io\"\nlocation=\"second.io\"\n")
            .unwrap();
        fs::write(drop_in.join("10.conf"), "[[registry]]\nprefix=\"r.io\"\nlocation=\"first.io\"\n").unwrap();
        fs::write(drop_in.join("99.txt"), "not toml at all [").unwrap();
        let conf = RegistriesConf::load(&[main, drop_in, folder.path().join("absent")]).unwrap();
        assert_eq!(resolved(&conf, "r.io/a"), ["second.io/a:latest"]);
    }

    #[test]
    fn wrong_files_are_refused_with_a_sentence() {
        for (text, reason) in [
            ("[registries.search]\nregistries = [\"a\"]\n", "version 1"),
            ("[[registry]]\nblocked = true\n", "neither `prefix` nor `location`"),
            ("[[registry]]\nlocation = \"https://r.io\"\n", "without a scheme"),
            ("[[registry]]\nprefix = \"*.r.io/x\"\n", "wildcard"),
            (
                "[[registry]]\nlocation = \"r.io\"\n[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"x\"\n",
                "line 5: unknown variant `x`, expected one of `all`",
            ),
            ("short-name-mode = \"x\"\n", "line 1: unknown variant `x`"),
            ("[[registry]\n", "line 1"),
            ("unqualified-search-registries = \"docker.io\"\n", "line 1"),
        ] {
            let error = RegistriesConf::default()
                .add(Path::new("/etc/c/registries.conf"), text)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("could not use `/etc/c/registries.conf`: "), "{error}");
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
