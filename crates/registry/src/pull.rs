//! Getting blobs: streamed, checked, and taken up again where they broke off.

use std::io::{self, Read};
use std::thread;
use std::time::Instant;

use rbuild_image::{Descriptor, Digest, Digester, ImageError, Reference};
use ureq::http::{Method, Uri};

use crate::client::RepositoryCall;
use crate::http::{Answer, Call, Payload, broken_body};
use crate::lanes::Way;
use crate::pace::Pace;
use crate::registries::Endpoint;
use crate::{Client, ErrorKind, RegistryError, Result, url};

/// Bytes read at a time.
const BUFFER: usize = 128 << 10;
/// A try that brought this many bytes does not count against the number of tries.
const PROGRESS: u64 = 1 << 20;

/// Where a blob's bytes go. Nothing in it may be used before [`Client::blob`] has returned: only then is the digest known to be right.
pub trait BlobSink {
    /// How many bytes are there already (from an earlier transfer that broke off).
    fn len(&self) -> u64;

    /// Is it empty?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Throws away what is there.
    fn restart(&mut self) -> io::Result<()>;

    /// The digest of all that is there, if the sink hashes as it writes; the client then need not. A sink that has bytes already
    /// and gives none is restarted, because they could not be checked.
    fn digest(&self) -> Option<Digest> {
        None
    }
}

