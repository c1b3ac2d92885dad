//! The bytes of a blob on their way out.

use std::cell::RefCell;
use std::io::{self, Read};
use std::time::Instant;

use super::Open;
use crate::http::Payload;
use crate::pace::Pace;
use crate::{RegistryError, Result, RetryPolicy};

/// A blob's content, or a part of it, as the body of a request.
pub(super) struct Source<'source> {
    pub(super) open: Open<'source>,
    pub(super) progress: &'source dyn Fn(u64),
    pub(super) retry: &'source RetryPolicy,
    /// A source that can't be read looks to the HTTP library like a broken connection; the truth is kept aside.
    failure: RefCell<Option<io::Error>>,
}

impl<'source> Source<'source> {
    pub(super) fn new(
        open: Open<'source>,
        progress: &'source dyn Fn(u64),
        retry: &'source RetryPolicy,
    ) -> Source<'source> {
        Source { open, progress, retry, failure: RefCell::new(None) }
    }

    /// `length` bytes from `start` on, opened anew.
    pub(super) fn part(&self, start: u64, length: u64) -> Result<Payload<'_>> {
        let mut content = (self.open)().map_err(unreadable)?;
        let skipped = io::copy(&mut content.by_ref().take(start), &mut io::sink()).map_err(unreadable)?;
        if skipped < start {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        let body = Counting {
            content: content.take(length),
            sent: start,
            pace: Pace::new(self.retry),
            progress: self.progress,
            failure: &self.failure,
        };
        Ok(Payload::Stream(Box::new(body), length))
    }

    /// What came of a request that sent a part: the source's own failure counts before the request's.
    pub(super) fn verdict<T>(&self, result: Result<T>) -> Result<T> {
        match self.failure.take() {
            Some(error) => Err(unreadable(error)),
            None => result,
        }
    }
}

fn unreadable(source: io::Error) -> RegistryError {
    RegistryError::Local { action: "read a blob to push", source }
}

/// Tells how many bytes went by, and ends a transfer that crawls.
struct Counting<'count> {
    content: io::Take<Box<dyn Read + Send>>,
    sent: u64,
    pace: Pace,
    progress: &'count dyn Fn(u64),
    failure: &'count RefCell<Option<io::Error>>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer).map_err(|error| {
            let kind = error.kind();
            *self.failure.borrow_mut() = Some(error);
            io::Error::from(kind)
        })?;
        self.sent += count as u64;
        (self.progress)(self.sent);
        self.pace.moved(count as u64, Instant::now())?;
        Ok(count)
    }
}
