//! Reading layouts and archives that anyone may have made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::docker;
use crate::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Digest, ImageConfig, ImageError, Index,
    MAX_DOCUMENT, Manifest, Reference, Result, VerifyingReader,
};

/// Entries that an archive may have; real ones have a few for each layer.
const MAX_ENTRIES: usize = 100_000;

/// An image layout that is open: an OCI directory, an OCI archive, or an archive of `docker save`.
#[derive(Debug)]
pub struct LayoutReader {
    files: Files,
    index: Index,
    /// Blobs that are kept under other names (older docker archives).
    elsewhere: BTreeMap<Digest, String>,
    /// Documents that are kept nowhere, because Docker's form has no manifests.
    made: BTreeMap<Digest, Vec<u8>>,
}

impl LayoutReader {
    /// Opens a directory or a tar and reads its index.
    pub fn open(path: &Path) -> Result<LayoutReader> {
        let files = Files::open(path)?;
        if files.has("index.json") {
            let index = Index::parse(&files.read("index.json", MAX_DOCUMENT)?)?;
            return Ok(LayoutReader { files, index, elsewhere: BTreeMap::new(), made: BTreeMap::new() });
        }
        if files.has("manifest.json") {
            let found = docker::read(&files)?;
            return Ok(LayoutReader {
                files,
                index: found.index,
                elsewhere: found.elsewhere,
                made: found.made,
            });
        }
        Err(files.unusable("it has neither index.json (OCI) nor manifest.json (docker save)"))
    }

    /// What the layout offers.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Finds a manifest by digest, tag or full name; without a selector the only one there is.
    pub fn find(&self, selector: Option<&str>) -> Result<&Descriptor> {
        let entries = &self.index.manifests;
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            return self.only_one();
        };
        let wanted_name = Reference::parse(selector).ok().map(|name| name.to_string());
        let fits = |entry: &&Descriptor| {
            let annotation = |key| entry.annotations.get(key).map(String::as_str);
            let is_name =
                |found: &str| Reference::parse(found).ok().map(|name| name.to_string()) == wanted_name;
            entry.digest.as_str() == selector
                || annotation(ANNOTATION_REF_NAME) == Some(selector)
                || annotation(ANNOTATION_IMAGE_NAME).is_some_and(is_name)
        };
        entries.iter().find(fits).ok_or_else(|| {
            let names: Vec<&str> = entries.iter().filter_map(name_of).collect();
            let offered = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
            self.files.unusable(&format!("it has no image `{selector}`; it offers {offered}"))
        })
    }

    fn only_one(&self) -> Result<&Descriptor> {
        let entries = &self.index.manifests;
        let first = entries.first().ok_or_else(|| self.files.unusable("it holds no image"))?;
        if entries.iter().any(|entry| entry.digest != first.digest) {
            let names: Vec<&str> = entries.iter().filter_map(name_of).collect();
            return Err(self
                .files
                .unusable(&format!("it holds several images, name one of {}", names.join(", "))));
        }
        Ok(first)
    }

    /// Does the layout hold a blob?
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.made.contains_key(digest) || self.files.has(&self.path_of(digest))
    }

    /// Opens a blob; what is read is checked against the digest, and wrong content is an error at its end.
    pub fn blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>> {
        let content: Box<dyn Read + Send> = match self.made.get(digest) {
            Some(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            None => self.files.open_file(&self.path_of(digest))?.0,
        };
        Ok(Box::new(VerifyingReader::new(content, digest, None)))
    }

    /// Reads a small document whole, checked against its descriptor.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(self.files.unusable(&format!(
                "the document {} is larger than {MAX_DOCUMENT} bytes",
                descriptor.digest
            )));
        }
        let mut bytes = Vec::new();
        let mut content = self.blob(&descriptor.digest)?.take(descriptor.size + 1);
        let unreadable = |source| self.files.failed("read", &self.path_of(&descriptor.digest), source);
        content.read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 != descriptor.size {
            let (digest, actual) = (Box::new(descriptor.digest.clone()), bytes.len() as u64);
            return Err(ImageError::SizeMismatch { digest, expected: descriptor.size, actual });
        }
        Ok(bytes)
    }

    /// Reads a manifest and its config.
    pub fn image(&self, descriptor: &Descriptor) -> Result<(Manifest, ImageConfig)> {
        let manifest = Manifest::parse(&self.document(descriptor)?)?;
        let config = ImageConfig::parse(&self.document(&manifest.config)?)?;
        Ok((manifest, config))
    }

    fn path_of(&self, digest: &Digest) -> String {
        let usual = || format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        self.elsewhere.get(digest).cloned().unwrap_or_else(usual)
    }
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    let name =
        entry.annotations.get(ANNOTATION_IMAGE_NAME).or_else(|| entry.annotations.get(ANNOTATION_REF_NAME));
    name.map(String::as_str)
}

