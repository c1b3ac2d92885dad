//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use rbuild_image::Digest;
use rbuild_registry::{BlobSink, Client, ClientOptions, RetryPolicy};

/// Retries quickly.
pub(crate) fn options() -> ClientOptions {
    let retry = RetryPolicy {
        attempts: 4,
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(10),
        longest_retry_after: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(20),
        least_bytes: 1,
    };
    ClientOptions { retry, ..ClientOptions::default() }
}

pub(crate) fn client() -> Client {
    Client::new(options()).unwrap()
}

/// Bytes that no compression or repetition hides a mistake in.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A sink that remembers how it was used.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) bytes: Vec<u8>,
    pub(crate) restarts: u32,
    pub(crate) written: u64,
    /// Hashes itself, as the store's partial blobs do.
    pub(crate) hashes: bool,
    /// Fails once this many bytes are there.
    pub(crate) full_at: Option<usize>,
}

impl BlobSink for Sink {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.full_at.is_some_and(|full| self.bytes.len() + bytes.len() > full) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.bytes.clear();
        self.restarts += 1;
        Ok(())
    }

    fn digest(&self) -> Option<Digest> {
        self.hashes.then(|| Digest::sha256_of(&self.bytes))
    }
}
