//! The patterns of ignore files and of `--exclude` and `--parents`.

use regex::Regex;

use crate::glob::{self, Glob, PatternError, Token};

/// One pattern: `*`, `?`, classes, escapes, `**` for any number of folders, a leading `!` to take files back in.
///
/// Anchored at both ends and at the root: `foo` is `/foo` and nothing else. A path also counts as matched where the
/// pattern matches one of its folders.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    matcher: Matcher,
    /// The pattern folder by folder, to know where in the tree it can still match.
    folders: Vec<Folder>,
}

/// How a pattern is matched; most are plain names, and regular expressions are dear.
#[derive(Clone, Debug)]
enum Matcher {
    Exact(String),
    /// `foo/**`: what begins with this.
    Prefix(String),
    /// `**foo`: what ends with this; `**/foo` also matches `foo` itself.
    Suffix {
        text: String,
        slash: bool,
    },
    Regex(Regex),
}

#[derive(Clone, Debug)]
enum Folder {
    /// Nothing is known from here on: the folder has `**` in it.
    Anything,
    Exact(String),
    Glob(Glob),
}

impl Pattern {
    /// Compiles one pattern, cleaned as Go's `filepath.Clean` does; `!` alone is an error.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let (exclusion, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        if exclusion && rest.is_empty() {
            return Err(PatternError { pattern: text.to_owned(), problem: "nothing follows the `!`" });
        }
        let clean = clean(rest);
        let matcher = matcher(&clean)?;
        let folders = clean.split('/').map(folder).collect();
        Ok(Self { text: clean, exclusion, matcher, folders })
    }

    /// The pattern, cleaned, without `!`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it takes files back in (`!`).
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    /// Whether the path itself matches; for one of its folders see [`PatternSet`].
    pub fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exact(text) => path == text,
            Matcher::Prefix(text) => path.starts_with(text.as_str()),
            Matcher::Suffix { text, slash: false } => path.ends_with(text.as_str()),
            Matcher::Suffix { text, slash: true } => match path.strip_suffix(text.as_str()) {
                Some(before) => before.is_empty() || before.ends_with('/'),
                None => false,
            },
            Matcher::Regex(regex) => regex.is_match(path),
        }
    }

    /// Whether something below this folder can match while the folder itself does not.
    pub fn can_match_below(&self, folder: &str) -> bool {
        let mut names = folder.split('/').filter(|name| !name.is_empty());
        for expected in &self.folders {
            let Some(name) = names.next() else { return true };
            match expected {
                Folder::Anything => return true,
                Folder::Exact(text) if text == name => {}
                Folder::Glob(glob) if glob.matches(name) => {}
                Folder::Exact(_) | Folder::Glob(_) => return false,
            }
        }
        false
    }
}

fn matcher(clean: &str) -> Result<Matcher, PatternError> {
    let tokens = glob::tokens(clean, true)?;
    let literal = |tokens: &[Token]| -> Option<String> {
        tokens.iter().map(|token| if let Token::Literal(char) = token { Some(*char) } else { None }).collect()
    };
    if let Some(text) = literal(&tokens) {
        return Ok(Matcher::Exact(text));
    }
    if let [before @ .., Token::Anything] = tokens.as_slice()
        && let Some(text) = literal(before)
    {
        return Ok(Matcher::Prefix(text));
    }
    if let [Token::AnyFolders { slash }, after @ ..] = tokens.as_slice()
        && let Some(text) = literal(after)
    {
        return Ok(Matcher::Suffix { text, slash: *slash });
    }
    Ok(Matcher::Regex(glob::regex(clean, &tokens)?))
}

fn folder(name: &str) -> Folder {
    // A letter behind a backslash is not that letter.
    let is_letter =
        |(at, _): (usize, &str)| name[at + 1..].starts_with(|next: char| next.is_ascii_alphanumeric());
    if name.contains("**") || name.match_indices('\\').any(is_letter) {
        return Folder::Anything;
    }
    if !Glob::has_wildcards(name) && !name.contains('\\') {
        return Folder::Exact(name.to_owned());
    }
    // A class with a `/` in it falls apart here: nothing is known then.
    Glob::new(name).map_or(Folder::Anything, Folder::Glob)
}

/// Go's `filepath.Clean`, lexically: no `.`, no double slash, no slash at the end, `..` only in front.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if rooted => {}
            other => names.push(other),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

/// Which patterns matched the folders above a path: one flag for each pattern.
#[derive(Clone, Debug, Default)]
pub(crate) struct Above(Vec<bool>);

/// Patterns in order; the last one that matches a path or one of its folders decides.
#[derive(Clone, Debug, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
}

impl PatternSet {
    /// No pattern.
    pub(crate) const EMPTY: Self = Self { patterns: Vec::new() };

