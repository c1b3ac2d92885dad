//! One blob: asked for, mounted, or sent.

use rbuild_image::Descriptor;
use ureq::http::{Method, Uri};

use super::source::Source;
use super::{Open, Pushed, check_confirmed, push_scopes};
use crate::client::{RepositoryCall, Target};
use crate::http::{Answer, protocol};
use crate::registries::Endpoint;
use crate::{Client, RegistryError, Result, url};

/// One blob on its way out.
pub(super) struct Upload<'upload> {
    pub(super) client: &'upload Client,
    pub(super) endpoint: &'upload Endpoint,
    pub(super) descriptor: &'upload Descriptor,
}

impl Upload<'_> {
    pub(super) fn call(&self, method: Method, target: Target) -> RepositoryCall<'static> {
        RepositoryCall { method, target, headers: Vec::new(), scopes: push_scopes(self.endpoint), body: None }
    }

    pub(super) fn exists(&self) -> Result<bool> {
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
    pub(super) fn mount(&self, from: &str) -> Result<bool> {
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
                if let Ok(session) = session(&answer) {
                    self.cancel(session);
                }
                Ok(false)
            }
            408 | 429 | 500.. => Err(answer.into_error()),
            _ => Ok(false),
        }
    }

    /// Ends an upload that is not gone on with; it would else lie there until swept.
    fn cancel(&self, session: Uri) {
        // Registries that can't do it sweep by themselves.
        let _ = self.client.ask(self.endpoint, self.call(Method::DELETE, Target::Url(session)));
    }

    /// In one piece; a registry that does not take that (405, 413, 416) gets chunks, from then on at once.
    pub(super) fn send(&self, open: Open<'_>, progress: &dyn Fn(u64)) -> Result<Pushed> {
        let source = Source::new(open, progress, &self.client.retry);
        if self.client.chunk_size(self.endpoint).is_none() {
            let begun = self.begin()?;
            let session = session(&begun)?;
            let answer = self.whole(session.clone(), &source)?;
            if !matches!(answer.status, 405 | 413 | 416) {
                return self.stored(&answer.expect(&[201, 200, 202, 204])?);
            }
            self.cancel(session);
            self.client.use_chunks(self.endpoint, &begun);
        }
        self.stored(&self.in_chunks(&source)?)
    }

    pub(super) fn begin(&self) -> Result<Answer> {
        let call = self.call(Method::POST, Target::Path("blobs/uploads/".to_owned()));
        self.client.ask(self.endpoint, call)?.expect(&[202, 201])
    }

    fn whole(&self, session: Uri, source: &Source<'_>) -> Result<Answer> {
        let mut call = self.call(Method::PUT, Target::Url(self.final_place(&session)?));
        call.headers.push(("Content-Type".into(), "application/octet-stream".to_owned()));
        let size = self.descriptor.size;
        source.verdict(self.client.ask_with(self.endpoint, call, &mut || source.part(0, size)))
    }

    /// Where the last request of an upload goes: its Location with its own query and the digest.
    pub(super) fn final_place(&self, session: &Uri) -> Result<Uri> {
        url::with_query(session, "digest", self.descriptor.digest.as_str())
            .ok_or_else(|| protocol(&Method::PUT, session, "the registry's Location is no URL"))
    }

    fn stored(&self, answer: &Answer) -> Result<Pushed> {
        check_confirmed(answer, &self.descriptor.digest)?;
        Ok(Pushed::Uploaded)
    }
}

/// Where an upload goes on.
pub(super) fn session(answer: &Answer) -> Result<Uri> {
    let fault = |reason: &str| protocol(&answer.method, &answer.url, reason);
    let location = answer
        .header("location")
        .ok_or_else(|| fault("the registry began an upload without saying where (no Location)"))?;
    url::join(&answer.url, location).ok_or_else(|| fault("the registry's Location is no URL"))
}
