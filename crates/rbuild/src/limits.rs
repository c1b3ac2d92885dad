//! What the store may keep that no image and no running build uses: `--cache-max-size` and `--cache-max-age`, else
//! `RBUILD_CACHE_MAX_SIZE` and `RBUILD_CACHE_MAX_AGE`, else `[cache]` in `rbuild/config.toml` of the XDG config home, else a
//! tenth of the file system (10 GB at least) and 30 days. Every build keeps them, at most once an hour; at once where an
//! option gives them. `none` is no limit.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rbuild_store::{PruneOptions, Store, StoreError};
use serde::Deserialize;

use crate::args::BuildArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

/// Unused for so long, a result is most likely not wanted again.
const AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The least of the file system that the cache may take unless somebody says otherwise, in bytes.
const LEAST: u64 = 10 << 30;
/// How often a build looks.
const EVERY: Duration = Duration::from_secs(3600);

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    max_bytes: Option<u64>,
    max_age: Option<Duration>,
    /// How long after the last look the next one is due.
    every: Duration,
}

/// `config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    cache: CacheConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CacheConfig {
    max_size: Option<String>,
    max_age: Option<String>,
}

impl Limits {
    /// Reads what was said, the nearest word first.
    pub(crate) fn read(args: &BuildArgs) -> Result<Limits, CliError> {
        let path = surroundings::config_file();
        let config = match std::fs::read_to_string(&path) {
            Ok(text) => config(&text, &path)?,
            // Without the file there is nothing in it.
            Err(_) => CacheConfig::default(),
        };
        let max_size =
            args.cache_max_size.clone().or_else(|| surroundings::variable("RBUILD_CACHE_MAX_SIZE"));
        let max_age = args.cache_max_age.clone().or_else(|| surroundings::variable("RBUILD_CACHE_MAX_AGE"));
        let given = args.cache_max_size.is_some() || args.cache_max_age.is_some();
        Limits::of(max_size.or(config.max_size).as_deref(), max_age.or(config.max_age).as_deref(), given)
            .map_err(CliError::usage)
    }

    fn of(max_size: Option<&str>, max_age: Option<&str>, given: bool) -> Result<Limits, String> {
        let max_bytes = match max_size {
            None => Some(u64::MAX),
            Some("none") => None,
            Some(text) => Some(size::parse_size(text)?),
        };
        let max_age = match max_age {
            None => Some(AGE),
            Some("none") => None,
            Some(text) => Some(Duration::from_secs(size::parse_age(text)?)),
        };
        Ok(Limits { max_bytes, max_age, every: if given { Duration::ZERO } else { EVERY } })
    }

    /// Takes away what is beyond the limits, if it is time to look.
    pub(crate) fn keep(&self, store: &Store) -> Result<(), StoreError> {
        let max_bytes = match self.max_bytes {
            Some(u64::MAX) => Some(share_of_file_system(store.root())),
            other => other,
        };
        let now = SystemTime::now();
        let options = PruneOptions { max_age: self.max_age, max_bytes, mounts: self.max_age.is_some(), now };
        store.prune_if_due(&options, self.every).map(drop)
    }
}

fn config(text: &str, path: &Path) -> Result<CacheConfig, CliError> {
    let config: Config = toml::from_str(text).map_err(|error| {
        CliError::usage(format!("could not understand `{}`: {}", path.display(), error.message()))
            .help("there is `[cache]` with `max-size = \"20GB\"` and `max-age = \"30d\"`")
    })?;
    Ok(config.cache)
}

fn share_of_file_system(root: &Path) -> u64 {
    let whole = rustix::fs::statvfs(root).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    LEAST.max(whole / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_counts() {
        let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
        for (size, age, max_bytes, max_age) in [
            (None, None, Some(u64::MAX), days(30)),
            (Some("2GB"), Some("7d"), Some(2 << 30), days(7)),
            (Some("none"), Some("none"), None, None),
        ] {
            let limits = Limits::of(size, age, false).unwrap();
            assert_eq!((limits.max_bytes, limits.max_age, limits.every), (max_bytes, max_age, EVERY));
        }
        assert_eq!(Limits::of(None, None, true).unwrap().every, Duration::ZERO);
        assert!(
            Limits::of(Some("much"), None, false).is_err() && Limits::of(None, Some("long"), false).is_err()
        );
    }

    #[test]
    fn the_file_says_what_it_may() {
        let path = Path::new("/config.toml");
        let read = config("[cache]\nmax-size = \"5GB\"\n", path).unwrap();
        assert_eq!((read.max_size.as_deref(), read.max_age), (Some("5GB"), None));
        assert!(config("", path).unwrap().max_size.is_none());
        assert!(config("[cache]\nmaxsize = \"5GB\"\n", path).is_err());
    }
}
