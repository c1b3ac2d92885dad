//! What the text given as a build context, or as a source of ADD, means.

mod git;

use std::path::PathBuf;

pub use git::{GitReference, GitTime, SourceError};

/// Where a build context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// `-`: a tar archive or a Dockerfile on standard input; its first bytes say which.
    Stdin,
    /// An `http(s)` URL of a tar archive or of a Dockerfile.
    Url(String),
    /// A commit of a git repository.
    Git(GitReference),
    /// `docker-image://REFERENCE`; of named contexts only.
    Image(String),
    /// `oci-layout://PATH[:TAG|@DIGEST]`; of named contexts only. What follows the scheme.
    OciLayout(String),
    /// `target:NAME`: another target; of named contexts only.
    Target(String),
    /// A directory of the host, or a file with an archive.
    Path(PathBuf),
}

impl ContextSource {
    /// Reads the text given as the build context. `github.com/OWNER/REPOSITORY` counts as a git reference here; a
    /// path of that form needs `./` in front.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(reference) = GitReference::parse(text)? {
            return Ok(Self::Git(reference));
        }
        if is_http(text) {
            return Ok(Self::Url(text.to_owned()));
        }
        Ok(Self::Path(text.into()))
    }

    /// Reads the text given as a named context: what [`ContextSource::parse`] knows, and images.
    pub fn parse_named(text: &str) -> Result<Self, SourceError> {
        if let Some(rest) = text.strip_prefix("docker-image://") {
            return Ok(Self::Image(rest.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("oci-layout://") {
            return Ok(Self::OciLayout(rest.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("target:") {
            return Ok(Self::Target(rest.to_owned()));
        }
        Self::parse(text)
    }
}

/// Whether a source of ADD is fetched by HTTP: an `http(s)` URL that is no git reference.
pub fn is_http_source(text: &str) -> bool {
    is_http(text) && !matches!(GitReference::parse(text), Ok(Some(_)) | Err(_))
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_apart() {
        let parse = |text| ContextSource::parse(text).unwrap();
        assert_eq!(parse("-"), ContextSource::Stdin);
        assert_eq!(parse("."), ContextSource::Path(".".into()));
        assert_eq!(parse("dir/sub.git"), ContextSource::Path("dir/sub.git".into()));
        assert_eq!(parse("./github.com/a/b"), ContextSource::Path("./github.com/a/b".into()));
        assert_eq!(parse("https://x.test/a.tar.gz"), ContextSource::Url("https://x.test/a.tar.gz".into()));
        assert!(matches!(parse("https://x.test/a.git#main:sub"), ContextSource::Git(_)));
        assert!(matches!(parse("github.com/owner/repository"), ContextSource::Git(_)));
    }

    #[test]
    fn named_contexts_may_be_images() {
        let parse = |text| ContextSource::parse_named(text).unwrap();
        assert_eq!(parse("docker-image://alpine:3"), ContextSource::Image("alpine:3".into()));
        assert_eq!(parse("oci-layout://./l@sha256:00"), ContextSource::OciLayout("./l@sha256:00".into()));
        assert_eq!(parse("target:base"), ContextSource::Target("base".into()));
        assert_eq!(parse("../x"), ContextSource::Path("../x".into()));
    }

    #[test]
    fn http_and_git_sources_of_add_are_told_apart() {
        assert!(is_http_source("https://x.test/file?x=.git") && is_http_source("http://x.test/"));
        assert!(!is_http_source("https://x.test/a.git") && !is_http_source("ftp://x.test/a"));
        assert!(!is_http_source("https://x.test/a.git?nonsense=1"), "a broken git reference is no download");
    }
}
