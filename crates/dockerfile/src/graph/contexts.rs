//! The named contexts of a build, by the names that a Dockerfile uses.

use super::GraphArguments;

/// The keys of the named contexts: `NAME`, or `NAME::PLATFORM` for one platform only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Contexts {
    keys: Vec<String>,
    /// The target's platform.
    platform: String,
}

impl Contexts {
    pub(crate) fn of(arguments: &GraphArguments) -> Contexts {
        let platform = arguments.platform_args.get("TARGETPLATFORM").cloned().unwrap_or_default();
        Contexts { keys: arguments.contexts.clone(), platform }
    }

    /// The context that stands for an image of this name, written in short or in full.
    pub(crate) fn for_image(&self, name: &str, platform: Option<&str>) -> Option<String> {
        if name == "scratch" || name == "context" {
            return None;
        }
        let wanted = familiar(name);
        self.find(platform, |known| known == name || familiar(known) == wanted)
    }

    /// The context that stands for a stage of this name.
    pub(super) fn for_stage(&self, name: &str, platform: Option<&str>) -> Option<String> {
        self.find(platform, |known| known == name)
    }

    /// One for the platform alone goes before one for all.
    fn find(&self, platform: Option<&str>, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let platform = platform.unwrap_or(&self.platform);
        let of_platform = |key: &&String| {
            key.split_once("::").is_some_and(|(name, wanted)| is_same(wanted, platform) && is_meant(name))
        };
        let of_all = |key: &&String| !key.contains("::") && is_meant(key);
        self.keys.iter().find(of_platform).or_else(|| self.keys.iter().find(of_all)).cloned()
    }
}

/// Whether two platforms are the same; an architecture alone is one of Linux.
fn is_same(known: &str, asked: &str) -> bool {
    known == asked || known.strip_prefix("linux/") == Some(asked)
}

/// An image name without what Docker adds to it.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_by_name_and_platform() {
        let keys = ["alpine", "alpine::linux/arm64", "docker.io/library/node:latest", "only::linux/amd64"];
        let contexts =
            Contexts { keys: keys.map(str::to_owned).to_vec(), platform: "linux/amd64".to_owned() };
        for (name, platform, expected) in [
            ("alpine", None, Some("alpine")),
            ("docker.io/library/alpine:latest", None, Some("alpine")),
            ("alpine", Some("linux/arm64"), Some("alpine::linux/arm64")),
            ("alpine", Some("arm64"), Some("alpine::linux/arm64")),
            ("alpine:3", None, None),
            ("node", None, Some("docker.io/library/node:latest")),
            ("only", None, Some("only::linux/amd64")),
            ("only", Some("linux/arm64"), None),
            ("scratch", None, None),
        ] {
            assert_eq!(contexts.for_image(name, platform).as_deref(), expected, "{name} {platform:?}");
        }
    }
}
