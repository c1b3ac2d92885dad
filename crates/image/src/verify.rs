//! Reading content that must be what its descriptor says.

use std::io::{self, Read};

use crate::{Digest, Digester, ImageError};

/// A reader that passes bytes on and, at the end, refuses content whose digest or size is not the expected one.
///
/// The refusal is an [`io::Error`] of kind `InvalidData` that carries an [`ImageError`]; a caller that reads to the end
/// (and so sees `Ok(0)`) knows that every byte was right.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    digester: Option<Digester>,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
}

impl<R: Read> VerifyingReader<R> {
    /// Reads `inner`, expecting `digest` and, if known, exactly `size` bytes.
    pub fn new(inner: R, digest: &Digest, size: Option<u64>) -> VerifyingReader<R> {
        VerifyingReader { inner, digester: Some(digest.digester()), expected: digest.clone(), size, seen: 0 }
    }

    fn check_end(&mut self) -> Result<(), ImageError> {
        if let Some(expected) = self.size.filter(|expected| *expected != self.seen) {
            return Err(self.wrong_size(expected));
        }
        let Some(digester) = self.digester.take() else { return Ok(()) };
        let actual = digester.finish();
        if actual != self.expected {
            let expected = Box::new(self.expected.clone());
            return Err(ImageError::DigestMismatch { expected, actual: Box::new(actual) });
        }
        Ok(())
    }

    fn wrong_size(&self, expected: u64) -> ImageError {
        ImageError::SizeMismatch { digest: Box::new(self.expected.clone()), expected, actual: self.seen }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            self.check_end().map_err(invalid_data)?;
            return Ok(0);
        }
        self.seen += count as u64;
        if let Some(expected) = self.size.filter(|expected| self.seen > *expected) {
            return Err(invalid_data(self.wrong_size(expected)));
        }
        if let Some(digester) = &mut self.digester {
            digester.update(&buffer[..count]);
        }
        Ok(count)
    }
}

fn invalid_data(error: ImageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_right_and_refuses_the_wrong() {
        let digest = Digest::sha256_of("hello");
        let read = |bytes: &[u8], size| {
            let mut out = Vec::new();
            VerifyingReader::new(bytes, &digest, size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"hello", Some(5)).unwrap(), b"hello");
        assert_eq!(read(b"hello", None).unwrap(), b"hello");
        for (bytes, size, message) in [
            (&b"hellO"[..], Some(5), "is altered"),
            (b"hell", Some(5), "has 4 bytes"),
            (b"hello!", Some(5), "has 6 bytes"),
            (b"hello", Some(6), "has 5 bytes"),
            (b"", None, "is altered"),
        ] {
            let error = read(bytes, size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
