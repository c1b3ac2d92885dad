//! `docker save` archives from before Docker 25, and podman's and skopeo's `docker-archive`: `manifest.json` names configs and layers by
//! path. They are given manifests, made here, so that the rest of the world sees a layout.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;

use super::reader::{Files, clean};
use crate::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Algorithm, Descriptor, Digest, Digester, ImageConfig, Index,
    MAX_DOCUMENT, Manifest, MediaType, MediaTypeExt, Reference, Result, parse_json,
};

/// What an archive turns out to hold.
pub(super) struct Found {
    pub(super) index: Index,
    pub(super) elsewhere: BTreeMap<Digest, String>,
    pub(super) made: BTreeMap<Digest, Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    layers: Vec<String>,
}

pub(super) fn read(files: &Files) -> Result<Found> {
    let entries: Vec<Entry> = parse_json("docker archive", &files.read("manifest.json", MAX_DOCUMENT)?)?;
    let index = Index::new(MediaType::ImageIndex, Vec::new());
    let mut found = Found { index, elsewhere: BTreeMap::new(), made: BTreeMap::new() };
    for entry in &entries {
        found.add(files, entry)?;
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, files: &Files, entry: &Entry) -> Result<()> {
        let config_name =
            clean(&entry.config).ok_or_else(|| files.unusable("a config's name leaves the archive"))?;
        let config_bytes = files.read(&config_name, MAX_DOCUMENT)?;
        let config = ImageConfig::parse(&config_bytes)?;
        if config.rootfs.diff_ids.len() != entry.layers.len() {
            return Err(files.unusable("a config's diff IDs are not as many as its layers"));
        }
        let config_descriptor = Descriptor::of(MediaType::docker_config(), &config_bytes);
        self.elsewhere.insert(config_descriptor.digest.clone(), config_name);
        let mut layers = Vec::new();
        for (name, diff_id) in entry.layers.iter().zip(&config.rootfs.diff_ids) {
            let name = clean(name).ok_or_else(|| files.unusable("a layer's name leaves the archive"))?;
            let layer = describe_layer(files, &name, &diff_id.0)?;
            self.elsewhere.insert(layer.digest.clone(), name);
            layers.push(layer);
        }
        let manifest = Manifest::new(MediaType::docker_manifest(), config_descriptor, layers).to_bytes();
        let mut descriptor = Descriptor::of(MediaType::docker_manifest(), &manifest);
        descriptor.platform = Some(config.platform());
        self.made.insert(descriptor.digest.clone(), manifest);
        self.index.manifests.extend(named(&descriptor, &entry.repo_tags));
        Ok(())
    }
}

fn named(descriptor: &Descriptor, names: &[String]) -> Vec<Descriptor> {
    let names = names.iter().filter_map(|name| Reference::parse(name).ok());
    let with_name = |name: Reference| {
        let mut entry = descriptor.clone();
        entry.annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), name.to_string());
        if let Some(tag) = name.tag() {
            entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    };
    let entries: Vec<Descriptor> = names.map(with_name).collect();
    if entries.is_empty() { vec![descriptor.clone()] } else { entries }
}

/// A plain layer's digest is its diff ID (checked when it is read); a compressed one must be hashed.
fn describe_layer(files: &Files, name: &str, diff_id: &Digest) -> Result<Descriptor> {
    let (mut content, size) = files.open_file(name)?;
    let failed = |source| files.failed("read", name, source);
    let mut start = Vec::new();
    content.by_ref().take(4).read_to_end(&mut start).map_err(failed)?;
    let media_type = match start[..] {
        [0x1f, 0x8b, ..] => MediaType::docker_layer_gzip(),
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::ImageLayerZstd,
        _ => return Ok(Descriptor::new(MediaType::docker_layer(), diff_id.clone(), size)),
    };
    let mut digester = Digester::new(Algorithm::Sha256);
    digester.update(&start);
    io::copy(&mut content, &mut digester).map_err(failed)?;
    Ok(Descriptor::new(media_type, digester.finish(), size))
}
