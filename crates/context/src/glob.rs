//! Go's file patterns, as tokens and as regular expressions.
//!
//! Two dialects share the tokens: `filepath.Match` (the sources of COPY and ADD) and that of ignore files, which adds
//! `**`. Both are anchored at both ends. Class and escape grammar are those of the Go documentation of
//! `path/filepath.Match`; `[!a]` is no negation there, and `{a,b}` no alternation.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// A pattern that breaks the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read the pattern `{pattern}`: {problem}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// One piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Literal(char),
    /// `?`: a character, not `/`.
    AnyChar,
    /// `*`: characters, not `/`.
    Star,
    /// `**` with more after it: any number of folders, also none. Takes the `/` after it with it; the flag says
    /// whether there was one.
    AnyFolders {
        /// Whether a `/` followed in the pattern.
        slash: bool,
    },
    /// `**` at the end: anything.
    Anything,
    /// `[a-z]`, `[^x]`.
    Class {
        /// Whether it began with `^`.
        negated: bool,
        /// First and last character of each range.
        ranges: Vec<(char, char)>,
    },
}

/// Reads a pattern; `**` means two stars unless `folders` is set.
pub(crate) fn tokens(pattern: &str, folders: bool) -> Result<Vec<Token>, PatternError> {
    let fail = |problem| PatternError { pattern: pattern.to_owned(), problem };
    let mut chars = pattern.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' if folders && chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                if chars.peek().is_some() { Token::AnyFolders { slash } } else { Token::Anything }
            }
            '*' => Token::Star,
            '?' => Token::AnyChar,
            '[' => class(&mut chars).map_err(fail)?,
            '\\' => {
                let escaped = chars.next().ok_or_else(|| fail("nothing follows its last backslash"))?;
                if folders { escape(escaped).map_err(fail)? } else { Token::Literal(escaped) }
            }
            other => Token::Literal(other),
        });
    }
    Ok(tokens)
}

/// What a backslash makes of a character in an ignore file, whose patterns become regular expressions of Go's `regexp`.
fn escape(char: char) -> Result<Token, &'static str> {
    let class = |negated, ranges: &[_]| Token::Class { negated, ranges: ranges.to_vec() };
    let word = [('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    let space = [('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
    Ok(match char {
        'a' => Token::Literal('\u{7}'),
        'f' => Token::Literal('\u{c}'),
        'n' => Token::Literal('\n'),
        'r' => Token::Literal('\r'),
        't' => Token::Literal('\t'),
        'v' => Token::Literal('\u{b}'),
        'd' | 'D' => class(char == 'D', &[('0', '9')]),
        's' | 'S' => class(char == 'S', &space),
        'w' | 'W' => class(char == 'W', &word),
        other if other.is_ascii() && !other.is_ascii_alphanumeric() => Token::Literal(other),
        _ => return Err("a backslash there has no meaning; it is for `*`, `?`, `[` and the like"),
    })
}

fn class(chars: &mut Peekable<Chars<'_>>) -> Result<Token, &'static str> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let first = class_char(chars)?;
        let last = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { first };
        ranges.push((first, last));
    }
    Ok(Token::Class { negated, ranges })
}

fn class_char(chars: &mut Peekable<Chars<'_>>) -> Result<char, &'static str> {
    const OPEN: &str = "a `[` is never closed";
    match chars.next().ok_or(OPEN)? {
        '-' | ']' => Err("a `-` or `]` in a class needs a backslash"),
        '\\' => chars.next().ok_or(OPEN),
        other => Ok(other),
    }
}

/// The anchored regular expression of a pattern.
pub(crate) fn regex(pattern: &str, tokens: &[Token]) -> Result<Regex, PatternError> {
    // Names may hold newlines: `.` has to match them.
    let mut text = String::from("(?s)^");
    for token in tokens {
        match token {
            Token::Literal(char) => text.push_str(&regex::escape(char.encode_utf8(&mut [0; 4]))),
            Token::AnyChar => text.push_str("[^/]"),
            Token::Star => text.push_str("[^/]*"),
            Token::AnyFolders { .. } => text.push_str("(?:.*/)?"),
            Token::Anything => text.push_str(".*"),
            Token::Class { negated, ranges } => push_class(&mut text, *negated, ranges),
        }
    }
    text.push('$');
    Regex::new(&text).map_err(|_| PatternError { pattern: pattern.to_owned(), problem: "it is too large" })
}

fn push_class(text: &mut String, negated: bool, ranges: &[(char, char)]) {
    text.push_str(if negated { "[^" } else { "[" });
    let before = text.len();
    for (first, last) in ranges.iter().filter(|(first, last)| first <= last) {
        text.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(*first), u32::from(*last)));
    }
    if text.len() == before {
        // Only ranges such as `[z-a]`, which match nothing: an empty intersection is an empty class.
        text.push_str("a&&b");
    }
    text.push(']');
}

/// A pattern of Go's `filepath.Match`, compiled.
#[derive(Clone, Debug)]
pub struct Glob(Regex);

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self(regex(pattern, &tokens(pattern, false)?)?))
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether a text has a wildcard in it; one after a backslash is none.
    pub fn has_wildcards(text: &str) -> bool {
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '*' | '?' | '[' => return true,
                '\\' => drop(chars.next()),
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "-", true),
            ("*x", "xxx", true),
            ("[z-a]", "a", false),
            ("[!a]", "!", true),
            ("{a,b}", "a", false),
            ("a.c", "abc", false),
            ("**", "a/b", false),
            ("**", "ab", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[]", "[a\\"]
        {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_wildcard_after_a_backslash_is_none() {
        assert!(Glob::has_wildcards("a?") && Glob::has_wildcards("\\**"));
        assert!(!Glob::has_wildcards("st\\*r") && !Glob::has_wildcards("a]b") && !Glob::has_wildcards("a\\"));
    }
}
