//! Names of images, by the grammar of distribution's reference library.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, ImageError, Result};

const DOCKER_HUB: &str = "docker.io";
/// Longest path of a repository, from distribution's `RepositoryNameTotalLengthMax`.
const MAX_PATH: usize = 255;
/// Longest tag, from its grammar.
const MAX_TAG: usize = 128;

/// A normalised image reference: `domain/path[:tag][@digest]`.
///
/// ```
/// use rbuild_image::Reference;
/// let image = Reference::parse("alpine")?;
/// assert_eq!(image.to_string(), "docker.io/library/alpine:latest");
/// assert_eq!(image.familiar(), "alpine:latest");
/// # Ok::<(), rbuild_image::ImageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads what a user or a Dockerfile wrote, completing it as Docker does: `docker.io` where no registry is named,
    /// `library/` for the official images there, `:latest` where there is neither tag nor digest.
    ///
    /// `scratch` is a name like any other here.
    pub fn parse(text: &str) -> Result<Reference> {
        let invalid =
            |reason: &str| ImageError::Reference { text: text.to_owned(), reason: reason.to_owned() };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if is_image_id(text) {
            return Err(invalid("64 hexadecimal digits are an image ID, not a name"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let digest = digest.map(str::parse::<Digest>).transpose().map_err(|error| match error {
            ImageError::Digest { reason, .. } => invalid(&format!("its digest is wrong, {reason}")),
            other => other,
        })?;
        let (name, tag) = split_tag(name);
        if let Some(problem) = tag.and_then(tag_problem) {
            return Err(invalid(&problem));
        }
        let (domain, path) = split_domain(name);
        if let Some(problem) = domain_problem(&domain).or_else(|| path_problem(&path)) {
            return Err(invalid(&problem));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Reference { domain, path, tag, digest })
    }

    /// Does `text` leave the registry to be guessed (`alpine`, `team/app`), as the "short names" of registries.conf do?
    pub fn is_short(text: &str) -> bool {
        let name = text.split('@').next().unwrap_or(text);
        !has_domain(split_tag(name).0)
    }

    /// The registry's host and perhaps port: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any; it counts more than the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/alpine`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What stands after `/v2/…/manifests/` in the distribution protocol: the digest, else the tag.
    pub fn identifier(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The shortest text that means the same to Docker's users: `alpine:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The shortest name without tag and digest: `alpine`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DOCKER_HUB {
            return self.repository();
        }
        match self.path.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name.to_owned(),
            // Docker shortens `docker.io/a.b/c`, too, and then reads `a.b` as a registry.
            _ if has_domain(&self.path) => self.repository(),
            _ => self.path.clone(),
        }
    }

    /// The same image pinned to `digest`; the tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The repository with a digest and no tag: what Docker calls a repo digest.
    #[must_use]
    pub fn repository_digest(&self, digest: &Digest) -> Reference {
        Reference { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The same repository under another tag, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference> {
        if let Some(reason) = tag_problem(tag) {
            return Err(ImageError::Reference { text: format!("{}:{tag}", self.repository()), reason });
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same image in another registry and repository (mirrors); `location` is `domain[/path]`.
    pub fn with_repository(&self, location: &str) -> Result<Reference> {
        let (domain, path) = location.split_once('/').unwrap_or((location, ""));
        if let Some(reason) = domain_problem(domain).or_else(|| path_problem(path)) {
            return Err(ImageError::Reference { text: location.to_owned(), reason });
        }
        Ok(Reference { domain: domain.to_owned(), path: path.to_owned(), ..self.clone() })
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A colon starts the tag unless a slash follows (then it starts a port).
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// The first component is a registry if it could not be a folder on Docker Hub: a dot, a colon, upper case, or `localhost`.
fn has_domain(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| {
        first == "localhost"
            || first.contains(['.', ':'])
            || first.bytes().any(|byte| byte.is_ascii_uppercase())
    })
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if has_domain(name) => (domain, path),
        _ => (DOCKER_HUB, name),
    };
    let domain = if domain == "index.docker.io" { DOCKER_HUB } else { domain };
    if domain == DOCKER_HUB && !path.contains('/') && !path.is_empty() {
        return (domain.to_owned(), format!("library/{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn tag_problem(tag: &str) -> Option<String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match tag.as_bytes() {
        [] => Some("the tag after the colon is empty".to_owned()),
        [first, rest @ ..] if word(*first) && rest.iter().all(|byte| word(*byte) || b".-".contains(byte)) => {
            (tag.len() > MAX_TAG).then(|| format!("its tag is longer than {MAX_TAG} characters"))
        }
        _ => {
            Some(format!("`{tag}` is not a tag (letters, digits, `_`, `.` and `-`, the first no `.` or `-`)"))
        }
    }
}

fn domain_problem(domain: &str) -> Option<String> {
    let problem = || Some(format!("`{domain}` is not a registry's host and port"));
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return problem(),
        },
        None => match domain.split_once(':') {
            Some((host, _)) => (Some(host), &domain[host.len()..]),
            None => (Some(domain), ""),
        },
    };
    let port_is_right = match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host_is_right = host.is_none_or(|host| host.split('.').all(is_domain_component));
    if host_is_right && port_is_right { None } else { problem() }
}

fn is_domain_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("the repository's name is missing".to_owned());
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(format!("a repository's name is lower case, write `{}`", path.to_ascii_lowercase()));
    }
    if path.len() > MAX_PATH {
        return Some(format!("the repository's name is longer than {MAX_PATH} characters"));
    }
    let wrong = path.split('/').find(|component| !is_path_component(component))?;
    Some(match wrong {
        "" => "the repository's name has an empty part between slashes".to_owned(),
        _ => format!(
            "`{wrong}` is not a part of a repository's name (lower-case letters and digits, joined by one `.`, one or two `_`, or `-`)"
        ),
    })
}

/// `[a-z0-9]+` parts joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    let edges = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    edges
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalises_as_docker_does() {
        let pinned = format!("alpine@{DIGEST}");
        let both = format!("localhost:5000/a/b:1@{DIGEST}");
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned(), "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned(), "alpine:3.20"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest".to_owned(), "bitnami/redis:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned(), "alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest".to_owned(), "alpine:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest".to_owned(), "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest".to_owned(), "docker.io/a.b/c:latest"),
            ("localhost/app", "localhost/app:latest".to_owned(), "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned(), "localhost:5000/app:v1"),
            ("localhost:5000", "docker.io/library/localhost:5000".to_owned(), "localhost:5000"),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned(), "[::1]:5000/app:latest"),
            ("Reg/app", "Reg/app:latest".to_owned(), "Reg/app:latest"),
            (
                "ghcr.io/o/p__q/r-s.t:X_1.2-3",
                "ghcr.io/o/p__q/r-s.t:X_1.2-3".to_owned(),
                "ghcr.io/o/p__q/r-s.t:X_1.2-3",
            ),
            ("a--b", "docker.io/library/a--b:latest".to_owned(), "a--b:latest"),
            ("scratch", "docker.io/library/scratch:latest".to_owned(), "scratch:latest"),
            (&pinned, format!("docker.io/library/alpine@{DIGEST}"), &pinned),
            (&both, both.clone(), &both),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(&full).unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn refuses_with_a_sentence() {
        let long_tag = format!("a:{}", "x".repeat(129));
        let long_path = "a/".repeat(128) + "b";
        let id = "a".repeat(64);
        for (text, reason) in [
            ("", "empty"),
            ("Alpine", "lower case, write `library/alpine`"),
            ("reg.io/App:1", "lower case, write `app`"),
            ("a:", "the tag after the colon is empty"),
            ("a:-x", "is not a tag"),
            ("a b", "is not a part of a repository's name"),
            ("a//b", "empty part"),
            ("a/", "empty part"),
            ("/a", "empty part"),
            ("reg.io/", "name is missing"),
            ("a..b", "is not a part"),
            ("a___b", "is not a part"),
            ("a-", "is not a part"),
            ("reg..io/a", "host and port"),
            ("-reg.io/a", "host and port"),
            ("reg.io:x/a", "host and port"),
            ("reg.io:99999/a", "host and port"),
            ("[::g]:1/a", "host and port"),
            ("https://reg.io/a", "host and port"),
            ("a@sha256:12", "wrong number of digits"),
            ("a@md5:12", "neither sha256 nor sha512"),
            (&long_tag, "longer than 128"),
            (&long_path, "longer than 255"),
            (&id, "image ID"),
        ] {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn short_names_are_those_without_a_registry() {
        for (text, short) in
            [("alpine", true), ("a/b:1", true), ("localhost/a", false), ("r.io/a", false), ("a:80/b", false)]
        {
            assert_eq!(Reference::is_short(text), short, "{text}");
        }
    }
}
