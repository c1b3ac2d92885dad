//! The ignore file of a build context: `.dockerignore`, or `NAME.dockerignore` beside the Dockerfile.

use std::fmt;

use crate::glob::PatternError;
use crate::pattern::{self, Pattern, PatternSet};

/// A line of an ignore file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read line {line} of the ignore file")]
pub struct IgnoreError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub problem: PatternError,
}

/// A line of an ignore file: "line 3 of the ignore file excludes it: \`*.log\`".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreRule {
    /// Number of the line, from 1.
    pub line: usize,
    /// The pattern as written.
    pub pattern: String,
}

impl fmt::Display for IgnoreRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the ignore file excludes it: `{}`", self.line, self.pattern)
    }
}

/// The patterns of an ignore file, in order; the last that matches a path or one of its folders decides.
#[derive(Clone, Debug, Default)]
pub struct IgnoreFile {
    patterns: PatternSet,
    rules: Vec<IgnoreRule>,
}

impl IgnoreFile {
    /// Reads the text of an ignore file: a byte order mark is skipped, `#` begins a comment only as the first
    /// character of a line, blanks around a pattern do not count, a leading `/` is the context's root.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let mut file = Self::default();
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let trimmed = line.trim();
            if line.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let pattern = Pattern::new(&rooted(trimmed));
            file.patterns.push(pattern.map_err(|problem| IgnoreError { line: index + 1, problem })?);
            file.rules.push(IgnoreRule { line: index + 1, pattern: trimmed.to_owned() });
        }
        Ok(file)
    }

    /// The patterns.
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// Whether this path (relative to the context's root, `/` between folders) is ignored.
    pub fn is_ignored(&self, path: &str) -> bool {
        self.patterns.matches(path)
    }

    /// The line that ignores this path; `None` if none does.
    pub fn ignored_by(&self, path: &str) -> Option<&IgnoreRule> {
        let index = self.patterns.deciding(path)?;
        if self.patterns.patterns()[index].is_exclusion() { None } else { self.rules.get(index) }
    }

    /// Whether a line takes files back in (`!`).
    pub fn has_negation(&self) -> bool {
        self.patterns.has_exclusions()
    }
}

/// The pattern relative to the context's root: one leading `/` says nothing.
fn rooted(pattern: &str) -> String {
    let (mark, rest) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", pattern),
    };
    if rest.is_empty() {
        return mark.to_owned();
    }
    let clean = pattern::clean(rest);
    match clean.strip_prefix('/') {
        Some(relative) if !relative.is_empty() => format!("{mark}{relative}"),
        _ => format!("{mark}{clean}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_does() {
        let text = "\u{feff}# comment\n*.log\n  spaced.txt\n # not a comment\n/rooted\nslashed/\n\n./dotted\n! /back \r\n";
        let file = IgnoreFile::parse(text).unwrap();
        let texts: Vec<_> = file.patterns.patterns().iter().map(Pattern::text).collect();
        assert_eq!(texts, ["*.log", "spaced.txt", "# not a comment", "rooted", "slashed", "dotted", "back"]);
        assert!(file.has_negation());
        assert_eq!(file.ignored_by("rooted/x").map(|rule| rule.line), Some(5));
    }

    #[test]
    fn a_bare_exclamation_mark_is_an_error_with_its_line() {
        let error = IgnoreFile::parse("a\n!\n").unwrap_err();
        assert_eq!((error.line, error.problem.problem), (2, "nothing follows the `!`"));
        assert_eq!(IgnoreFile::parse("\n\n[a").unwrap_err().line, 3);
    }

    #[test]
    fn patterns_are_anchored_at_the_root_and_the_last_wins() {
        let file = IgnoreFile::parse("*\n!src/**/*.rs\nsrc/gen\n!src/gen/special.rs\n").unwrap();
        assert!(file.is_ignored("src/a.txt") && file.is_ignored("other") && file.is_ignored("src/gen/a.rs"));
        assert!(
            !file.is_ignored("src/a.rs")
                && !file.is_ignored("src/x/y.rs")
                && !file.is_ignored("src/gen/special.rs")
        );
        assert_eq!(file.ignored_by("src/gen/a.rs").unwrap().pattern, "src/gen");
        assert!(!IgnoreFile::parse("foo").unwrap().is_ignored("a/foo"));
    }

    #[test]
    fn odd_patterns_match_nothing() {
        let file = IgnoreFile::parse("/\n.\n..\n../x\n").unwrap();
        assert!(!file.is_ignored("x") && !file.is_ignored("a/b"));
    }
}
