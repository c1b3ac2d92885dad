//! Tar archives: OCI layouts, and archives for `docker load`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use tar::{EntryType, Header};

use super::OCI_LAYOUT;
use super::writer::{BlobSource, NamedManifest, blob_path, index_json};
use crate::{Document, ImageError, Result, canonical_json};

/// An archive before it is written: a tar whose entries have fixed modes, owner 0 and time 0, sorted by name.
///
/// All of it but what a [`Content::Stream`](super::Content::Stream) will give is known before the first byte is
/// written, so that a file which holds these bytes already can be told.
#[derive(Debug)]
pub struct Archive<'s> {
    parts: Vec<Part<'s>>,
    size: u64,
}

/// A stretch of an archive.
#[derive(Debug)]
pub enum Part<'s> {
    /// Headers, padding, documents.
    Bytes(Vec<u8>),
    /// The content of a blob.
    Blob(&'s BlobSource<'s>),
}

impl Part<'_> {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Blob(blob) => blob.descriptor.size,
        }
    }
}

impl<'s> Archive<'s> {
    /// An OCI layout as a tar (`oci-archive:`). Every blob is there once.
    ///
    /// # Errors
    /// A name that a tar header cannot hold.
    pub fn oci(blobs: &'s [BlobSource<'s>], manifests: &[NamedManifest]) -> Result<Archive<'s>> {
        let mut archive = Self::of_blobs(blobs)?;
        archive.file("index.json", &index_json(manifests))?;
        archive.file("oci-layout", OCI_LAYOUT)?;
        Ok(archive.end())
    }

    /// What `docker load` reads: an OCI layout with Docker's `manifest.json` beside, as Docker itself saves since version 25.
    ///
    /// # Errors
    /// A manifest that is no manifest of one image, or cannot be read.
    pub fn docker(blobs: &'s [BlobSource<'s>], manifests: &[NamedManifest]) -> Result<Archive<'s>> {
        let entries =
            manifests.iter().map(|named| DockerEntry::of(named, blobs)).collect::<Result<Vec<_>>>()?;
        let mut archive = Self::of_blobs(blobs)?;
        archive.file("index.json", &index_json(manifests))?;
        archive.file("manifest.json", &canonical_json(&entries))?;
        archive.file("oci-layout", OCI_LAYOUT)?;
        Ok(archive.end())
    }

    /// In the order of the tar.
    pub fn parts(&self) -> &[Part<'s>] {
        &self.parts
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blobs in the order of their digests, in their folders: the same image gives the same bytes.
    fn of_blobs(blobs: &'s [BlobSource<'s>]) -> Result<Archive<'s>> {
        let mut archive = Archive { parts: Vec::new(), size: 0 };
        let blobs: BTreeMap<String, &BlobSource<'_>> =
            blobs.iter().map(|blob| (blob_path(&blob.descriptor), blob)).collect();
        let mut folders = BTreeSet::new();
        for (name, blob) in blobs {
            for (end, _) in name.match_indices('/') {
                if folders.insert(name[..=end].to_owned()) {
                    archive.header(&name[..=end], EntryType::Directory, 0o755, 0)?;
                }
            }
            archive.header(&name, EntryType::Regular, 0o644, blob.descriptor.size)?;
            archive.parts.push(Part::Blob(blob));
            archive.size += blob.descriptor.size;
            archive.pad();
        }
        Ok(archive)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.header(name, EntryType::Regular, 0o644, bytes.len() as u64)?;
        self.bytes(bytes);
        self.pad();
        Ok(())
    }

    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<()> {
        let failed = |source| ImageError::Io { action: "write", path: PathBuf::from(name), source };
        let mut header = Header::new_ustar();
        header.set_path(name).map_err(failed)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.bytes(header.as_bytes());
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }

    fn pad(&mut self) {
        let over = self.size % BLOCK as u64;
        if over > 0 {
            self.bytes(&[0; BLOCK][usize::try_from(over).unwrap_or(0)..]);
        }
    }

    /// The end mark (POSIX ustar): two blocks of zeros.
    fn end(mut self) -> Archive<'s> {
        self.bytes(&[0; 2 * BLOCK]);
        self
    }
}

/// A tar's unit.
const BLOCK: usize = 512;

#[derive(Serialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
    #[serde(rename = "RepoTags")]
    names: Option<Vec<String>>,
}

impl DockerEntry {
    fn of(named: &NamedManifest, blobs: &[BlobSource<'_>]) -> Result<DockerEntry> {
        let digest = &named.descriptor.digest;
        let invalid = || ImageError::Invalid {
            document: "docker archive",
            reason: format!("{digest} is no manifest of one image; docker load takes no others"),
        };
        let blob = blobs.iter().find(|blob| blob.descriptor.digest == *digest).ok_or_else(invalid)?;
        let Document::Manifest(manifest) = Document::parse(&blob.descriptor.media_type, &blob.document()?)?
        else {
            return Err(invalid());
        };
        let names: Vec<String> =
            named.names.iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()).collect();
        Ok(DockerEntry {
            config: blob_path(&manifest.config),
            layers: manifest.layers.iter().map(blob_path).collect(),
            names: (!names.is_empty()).then_some(names),
        })
    }
}
