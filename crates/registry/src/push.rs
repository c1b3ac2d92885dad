//! Giving blobs and manifests to a registry.

use std::cell::RefCell;
use std::io::{self, Read};

use rbuild_image::{Descriptor, Digest, MediaType, Reference};
use ureq::http::{Method, Uri};

use crate::client::{RepositoryCall, Target};
use crate::http::{Answer, Payload, protocol};
use crate::registries::Endpoint;
use crate::{Client, RegistryError, Result, url};

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
    /// one of `mount_from` has it; else its bytes are sent, opened anew for each try. `progress` gets the number of bytes sent.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: Open<'_>,
        mount_from: &[Reference],
        progress: &dyn Fn(u64),
    ) -> Result<Pushed> {
        let endpoint = self.registries.push_endpoint(reference)?;
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

/// One blob on its way out.
struct Upload<'upload> {
    client: &'upload Client,
    endpoint: &'upload Endpoint,
    descriptor: &'upload Descriptor,
}

impl Upload<'_> {
    fn call(&self, method: Method, target: Target) -> RepositoryCall<'static> {
        RepositoryCall { method, target, headers: Vec::new(), scopes: push_scopes(self.endpoint), body: None }
    }

    fn exists(&self) -> Result<bool> {
        let path = format!("blobs/{}", self.descriptor.digest);
        let answer = self.client.ask(self.endpoint, self.call(Method::HEAD, Target::Path(path)))?;
        match answer.status {
            200 => Ok(true),
            408 | 429 | 500.. => Err(answer.into_error()),
            // Whatever else it is, the upload says it better: HEAD has no body for a reason.
            _ => Ok(false),
        }
    }

    /// Asks for the blob of another repository; anything but 201 means that it must be sent.
    fn mount(&self, from: &str) -> Result<bool> {
        let path = format!("blobs/uploads/?mount={}&from={}", self.descriptor.digest, url::encode(from));
        let mut call = self.call(Method::POST, Target::Path(path));
        call.scopes.push(format!("repository:{from}:pull"));
        let answer = match self.client.ask(self.endpoint, call) {
            Ok(answer) => answer,
            // The token server may refuse the other repository's scope.
            Err(RegistryError::Status { status: 400..=404, .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match answer.status {
            201 => Ok(true),
            202 => {
                self.cancel(&answer);
                Ok(false)
            }
            408 | 429 | 500.. => Err(answer.into_error()),
            _ => Ok(false),
        }
    }

    /// Ends an upload that the registry began instead of mounting; it would else lie there until swept.
    fn cancel(&self, begun: &Answer) {
        if let Some(session) = begun.header("location").and_then(|location| url::join(&begun.url, location)) {
            // Registries that can't do it sweep by themselves.
            let _ = self.client.ask(self.endpoint, self.call(Method::DELETE, Target::Url(session)));
        }
    }

    fn send(&self, open: Open<'_>, progress: &dyn Fn(u64)) -> Result<Pushed> {
        let begun = self
            .client
            .ask(self.endpoint, self.call(Method::POST, Target::Path("blobs/uploads/".to_owned())))?;
        let begun = begun.expect(&[202, 201])?;
        let session = self.session(&begun)?;
        let mut call = self.call(Method::PUT, Target::Url(session));
        call.headers.push(("Content-Type".into(), "application/octet-stream".to_owned()));
        let size = self.descriptor.size;
        // A source that can't be read looks to the HTTP library like a broken connection; the truth is kept aside.
        let failure = RefCell::new(None);
        let answer = self.client.ask_with(self.endpoint, call, &mut || {
            let source = open().map_err(unreadable)?;
            Ok(Payload::Stream(Box::new(Counting { source, sent: 0, progress, failure: &failure }), size))
        });
        if let Some(source) = failure.take() {
            return Err(unreadable(source));
        }
        let answer = answer?.expect(&[201, 200, 202, 204])?;
        check_confirmed(&answer, &self.descriptor.digest)?;
        Ok(Pushed::Uploaded)
    }

    /// Where to send the bytes: the Location with its own query and the digest.
    fn session(&self, begun: &Answer) -> Result<Uri> {
        let fault = |reason: &str| protocol(&begun.method, &begun.url, reason);
        let location = begun
            .header("location")
            .ok_or_else(|| fault("the registry began an upload without saying where (no Location)"))?;
        let session =
            url::join(&begun.url, location).ok_or_else(|| fault("the registry's Location is no URL"))?;
        url::with_query(&session, "digest", self.descriptor.digest.as_str())
            .ok_or_else(|| fault("the registry's Location is no URL"))
    }
}

fn unreadable(source: io::Error) -> RegistryError {
    RegistryError::Local { action: "read a blob to push", source }
}

/// Tells how many bytes went by.
struct Counting<'count> {
    source: Box<dyn Read + Send>,
    sent: u64,
    progress: &'count dyn Fn(u64),
    failure: &'count RefCell<Option<io::Error>>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer).map_err(|error| {
            let kind = error.kind();
            *self.failure.borrow_mut() = Some(error);
            io::Error::from(kind)
        })?;
        self.sent += count as u64;
        (self.progress)(self.sent);
        Ok(count)
    }
}