impl BlobSink for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Client {
    /// Gets a blob from the first of the image's mirrors or its registry that has it. On success the sink holds exactly the
    /// blob, digest and size checked; wrong content is thrown away. `progress` is called with the number of bytes in the sink.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        progress: &dyn Fn(u64),
    ) -> Result<()> {
        let _lane = self.lanes.enter(reference.domain(), Way::In);
        let mut transfer = Transfer::new(descriptor, sink, progress)?;
        let result = self
            .first_endpoint(reference, |endpoint| self.blob_from(Source::Registry(endpoint), &mut transfer));
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound && !descriptor.urls.is_empty() => {
                self.blob_from_urls(&mut transfer, error)
            }
            other => other,
        }
    }

    /// Foreign layers lie where their descriptor says.
    fn blob_from_urls(&self, transfer: &mut Transfer<'_>, mut error: RegistryError) -> Result<()> {
        for text in &transfer.descriptor.urls {
            let Ok(url) = text.parse::<Uri>() else { continue };
            match self.blob_from(Source::Url(&url), transfer) {
                Ok(()) => return Ok(()),
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    fn blob_from(&self, source: Source<'_>, transfer: &mut Transfer<'_>) -> Result<()> {
        let mut attempts = 1;
        loop {
            let before = transfer.sink.len();
            let error = match self.blob_once(&source, transfer) {
                Ok(()) => return Ok(()),
                // Perhaps only the part from an earlier transfer or another mirror was wrong.
                Err(error) if error.kind() == ErrorKind::Mismatch && transfer.joined && !transfer.redone => {
                    transfer.redone = true;
                    continue;
                }
                Err(error) => error,
            };
            if transfer.sink.len() >= before.saturating_add(PROGRESS) {
                attempts = 1;
            }
            let Some(wait) = self.retry.wait_before_next(attempts, &error) else {
                return Err(error.with_attempts(attempts));
            };
            thread::sleep(wait);
            attempts += 1;
        }
    }

    fn blob_once(&self, source: &Source<'_>, transfer: &mut Transfer<'_>) -> Result<()> {
        let have = transfer.sink.len();
        transfer.joined = have > 0;
        if have == transfer.descriptor.size
            && (have > 0 || transfer.descriptor.digest == Digest::sha256_of(b""))
        {
            return transfer.check(&format!("blob {}", transfer.descriptor.digest));
        }
        let answer = self.ask_blob(source, transfer)?;
        let shown = url::redacted(&answer.url);
        match answer.status {
            206 if starts_at(&answer, have, transfer.descriptor.size) => {}
            // It answers ranges wrongly or not at all: once more from the start, without asking for one.
            206 | 416 if have > 0 => {
                transfer.start_again()?;
                transfer.whole_only = true;
                return self.blob_once(source, transfer);
            }
            200 if have > 0 => transfer.start_again()?,
            200 => {}
            _ => return Err(answer.into_error()),
        }
        let missing = transfer.descriptor.size - transfer.sink.len();
        if let Some(length) = answer.content_length().filter(|length| *length != missing) {
            let actual = transfer.sink.len() + length;
            return Err(RegistryError::Content { url: shown, source: transfer.wrong_size(actual) });
        }
        transfer.receive(answer, Pace::new(&self.retry))?;
        transfer.check(&shown)
    }

    fn ask_blob(&self, source: &Source<'_>, transfer: &Transfer<'_>) -> Result<Answer> {
        let have = transfer.sink.len();
        let range = (have > 0 && !transfer.whole_only).then(|| ("Range".into(), format!("bytes={have}-")));
        match source {
            Source::Registry(endpoint) => {
                let mut call = RepositoryCall::pull(
                    Method::GET,
                    endpoint,
                    format!("blobs/{}", transfer.descriptor.digest),
                );
                call.headers.extend(range);
                self.ask(endpoint, call)
            }
            Source::Url(url) => {
                let (headers, body) = (range.into_iter().collect(), Payload::None);
                let call = Call {
                    method: Method::GET,
                    url: (*url).clone(),
                    headers,
                    authorization: None,
                    insecure: false,
                    body,
                };
                self.http.send(call)
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Source<'source> {
    Registry(&'source Endpoint),
    Url(&'source Uri),
}

/// A blob on its way, over all tries and endpoints.
struct Transfer<'transfer> {
    descriptor: &'transfer Descriptor,
    sink: &'transfer mut dyn BlobSink,
    progress: &'transfer dyn Fn(u64),
    /// None where the sink hashes itself.
    digester: Option<Digester>,
    whole_only: bool,
    /// What is there came in more than one answer.
    joined: bool,
    /// It was begun again because joined parts gave something wrong; that is done once.
    redone: bool,
}

impl<'transfer> Transfer<'transfer> {
    fn new(
        descriptor: &'transfer Descriptor,
        sink: &'transfer mut dyn BlobSink,
        progress: &'transfer dyn Fn(u64),
    ) -> Result<Self> {
        let digester = if sink.digest().is_some() { None } else { Some(descriptor.digest.digester()) };
        let mut transfer = Transfer {
            descriptor,
            sink,
            progress,
            digester,
            whole_only: false,
            joined: false,
            redone: false,
        };
        let uncheckable = transfer.digester.is_some() && !transfer.sink.is_empty();
        if uncheckable || transfer.sink.len() > descriptor.size {
            transfer.start_again()?;
        }
        Ok(transfer)
    }

    fn start_again(&mut self) -> Result<()> {
        self.sink.restart().map_err(local)?;
        if let Some(digester) = &mut self.digester {
            *digester = self.descriptor.digest.digester();
        }
        Ok(())
    }

    fn receive(&mut self, answer: Answer, mut pace: Pace) -> Result<()> {
        let (method, url) = (answer.method, answer.url);
        let mut reader = answer.body.into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken_body(&method, &url, &error)),
            };
            let total = self.sink.len() + count as u64;
            if total > self.descriptor.size {
                let source = self.wrong_size(total);
                self.start_again()?;
                return Err(RegistryError::Content { url: url::redacted(&url), source });
            }
            if let Some(digester) = &mut self.digester {
                digester.update(&buffer[..count]);
            }
            self.sink.write(&buffer[..count]).map_err(local)?;
            (self.progress)(total);
            pace.moved(count as u64, Instant::now()).map_err(|error| broken_body(&method, &url, &error))?;
        }
        if self.sink.len() < self.descriptor.size {
            // A chunked answer that ends early looks like a whole one.
            return Err(broken_body(&method, &url, &io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The last word on what was received.
    fn check(&mut self, shown: &str) -> Result<()> {
        let actual = match &self.digester {
            Some(digester) => digester.clone().finish(),
            None => self.sink.digest().unwrap_or_else(|| Digest::sha256_of(b"")),
        };
        if actual == self.descriptor.digest {
            return Ok(());
        }
        self.start_again()?;
        let expected = Box::new(self.descriptor.digest.clone());
        let source = ImageError::DigestMismatch { expected, actual: Box::new(actual) };
        Err(RegistryError::Content { url: shown.to_owned(), source })
    }

    fn wrong_size(&self, actual: u64) -> ImageError {
        let digest = Box::new(self.descriptor.digest.clone());
        ImageError::SizeMismatch { digest, expected: self.descriptor.size, actual }
    }
}

fn local(source: io::Error) -> RegistryError {
    RegistryError::Local { action: "store a blob", source }
}

/// Does `Content-Range: bytes START-END/TOTAL` continue at `have` and mean the same blob?
fn starts_at(answer: &Answer, have: u64, size: u64) -> bool {
    let range = || {
        let (range, total) =
            answer.header("content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (start, end) = range.split_once('-')?;
        let right_total = total == "*" || total.parse() == Ok(size);
        Some(
            right_total && start.parse() == Ok(have) && end.parse::<u64>().ok()?.checked_add(1) == Some(size),
        )
    };
    range().unwrap_or(false)
}
