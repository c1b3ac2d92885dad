//! How a build fails: what could not be done, where in the Dockerfile, why, and what helps.

use std::error::Error;
use std::sync::Arc;
use std::{fmt, io};

use rbuild_dockerfile::{Diagnostic, Span};

/// Whose fault it is; the command line turns it into the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The Dockerfile, the context or a command (1).
    Build,
    /// The request (2).
    Usage,
    /// The machine: kernel, user ids, disk (3).
    Environment,
    /// A registry or the network (4).
    Registry,
}

/// Why there is no image.
#[derive(Debug)]
pub enum BuildError {
    /// The Dockerfile is wrong; every fault that was found, in order.
    Dockerfile(Vec<Diagnostic>),
    /// Something failed while building.
    Failed(Box<Failure>),
    /// The user asked to stop, or another stage failed first.
    Cancelled,
}

/// One failure, ready to be shown.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// What could not be done, to what.
    pub message: String,
    /// The place in the Dockerfile.
    pub span: Option<Span>,
    /// A word on that place.
    pub label: Option<String>,
    /// A remedy.
    pub help: Option<String>,
    /// Last lines of a command's output.
    pub output_tail: Vec<String>,
    /// Where the whole output is.
    pub log: Option<std::path::PathBuf>,
    /// What was the cause.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with nothing but its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            message: message.into(),
            span: None,
            label: None,
            help: None,
            output_tail: Vec::new(),
            log: None,
            source: None,
        }
    }

    /// The same with its cause. A full disk is the machine's fault, whatever was being done.
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        if is_full_disk(&*source) {
            self.kind = FailureKind::Environment;
            self.help = Some("make room (`rbuild prune` takes what is not needed out of the store) and build again; what is done is kept".to_owned());
        }
        self.source = Some(source.into());
        self
    }

    /// The same with a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with its place in the Dockerfile, unless it has one already.
    pub fn at(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Dockerfile(diagnostics) => match diagnostics.first() {
                Some(first) => f.write_str(&first.message),
                None => f.write_str("the Dockerfile is wrong"),
            },
            BuildError::Failed(failure) => failure.fmt(f),
            BuildError::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BuildError::Failed(failure) => failure.source(),
            _ => None,
        }
    }
}

impl From<Failure> for BuildError {
    fn from(failure: Failure) -> Self {
        BuildError::Failed(Box::new(failure))
    }
}

/// Whether a full file system, or a quota, is the last cause.
fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    let own = error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            // `source()` of an error in an `io::Error` skips that error itself.
            || error.get_ref().is_some_and(|inner| is_full_disk(inner))
    });
    own || error.source().is_some_and(is_full_disk)
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, BuildError>;

/// Puts the engine's words before an error of a room below.
pub(crate) trait Explain<T> {
    fn explain(self, kind: FailureKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Explain<T> for std::result::Result<T, E> {
    fn explain(self, kind: FailureKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(kind, message()).caused_by(error).into())
    }
}

/// Adds the place in the Dockerfile to whatever failed there.
pub(crate) trait AtSpan<T> {
    fn at(self, span: Span) -> Result<T>;
}

impl<T> AtSpan<T> for Result<T> {
    fn at(self, span: Span) -> Result<T> {
        self.map_err(|error| match error {
            BuildError::Failed(failure) => BuildError::Failed(Box::new(failure.at(span))),
            other => other,
        })
    }
}
