//! From text to logical lines: directives, comments, continuations, heredocs.

mod directives;
mod flags;
mod heredoc;
mod logical;
mod physical;
mod text;

use serde::Serialize;

pub(crate) use directives::read_directives;
pub(crate) use flags::split_flags;
pub(crate) use heredoc::is_heredoc_word;
pub(crate) use logical::{Statement, cut_continuation, read_statements, split_keyword};
pub(crate) use physical::{Line, Lines};
pub(crate) use text::{Text, trim_start};

pub use directives::{Directive, Directives};
pub use heredoc::Heredoc;

use crate::Span;

/// The escape character of a Dockerfile: `\`, or `` ` `` by directive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub enum Escape {
    /// `\`
    #[default]
    #[serde(rename = "\\")]
    Backslash,
    /// `` ` ``
    #[serde(rename = "`")]
    Backtick,
}

impl Escape {
    /// The character.
    pub fn as_char(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backtick => '`',
        }
    }
}

/// A comment line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comment {
    /// What follows the `#`, trimmed.
    pub text: String,
    /// From the `#` to the end of the line.
    pub span: Span,
}
