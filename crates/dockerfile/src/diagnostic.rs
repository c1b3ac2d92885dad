//! What is wrong in a text, and where.

use serde::Serialize;

use crate::Span;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The text cannot be built.
    Error,
    /// The text can be built, and probably means something else.
    Warning,
}

/// One error or warning. Drawing it, with the source around it, is left to the caller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// What is wrong: one line, lower case, no full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// Words for the place itself and for related places (an earlier definition, say).
    pub labels: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// The build check that found it, if one did.
    pub rule: Option<&'static str>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(message: impl Into<String>, span: Span) -> Diagnostic {
        Diagnostic {
            message: message.into(),
            span,
            labels: Vec::new(),
            help: None,
            severity: Severity::Error,
            rule: None,
        }
    }

    /// A warning at `span`, found by the build check `rule`.
    pub fn warning(rule: &'static str, message: impl Into<String>, span: Span) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, rule: Some(rule), ..Diagnostic::error(message, span) }
    }

    /// Adds words for a place.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push((span, text.into()));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// Adds the word that was probably meant, else all there are.
    #[must_use]
    pub(crate) fn one_of(self, word: &str, known: &[&str]) -> Diagnostic {
        match crate::suggestion(word, known.iter().copied()) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self.help(format!("known: {}", known.join(", "))),
        }
    }
}
