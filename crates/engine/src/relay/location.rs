//! Where an image is, in skopeo's words.

use std::fmt;
use std::path::{Path, PathBuf};

use rbuild_image::{Digest, Reference};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::output::ArchiveKind;
use crate::request::Destination;

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

/// Transports of files and folders.
const ARCHIVES: [&str; 3] = ["oci:", "oci-archive:", "docker-archive:"];
/// The one of registries.
const REGISTRY: &str = "docker://";
/// Those of other tools that are not known here.
const REFUSED: [&str; 6] = ["containers-storage:", "docker-daemon:", "dir:", "sif:", "ostree:", "tarball:"];

impl Location {
    /// Does the text begin with a transport, so that it can't be the name of an image in the store?
    #[must_use]
    pub fn has_transport(text: &str) -> bool {
        let all = ARCHIVES.iter().chain(&REFUSED).chain([&REGISTRY]);
        all.into_iter().any(|transport| text.starts_with(transport))
    }

    /// Reads what a user typed.
    ///
    /// # Errors
    /// No image's name, or a transport that is not known here.
    pub fn parse(text: &str) -> Result<Location> {
        if let Some((transport, rest)) =
            ARCHIVES.iter().find_map(|known| Some((*known, text.strip_prefix(known)?)))
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
        let name = text.strip_prefix(REGISTRY).unwrap_or(text);
        if let Some(other) = REFUSED.iter().find(|other| name.starts_with(**other)) {
            let failure = Failure::new(FailureKind::Usage, format!("`{other}` is no transport of rbuild"));
            return Err(failure.help("there are docker://, oci:, oci-archive: and docker-archive:").into());
        }
        Reference::parse(name)
            .map(Location::Registry)
            .explain(FailureKind::Usage, || format!("invalid reference format: `{name}`"))
    }

    /// What is written there, and where; `None` for a registry.
    pub(crate) fn file(&self) -> Option<(ArchiveKind, Destination)> {
        match self {
            Location::Registry(_) => None,
            Location::Oci { path, .. } => Some((ArchiveKind::Oci, Destination::Folder(path.clone()))),
            Location::OciArchive { path, .. } => Some((ArchiveKind::Oci, Destination::File(path.clone()))),
            Location::DockerArchive { path, .. } => {
                Some((ArchiveKind::Docker, Destination::File(path.clone())))
            }
        }
    }

    /// The same wherever the command is run: with the whole path.
    #[must_use]
    pub fn absolute(self) -> Location {
        let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        match self {
            Location::Registry(_) => self,
            Location::Oci { path, name } => Location::Oci { path: whole(path), name },
            Location::OciArchive { path, name } => Location::OciArchive { path: whole(path), name },
            Location::DockerArchive { path, name } => Location::DockerArchive { path: whole(path), name },
        }
    }

    /// The document with this digest at the same place.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Location {
        let name = Some(digest.to_string());
        match self {
            Location::Registry(reference) => Location::Registry(reference.repository_digest(digest)),
            Location::Oci { path, .. } => Location::Oci { path: path.clone(), name },
            Location::OciArchive { path, .. } => Location::OciArchive { path: path.clone(), name },
            Location::DockerArchive { path, .. } => Location::DockerArchive { path: path.clone(), name },
        }
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
        match name {
            Some(digest) if digest.parse::<Digest>().is_ok() => write!(f, "@{digest}"),
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
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
        assert_eq!(by_digest.to_string(), format!("oci:dir@{digest}"));
        let other = Location::parse("oci-archive:a.tar:v1").unwrap().with_digest(&digest.parse().unwrap());
        assert_eq!(other.to_string(), format!("oci-archive:a.tar@{digest}"));
        for (text, has) in
            [("oci:a", true), ("docker://a", true), ("dir:a", true), ("a:1", false), ("docker/a", false)]
        {
            assert_eq!(Location::has_transport(text), has, "{text}");
        }
        for wrong in ["oci:", "dir:/x", "docker-daemon:a", "Alpine", ""] {
            assert!(Location::parse(wrong).is_err(), "{wrong}");
        }
    }
}