/// The files of a layout by their names in it.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    kind: FilesKind,
}

#[derive(Debug)]
enum FilesKind {
    Directory,
    Archive { file: Arc<File>, entries: BTreeMap<String, Member> },
}

#[derive(Clone, Debug)]
enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// A symbolic or hard link, its target as a name in the archive.
    Link(String),
}

impl Files {
    fn open(path: &Path) -> Result<Files> {
        let failed = |source| ImageError::Io { action: "open", path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Files { path: path.to_owned(), kind: FilesKind::Directory });
        }
        let file = File::open(path).map_err(failed)?;
        let mut magic = [0; 4];
        if file.read_at(&mut magic, 0).map_err(failed)? == 4
            && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd])
        {
            let reason =
                "it is compressed; decompress it first (blobs inside are compressed already)".to_owned();
            return Err(ImageError::Layout { path: path.to_owned(), reason });
        }
        let entries = members(&file).map_err(|source| ImageError::Io {
            action: "read the archive",
            path: path.to_owned(),
            source,
        })?;
        Ok(Files { path: path.to_owned(), kind: FilesKind::Archive { file: Arc::new(file), entries } })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match &self.kind {
            FilesKind::Directory => self.path.join(name).is_file(),
            FilesKind::Archive { entries, .. } => member(entries, name).is_some(),
        }
    }

    /// Opens a file of the layout; `name` is ours or one that [`clean`] let through. Gives its size, too.
    pub(super) fn open_file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64)> {
        let failed = |source| self.failed("open", name, source);
        match &self.kind {
            FilesKind::Directory => {
                let path = self.path.join(name);
                let metadata = fs::metadata(&path).map_err(failed)?;
                // A fifo would wait for ever.
                if !metadata.is_file() {
                    return Err(self.unusable(&format!("`{name}` is not a regular file")));
                }
                Ok((Box::new(File::open(&path).map_err(failed)?), metadata.len()))
            }
            FilesKind::Archive { file, entries } => {
                let found = member(entries, name).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                Ok((Box::new(Slice { file: Arc::clone(file), at: found.0, end: found.0 + found.1 }), found.1))
            }
        }
    }

    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (content, size) = self.open_file(name)?;
        if size > limit {
            return Err(self.unusable(&format!("`{name}` is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        content.take(limit).read_to_end(&mut bytes).map_err(|source| self.failed("read", name, source))?;
        Ok(bytes)
    }

    pub(super) fn failed(&self, action: &'static str, name: &str, source: io::Error) -> ImageError {
        ImageError::Io { action, path: self.path.join(name), source }
    }

    pub(super) fn unusable(&self, reason: &str) -> ImageError {
        ImageError::Layout { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Goes once through a tar's headers; contents are read later, where they lie.
fn members(file: &File) -> io::Result<BTreeMap<String, Member>> {
    let mut archive = tar::Archive::new(file);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(name) = clean(&name) else { continue };
        let link = || entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let member = if kind.is_file() {
            Some(Member::File { offset: entry.raw_file_position(), size: entry.size() })
        } else if kind.is_hard_link() {
            link().and_then(|target| clean(&target)).map(Member::Link)
        } else if kind.is_symlink() {
            link().and_then(|target| clean(&format!("{}/../{target}", name))).map(Member::Link)
        } else {
            None
        };
        if let Some(member) = member {
            found.insert(name, member);
        }
        if found.len() > MAX_ENTRIES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("more than {MAX_ENTRIES} entries"),
            ));
        }
    }
    Ok(found)
}

fn member(entries: &BTreeMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    // Older `docker save` links a layer that two images share once; a longer chain is a loop.
    for _ in 0..8 {
        match entries.get(name)? {
            Member::File { offset, size } => return Some((*offset, *size)),
            Member::Link(target) => name = target,
        }
    }
    None
}

/// `./a/b/../c` → `a/c`; none for what leaves the archive or is its root.
pub(super) fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty() && !name.starts_with('/')).then(|| parts.join("/"))
}

/// A part of a file, read without moving its position: several threads may read one archive.
#[derive(Debug)]
struct Slice {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        if count == 0 && left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
