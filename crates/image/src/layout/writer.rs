//! What goes into a layout, and the writer of a directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::OCI_LAYOUT;
use crate::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, ImageError, Index, MAX_DOCUMENT, MediaType,
    Reference, Result, VerifyingReader,
};

/// A manifest or index to be found in the layout's `index.json`.
#[derive(Clone, Debug)]
pub struct NamedManifest {
    /// It; its blob must have been added.
    pub descriptor: Descriptor,
    /// Its names; one entry is written for each, or one without a name.
    pub names: Vec<Reference>,
}

/// A blob and its bytes.
#[derive(Debug)]
pub struct BlobSource<'s> {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub content: Content<'s>,
}

/// Where a blob's bytes are.
pub enum Content<'s> {
    /// At hand.
    Bytes(Vec<u8>),
    /// All of a file that is trusted to hold them, as a store's is; only its length is checked.
    File(PathBuf),
    /// Opened when its turn comes; digest and length are checked while it is read.
    Stream(Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + 's>),
}

/// A blob that was opened.
#[allow(missing_debug_implementations, reason = "a reader has nothing to show")]
pub enum Opened<'o> {
    /// All of this file.
    File(File),
    /// Whoever reads this to its end has read what the descriptor says.
    Stream(&'o mut dyn Read),
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Content::File(path) => write!(f, "{}", path.display()),
            Content::Stream(_) => f.write_str("a stream"),
        }
    }
}

impl BlobSource<'_> {
    /// Opens the blob for `take`, which reads to the end.
    ///
    /// # Errors
    /// Those of `take`, and content that is not what the descriptor says.
    pub fn with_content<T>(&self, take: impl FnOnce(Opened<'_>) -> io::Result<T>) -> Result<T> {
        let Descriptor { digest, size, .. } = &self.descriptor;
        let given = match &self.content {
            Content::Bytes(bytes) => {
                take(Opened::Stream(&mut VerifyingReader::new(&bytes[..], digest, Some(*size))))
            }
            Content::File(path) => File::open(path).and_then(|file| {
                let actual = file.metadata()?.len();
                if actual != *size {
                    let digest = Box::new(digest.clone());
                    let wrong = ImageError::SizeMismatch { digest, expected: *size, actual };
                    return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
                }
                take(Opened::File(file))
            }),
            Content::Stream(open) => open().and_then(|content| {
                take(Opened::Stream(&mut VerifyingReader::new(content, digest, Some(*size))))
            }),
        };
        let path = blob_path(&self.descriptor).into();
        given.map_err(|source| ImageError::Io { action: "write", path, source })
    }

    /// All of a small blob.
    pub(super) fn document(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.with_content(|opened| match opened {
            Opened::File(file) => file.take(MAX_DOCUMENT).read_to_end(&mut bytes),
            Opened::Stream(content) => content.take(MAX_DOCUMENT).read_to_end(&mut bytes),
        })?;
        Ok(bytes)
    }
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

/// Writes an OCI layout as a directory, which is made if it is missing. An existing layout gains the images: its blobs stay,
/// entries of the same names give way.
///
/// # Errors
/// What cannot be written, and content that is not what its descriptor says.
pub fn write_folder(root: &Path, blobs: &[BlobSource<'_>], manifests: &[NamedManifest]) -> Result<()> {
    let folder = Folder::create(root)?;
    blobs.iter().try_for_each(|blob| folder.add(blob))?;
    folder.finish(manifests)
}

struct Folder {
    root: PathBuf,
}

impl Folder {
    fn create(root: &Path) -> Result<Folder> {
        let writer = Folder { root: root.to_owned() };
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
        put(&path, |file| file.write_all(bytes)).map_err(|source| ImageError::Io {
            action: "write",
            path,
            source,
        })
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

    fn add(&self, blob: &BlobSource<'_>) -> Result<()> {
        let path = self.root.join(blob_path(&blob.descriptor));
        if path.metadata().is_ok_and(|found| found.is_file() && found.len() == blob.descriptor.size) {
            return Ok(());
        }
        blob.with_content(|opened| {
            put(&path, |out| match opened {
                // Within the kernel, and as a reflink where the file system has them (copy_file_range(2)).
                Opened::File(mut file) => io::copy(&mut file, out).map(drop),
                Opened::Stream(content) => {
                    let mut out = BufWriter::with_capacity(128 << 10, out);
                    io::copy(content, &mut out)?;
                    out.flush()
                }
            })
        })
    }

    fn finish(&self, manifests: &[NamedManifest]) -> Result<()> {
        let kept = self.kept_entries(manifests)?.into_iter();
        let mut all: Vec<NamedManifest> =
            kept.map(|descriptor| NamedManifest { descriptor, names: Vec::new() }).collect();
        all.extend_from_slice(manifests);
        self.write_file("index.json", &index_json(&all))
    }
}

/// Writes beside the target and renames, so that a reader never sees half of it.
fn put(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = File::create(&partial).and_then(|mut file| write(&mut file));
    let result = written.and_then(|()| fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    result
}
