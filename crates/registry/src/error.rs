//! What can go wrong with a registry, and what kind of trouble it is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_image::ImageError;

/// The result of this crate's functions.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// The kind of trouble, for exit codes and advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The repository, tag or blob does not exist (or is not shown to us).
    NotFound,
    /// Not logged in, or the credentials were refused.
    Unauthorized,
    /// Logged in, but not allowed.
    Denied,
    /// The registry's rate limit.
    TooManyRequests,
    /// The server is in trouble (5xx).
    Unavailable,
    /// The server was not reached, or the connection broke.
    Network,
    /// Content is not what its digest or size says.
    Mismatch,
    /// The server's answer breaks the protocol, or it refused the request as wrong.
    Protocol,
    /// registries.conf forbids it, or a format is refused on purpose.
    Refused,
    /// The image exists, but not for the platform.
    NoPlatform,
    /// A configuration file, certificate, credential or name is wrong.
    Configuration,
    /// Reading or writing here failed, not the network.
    Local,
}

/// Something that could not be had from, or given to, a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The server answered, but not with what was asked for.
    #[error("{method} {url}: {status}: {message}{}", tried(.attempts))]
    Status {
        /// The request's method.
        method: String,
        /// The request's URL, secrets redacted.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said, or the status in words.
        message: String,
        /// The registry's error code (`MANIFEST_UNKNOWN`), if it gave one.
        code: Option<String>,
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
        /// How often it was tried.
        attempts: u32,
    },
    /// No answer, or half of one.
    #[error("{method} {url}: {message}{}", tried(.attempts))]
    Network {
        /// The request's method.
        method: String,
        /// The request's URL, secrets redacted.
        url: String,
        /// What happened.
        message: String,
        /// May it go better the next time?
        transient: bool,
        /// How often it was tried.
        attempts: u32,
    },
    /// The answer breaks the distribution protocol.
    #[error("{method} {url}: {reason}")]
    Protocol {
        /// The request's method.
        method: String,
        /// The request's URL, secrets redacted.
        url: String,
        /// How.
        reason: String,
    },
    /// The content was refused: altered, of the wrong size, or no document we can use.
    #[error("could not accept {url}")]
    Content {
        /// Where it came from, secrets redacted.
        url: String,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// registries.conf blocks the registry.
    #[error("could not use `{reference}`: registries.conf blocks `{prefix}`")]
    Blocked {
        /// The image.
        reference: String,
        /// The blocked prefix.
        prefix: String,
    },
    /// registries.conf wants full names where a short one could mean several images.
    #[error("the short name `{name}` could mean {}, and registries.conf forbids to guess (short-name-mode)", .candidates.join(" or "))]
    ShortName {
        /// As it was written.
        name: String,
        /// What it could mean.
        candidates: Vec<String>,
    },
    /// None of a location's mirrors nor itself could serve.
    #[error("could not get `{reference}` from its registry; before that from {}", .mirrors.join("; "))]
    Endpoints {
        /// The image.
        reference: String,
        /// `mirror: error` of each mirror tried.
        mirrors: Vec<String>,
        /// The error of the location itself.
        #[source]
        source: Box<RegistryError>,
    },
    /// A configuration file can't be used.
    #[error("could not use `{path}`: {reason}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file could not be read.
    #[error("could not {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("could not get credentials for `{server}` from `{program}`: {reason}")]
    Helper {
        /// The helper's program.
        program: String,
        /// The registry.
        server: String,
        /// Why not.
        reason: String,
    },
    /// A credential helper did not keep or forget a login.
    #[error("could not {action} the credentials for `{server}` with `{program}`: {reason}")]
    HelperAction {
        /// The helper's program.
        program: String,
        /// The registry.
        server: String,
        /// `store` or `erase`.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// TLS could not be set up.
    #[error("could not set up TLS: {reason}")]
    Tls {
        /// Why not.
        reason: String,
    },
    /// A name, platform or document is wrong.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The sink or source of a blob failed.
    #[error("could not {action}")]
    Local {
        /// `store a blob`, `read a blob to push`.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn tried(attempts: &u32) -> String {
    if *attempts > 1 { format!(" (tried {attempts} times)") } else { String::new() }
}

impl RegistryError {
    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RegistryError::Status { status, code, .. } => status_kind(*status, code.as_deref()),
            RegistryError::Network { .. } => ErrorKind::Network,
            RegistryError::Protocol { .. } => ErrorKind::Protocol,
            RegistryError::Content { source, .. } | RegistryError::Image(source) => image_kind(source),
            RegistryError::Blocked { .. } | RegistryError::ShortName { .. } => ErrorKind::Refused,
            RegistryError::Endpoints { source, .. } => source.kind(),
            RegistryError::Local { .. } => ErrorKind::Local,
            RegistryError::Configuration { .. }
            | RegistryError::File { .. }
            | RegistryError::Helper { .. }
            | RegistryError::HelperAction { .. }
            | RegistryError::Tls { .. } => ErrorKind::Configuration,
        }
    }

    /// How often the request was made; 0 if none was.
    pub fn attempts(&self) -> u32 {
        match self {
            RegistryError::Status { attempts, .. } | RegistryError::Network { attempts, .. } => *attempts,
            RegistryError::Endpoints { source, .. } => source.attempts(),
            RegistryError::Protocol { .. } | RegistryError::Content { .. } => 1,
            _ => 0,
        }
    }

    /// Can trying again help?
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // What we send has the digest we name. CNCF Distribution (2.8, on files) says otherwise when it checks a manifest
            // just while somebody gives it a blob of that manifest once more: the file that names the blob is empty then.
            RegistryError::Status { code: Some(code), .. } if code == "DIGEST_INVALID" => true,
            RegistryError::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            RegistryError::Network { transient, .. } => *transient,
            _ => false,
        }
    }

    /// How long the server wants to be left alone, if it says.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            RegistryError::Status { retry_after, .. } => *retry_after,
            RegistryError::Endpoints { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    pub(crate) fn with_attempts(mut self, count: u32) -> RegistryError {
        if let RegistryError::Status { attempts, .. } | RegistryError::Network { attempts, .. } = &mut self {
            *attempts = count;
        }
        self
    }

    /// The HTTP status, where the server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            RegistryError::Status { status, .. } => Some(*status),
            RegistryError::Endpoints { source, .. } => source.status(),
            _ => None,
        }
    }
}

fn status_kind(status: u16, code: Option<&str>) -> ErrorKind {
    match (status, code) {
        (429, _) | (_, Some("TOOMANYREQUESTS")) => ErrorKind::TooManyRequests,
        (401, _) => ErrorKind::Unauthorized,
        (403, _) => ErrorKind::Denied,
        (404, _) => ErrorKind::NotFound,
        (500.., _) => ErrorKind::Unavailable,
        (408, _) => ErrorKind::Network,
        _ => ErrorKind::Protocol,
    }
}

fn image_kind(error: &ImageError) -> ErrorKind {
    match error {
        ImageError::DigestMismatch { .. } | ImageError::SizeMismatch { .. } => ErrorKind::Mismatch,
        ImageError::NoPlatform { .. } => ErrorKind::NoPlatform,
        ImageError::Reference { .. } | ImageError::Platform { .. } => ErrorKind::Configuration,
        ImageError::Io { .. } => ErrorKind::Local,
        ImageError::Invalid { reason, .. } if reason.contains("schema 1") => ErrorKind::Refused,
        _ => ErrorKind::Protocol,
    }
}
