//! The one I/O error: what was tried, on which path, and what the kernel said.

use std::io;
use std::path::{Path, PathBuf};

/// An I/O error with the verb and the path it happened to: "could not read \`/etc/passwd\`".
#[derive(Debug, thiserror::Error)]
#[error("could not {action} `{}`", path.display())]
pub struct PathError {
    /// What was tried, as a verb phrase that the path completes: `read`, `create the directory`.
    pub action: &'static str,
    /// The path as the user knows it.
    pub path: PathBuf,
    /// What the kernel answered.
    #[source]
    pub source: io::Error,
}

impl PathError {
    /// An error made from its three parts.
    pub fn new(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the underlying error is this error number.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

/// Puts verb and path to an I/O error; for results of `std::io` and of `rustix`.
pub trait PathContext<T> {
    /// Turns the error, if there is one, into a [`PathError`].
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathError>;
}

impl<T, E: Into<io::Error>> PathContext<T> for Result<T, E> {
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathError> {
        self.map_err(|error| PathError::new(action, path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_verb_and_path_and_the_source_is_kept() {
        let error = Err::<(), _>(rustix::io::Errno::NOENT).on("read", "/a b").unwrap_err();
        assert_eq!(error.to_string(), "could not read `/a b`");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.is(rustix::io::Errno::NOENT));
    }
}
