//! Manifests, indexes and the descriptors that join them; Docker's schema 2 and OCI alike.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, ImageError, MediaType, MediaTypeExt, Platform, Result, canonical_json, parse_json};

/// Largest manifest, index or config that is read, in bytes: what registries accept for manifests (4 MiB).
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Annotation of a manifest in an `index.json`: its tag.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of a manifest in an `index.json`: its full name, as containerd and Docker read it.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
const ANNOTATION_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A pointer to content: type, size, digest (OCI image specification, descriptor.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the content is.
    #[serde(rename = "mediaType", default = "no_media_type")]
    pub media_type: MediaType,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Where else it may be had (foreign layers).
    #[serde(
        default,
        deserialize_with = "crate::config::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Free words about it.
    #[serde(
        default,
        deserialize_with = "crate::config::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Which platform it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Keys unknown here, kept.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor of the three fields that every one has.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Descriptor {
        let (urls, annotations, extra) = Default::default();
        Descriptor { media_type, digest, size, urls, annotations, platform: None, extra }
    }

    /// The descriptor of `bytes`, by SHA-256.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::sha256_of(bytes), bytes.len() as u64)
    }

    /// Does it point to an attestation (provenance, SBOM) as BuildKit hangs them into an index?
    pub fn is_attestation(&self) -> bool {
        self.annotations.get(ANNOTATION_REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }
}

fn no_media_type() -> MediaType {
    MediaType::Other(String::new())
}

/// One image: its config and its layers from the bottom up (OCI image specification, manifest.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The manifest's own type; OCI lets it be left out.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, base first.
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Free words about the image.
    #[serde(
        default,
        deserialize_with = "crate::config::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Keys unknown here (`subject`, `artifactType`), kept.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Manifest {
    /// A manifest of `media_type`, OCI's or Docker's.
    pub fn new(media_type: MediaType, config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        let (annotations, extra) = Default::default();
        Manifest { schema_version: 2, media_type: Some(media_type), config, layers, annotations, extra }
    }

    /// Reads a manifest of either kind.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = parse_json("manifest", bytes)?;
        check_version("manifest", manifest.schema_version)?;
        Ok(manifest)
    }

    /// The bytes to store and push.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }
}

/// Several images under one name, one for each platform (OCI image specification, image-index.md; Docker: manifest list).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The index's own type; OCI lets it be left out.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The manifests.
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Free words about all of them.
    #[serde(
        default,
        deserialize_with = "crate::config::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Keys unknown here, kept.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Index {
    /// An index of `media_type`, OCI's or Docker's.
    pub fn new(media_type: MediaType, manifests: Vec<Descriptor>) -> Index {
        let (annotations, extra) = Default::default();
        Index { schema_version: 2, media_type: Some(media_type), manifests, annotations, extra }
    }

    /// Reads an index of either kind.
    pub fn parse(bytes: &[u8]) -> Result<Index> {
        let index: Index = parse_json("index", bytes)?;
        check_version("index", index.schema_version)?;
        Ok(index)
    }

    /// The bytes to store and push.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// The platforms that images (not attestations) are offered for.
    pub fn platforms(&self) -> Vec<Platform> {
        let images = self.manifests.iter().filter(|manifest| !manifest.is_attestation());
        images.filter_map(|manifest| manifest.platform.clone()).collect()
    }
}

/// What a manifest request can answer with.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time exists, and is taken apart at once")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// One of several.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index; `declared` (a Content-Type, a descriptor's media type) decides where the document
    /// does not say itself what it is.
    pub fn parse(declared: &MediaType, bytes: &[u8]) -> Result<Document> {
        let value: Value = parse_json("manifest", bytes)?;
        let own = value.get("mediaType").and_then(Value::as_str).map(MediaType::from);
        let kind = own.as_ref().unwrap_or(declared);
        if kind.is_schema1() || value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            let reason =
                "it is of Docker's schema 1, retired in 2019; push the image again with a current tool"
                    .to_owned();
            return Err(ImageError::Invalid { document: "manifest", reason });
        }
        let has_manifests = value.get("manifests").is_some() && value.get("layers").is_none();
        if kind.is_index() || (!kind.is_manifest() && has_manifests) {
            // A document that is both could mean one thing to us and another to the next tool (CVE-2021-41190).
            if value.get("layers").is_some() || value.get("config").is_some() {
                return Err(ambiguous());
            }
            return Index::parse(bytes).map(Document::Index);
        }
        if value.get("manifests").is_some() {
            return Err(ambiguous());
        }
        Manifest::parse(bytes).map(Document::Manifest)
    }
}

