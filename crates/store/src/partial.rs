//! Downloads that outlive the process that began them.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::PathBuf;

use rbuild_fs::PathContext;
use rbuild_image::{Digest, Digester};

use crate::blob::{hash_file, make_read_only};
use crate::error::Result;
use crate::{Blob, Store, StoreError, lock};

/// What [`Store::partial_blob`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives until the next line matches it")]
pub enum PartialSlot {
    /// The blob is here: it was, or another process finished it while we waited.
    Complete(Blob),
    /// This process is to fetch the rest.
    Partial(PartialBlob),
}

/// The bytes that came so far of a blob whose digest is known. Its file is locked: one process fetches a blob, others
/// wait. Dropped unfinished, the bytes stay for the next attempt.
#[derive(Debug)]
pub struct PartialBlob {
    store: Store,
    expected: Digest,
    path: PathBuf,
    /// Holds the lock as well.
    file: File,
    hasher: Digester,
    len: u64,
    /// Its name is no longer there, or another's.
    gone: bool,
}

impl Store {
    /// The blob, or the right to fetch it. Waits while another process or thread is fetching the same one.
    pub fn partial_blob(&self, digest: &Digest) -> Result<PartialSlot> {
        if let Some(blob) = self.blob(digest)? {
            return Ok(PartialSlot::Complete(blob));
        }
        let path = self.inner.layout.partial(digest);
        let mut file = lock::acquire_named(&path)?;
        // Whoever held the lock before may have finished between our look and our turn.
        if let Some(blob) = self.blob(digest)? {
            fs::remove_file(&path).on("remove", &path)?;
            return Ok(PartialSlot::Complete(blob));
        }
        let hasher = hash_file(&path, digest.digester())?;
        let len = file.seek(SeekFrom::End(0)).on("seek in", &path)?;
        Ok(PartialSlot::Partial(PartialBlob {
            store: self.clone(),
            expected: digest.clone(),
            path,
            file,
            hasher,
            len,
            gone: false,
        }))
    }
}

impl PartialBlob {
    /// Bytes that are there already, and hashed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Digest of the bytes that are there.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Begins anew, for a server that cannot resume.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = self.expected.digester();
        self.len = 0;
        Ok(())
    }

    /// Checks the digest and publishes the blob.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`]; then nothing of the bytes stays.
    pub fn finish(mut self) -> Result<Blob> {
        let actual = self.digest();
        if actual != self.expected {
            self.remove()?;
            return Err(StoreError::DigestMismatch { expected: self.expected.clone(), actual });
        }
        // The rename takes the name away while the lock is still held: who waits for it finds the blob.
        let blob = self.store.publish_blob(&self.path, actual, self.len)?;
        self.gone = true;
        // Only now: others open the partial file for writing, to wait for its lock.
        make_read_only(&self.file, &blob.path)?;
        Ok(blob)
    }

    /// Throws away what has come so far.
    pub fn discard(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.gone = true;
        Ok(fs::remove_file(&self.path).on("remove", &self.path)?)
    }
}

impl Drop for PartialBlob {
    /// Nothing is worth keeping of a download that brought nothing, or nothing right.
    fn drop(&mut self) {
        if self.is_empty() && !self.gone {
            _ = self.remove();
        }
    }
}

impl Write for PartialBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
