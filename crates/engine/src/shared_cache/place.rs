//! Where a shared cache lies: a repository of a registry, or a folder.
//!
//! A folder is an OCI layout whose blobs are named by their digest as ever; the documents lie as `records/<tag>.json` beside
//! them, each written whole by one rename, so that many builders share a folder as they share a repository.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_image::{Descriptor, Digest, Manifest, MediaType, Reference};
use rbuild_registry::{Client, ErrorKind};

use super::entry::{EMPTY, empty};
use crate::image::Origin;
use crate::request::CachePlace;

/// A document is no larger, in bytes.
const MOST: u64 = 4 << 20;
/// A tag has so many characters at most (OCI distribution specification).
const LONGEST_TAG: usize = 128;

#[derive(Debug, Clone)]
pub(super) enum Place {
    Registry(Reference),
    Folder(PathBuf),
}

impl Place {
    pub(super) fn new(place: &CachePlace) -> Place {
        match place {
            CachePlace::Registry(reference) => Place::Registry(reference.clone()),
            CachePlace::Folder(path) => Place::Folder(path.clone()),
        }
    }

    /// As messages call it.
    pub(super) fn shown(&self) -> String {
        match self {
            Place::Registry(reference) => format!("`{}`", reference.familiar()),
            Place::Folder(path) => format!("`{}`", path.display()),
        }
    }

    /// As records of the store name it.
    pub(super) fn origin(&self) -> String {
        match self {
            Place::Registry(reference) => format!("registry {}", reference.repository()),
            Place::Folder(path) => format!("folder {}", path.display()),
        }
    }

    /// The document with this tag, if it has one.
    pub(super) fn get(&self, client: &Client, tag: &str) -> Result<Option<Vec<u8>>, String> {
        match self {
            Place::Registry(reference) => match client.manifest(&tagged(reference, tag)?) {
                Ok(found) => Ok(Some(found.bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Place::Folder(path) => read_record(path, tag).map_err(|error| error.to_string()),
        }
    }

    /// Makes sure that the place has the config which all documents name. Before the first of them, and by one thread: a
    /// registry may refuse a manifest while somebody gives it one of the manifest's blobs.
    pub(super) fn make_ready(&self, client: &Client) -> Result<(), String> {
        let Place::Registry(reference) = self else { return Ok(()) };
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(EMPTY)) };
        let pushed = client.push_blob(reference, &empty(), &open, &[], &|_| {});
        pushed.map(drop).map_err(|error| error.to_string())
    }

    /// Puts a document whose layers are there into a place that is ready.
    pub(super) fn put(&self, client: &Client, tag: &str, manifest: &Manifest) -> Result<(), String> {
        let bytes = manifest.to_bytes();
        match self {
            Place::Registry(reference) => {
                let pushed =
                    client.push_manifest(&tagged(reference, tag)?, &MediaType::ImageManifest, &bytes);
                pushed.map(drop).map_err(|error| error.to_string())
            }
            Place::Folder(path) => put_record(path, tag, &bytes).map_err(|error| error.to_string()),
        }
    }
}

/// The origin that a record of the store names.
pub(super) fn origin_of(text: &str) -> Option<Origin> {
    match text.split_once(' ')? {
        ("registry", name) => Reference::parse(name).ok().map(|name| Origin::Registry(Arc::new(name))),
        ("folder", path) => Some(Origin::Layout(Arc::new(PathBuf::from(path)))),
        _ => None,
    }
}

/// The name of a document. A tag that was given keeps caches in one repository apart.
fn tagged(reference: &Reference, tag: &str) -> Result<Reference, String> {
    reference.with_tag(&scoped(reference, tag)).map_err(|error| error.to_string())
}

fn scoped(reference: &Reference, tag: &str) -> String {
    match reference.tag() {
        None | Some("latest") => tag.to_owned(),
        Some(scope) if scope.len() + 1 + tag.len() <= LONGEST_TAG => format!("{scope}-{tag}"),
        Some(scope) => format!("{}-{tag}", &Digest::sha256_of(scope.as_bytes()).hex()[..32]),
    }
}

fn record_path(folder: &Path, tag: &str) -> PathBuf {
    folder.join("records").join(format!("{tag}.json"))
}

fn read_record(folder: &Path, tag: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(record_path(folder, tag)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn put_record(folder: &Path, tag: &str, bytes: &[u8]) -> io::Result<()> {
    write_whole(&record_path(folder, tag), &mut &*bytes)
}

/// Puts a blob into a folder that lacks it; its content is checked on the way.
pub(super) fn put_blob(
    folder: &Path,
    descriptor: &Descriptor,
    open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>,
) -> io::Result<()> {
    prepare(folder)?;
    let path = folder.join("blobs").join(descriptor.digest.as_str().replace(':', "/"));
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == descriptor.size) {
        return Ok(());
    }
    write_whole(&path, &mut open()?)
}

/// What makes a folder an OCI layout that other tools read.
fn prepare(folder: &Path) -> io::Result<()> {
    for (name, content) in [
        ("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
        (
            "index.json",
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        ),
    ] {
        if !folder.join(name).exists() {
            write_whole(&folder.join(name), &mut &*content)?;
        }
    }
    Ok(())
}

/// A file that appears whole or not at all, whoever else writes it at the same time.
fn write_whole(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut temporary = tempfile_in(folder)?;
    let written = io::copy(content, &mut temporary.1).and_then(|_| fs::rename(&temporary.0, path));
    if written.is_err() {
        // What is left is ours alone; the error that matters is the first.
        let _ = fs::remove_file(&temporary.0);
    }
    written
}

fn tempfile_in(folder: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0.. {
        let path = folder.join(format!(".new-{}-{number}", std::process::id()));
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_the_cache_keeps_it_apart() {
        let name = |text: &str| tagged(&Reference::parse(text).unwrap(), "step-1").unwrap().to_string();
        assert_eq!(name("r.io/c"), "r.io/c:step-1");
        assert_eq!(name("r.io/c:latest"), "r.io/c:step-1");
        assert_eq!(name("r.io/c:main"), "r.io/c:main-step-1");
        let long = format!("r.io/c:{}", "x".repeat(128));
        assert!(name(&long).len() < 64);
    }

    #[test]
    fn origins_come_back() {
        let reference = Reference::parse("r.io/c:main").unwrap();
        let registry = Place::Registry(reference).origin();
        assert!(
            matches!(origin_of(&registry), Some(Origin::Registry(name)) if name.repository() == "r.io/c")
        );
        let folder = Place::Folder("/a b".into()).origin();
        assert!(matches!(origin_of(&folder), Some(Origin::Layout(path)) if *path == Path::new("/a b")));
        assert!(origin_of("elsewhere x").is_none());
    }

    #[test]
    fn a_folder_keeps_documents_and_blobs() {
        let folder = tempfile::tempdir().unwrap();
        put_record(folder.path(), "step-1", b"one").unwrap();
        put_record(folder.path(), "step-1", b"two").unwrap();
        assert_eq!(read_record(folder.path(), "step-1").unwrap().unwrap(), b"two");
        assert_eq!(read_record(folder.path(), "step-2").unwrap(), None);
        let descriptor = Descriptor::of(MediaType::ImageLayer, b"blob");
        put_blob(folder.path(), &descriptor, || Ok(Box::new(&b"blob"[..]))).unwrap();
        let reader = rbuild_image::layout::LayoutReader::open(folder.path()).unwrap();
        let mut read = Vec::new();
        reader.blob(&descriptor.digest).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, b"blob");
    }
}