fn ambiguous() -> ImageError {
    let reason = "it claims to be a manifest and an index at once".to_owned();
    ImageError::Invalid { document: "manifest", reason }
}

fn check_version(document: &'static str, version: u32) -> Result<()> {
    match version {
        2 => Ok(()),
        other => {
            Err(ImageError::Invalid { document, reason: format!("its schemaVersion is {other}, not 2") })
        }
    }
}

/// The manifest in `index` that suits `platform` best; attestations are passed over. A single image that does not say what
/// it is for is taken.
pub fn select_manifest<'index>(index: &'index Index, platform: &Platform) -> Result<&'index Descriptor> {
    let images: Vec<&Descriptor> =
        index.manifests.iter().filter(|manifest| !manifest.is_attestation()).collect();
    let distance =
        |manifest: &&Descriptor| manifest.platform.as_ref().and_then(|offered| offered.distance(platform));
    let best = images.iter().filter(|image| distance(image).is_some()).min_by_key(|image| distance(image));
    if let Some(best) = best {
        return Ok(best);
    }
    match images[..] {
        [only] if only.platform.is_none() => Ok(only),
        _ => Err(ImageError::NoPlatform { wanted: Box::new(platform.clone()), offered: index.platforms() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(platform: Option<&str>) -> Descriptor {
        let name = platform.unwrap_or_default();
        let mut descriptor = Descriptor::of(MediaType::ImageManifest, name.as_bytes());
        descriptor.platform = platform.map(|text| match text {
            "unknown/unknown" => Platform::new("unknown", "unknown", None),
            text => Platform::parse(text).unwrap(),
        });
        descriptor
    }

    fn index(platforms: &[Option<&str>]) -> Index {
        Index::new(MediaType::ImageIndex, platforms.iter().map(|platform| image(*platform)).collect())
    }

    #[test]
    fn selects_the_best_and_never_an_attestation() {
        let many = index(&[
            Some("unknown/unknown"),
            Some("linux/arm/v6"),
            Some("linux/arm/v7"),
            Some("linux/amd64"),
        ]);
        for (wanted, found) in [
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/amd64/v2", "linux/amd64"),
        ] {
            let chosen = select_manifest(&many, &Platform::parse(wanted).unwrap()).unwrap();
            assert_eq!(chosen.platform.as_ref().unwrap().to_string(), found);
        }
        let error = select_manifest(&many, &Platform::parse("linux/s390x").unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/s390x; the index offers linux/arm/v6, linux/arm/v7, linux/amd64"
        );
        assert!(select_manifest(&index(&[None]), &Platform::host()).is_ok());
        assert!(select_manifest(&index(&[None, None]), &Platform::host()).is_err());
        assert!(select_manifest(&index(&[Some("unknown/unknown")]), &Platform::host()).is_err());
    }

    #[test]
    fn documents_are_told_apart() {
        let manifest = Manifest::new(MediaType::docker_manifest(), image(None), vec![]).to_bytes();
        let list = index(&[Some("linux/amd64")]).to_bytes();
        let none = MediaType::Other(String::new());
        assert!(matches!(Document::parse(&none, &manifest).unwrap(), Document::Manifest(_)));
        assert!(matches!(Document::parse(&none, &list).unwrap(), Document::Index(_)));
        let untyped = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(&none, untyped).unwrap(), Document::Index(_)));
        let schema1 = br#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#;
        assert!(Document::parse(&none, schema1).unwrap_err().to_string().contains("schema 1"));
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert!(Document::parse(&MediaType::ImageIndex, both).unwrap_err().to_string().contains("at once"));
        assert!(
            Document::parse(&MediaType::ImageManifest, both).unwrap_err().to_string().contains("at once")
        );
    }

    #[test]
    fn platform_versions_and_unknown_keys_survive() {
        let text = r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"amd64","os":"windows","os.version":"10.0"},"size":0,"x-vendor":1}],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"subject":null}"#;
        assert_eq!(String::from_utf8(Index::parse(text.as_bytes()).unwrap().to_bytes()).unwrap(), text);
    }
}
