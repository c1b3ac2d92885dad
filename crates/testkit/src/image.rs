//! Images made in memory: a few files, a config, a manifest.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use rbuild_image::{
    Descriptor, Digest, HistoryEntry, ImageConfig, Manifest, MediaType, MediaTypeExt, Platform,
};
use tar::{EntryType, Header};

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct TarEntry {
    /// Name in the tar, without a leading slash.
    pub path: String,
    /// What it is.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Target of a symbolic or hard link.
    pub link: String,
    /// Content of a file.
    pub content: Vec<u8>,
}

impl TarEntry {
    fn new(path: &str, kind: EntryType, mode: u32) -> TarEntry {
        TarEntry {
            path: path.to_owned(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            link: String::new(),
            content: Vec::new(),
        }
    }

    /// A regular file of root's, mode 0644.
    pub fn file(path: &str, content: impl AsRef<[u8]>) -> TarEntry {
        TarEntry { content: content.as_ref().to_vec(), ..TarEntry::new(path, EntryType::Regular, 0o644) }
    }

    /// A directory of root's, mode 0755.
    pub fn directory(path: &str) -> TarEntry {
        TarEntry::new(path, EntryType::Directory, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> TarEntry {
        TarEntry { link: target.to_owned(), ..TarEntry::new(path, EntryType::Symlink, 0o777) }
    }

    /// A hard link to another entry.
    pub fn hard_link(path: &str, target: &str) -> TarEntry {
        TarEntry { link: target.to_owned(), ..TarEntry::new(path, EntryType::Link, 0o644) }
    }

    /// The same with other permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> TarEntry {
        TarEntry { mode, ..self }
    }

    /// The same with another owner.
    #[must_use]
    pub fn owner(self, uid: u64, gid: u64) -> TarEntry {
        TarEntry { uid, gid, ..self }
    }
}

/// The tar of a layer, times 0.
///
/// # Panics
///
/// On names that fit no tar header.
pub fn layer_tar(entries: &[TarEntry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(0);
        header.set_size(entry.content.len() as u64);
        if entry.link.is_empty() {
            tar.append_data(&mut header, &entry.path, &entry.content[..]).expect("a tar in memory");
        } else {
            tar.append_link(&mut header, &entry.path, &entry.link).expect("a tar in memory");
        }
    }
    tar.into_inner().expect("a tar in memory")
}

/// Starts an image for the host's platform without layers.
pub fn tiny_image() -> TinyImage {
    TinyImage { config: ImageConfig::scratch(&Platform::host()), layers: Vec::new(), docker_types: false }
}

/// An image in memory.
#[derive(Clone, Debug)]
pub struct TinyImage {
    /// Its config; change it at will.
    pub config: ImageConfig,
    /// Its layers, gzipped.
    pub layers: Vec<Vec<u8>>,
    docker_types: bool,
}

impl TinyImage {
    /// Adds a layer of these entries.
    #[must_use]
    pub fn layer(self, entries: &[TarEntry]) -> TinyImage {
        let tar = layer_tar(entries);
        self.layer_of(&tar)
    }

    /// Adds a layer of a tar as it is.
    ///
    /// # Panics
    ///
    /// Never: it compresses in memory.
    #[must_use]
    pub fn layer_of(mut self, tar: &[u8]) -> TinyImage {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(tar).expect("gzip in memory");
        self.layers.push(gzip.finish().expect("gzip in memory"));
        self.config.rootfs.diff_ids.push(Digest::sha256_of(tar).into());
        self.config
            .history
            .push(HistoryEntry { created_by: "COPY files".to_owned(), ..HistoryEntry::default() });
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn platform(mut self, text: &str) -> TinyImage {
        let platform = Platform::parse(text).expect("a platform");
        (self.config.os, self.config.architecture, self.config.variant) =
            (platform.os, platform.architecture, platform.variant);
        self
    }

    /// Uses Docker's media types instead of OCI's.
    #[must_use]
    pub fn docker_types(self) -> TinyImage {
        TinyImage { docker_types: true, ..self }
    }

    /// The media type of the manifest.
    pub fn media_type(&self) -> MediaType {
        if self.docker_types { MediaType::docker_manifest() } else { MediaType::ImageManifest }
    }

    /// The manifest.
    pub fn manifest(&self) -> Manifest {
        let (config_type, layer_type) = match self.docker_types {
            true => (MediaType::docker_config(), MediaType::docker_layer_gzip()),
            false => (MediaType::ImageConfig, MediaType::ImageLayerGzip),
        };
        let layers = self.layers.iter().map(|layer| Descriptor::of(layer_type.clone(), layer)).collect();
        Manifest::new(self.media_type(), Descriptor::of(config_type, &self.config.to_bytes()), layers)
    }

    /// The manifest's descriptor, with the platform, as an index lists it.
    pub fn descriptor(&self) -> Descriptor {
        let mut descriptor = Descriptor::of(self.media_type(), &self.manifest().to_bytes());
        descriptor.platform = Some(self.config.platform());
        descriptor
    }

    /// Config and layers: all blobs that a registry must hold beside the manifest.
    pub fn blobs(&self) -> Vec<(Descriptor, Vec<u8>)> {
        let manifest = self.manifest();
        let contents = std::iter::once(self.config.to_bytes()).chain(self.layers.iter().cloned());
        std::iter::once(manifest.config).chain(manifest.layers).zip(contents).collect()
    }
}
