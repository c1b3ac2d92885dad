//! Where an image is, in skopeo's words.

use std::fmt;
use std::path::{Path, PathBuf};

use rbuild_image::Reference;

use crate::error::{Explain, Failure, FailureKind, Result};

/// A registry, a layout or an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `docker://NAME`, or a name alone.
    Registry(Reference),
    /// `oci:DIR[:NAME]`: an OCI layout as a folder.
    Oci {
        /// The folder.
        path: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
    /// `oci-archive:FILE[:NAME]`: an OCI layout in a tar.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
}

impl Location {
    /// Reads what a user typed.
    ///
    /// # Errors
    /// No image's name, or a transport that is not known here.
    pub fn parse(text: &str) -> Result<Location> {
        let archives = ["oci:", "oci-archive:", "docker-archive:"];
        if let Some((transport, rest)) =
            archives.iter().find_map(|known| Some((*known, text.strip_prefix(known)?)))
        {
            let (path, name) = split(rest);
            if path.is_empty() {
                return Err(Failure::new(FailureKind::Usage, format!("`{text}` names no file")).into());
            }
            let (path, name) = (PathBuf::from(path), name.map(str::to_owned));
            return Ok(match transport {
                "oci:" => Location::Oci { path, name },
                "oci-archive:" => Location::OciArchive { path, name },
                _ => Location::DockerArchive { path, name },
            });
        }
        let name = text.strip_prefix("docker://").unwrap_or(text);
        let others = ["containers-storage:", "docker-daemon:", "dir:", "sif:", "ostree:", "tarball:"];
        if let Some(other) = others.iter().find(|other| name.starts_with(**other)) {
            let failure = Failure::new(FailureKind::Usage, format!("`{other}` is no transport of rbuild"));
            return Err(failure.help("there are docker://, oci:, oci-archive: and docker-archive:").into());
        }
        Reference::parse(name)
            .map(Location::Registry)
            .explain(FailureKind::Usage, || format!("invalid reference format: `{name}`"))
    }

    /// File or folder, and the image's name in it; none for a registry.
    #[must_use]
    pub fn archive(&self) -> Option<(&Path, Option<&str>)> {
        match self {
            Location::Registry(_) => None,
            Location::Oci { path, name }
            | Location::OciArchive { path, name }
            | Location::DockerArchive { path, name } => Some((path, name.as_deref())),
        }
    }
}

/// The path ends at the first colon, as for skopeo, or before `@sha256:…`.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((path, digest)) = text.split_once('@').filter(|(_, digest)| digest.contains(':')) {
        return (path, Some(digest));
    }
    match text.split_once(':') {
        Some((path, name)) => (path, (!name.is_empty()).then_some(name)),
        None => (text, None),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self {
            Location::Registry(reference) => return write!(f, "docker://{reference}"),
            Location::Oci { .. } => "oci",
            Location::OciArchive { .. } => "oci-archive",
            Location::DockerArchive { .. } => "docker-archive",
        };
        let Some((path, name)) = self.archive() else { return Ok(()) };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_skopeos_words() {
        for (text, shown) in [
            ("alpine", "docker://docker.io/library/alpine:latest"),
            ("docker://r.io:5000/a:1", "docker://r.io:5000/a:1"),
            ("oci:dir", "oci:dir"),
            ("oci:/a/dir:v1", "oci:/a/dir:v1"),
            ("oci-archive:a.tar:x/y:1", "oci-archive:a.tar:x/y:1"),
            ("docker-archive:a.tar:app:1", "docker-archive:a.tar:app:1"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.to_string(), shown);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = Location::parse(&format!("oci:dir@{digest}")).unwrap();
        assert_eq!(by_digest.archive(), Some((Path::new("dir"), Some(digest.as_str()))));
        for wrong in ["oci:", "dir:/x", "docker-daemon:a", "Alpine", ""] {
            assert!(Location::parse(wrong).is_err(), "{wrong}");
        }
    }
}