    /// Compiles patterns; empty ones are left out.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let mut set = Self::default();
        for text in patterns {
            let text = text.as_ref().trim();
            if !text.is_empty() {
                set.patterns.push(Pattern::new(text)?);
            }
        }
        Ok(set)
    }

    /// The patterns, in their order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether one of the patterns takes files back in (`!`).
    pub fn has_exclusions(&self) -> bool {
        self.patterns.iter().any(Pattern::is_exclusion)
    }

    pub(crate) fn push(&mut self, pattern: Pattern) {
        self.patterns.push(pattern);
    }

    /// Whether the patterns match this path (relative, `/` between folders), by itself or by one of its folders.
    pub fn matches(&self, path: &str) -> bool {
        self.deciding(path).is_some_and(|index| !self.patterns[index].exclusion)
    }

    /// The last pattern that matches this path or one of its folders.
    pub fn deciding(&self, path: &str) -> Option<usize> {
        let folders = || path.match_indices('/').map(|(end, _)| &path[..end]);
        let hit =
            |pattern: &Pattern| pattern.matches(path) || folders().any(|folder| pattern.matches(folder));
        self.patterns.iter().rposition(hit)
    }

    /// What is known above the root: nothing has matched.
    pub(crate) fn above_root(&self) -> Above {
        Above(vec![false; self.patterns.len()])
    }

    /// As [`PatternSet::matches`] for a path whose folders' matches are known.
    pub(crate) fn matches_below(&self, path: &str, above: &Above) -> bool {
        let hit = |(pattern, above): &(&Pattern, &bool)| **above || pattern.matches(path);
        let decides = self.patterns.iter().zip(&above.0).rev().find(hit);
        decides.is_some_and(|(pattern, _)| !pattern.exclusion)
    }

    /// What is known of a folder, for the paths in it.
    pub(crate) fn enter(&self, path: &str, above: &Above) -> Above {
        Above(
            self.patterns
                .iter()
                .zip(&above.0)
                .map(|(pattern, above)| *above || pattern.matches(path))
                .collect(),
        )
    }

    /// Whether a pattern with `!` can take back something below this folder.
    pub(crate) fn can_take_back_below(&self, folder: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.exclusion && pattern.can_match_below(folder))
    }

    /// Whether a pattern without `!` can match something below this folder.
    pub(crate) fn can_match_below(&self, folder: &str) -> bool {
        self.patterns.iter().any(|pattern| !pattern.exclusion && pattern.can_match_below(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths_and_what_lies_below() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dirx/file", false),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "dir/xfile", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "dir/xfile", false),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("*c", "abc", true),
            ("./foo/", "foo", true),
            ("a/../b", "b", true),
            ("foo", "foo/x", true),
            ("foo", "a/foo", false),
            ("a(b)c/**/d", "a(b)c/d", true),
            ("a(b)c/d$", "a(b)c/d$", true),
            ("a^b*", "a^bc", true),
            ("{a,b}*", "a", false),
            ("x?z", "x/z", false),
            ("?", "é", true),
            ("\\a", "a", false),
            ("\\a", "\u{7}", true),
            ("x\\d/y", "x7/y", true),
            ("x\\D", "x7", false),
            ("\\w\\W", "a.", true),
            ("\\!x", "!x", true),
            ("\\#y", "#y", true),
        ] {
            let set = PatternSet::new([pattern]).unwrap();
            assert_eq!(set.matches(path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        for (patterns, path, expected) in [
            (&["**", "!util/docker/web"][..], "util/docker/web/foo", false),
            (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
            (&["**", "!dist/proxy.py", "!dist/hey.py"], "dist/hey.py", false),
            (&["a", "!a/b"], "a/b", false),
            (&["a", "!a/b"], "a/c", true),
            (&["!a/b", "a"], "a/b", true),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["!docs/README.md", "docs"], "docs/README.md", true),
            (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
            (&["*.md", "README-secret.md", "!README*.md"], "README-secret.md", false),
        ] {
            assert_eq!(PatternSet::new(patterns).unwrap().matches(path), expected, "{patterns:?} on {path}");
        }
    }

    #[test]
    fn knowing_the_folders_gives_the_same_answer() {
        let set = PatternSet::new(["*", "!src/**/*.rs", "src/gen", "!src/gen/special.rs", "**/tmp"]).unwrap();
        for path in ["a", "src/a.rs", "src/gen/a.rs", "src/gen/special.rs", "src/x/tmp/y.rs", "src/x/y.c"] {
            let mut above = set.above_root();
            for (end, _) in path.match_indices('/') {
                above = set.enter(&path[..end], &above);
            }
            assert_eq!(set.matches_below(path, &above), set.matches(path), "{path}");
        }
    }

    #[test]
    fn folders_where_nothing_can_match_are_known() {
        for (pattern, folder, expected) in [
            ("src/*.rs", "src", true),
            ("src/*.rs", "doc", false),
            ("src/*/x", "src/a", true),
            ("src/*/x", "src/a/x", false),
            ("src/**/x", "src/a/b/c", true),
            ("**/x", "any", true),
            ("a**b/x", "z", true),
            ("[a/b]/x", "q", true),
            ("a\\*/x", "a*", true),
            ("a\\*/x", "ab", false),
            ("\\d/x", "7", true),
            ("x", "", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).unwrap().can_match_below(folder),
                expected,
                "{pattern} below {folder}"
            );
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for pattern in ["!", "!  ", "[", "a\\", "[a-]", "**/[", "\\q", "\\é"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
