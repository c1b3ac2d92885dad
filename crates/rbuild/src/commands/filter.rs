//! `--filter NAME=VALUE` of `images` and `prune`.

use rbuild_engine::stored::StoredImage;
use rbuild_image::Reference;

use super::show;
use crate::failure::CliError;
use crate::size;

/// Which images are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// `dangling=true`: only those without a tag; `false`: only those with one.
    pub(crate) dangling: Option<bool>,
    /// `reference=PATTERN`: one of them fits.
    pub(crate) references: Vec<String>,
    /// `label=NAME[=VALUE]`, and whether the image is to have it: all of them hold.
    pub(crate) labels: Vec<(String, bool)>,
    /// `until=AGE`: older than so many seconds.
    pub(crate) until: Option<u64>,
}

impl Filter {
    /// Reads the options.
    pub(crate) fn parse(options: &[String]) -> Result<Filter, CliError> {
        let mut filter = Filter::default();
        for option in options {
            let bad = || {
                let failure = CliError::usage(format!("could not understand the filter `{option}`"));
                failure.help("there are `dangling=true`, `reference=PATTERN`, `label=NAME[=VALUE]`, `label!=NAME[=VALUE]` and `until=AGE`")
            };
            let (name, value) = option.split_once('=').ok_or_else(bad)?;
            match name {
                "dangling" => filter.dangling = Some(matches!(value, "true" | "1")),
                "reference" => filter.references.push(value.to_owned()),
                "label" => filter.labels.push((value.to_owned(), true)),
                "label!" => filter.labels.push((value.to_owned(), false)),
                "until" => filter.until = Some(size::parse_age(value).map_err(CliError::usage)?),
                _ => return Err(bad()),
            }
        }
        Ok(filter)
    }

    /// Whether an image is meant.
    pub(crate) fn fits(&self, image: &StoredImage, now: i64) -> bool {
        let labels = &image.config().config.labels;
        let has = |label: &str| match label.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(label),
        };
        self.dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
            && (self.references.is_empty() || image.tags.iter().any(|tag| self.names(tag)))
            && self.labels.iter().all(|(label, wanted)| has(label) == *wanted)
            && self.until.is_none_or(|age| image.named <= now.saturating_sub(age as i64))
    }

    /// Whether one of the patterns means this tag.
    pub(crate) fn names(&self, tag: &Reference) -> bool {
        self.references.is_empty() || self.references.iter().any(|pattern| is_named(tag, pattern))
    }
}

/// Docker's rule: the pattern is for the name as Docker shows it, with or without its tag; `*` stops at a slash.
fn is_named(tag: &Reference, pattern: &str) -> bool {
    let pattern = rbuild_context::Glob::new(pattern);
    let Ok(pattern) = pattern else { return false };
    [tag.familiar(), tag.familiar_name(), tag.to_string(), tag.repository()]
        .iter()
        .any(|name| pattern.matches(name))
}

/// Seconds since 1970 at which an image was made.
pub(crate) fn created(image: &StoredImage) -> Option<i64> {
    image.config().created.as_deref().and_then(show::seconds_of)
}
