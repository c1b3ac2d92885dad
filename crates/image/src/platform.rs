//! Platforms: what an image is for, and whether it runs where it is wanted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ImageError, Result};

/// An operating system, a processor architecture and perhaps its variant, in Go's words (`linux/arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture, `GOARCH`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, `GOOS`.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

const OPERATING_SYSTEMS: [&str; 10] = [
    "linux",
    "windows",
    "darwin",
    "freebsd",
    "netbsd",
    "openbsd",
    "dragonfly",
    "solaris",
    "illumos",
    "wasip1",
];
const ARCHITECTURES: [&str; 13] = [
    "amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips64le", "mips64", "mipsle",
    "mips", "wasm",
];

impl Platform {
    /// A platform of normalised parts, without a version.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let os = normalise_os(os);
        let (architecture, variant) = normalise_architecture(architecture, variant.unwrap_or_default());
        Platform { architecture, os, os_version: None, os_features: Vec::new(), variant }
    }

    /// The platform rbuild itself runs on.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform::new(std::env::consts::OS, architecture, None)
    }

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant` as containerd does; what is left out is the
    /// host's. The system may carry a version: `windows(10.0.20348)/amd64`.
    pub fn parse(text: &str) -> Result<Platform> {
        let invalid = |reason: String| ImageError::Platform { text: text.to_owned(), reason };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, version) =
            split_version(parts[0]).ok_or_else(|| invalid("a `(` without its `)`".to_owned()))?;
        for part in std::iter::once(os).chain(version).chain(parts[1..].iter().copied()) {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            if part.is_empty() || !part.bytes().all(is_word) {
                return Err(invalid(format!(
                    "`{part}` has other characters than letters, digits, `_`, `.`, `-`"
                )));
            }
        }
        let host = Platform::host();
        let mut platform = match parts[1..] {
            [] => Platform::from_one_word(os, &host).ok_or_else(|| {
                invalid(format!(
                    "`{os}` is neither an operating system nor an architecture; write `linux/amd64` or alike"
                ))
            })?,
            [architecture] => Platform::new(os, architecture, None),
            [architecture, variant] => Platform::new(os, architecture, Some(variant)),
            _ => return Err(invalid("more than os/architecture/variant".to_owned())),
        };
        platform.os_version = version.map(str::to_owned);
        Ok(platform)
    }

    fn from_one_word(word: &str, host: &Platform) -> Option<Platform> {
        let os = normalise_os(word);
        if OPERATING_SYSTEMS.contains(&os.as_str()) {
            return Some(Platform::new(&os, &host.architecture, host.variant.as_deref()));
        }
        let platform = Platform::new(&host.os, word, None);
        ARCHITECTURES.contains(&platform.architecture.as_str()).then_some(platform)
    }

    /// The same platform in containerd's normal form: `linux/x86_64` → `linux/amd64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`.
    #[must_use]
    pub fn normalised(&self) -> Platform {
        let plain = Platform::new(&self.os, &self.architecture, self.variant.as_deref());
        Platform { os_version: self.os_version.clone(), os_features: self.os_features.clone(), ..plain }
    }

    /// Can an image for this platform be used where `wanted` is asked for?
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        self.distance(wanted).is_some()
    }

    /// How far an image for this platform is from what is `wanted`: 0 for the very same, more for each older variant
    /// (`arm/v7` takes v6 and v5, `amd64/v3` takes v2 and plain); none if it can't be used.
    pub fn distance(&self, wanted: &Platform) -> Option<u32> {
        let (offered, wanted) = (self.normalised(), wanted.normalised());
        if offered.os != wanted.os || offered.architecture != wanted.architecture {
            return None;
        }
        if wanted.os_version.is_some() && offered.os_version != wanted.os_version {
            return None;
        }
        if offered.variant == wanted.variant {
            return Some(0);
        }
        let baseline = match offered.architecture.as_str() {
            "amd64" => 1,
            "arm" => 7,
            "arm64" => 8,
            _ => return None,
        };
        let level = |variant: &Option<String>| match variant {
            None => Some(baseline),
            Some(text) => text.strip_prefix('v')?.split('.').next()?.parse::<u32>().ok(),
        };
        level(&wanted.variant)?.checked_sub(level(&offered.variant)?)
    }

    /// Is it BuildKit's `unknown/unknown`, which marks attestations?
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Platform> {
        Platform::parse(text)
    }
}

/// `windows(10.0)` → `windows`, `10.0`.
fn split_version(os: &str) -> Option<(&str, Option<&str>)> {
    match os.split_once('(') {
        Some((os, rest)) => Some((os, Some(rest.strip_suffix(')')?))),
        None => Some((os, None)),
    }
}

fn normalise_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), (!variant.is_empty()).then(|| variant.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_normalises() {
        let host = Platform::host();
        let host_arch = host.to_string().split_once('/').unwrap().1.to_owned();
        for (text, expected) in [
            ("linux/amd64", "linux/amd64".to_owned()),
            ("Linux/x86_64", "linux/amd64".to_owned()),
            ("linux/amd64/v1", "linux/amd64".to_owned()),
            ("linux/amd64/v3", "linux/amd64/v3".to_owned()),
            ("linux/aarch64", "linux/arm64".to_owned()),
            ("linux/arm64/v8", "linux/arm64".to_owned()),
            ("linux/arm", "linux/arm/v7".to_owned()),
            ("linux/arm/6", "linux/arm/v6".to_owned()),
            ("linux/armel", "linux/arm/v6".to_owned()),
            ("linux/i386", "linux/386".to_owned()),
            ("macos/arm64", "darwin/arm64".to_owned()),
            ("windows(10.0.20348)/amd64", "windows(10.0.20348)/amd64".to_owned()),
            ("linux", format!("linux/{host_arch}")),
            ("arm64", format!("{}/arm64", host.os)),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "/", "linux/", "linux/amd64/v1/x", "toaster", "lin ux/amd64", "windows(1/amd64"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variants_are_taken_from_the_best_down() {
        for (offered, wanted, distance) in [
            ("linux/arm/v7", "linux/arm/v7", Some(0)),
            ("linux/arm/v6", "linux/arm/v7", Some(1)),
            ("linux/arm/v5", "linux/arm", Some(2)),
            ("linux/arm/v7", "linux/arm/v6", None),
            ("linux/amd64", "linux/amd64/v3", Some(2)),
            ("linux/amd64/v2", "linux/amd64/v3", Some(1)),
            ("linux/amd64/v2", "linux/amd64", None),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64", "linux/arm64/v9", Some(1)),
            ("linux/arm/v7", "linux/arm64", None),
            ("windows/amd64", "linux/amd64", None),
        ] {
            let (offered, wanted) = (Platform::parse(offered).unwrap(), Platform::parse(wanted).unwrap());
            assert_eq!(offered.distance(&wanted), distance, "{offered} for {wanted}");
        }
    }
}
