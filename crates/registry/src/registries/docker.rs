//! What Docker's `daemon.json` says of registries: `registry-mirrors` of its Hub, and `insecure-registries`.

use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use serde::Deserialize;

use super::{Mirror, PullFrom, RegistriesConf};
use crate::{RegistryError, Result, url};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Document {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// An entry of `insecure-registries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InsecureRegistry {
    /// `host` or `host:port`.
    Host(String),
    /// `ADDRESS/BITS`: registries that are named by an address of it.
    Network(IpAddr, u32),
}

impl RegistriesConf {
    /// Adds what Docker's daemon is told in `path`. A file that does not exist, or is only for the daemon's eyes, is passed over.
    ///
    /// # Errors
    /// A file that is not JSON of that kind; a mirror that is no URL.
    pub fn load_docker(&mut self, path: &Path) -> Result<()> {
        match fs::read(path) {
            Ok(bytes) => self.add_docker(path, &bytes),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(())
            }
            Err(source) => Err(RegistryError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Adds the text of a daemon.json; `path` names it in errors.
    ///
    /// # Errors
    /// The same.
    pub fn add_docker(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let wrong = |reason: String| RegistryError::Configuration { path: path.to_owned(), reason };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let mirrors: Vec<Mirror> = document
            .registry_mirrors
            .iter()
            .map(|text| {
                mirror(text).ok_or_else(|| wrong(format!("the mirror `{text}` is no http or https URL")))
            })
            .collect::<Result<_>>()?;
        self.hub_mirrors.extend(mirrors);
        self.insecure.extend(document.insecure_registries.iter().map(|text| InsecureRegistry::parse(text)));
        Ok(())
    }
}

/// A mirror that speaks plain HTTP says so by its scheme.
fn mirror(text: &str) -> Option<Mirror> {
    let (scheme, rest) = text.split_once("://")?;
    let location = rest.trim_end_matches('/').to_owned();
    let usable =
        matches!(scheme, "http" | "https") && !location.is_empty() && !location.contains(['?', '#', '@']);
    usable.then_some(Mirror { location, insecure: scheme == "http", pull_from: PullFrom::All })
}

impl InsecureRegistry {
    fn parse(text: &str) -> InsecureRegistry {
        let network = || {
            let (address, bits) = text.split_once('/')?;
            let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
            Some(InsecureRegistry::Network(address, bits))
        };
        // Docker takes a scheme here too, and warns of it.
        let host = || InsecureRegistry::Host(text.rsplit("://").next().unwrap_or(text).to_owned());
        network().unwrap_or_else(host)
    }

    /// Is the registry `domain` (`host[:port]`) meant?
    pub(super) fn covers(&self, domain: &str) -> bool {
        let host = url::host_of(domain);
        match self {
            InsecureRegistry::Host(known) => known == domain || known == host,
            InsecureRegistry::Network(network, bits) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                bare.parse().is_ok_and(|address| shares_prefix(*network, address, *bits))
            }
        }
    }
}

fn shares_prefix(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

#[cfg(test)]
mod tests {
    use rbuild_image::Reference;

    use super::*;

    fn places(conf: &RegistriesConf, text: &str) -> Vec<String> {
        let endpoints = conf.resolve(&Reference::parse(text).unwrap()).unwrap();
        let show = |endpoint: super::super::Endpoint| {
            let insecure = if endpoint.insecure { " insecure" } else { "" };
            format!("{}{insecure}", endpoint.reference)
        };
        endpoints.into_iter().map(show).collect()
    }

    #[test]
    fn mirrors_of_the_hub_and_of_nothing_else() {
        let mut conf = RegistriesConf::default();
        let text =
            br#"{"registry-mirrors":["https://mirror.example/","http://10.0.0.1:5000"],"log-level":"info"}"#;
        conf.add_docker("daemon.json".as_ref(), text).unwrap();
        assert_eq!(
            places(&conf, "node:1"),
            [
                "mirror.example/library/node:1",
                "10.0.0.1:5000/library/node:1 insecure",
                "docker.io/library/node:1"
            ]
        );
        assert_eq!(places(&conf, "quay.io/a:1"), ["quay.io/a:1"]);
        // registries.conf comes first, and pushes go to the Hub itself.
        let own =
            "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"first.example\"\n";
        conf.add("registries.conf".as_ref(), own).unwrap();
        assert_eq!(places(&conf, "me/app:1")[..2], ["first.example/me/app:1", "mirror.example/me/app:1"]);
        let push = conf.push_endpoint(&Reference::parse("me/app:1").unwrap()).unwrap();
        assert_eq!((push.reference.domain(), push.mirror), ("docker.io", false));
    }

    #[test]
    fn insecure_registries_by_name_and_network() {
        let mut conf = RegistriesConf::default();
        let text = br#"{"insecure-registries":["r.example:5000","plain.example","10.1.0.0/16","fd00::/8","http://odd.example"]}"#;
        conf.add_docker("daemon.json".as_ref(), text).unwrap();
        for (name, insecure) in [
            ("r.example:5000/a:1", true),
            ("r.example/a:1", false),
            ("plain.example:80/a:1", true),
            ("not-plain.example/a:1", false),
            ("10.1.200.3:5000/a:1", true),
            ("10.2.0.1:5000/a:1", false),
            ("[fd12::1]:5000/a:1", true),
            ("[fe80::1]:5000/a:1", false),
            ("odd.example/a:1", true),
        ] {
            let expected = if insecure { format!("{name} insecure") } else { name.to_owned() };
            assert_eq!(places(&conf, name), [expected]);
        }
    }

    #[test]
    fn wrong_files_are_named_and_absent_ones_passed_over() {
        let mut conf = RegistriesConf::default();
        for (text, reason) in [
            ("{", "EOF"),
            (
                r#"{"registry-mirrors":["mirror.example"]}"#,
                "the mirror `mirror.example` is no http or https URL",
            ),
            (r#"{"registry-mirrors":["https://"]}"#, "the mirror `https://` is no"),
            (r#"{"registry-mirrors":"x"}"#, "invalid type"),
        ] {
            let error = conf.add_docker("/etc/docker/daemon.json".as_ref(), text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("could not use `/etc/docker/daemon.json`: "), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        conf.add_docker("x".as_ref(), b" \n").unwrap();
        conf.load_docker("/nowhere/daemon.json".as_ref()).unwrap();
    }
}
