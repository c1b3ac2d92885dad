//! What a build gives to its Dockerfile.

use std::collections::BTreeMap;

/// The parts of a platform, as the predefined build args name them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BuildPlatform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v8`; mostly empty
    pub variant: String,
    /// Windows' version; mostly empty
    pub os_version: String,
}

impl std::fmt::Display for BuildPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", self.variant),
        }
    }
}

/// What a build gives to its Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GraphArguments {
    /// `--build-arg name=value`
    pub build_args: BTreeMap<String, String>,
    /// `TARGETPLATFORM` and its kind, which the builder defines; see [`GraphArguments::with_platforms`].
    pub platform_args: BTreeMap<String, String>,
    /// The names of `--build-context name=…`; `name::platform` is for that platform only.
    pub contexts: Vec<String>,
    /// `--target`; gives `TARGETSTAGE`.
    pub target: Option<String>,
    /// Refuse what the reference refuses though it could be had: variables in `--from=`.
    pub strict_docker: bool,
}

impl GraphArguments {
    /// Defines the predefined platform args (`TARGETPLATFORM`, `TARGETOS` …, `BUILDPLATFORM` …).
    #[must_use]
    pub fn with_platforms(mut self, target: &BuildPlatform, build: &BuildPlatform) -> GraphArguments {
        for (prefix, platform) in [("TARGET", target), ("BUILD", build)] {
            let parts = [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("OSVERSION", platform.os_version.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone()),
            ];
            self.platform_args.extend(parts.map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        self
    }
}
