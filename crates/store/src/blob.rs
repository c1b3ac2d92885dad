//! Immutable files named by the digest of their content.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbuild_fs::{PathContext, PathError};
use rbuild_image::{Algorithm, Digest, Digester};

use crate::error::Result;
use crate::lock::Hold;
use crate::{Resource, Store, StoreError, record};

/// A blob in the store, held against collection until the store is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name: the digest of its bytes as stored.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its file.
    pub path: PathBuf,
}

impl Blob {
    /// Opens the blob for reading.
    pub fn open(&self) -> Result<File> {
        Ok(File::open(&self.path).on("open", &self.path)?)
    }

    /// All of a small blob, such as a manifest or a config.
    pub fn read(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.path).on("read", &self.path)?)
    }

    /// Gives the blob another name at `path`, which must not exist: a hard link (read-only, as the blob is) where the file
    /// system allows it, otherwise a copy.
    pub fn link(&self, path: &Path) -> Result<()> {
        if fs::hard_link(&self.path, path).is_ok() {
            return Ok(());
        }
        let mut from = self.open()?;
        let mut to = File::create_new(path).on("create", path)?;
        // `io::copy` between files uses copy_file_range(2), which clones where the file system can.
        io::copy(&mut from, &mut to).on("write", path)?;
        Ok(())
    }
}

impl Store {
    /// The blob with this digest, if it is here; it is held from now on.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let resource = Resource::Blob(digest.clone());
        let path = self.inner.layout.blob(digest);
        let _gate = if self.inner.session.holds(&resource) { None } else { Some(self.gate(Hold::Shared)?) };
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).on("examine", &path).map_err(Into::into),
        };
        self.inner.session.hold(&resource)?;
        Ok(Some(Blob { digest: digest.clone(), size, path }))
    }

    /// Whether the blob is here; it is held from now on if so.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob(digest)?.is_some())
    }

    /// Opens a blob that must be here.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] where it is not.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.blob(digest)?.ok_or_else(|| StoreError::NoBlob(digest.clone()))?.open()
    }

    /// Stores a small blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Blob> {
        if let Some(blob) = self.blob(&Digest::sha256_of(bytes))? {
            return Ok(blob);
        }
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).on("write", &writer.path)?;
        writer.commit(None)
    }

    /// Begins a blob whose digest is worked out while it is written.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let path = self.inner.session.temporary("blob");
        let file = File::options().read(true).write(true).create_new(true).open(&path).on("create", &path)?;
        Ok(BlobWriter {
            store: self.clone(),
            path,
            file,
            hasher: Digester::new(Algorithm::Sha256),
            size: 0,
            done: false,
        })
    }

    /// Publishes the finished file at `from` as a blob. Its digest has been checked.
    pub(crate) fn publish_blob(&self, from: &Path, digest: Digest, size: u64) -> Result<Blob> {
        let path = self.inner.layout.blob(&digest);
        let _gate = self.gate(Hold::Shared)?;
        let _publishing = self.inner.session.publishing()?;
        self.inner.session.hold(&Resource::Blob(digest.clone()))?;
        record::publish(from, &path)?;
        Ok(Blob { digest, size, path })
    }
}

/// A blob being written. Dropped before [`BlobWriter::commit`], nothing of it stays.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    path: PathBuf,
    file: File,
    hasher: Digester,
    size: u64,
    done: bool,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Publishes the blob.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`] when the bytes are not those of `expected`; then nothing of them stays.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<Blob> {
        let digest = self.digest_for(expected)?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(StoreError::DigestMismatch { expected: expected.clone(), actual: digest });
        }
        make_read_only(&self.file, &self.path)?;
        let blob = self.store.publish_blob(&self.path, digest, self.size)?;
        self.done = true;
        Ok(blob)
    }

    /// The digest by the expected one's algorithm: for the rare sha512 the file is read once more.
    fn digest_for(&mut self, expected: Option<&Digest>) -> Result<Digest> {
        match expected.map(Digest::algorithm) {
            Some(algorithm @ Algorithm::Sha512) => {
                Ok(hash_file(&self.path, Digester::new(algorithm))?.finish())
            }
            None | Some(Algorithm::Sha256) => Ok(self.hasher.clone().finish()),
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.done {
            _ = fs::remove_file(&self.path);
        }
    }
}

/// A blob may have other names outside the store ([`Blob::link`]): nobody shall write to it through them by mistake.
pub(crate) fn make_read_only(file: &File, path: &Path) -> Result<(), PathError> {
    file.set_permissions(fs::Permissions::from_mode(0o444)).on("change the mode of", path)
}

/// Feeds the whole file at `path` to `hasher`.
pub(crate) fn hash_file(path: &Path, mut hasher: Digester) -> Result<Digester, PathError> {
    let mut file = File::open(path).on("open", path)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).on("read", path),
        }
    }
}
