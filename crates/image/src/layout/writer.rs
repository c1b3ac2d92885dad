//! What the writers have in common, and the writer of a directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::OCI_LAYOUT;
use crate::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, ImageError, Index, MediaType, Reference, Result,
    VerifyingReader,
};

/// A manifest or index to be found in the layout's `index.json`.
#[derive(Clone, Debug)]
pub struct NamedManifest {
    /// It; its blob must have been added.
    pub descriptor: Descriptor,
    /// Its names; one entry is written for each, or one without a name.
    pub names: Vec<Reference>,
}

/// Takes an image's blobs and at last its names.
pub trait ImageWriter {
    /// Adds a blob, checking digest and size; one that was added already is not read again.
    fn add_blob(&mut self, descriptor: &Descriptor, content: &mut dyn Read) -> Result<()>;

    /// Writes what points to the blobs, and ends.
    fn finish(&mut self, manifests: &[NamedManifest]) -> Result<()>;
}

/// A blob that can be opened when its turn comes.
pub struct BlobSource<'source> {
    /// What it is.
    pub descriptor: Descriptor,
    /// Opens its content.
    pub open: Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + 'source>,
}

impl std::fmt::Debug for BlobSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobSource({})", self.descriptor.digest)
    }
}

/// Adds all blobs in the order of their digests and finishes: the same image gives the same bytes.
pub fn write_sorted(
    writer: &mut dyn ImageWriter,
    blobs: &mut [BlobSource<'_>],
    manifests: &[NamedManifest],
) -> Result<()> {
    blobs.sort_by(|one, other| one.descriptor.digest.cmp(&other.descriptor.digest));
    for blob in blobs.iter() {
        let unreadable =
            |source| ImageError::Io { action: "open", path: blob_path(&blob.descriptor).into(), source };
        let mut content = (blob.open)().map_err(unreadable)?;
        writer.add_blob(&blob.descriptor, &mut content)?;
    }
    writer.finish(manifests)
}

/// Where a blob lies in a layout.
pub(super) fn blob_path(descriptor: &Descriptor) -> String {
    let digest = &descriptor.digest;
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The `index.json` of some named manifests.
pub(super) fn index_json(manifests: &[NamedManifest]) -> Vec<u8> {
    let mut entries = Vec::new();
    for manifest in manifests {
        if manifest.names.is_empty() {
            entries.push(manifest.descriptor.clone());
        }
        for name in &manifest.names {
            let mut entry = manifest.descriptor.clone();
            entry.annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
            }
            entries.push(entry);
        }
    }
    Index::new(MediaType::ImageIndex, entries).to_bytes()
}

/// Writes an OCI layout as a directory. An existing layout gains the image: its blobs stay, entries of the same names give way.
#[derive(Debug)]
pub struct LayoutWriter {
    root: PathBuf,
}

impl LayoutWriter {
    /// Makes the directory where it is missing.
    pub fn create(root: &Path) -> Result<LayoutWriter> {
        let writer = LayoutWriter { root: root.to_owned() };
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|source| ImageError::Io {
            action: "create",
            path: blobs,
            source,
        })?;
        writer.write_file("oci-layout", OCI_LAYOUT)?;
        Ok(writer)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        put(&path, &mut &bytes[..]).map_err(|source| ImageError::Io { action: "write", path, source })
    }

    /// The entries of an `index.json` that is there already and that the new ones do not replace.
    fn kept_entries(&self, new: &[NamedManifest]) -> Result<Vec<Descriptor>> {
        let path = self.root.join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(ImageError::Io { action: "read", path, source }),
        };
        let names: Vec<String> =
            new.iter().flat_map(|manifest| &manifest.names).map(Reference::to_string).collect();
        let word = |entry: &Descriptor| entry.annotations.get(ANNOTATION_REF_NAME).cloned();
        let replaced = |entry: &Descriptor| {
            let same = new.iter().any(|manifest| manifest.descriptor.digest == entry.digest);
            // An entry that has only a word for a name, as other tools write it.
            let same_word = word(entry).is_some_and(|known| {
                new.iter().any(|manifest| word(&manifest.descriptor).as_ref() == Some(&known))
            });
            let name = entry.annotations.get(ANNOTATION_IMAGE_NAME);
            name.map_or(same || same_word, |name| names.contains(name))
        };
        Ok(Index::parse(&bytes)?.manifests.into_iter().filter(|entry| !replaced(entry)).collect())
    }
}

impl ImageWriter for LayoutWriter {
    fn add_blob(&mut self, descriptor: &Descriptor, content: &mut dyn Read) -> Result<()> {
        let path = self.root.join(blob_path(descriptor));
        if path.metadata().is_ok_and(|found| found.is_file() && found.len() == descriptor.size) {
            return Ok(());
        }
        let mut checked = VerifyingReader::new(content, &descriptor.digest, Some(descriptor.size));
        put(&path, &mut checked).map_err(|source| ImageError::Io { action: "write", path, source })
    }

    fn finish(&mut self, manifests: &[NamedManifest]) -> Result<()> {
        let mut all: Vec<NamedManifest> = Vec::new();
        all.extend(
            self.kept_entries(manifests)?
                .into_iter()
                .map(|descriptor| NamedManifest { descriptor, names: Vec::new() }),
        );
        all.extend_from_slice(manifests);
        self.write_file("index.json", &index_json(&all))
    }
}

/// Writes beside the target and renames, so that a reader never sees half of it.
fn put(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = File::create(&partial).and_then(|file| {
        let mut file = BufWriter::with_capacity(128 << 10, file);
        io::copy(content, &mut file)?;
        file.flush()
    });
    let result = written.and_then(|()| fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    result
}
