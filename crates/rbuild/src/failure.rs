//! How a command fails: once, in one place, with the exit code that the design gives it.

use std::error::Error;

use rbuild_engine::{BuildError, Failure, FailureKind};

/// What [`crate::main`] prints and exits with.
#[derive(Debug)]
pub(crate) enum CliError {
    /// A build that failed: shown with its Dockerfile.
    Build { error: BuildError, source: String, name: String },
    /// Anything else.
    Plain(Box<Failure>),
    /// The same with an exit code of its own: `run` has Docker's.
    Coded(Box<Failure>, u8),
    /// Nothing more to say: what there was to say is printed.
    Quiet(u8),
}

impl CliError {
    /// The request is wrong (2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(FailureKind::Usage, message).into()
    }

    /// This machine can't (3).
    pub(crate) fn environment(message: String, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(FailureKind::Environment, message).caused_by(source).into()
    }

    /// A registry or the network (4).
    pub(crate) fn registry(message: String, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(FailureKind::Registry, message).caused_by(source).into()
    }

    /// The same with a remedy.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        match self {
            CliError::Plain(failure) => CliError::Plain(Box::new(failure.help(help))),
            other => other,
        }
    }

    /// The same with this exit code.
    pub(crate) fn coded(self, code: u8) -> Self {
        match self {
            CliError::Plain(failure) => CliError::Coded(failure, code),
            other => other,
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        CliError::Plain(Box::new(failure))
    }
}

impl From<BuildError> for CliError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Failed(failure) => CliError::Plain(failure),
            error => CliError::Build { error, source: String::new(), name: String::new() },
        }
    }
}
