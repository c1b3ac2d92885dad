//! What can go wrong with a build context.

use rbuild_fs::{PathError, RootfsPath};

use crate::glob::PatternError;
use crate::ignore::IgnoreRule;

/// A tree that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The directory of the context cannot be opened.
    #[error("could not open the build context")]
    Open(#[source] PathError),
    /// A file of the tree cannot be read.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// A source that cannot be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source without wildcards that is not there.
    #[error("could not find `{path}`{}", ignored_by.as_ref().map(|rule| format!(": {rule}")).unwrap_or_default())]
    NotFound {
        /// The source, cleaned.
        path: RootfsPath,
        /// The line of the ignore file that excludes it, if one does.
        ignored_by: Option<IgnoreRule>,
    },
    /// A symbolic link that is a source, or matches one, and leads nowhere.
    #[error("could not follow the symbolic link `{path}`: there is no `{target}`{}",
        ignored_by.as_ref().map(|rule| format!(", {rule}")).unwrap_or_default())]
    Dangling {
        /// The link.
        path: RootfsPath,
        /// Where it leads.
        target: RootfsPath,
        /// The line of the ignore file that excludes the target, if one does.
        ignored_by: Option<IgnoreRule>,
    },
    /// A source or `--exclude` that is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A file of the tree cannot be read.
    #[error(transparent)]
    Io(#[from] PathError),
}
