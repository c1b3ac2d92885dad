//! What comments above an instruction ask of the cache: `# rbuild: no-cache`, `# rbuild: max-age=1d`.
//!
//! Other builders read comments, so a Dockerfile with them builds everywhere. Words that are not known are told of and
//! otherwise left alone: a comment may begin like this by chance.

use std::time::Duration;

use crate::{Instruction, Keyword, Span};

/// What begins such a comment.
const PREFIX: &str = "rbuild:";

/// What the comments above one instruction ask of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheWishes {
    /// Carry the instruction out again in each build.
    pub no_cache: bool,
    /// A result older than this does not count.
    pub max_age: Option<Duration>,
    /// Sentences on what could not be understood, each with its place.
    pub not_understood: Vec<(String, Span)>,
}

impl Instruction {
    /// What the comments above it ask of the cache. Words are separated by commas or blanks.
    #[must_use]
    pub fn cache_wishes(&self) -> CacheWishes {
        let mut wishes = CacheWishes::default();
        for comment in &self.comments {
            let Some(text) = comment.text.strip_prefix(PREFIX) else { continue };
            for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
                if let Err(why) = wishes.take(word) {
                    wishes.not_understood.push((why, comment.span));
                }
            }
            if !matches!(self.keyword, Keyword::Run | Keyword::Copy | Keyword::Add | Keyword::Workdir) {
                let why =
                    format!("`# rbuild:` above {} asks for nothing: it has no result to keep", self.keyword);
                wishes.not_understood.push((why, comment.span));
            }
        }
        wishes
    }
}

impl CacheWishes {
    fn take(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None if word == "no-cache" => self.no_cache = true,
            Some(("max-age", age)) => {
                let age = parse_age(age).ok_or_else(|| {
                    format!("`{age}` is no age in `# rbuild: max-age=`; write it as `12h` or `1d`")
                })?;
                self.max_age = Some(self.max_age.map_or(age, |known| known.min(age)));
            }
            _ => {
                return Err(format!(
                    "`# rbuild: {word}` is not known; there are `no-cache` and `max-age=1d`"
                ));
            }
        }
        Ok(())
    }
}

/// `30s`, `90m`, `12h`, `1d`, `2w`, and several in a row.
fn parse_age(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = match after.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return None,
        };
        seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(seconds)?;
        rest = &after[1..];
    }
    (!text.is_empty()).then_some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dockerfile;

    fn wishes(comments: &str, instruction: &str) -> CacheWishes {
        let dockerfile = Dockerfile::parse(&format!("FROM scratch\n{comments}\n{instruction}\n")).unwrap();
        dockerfile.stages[0].instructions[0].cache_wishes()
    }

    #[test]
    fn comments_ask() {
        for (comments, no_cache, max_age) in [
            ("# rbuild: no-cache", true, None),
            ("#rbuild:max-age=1d", false, Some(86_400)),
            ("# rbuild: max-age=1h30m, no-cache", true, Some(5400)),
            ("# rbuild: max-age=2d\n# why\n# rbuild: max-age=1w", false, Some(172_800)),
            ("# no-cache", false, None),
        ] {
            let found = wishes(comments, "RUN x");
            assert_eq!(
                (found.no_cache, found.max_age.map(|age| age.as_secs())),
                (no_cache, max_age),
                "{comments}"
            );
            assert!(found.not_understood.is_empty(), "{comments}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_told_and_asks_nothing() {
        for (comments, instruction, words) in [
            ("# rbuild: max-age=soon", "RUN x", "`soon` is no age"),
            ("# rbuild: max-age=5", "RUN x", "`5` is no age"),
            ("# rbuild: nocache", "RUN x", "`# rbuild: nocache` is not known"),
            ("# rbuild: no-cache", "ENV A=b", "above ENV asks for nothing"),
        ] {
            let found = wishes(comments, instruction);
            assert!(found.not_understood[0].0.contains(words), "{found:?}");
            assert_eq!(found.max_age, None);
        }
    }
}
