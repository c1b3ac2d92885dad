//! Uploads in chunks (distribution specification, "Pushing a blob in chunks"), for registries, or proxies before them, that refuse
//! a blob in one piece.

use std::sync::PoisonError;

use ureq::http::{Method, Uri};

use super::source::Source;
use super::upload::{Upload, session};
use crate::client::Target;
use crate::http::Answer;
use crate::registries::Endpoint;
use crate::{Client, Result};

/// Below this many bytes a chunk is not what is too large.
const LEAST_SIZE: u64 = 64 << 10;
/// How much smaller the next chunk is after one that was too large.
const STEP: u64 = 8;

impl Client {
    /// The size of chunks for a registry that is known not to take blobs whole.
    pub(super) fn chunk_size(&self, endpoint: &Endpoint) -> Option<u64> {
        let sizes = self.chunk_sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get(endpoint.reference.domain()).copied()
    }

    fn set_chunk_size(&self, endpoint: &Endpoint, size: u64) {
        let mut sizes = self.chunk_sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(endpoint.reference.domain().to_owned(), size);
    }

    /// From now on the registry gets chunks, at least as large as it wanted when the upload was `begun`.
    pub(super) fn use_chunks(&self, endpoint: &Endpoint, begun: &Answer) {
        self.set_chunk_size(endpoint, self.chunk.max(smallest_chunk(begun)));
    }
}

/// What a registry says of the least size of chunks but the last, in bytes.
fn smallest_chunk(begun: &Answer) -> u64 {
    begun.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

impl Upload<'_> {
    /// All chunks in order, and the word that this was all.
    pub(super) fn in_chunks(&self, source: &Source<'_>) -> Result<Answer> {
        let begun = self.begin()?;
        let least = smallest_chunk(&begun);
        let mut upload = Place { url: session(&begun)?, at: 0 };
        while upload.at < self.descriptor.size {
            let size = self.client.chunk_size(self.endpoint).unwrap_or(self.client.chunk).max(least);
            let length = size.min(self.descriptor.size - upload.at);
            upload = match self.chunk(&upload, length, source) {
                Ok(next) => next,
                Err(error) if error.status() == Some(413) && size / STEP >= LEAST_SIZE.max(least) => {
                    self.client.set_chunk_size(self.endpoint, size / STEP);
                    continue;
                }
                // What did arrive need not be sent again; where nothing did, the upload is begun anew.
                Err(error) => self.further(&upload).ok_or(error)?,
            };
        }
        let call = self.call(Method::PUT, Target::Url(self.final_place(&upload.url)?));
        self.client.ask(self.endpoint, call)?.expect(&[201, 200, 202, 204])
    }

    /// Sends the next `length` bytes.
    fn chunk(&self, upload: &Place, length: u64, source: &Source<'_>) -> Result<Place> {
        let (start, end) = (upload.at, upload.at + length);
        let mut call = self.call(Method::PATCH, Target::Url(upload.url.clone()));
        call.headers.push(("Content-Type".into(), "application/octet-stream".to_owned()));
        call.headers.push(("Content-Range".into(), format!("{start}-{}", end - 1)));
        let sent =
            source.verdict(self.client.ask_with(self.endpoint, call, &mut || source.part(start, length)));
        let answer = sent?.expect(&[202, 200, 201, 204])?;
        let url = session(&answer).unwrap_or_else(|_| upload.url.clone());
        // Of what it got, a registry may have kept less.
        Ok(Place { url, at: held(&answer).filter(|held| *held > start && *held < end).unwrap_or(end) })
    }

    /// Where the registry is with the upload, if that is further than we know of.
    fn further(&self, upload: &Place) -> Option<Place> {
        let call = self.call(Method::GET, Target::Url(upload.url.clone()));
        let answer =
            self.client.ask(self.endpoint, call).and_then(|answer| answer.expect(&[204, 200, 202])).ok()?;
        let at = held(&answer).filter(|held| *held > upload.at && *held <= self.descriptor.size)?;
        Some(Place { url: session(&answer).unwrap_or_else(|_| upload.url.clone()), at })
    }
}

/// Where an upload goes on: the URL, and the first byte that is missing there.
struct Place {
    url: Uri,
    at: u64,
}

/// How many bytes the registry says it has (`Range: 0-LAST`); `0-0` is also said of none.
fn held(answer: &Answer) -> Option<u64> {
    let range = answer.header("range")?.trim();
    let last: u64 = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?.1.parse().ok()?;
    last.checked_add(1).filter(|count| *count > 1)
}
