//! `type=inline`: the image itself says which step each of its layers is.
//!
//! In the image config, under [`KEY`]: `[{"layer":2,"key":"…","created":1700000000}, …]`, positions among the diff IDs. The
//! reference's own key for the same purpose is another format, of another builder's keys, and of no use here.

use std::collections::BTreeMap;

use rbuild_image::{Descriptor, Document, ImageConfig, Manifest, Platform, Reference, chain_id};
use rbuild_registry::{Client, ErrorKind};
use rbuild_store::CacheKey;
use serde::{Deserialize, Serialize};

use super::Made;
use super::entry::{Entry, step_tag};

/// Our key in the image config, and the reference's.
const KEY: &str = "dev.rbuild.cache.v1";
const REFERENCE_KEY: &str = "moby.buildkit.cache.v0";
/// What the config of a cache of the reference's is.
const REFERENCE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Entries by tag.
pub(super) type InlineEntries = BTreeMap<String, Entry>;

#[derive(Debug, Serialize, Deserialize)]
struct InlineStep {
    layer: usize,
    key: CacheKey,
    created: i64,
}

/// Writes which steps made the layers of an image into its config.
pub(crate) fn add_inline(config: &mut ImageConfig, made: &[Made]) {
    let step = |made: &Made| InlineStep { layer: made.layer, key: made.key.clone(), created: made.created };
    let steps: Vec<InlineStep> = made.iter().map(step).collect();
    config.extra.insert(KEY.to_owned(), serde_json::json!(steps));
}

/// Takes out what a base image says of its own steps: it would be wrong of an image with more.
pub(crate) fn strip_inline(config: &mut ImageConfig) {
    config.extra.remove(KEY);
    config.extra.remove(REFERENCE_KEY);
}

/// What the image of this name says of its layers; nothing where there is no such image.
pub(super) fn read(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<InlineEntries, String> {
    let fetched = match client.manifest(reference) {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(InlineEntries::new()),
        Err(error) => return Err(error.to_string()),
    };
    let document = Document::parse(&fetched.descriptor.media_type, &fetched.bytes);
    if let Ok(Document::Manifest(manifest)) = &document
        && manifest.config.media_type.to_string() == REFERENCE_CONFIG
    {
        return Err("it is a cache in BuildKit's format, which rbuild does not read".to_owned());
    }
    match client.resolve(reference, platform) {
        Ok(image) if image.config.extra.contains_key(KEY) => entries(&image.config, &image.manifest),
        Ok(image) if image.config.extra.contains_key(REFERENCE_KEY) => {
            Err("the image's inline cache is in BuildKit's format, which rbuild does not read".to_owned())
        }
        Ok(_) => Ok(InlineEntries::new()),
        Err(error) if error.kind() == ErrorKind::NoPlatform => Ok(InlineEntries::new()),
        Err(error) => Err(error.to_string()),
    }
}

fn entries(config: &ImageConfig, manifest: &Manifest) -> Result<InlineEntries, String> {
    let steps = config.extra.get(KEY).cloned().unwrap_or_default();
    let steps: Vec<InlineStep> =
        serde_json::from_value(steps).map_err(|error| format!("its inline cache is damaged: {error}"))?;
    let diff_ids = &config.rootfs.diff_ids;
    let entry = |step: InlineStep| {
        let (diff_id, layer) = (diff_ids.get(step.layer)?, manifest.layers.get(step.layer)?);
        let below =
            chain_id(&diff_ids[..step.layer]).map_or("scratch".to_owned(), |chain| chain.0.to_string());
        let descriptor = Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size);
        let entry = Entry { diff_id: diff_id.clone(), descriptor, created: step.created, next: Vec::new() };
        Some((step_tag(&step.key, &below), entry))
    };
    Ok(steps.into_iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use rbuild_image::{DiffId, Digest, MediaType};
    use rbuild_store::KeyParts;

    use super::*;

    #[test]
    fn an_image_says_which_step_a_layer_is() {
        let mut config = ImageConfig::default();
        let diff_ids = [b"base", b"step"].map(|bytes| DiffId(Digest::sha256_of(bytes)));
        config.rootfs.diff_ids = diff_ids.to_vec();
        let key = KeyParts::new().key();
        let made = Made {
            key: key.clone(),
            layer: 1,
            created: 7,
            anew: false,
            origin: None,
            kept: true,
            contents: Vec::new(),
        };
        let beyond = Made { layer: 2, ..made.clone() };
        add_inline(&mut config, &[made, beyond]);
        let config = ImageConfig::parse(&config.to_bytes()).unwrap();
        let layers = [b"base", b"blob"].map(|bytes| Descriptor::of(MediaType::ImageLayerGzip, bytes));
        let manifest = Manifest::new(MediaType::ImageManifest, layers[0].clone(), layers.to_vec());
        let read = entries(&config, &manifest).unwrap();
        let entry = Entry {
            diff_id: diff_ids[1].clone(),
            descriptor: layers[1].clone(),
            created: 7,
            next: Vec::new(),
        };
        assert_eq!(read, InlineEntries::from([(step_tag(&key, diff_ids[0].0.as_str()), entry)]));
        let mut stripped = config;
        strip_inline(&mut stripped);
        assert!(stripped.extra.is_empty());
    }
}
