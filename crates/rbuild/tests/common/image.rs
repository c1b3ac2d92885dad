//! An image read back from an OCI archive: its config, and the files that a container would see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use tar::EntryType;

/// An image: one manifest of an archive.
pub(crate) struct Image {
    /// The digest of the manifest.
    pub(crate) digest: String,
    /// The whole config document; `image.config["config"]["Env"]`.
    pub(crate) config: Value,
    /// The entries of each layer, lowest first, with the names that the archive gives them.
    pub(crate) layers: Vec<Vec<(String, Entry)>>,
    /// All layers applied: absolute path to file. A hard link has its target's entry.
    pub(crate) files: BTreeMap<String, Entry>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky: `0o4755`.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// In seconds since 1970.
    pub(crate) mtime: u64,
    pub(crate) content: Vec<u8>,
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// A symbolic link's or a hard link's target.
    pub(crate) link: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// Only in `layers`.
    HardLink,
    Fifo,
    Device,
}

impl Image {
    /// Reads the only image of an OCI archive.
    pub(crate) fn read(archive: &Path) -> Image {
        let blobs = members(&mut tar::Archive::new(File::open(archive).unwrap()));
        let blob =
            |digest: &Value| blobs[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))].clone();
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let index = json(&blobs["index.json"]);
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 1, "one manifest in {index}");
        let manifest = json(&blob(&manifests[0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        let descriptors = manifest["layers"].as_array().unwrap();
        let layers: Vec<_> = descriptors.iter().map(|layer| read_layer(&blob(&layer["digest"]))).collect();
        let mut files = BTreeMap::new();
        layers.iter().for_each(|layer| apply(layer, &mut files));
        Image { digest: manifests[0]["digest"].as_str().unwrap().to_owned(), config, layers, files }
    }

    /// The file at an absolute path, which must be there.
    #[track_caller]
    pub(crate) fn entry(&self, path: &str) -> &Entry {
        self.files.get(path).unwrap_or_else(|| {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let near: Vec<_> = self.files.keys().filter(|name| name.starts_with(folder)).take(20).collect();
            panic!("no `{path}` in the image; there is {near:?}")
        })
    }

    /// The content of a text file.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> &str {
        std::str::from_utf8(&self.entry(path).content).unwrap()
    }

    /// Whether something is at an absolute path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The paths of the topmost layer, as a container sees them, folders without a final slash.
    pub(crate) fn last_layer(&self) -> Vec<&str> {
        self.layers.last().unwrap().iter().map(|(path, _)| path.as_str()).collect()
    }
}

/// The regular files of an archive.
fn members(archive: &mut tar::Archive<File>) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned(), content);
    }
    members
}

/// A layer's entries; compression is told by the first bytes.
fn read_layer(blob: &[u8]) -> Vec<(String, Entry)> {
    let reader: Box<dyn Read> = match blob {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(blob).unwrap()),
        _ => Box::new(blob),
    };
    let mut archive = tar::Archive::new(reader);
    archive.entries().unwrap().map(|entry| read_entry(entry.unwrap())).collect()
}

fn read_entry(mut entry: tar::Entry<'_, Box<dyn Read + '_>>) -> (String, Entry) {
    let mut content = Vec::new();
    entry.read_to_end(&mut content).unwrap();
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        _ => Kind::File,
    };
    let file = Entry {
        kind,
        mode: header.mode().unwrap() & 0o7777,
        uid: header.uid().unwrap(),
        gid: header.gid().unwrap(),
        mtime: header.mtime().unwrap(),
        content,
        xattrs: BTreeMap::new(),
        link: entry.link_name().unwrap().map(|target| target.to_str().unwrap().to_owned()),
    };
    let path = absolute(entry.path().unwrap().to_str().unwrap());
    (path, Entry { xattrs: xattrs(&mut entry), ..file })
}

/// The extended attributes in an entry's PAX records.
fn xattrs(entry: &mut tar::Entry<'_, Box<dyn Read + '_>>) -> BTreeMap<String, Vec<u8>> {
    let Some(records) = entry.pax_extensions().unwrap() else { return BTreeMap::new() };
    let xattr = |record: tar::PaxExtension<'_>| {
        let name = record.key().unwrap().strip_prefix("SCHILY.xattr.")?;
        Some((name.to_owned(), record.value_bytes().to_vec()))
    };
    records.filter_map(|record| xattr(record.unwrap())).collect()
}

/// `./usr/bin/` → `/usr/bin`.
fn absolute(name: &str) -> String {
    format!("/{}", name.trim_start_matches("./").trim_matches('/'))
}

/// Applies a layer's entries to the files of those below, whiteouts first: they hide only what lower layers hold.
fn apply(layer: &[(String, Entry)], files: &mut BTreeMap<String, Entry>) {
    for (path, _) in layer {
        let (folder, name) = path.rsplit_once('/').unwrap();
        if name == ".wh..wh..opq" {
            files.retain(|file, _| !file.starts_with(&format!("{folder}/")));
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            let hidden = format!("{folder}/{hidden}");
            files.retain(|file, _| *file != hidden && !file.starts_with(&format!("{hidden}/")));
        }
    }
    for (path, entry) in layer {
        if path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
            continue;
        }
        if entry.kind != Kind::Directory {
            files.retain(|file, _| !file.starts_with(&format!("{path}/")));
        }
        let file = match (entry.kind, &entry.link) {
            (Kind::HardLink, Some(target)) => files[&absolute(target)].clone(),
            _ => entry.clone(),
        };
        files.insert(path.clone(), file);
    }
}
