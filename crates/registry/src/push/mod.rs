//! Giving blobs and manifests to a registry.

mod chunks;
mod source;
mod upload;

use std::io::{self, Read};

use rbuild_image::{Descriptor, Digest, MediaType, Reference};
use ureq::http::Method;

use crate::client::{RepositoryCall, Target};
use crate::http::{Answer, protocol};
use crate::lanes::Way;
use crate::registries::Endpoint;
use crate::{Client, Result};

use upload::Upload;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there already.
    Exists,
    /// The registry took it over from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// Opens a blob's content from its start.
type Open<'open> = &'open dyn Fn() -> io::Result<Box<dyn Read + Send>>;

impl Client {
    /// Makes sure that the repository of `reference` has a blob. It is mounted from another repository of the same registry where
    /// one of `mount_from` has it; else its bytes are sent, opened anew for each try: in one piece, or in chunks to a registry that
    /// refuses that. `progress` gets the number of bytes sent.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: Open<'_>,
        mount_from: &[Reference],
        progress: &dyn Fn(u64),
    ) -> Result<Pushed> {
        let endpoint = self.registries.push_endpoint(reference)?;
        let _lane = self.lanes.enter(reference.domain(), Way::Out);
        let upload = Upload { client: self, endpoint: &endpoint, descriptor };
        let candidates: Vec<&str> = mount_from
            .iter()
            .filter(|from| from.domain() == reference.domain() && from.path() != reference.path())
            .map(Reference::path)
            .collect();
        self.retry.run(|| {
            // Asked again on each try: a registry may have stored what it could not confirm.
            if upload.exists()? {
                return Ok(Pushed::Exists);
            }
            for from in &candidates {
                if upload.mount(from)? {
                    return Ok(Pushed::Mounted);
                }
            }
            upload.send(open, progress)
        })
    }

    /// Puts a manifest or index under the tag (else the digest) of `reference`; its blobs must be there.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Digest> {
        let endpoint = self.registries.push_endpoint(reference)?;
        let digest = Digest::sha256_of(bytes);
        let name = endpoint.reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        self.retry.run(|| {
            let answer = self.ask(
                &endpoint,
                RepositoryCall {
                    method: Method::PUT,
                    target: Target::Path(format!("manifests/{name}")),
                    headers: vec![("Content-Type".into(), media_type.to_string())],
                    scopes: push_scopes(&endpoint),
                    body: Some(bytes),
                },
            )?;
            let answer = answer.expect(&[201, 200, 202])?;
            check_confirmed(&answer, &digest)
        })?;
        Ok(digest)
    }
}

fn push_scopes(endpoint: &Endpoint) -> Vec<String> {
    vec![format!("repository:{}:pull,push", endpoint.reference.path())]
}

/// A registry that stored something else says so in `Docker-Content-Digest`.
fn check_confirmed(answer: &Answer, digest: &Digest) -> Result<()> {
    match answer.header("docker-content-digest").and_then(|text| text.trim().parse::<Digest>().ok()) {
        Some(stored) if stored != *digest && stored.algorithm() == digest.algorithm() => Err(protocol(
            &answer.method,
            &answer.url,
            format!("the registry stored {stored} instead of {digest}"),
        )),
        _ => Ok(()),
    }
}
