//! Variable expansion: `$v`, `${v:-w}`, `${v#p}`, `${v/p/r}` and their kin, and the removal of quotes.

mod pattern;
mod reader;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::lex::Escape;
use reader::Reader;

/// An environment to look names up in.
pub trait Lookup {
    /// The value of a variable, `None` when it is not set.
    fn get(&self, name: &str) -> Option<&str>;

    /// All names, for suggestions; may be empty.
    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Lookup for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

impl Lookup for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

/// Pairs; of several with one name, the last counts.
impl Lookup for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|(key, _)| key.as_str()).collect()
    }
}

impl Lookup for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Lookup::get(self.as_slice(), name)
    }

    fn names(&self) -> Vec<&str> {
        Lookup::names(self.as_slice())
    }
}

/// `NAME=value` lines, as an image config has them.
impl Lookup for [String] {
    fn get(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ String| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let line = self.iter().rev().find(|line| value(line))?;
        line.get(name.len() + 1..)
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|line| line.split('=').next().unwrap_or(line)).collect()
    }
}

impl Lookup for Vec<String> {
    fn get(&self, name: &str) -> Option<&str> {
        Lookup::get(self.as_slice(), name)
    }

    fn names(&self) -> Vec<&str> {
        Lookup::names(self.as_slice())
    }
}

/// What is done beside putting values in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Quotes and escapes are taken off: words of instructions.
    #[default]
    Word,
    /// Quotes are kept, and an escape character stays before all but itself, `$` and a line end: bodies of heredocs.
    Heredoc,
    /// Quotes and escapes are kept, and so are variables that are not set: texts for people.
    Display,
}

/// A name that had no value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undefined {
    /// The name.
    pub name: String,
    /// The offset of its `$` in the text.
    pub offset: usize,
}

/// An expanded text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expansion {
    /// The value.
    pub value: String,
    /// The value split at blanks that were not quoted.
    pub words: Vec<String>,
    /// Names that were looked up and have no value, also in forms that say what to do then (`${v:-w}`).
    pub undefined: Vec<Undefined>,
    /// Names that were looked up and have one.
    pub defined: BTreeSet<String>,
}

/// Why a text could not be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong.
    pub message: String,
    /// The offset in the text at which it begins.
    pub offset: usize,
    /// The offset at which it ends.
    pub end: usize,
    /// What to do about it.
    pub help: String,
}

/// Expands a text.
///
/// ```
/// use rbuild_dockerfile::{Escape, Mode, expand};
///
/// let env = vec![("FILE".to_string(), "a.tar.gz".to_string())];
/// let value = |text| expand(text, &env, Escape::Backslash, Mode::Word).unwrap().value;
/// assert_eq!(value("${FILE%%.*}"), "a");
/// assert_eq!(value("'$FILE' \"${NONE:-$FILE}\""), "$FILE a.tar.gz");
/// ```
pub fn expand(text: &str, env: &dyn Lookup, escape: Escape, mode: Mode) -> Result<Expansion, ExpandError> {
    Reader::new(text, env, escape, mode).read_all()
}

/// Expands a text and splits it at blanks outside quotes, also at those that a variable brought in (EXPOSE).
pub fn expand_words(text: &str, env: &dyn Lookup, escape: Escape) -> Result<Vec<String>, ExpandError> {
    expand(text, env, escape, Mode::Word).map(|expansion| expansion.words)
}

/// Expands the two sides of a `name=value`.
pub fn expand_key_value(
    key: &str,
    value: &str,
    env: &dyn Lookup,
    escape: Escape,
) -> Result<(String, String), ExpandError> {
    let part = |text| expand(text, env, escape, Mode::Word).map(|expansion| expansion.value);
    Ok((part(key)?, part(value)?))
}

#[cfg(test)]
mod tests;
