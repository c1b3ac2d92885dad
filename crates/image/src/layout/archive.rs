//! Writers of tar streams: OCI archives, and archives for `docker load`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::Serialize;
use tar::{EntryType, Header};

use super::OCI_LAYOUT;
use super::writer::{ImageWriter, NamedManifest, blob_path, index_json};
use crate::{
    Descriptor, Digest, Document, ImageError, MAX_DOCUMENT, Manifest, MediaTypeExt, Result, VerifyingReader,
    canonical_json,
};

/// A tar whose entries have fixed modes, owner 0 and time 0.
struct TarStream<W: Write> {
    tar: tar::Builder<W>,
    folders: BTreeSet<String>,
    added: BTreeSet<Digest>,
}

impl<W: Write> TarStream<W> {
    fn new(out: W) -> TarStream<W> {
        TarStream { tar: tar::Builder::new(out), folders: BTreeSet::new(), added: BTreeSet::new() }
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        if self.folders.insert(name.to_owned()) {
            self.entry(name, EntryType::Directory, 0o755, 0, &mut io::empty())?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, EntryType::Regular, 0o644, bytes.len() as u64, &mut &bytes[..])
    }

    fn blob(&mut self, descriptor: &Descriptor, content: &mut dyn Read) -> Result<()> {
        if !self.added.insert(descriptor.digest.clone()) {
            return Ok(());
        }
        let name = blob_path(descriptor);
        self.folder("blobs/")?;
        self.folder(&name[..=name.rfind('/').unwrap_or(0)])?;
        // The builder pads a short content with nothing: the check must fail it before the next header is written.
        let mut checked = VerifyingReader::new(content, &descriptor.digest, Some(descriptor.size));
        self.entry(&name, EntryType::Regular, 0o644, descriptor.size, &mut checked)
    }

    fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
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
        self.tar.append(&header, content).map_err(failed)
    }

    fn end(&mut self) -> Result<()> {
        let failed = |source| ImageError::Io {
            action: "write",
            path: PathBuf::from("the end of the archive"),
            source,
        };
        self.tar.finish().map_err(failed)?;
        self.tar.get_mut().flush().map_err(failed)
    }
}

/// Writes an OCI layout as a tar stream (`oci-archive:`).
pub struct OciArchiveWriter<W: Write>(TarStream<W>);

impl<W: Write> OciArchiveWriter<W> {
    /// Writes to `out`, which needs no seeking.
    pub fn new(out: W) -> OciArchiveWriter<W> {
        OciArchiveWriter(TarStream::new(out))
    }
}

impl<W: Write> std::fmt::Debug for OciArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OciArchiveWriter")
    }
}

impl<W: Write> ImageWriter for OciArchiveWriter<W> {
    fn add_blob(&mut self, descriptor: &Descriptor, content: &mut dyn Read) -> Result<()> {
        self.0.blob(descriptor, content)
    }

    fn finish(&mut self, manifests: &[NamedManifest]) -> Result<()> {
        self.0.file("index.json", &index_json(manifests))?;
        self.0.file("oci-layout", OCI_LAYOUT)?;
        self.0.end()
    }
}

/// Writes what `docker load` reads: an OCI layout with Docker's `manifest.json` beside, as Docker itself saves since version 25.
pub struct DockerArchiveWriter<W: Write> {
    stream: TarStream<W>,
    /// The manifests added, to be said again in Docker's words.
    manifests: BTreeMap<Digest, Manifest>,
}

impl<W: Write> DockerArchiveWriter<W> {
    /// Writes to `out`, which needs no seeking.
    pub fn new(out: W) -> DockerArchiveWriter<W> {
        DockerArchiveWriter { stream: TarStream::new(out), manifests: BTreeMap::new() }
    }
}

impl<W: Write> std::fmt::Debug for DockerArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DockerArchiveWriter")
    }
}

#[derive(Serialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
    #[serde(rename = "RepoTags")]
    names: Option<Vec<String>>,
}

impl<W: Write> ImageWriter for DockerArchiveWriter<W> {
    fn add_blob(&mut self, descriptor: &Descriptor, content: &mut dyn Read) -> Result<()> {
        let is_document = descriptor.media_type.is_manifest() || descriptor.media_type.is_index();
        if !is_document || descriptor.size > MAX_DOCUMENT {
            return self.stream.blob(descriptor, content);
        }
        let mut bytes = Vec::new();
        let unreadable =
            |source| ImageError::Io { action: "read", path: blob_path(descriptor).into(), source };
        content.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(unreadable)?;
        self.stream.blob(descriptor, &mut &bytes[..])?;
        if let Document::Manifest(manifest) = Document::parse(&descriptor.media_type, &bytes)? {
            self.manifests.insert(descriptor.digest.clone(), manifest);
        }
        Ok(())
    }

    fn finish(&mut self, manifests: &[NamedManifest]) -> Result<()> {
        let mut entries = Vec::new();
        for named in manifests {
            let Some(manifest) = self.manifests.get(&named.descriptor.digest) else {
                let reason = format!(
                    "{} is no manifest of one image; docker load takes no others",
                    named.descriptor.digest
                );
                return Err(ImageError::Invalid { document: "docker archive", reason });
            };
            let names: Vec<String> =
                named.names.iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()).collect();
            entries.push(DockerEntry {
                config: blob_path(&manifest.config),
                layers: manifest.layers.iter().map(blob_path).collect(),
                names: (!names.is_empty()).then_some(names),
            });
        }
        self.stream.file("index.json", &index_json(manifests))?;
        self.stream.file("manifest.json", &canonical_json(&entries))?;
        self.stream.file("oci-layout", OCI_LAYOUT)?;
        self.stream.end()
    }
}
