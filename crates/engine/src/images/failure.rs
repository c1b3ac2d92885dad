//! What a registry said, in words for the user.

use std::time::Duration;

use rbuild_image::Reference;
use rbuild_registry::ErrorKind;

use crate::error::{Failure, FailureKind};

/// What a registry said, in words for the user.
pub(crate) fn registry_failure(
    reference: &Reference,
    error: rbuild_registry::RegistryError,
) -> crate::BuildError {
    let name = reference.familiar();
    let help = match error.kind() {
        ErrorKind::NotFound if name == reference.to_string() => {
            Some("are repository and tag right?".to_owned())
        }
        ErrorKind::NotFound => Some(format!("is the name right? `{name}` means `{reference}`")),
        ErrorKind::Network if error.to_string().contains("certificate") => Some(format!(
            "put its authority into `~/.config/containers/certs.d/{}/ca.crt`, or into a folder that `--cert-dir` names",
            reference.domain()
        )),
        ErrorKind::Network => Some(format!(
            "can this machine reach `{}`? a proxy is named by HTTPS_PROXY, a mirror by registries.conf",
            reference.domain()
        )),
        ErrorKind::Unauthorized | ErrorKind::Denied => Some(format!(
            "log in with `rbuild login {}` or `docker login`; a repository that does not exist also answers so",
            reference.domain()
        )),
        ErrorKind::TooManyRequests => Some(rate_limit_help(reference.domain(), error.retry_after())),
        _ => None,
    };
    let mut failure =
        Failure::new(FailureKind::Registry, format!("could not get the image `{name}`")).caused_by(error);
    // A full disk has its own remedy.
    failure.help = failure.help.or(help);
    failure.into()
}

/// What helps against a limit of requests.
fn rate_limit_help(domain: &str, wait: Option<Duration>) -> String {
    let (login, mirror) = match domain {
        "docker.io" => (
            "log in with `rbuild login`: Docker Hub counts strangers by their address, accounts by themselves".to_owned(),
            "registries.conf, or `registry-mirrors` in Docker's daemon.json",
        ),
        other => (
            format!("log in with `rbuild login {other}`: accounts may ask more often than strangers"),
            "registries.conf",
        ),
    };
    let wait =
        wait.map(|wait| format!(", or wait {} minutes", wait.as_secs().div_ceil(60))).unwrap_or_default();
    format!("{login}; or name a mirror ({mirror}){wait}")
}
