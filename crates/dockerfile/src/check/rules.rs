//! The rules.

use serde::Serialize;

use crate::{Dockerfile, GraphArguments, Span};

/// A rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are the reference's")]
pub enum Rule {
    NoEmptyContinuation,
}

/// What the checks look at beside the Dockerfile.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "holds closures")]
pub struct CheckInput<'a> {
    /// Build args, platforms, named contexts and target.
    pub arguments: &'a GraphArguments,
}

/// What a rule found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What it has to say.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// Runs all checks.
pub fn check(_dockerfile: &Dockerfile, _input: &CheckInput<'_>) -> Vec<Finding> {
    Vec::new()
}
