//! The documents of a shared cache: OCI manifests, so that any registry keeps them and its collection follows them.
//!
//! | tag | manifest |
//! | --- | --- |
//! | `step-<hex>`, SHA-256 of the step's key and the chain ID of the layers it stands on | one layer: what the step changed |
//! | `content-<hex>`, SHA-256 of a tree's chain ID and what is selected in it | the digest of the selection, as an annotation |
//! | `mount-<hex>`, SHA-256 of a cache mount's name | one layer: the files of the mount |
//!
//! Everything that a reader must know is in the annotations; the config is OCI's empty document. A document says which key
//! it is for, so that one under the wrong tag is not taken for another.

use std::collections::BTreeMap;

use rbuild_image::{Descriptor, DiffId, Digest, Manifest, MediaType};
use rbuild_store::CacheKey;

use super::ahead::MOST;

/// In what the tags are made of: another form of entries gives other tags.
const FORM: &str = "rbuild-cache 1";
/// What the manifest is for (OCI image specification, `artifactType`).
const ARTIFACT: &str = "application/vnd.rbuild.cache.v1";
/// OCI's empty document, for config and layers that hold nothing.
pub(super) const EMPTY: &[u8] = b"{}";

const KEY: &str = "dev.rbuild.cache.key";
const BELOW: &str = "dev.rbuild.cache.below";
const DIFF_ID: &str = "dev.rbuild.cache.diff-id";
const CREATED: &str = "dev.rbuild.cache.created";
const CONTENT: &str = "dev.rbuild.cache.content";
const NEXT: &str = "dev.rbuild.cache.next";

/// What a step gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) diff_id: DiffId,
    pub(super) descriptor: Descriptor,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// Tags that the build which made it asked for next: a guess at what will be asked for. [`MOST`] at most.
    pub(super) next: Vec<String>,
}

fn hex(parts: &[&str]) -> String {
    Digest::sha256_of(format!("{FORM}\n{}", parts.join("\n"))).hex().to_owned()
}

/// The tag of a step's result.
pub(super) fn step_tag(key: &CacheKey, below: &str) -> String {
    format!("step-{}", hex(&[&key.to_string(), below]))
}

/// The tag of what is selected in a tree.
pub(super) fn content_tag(chain: &str, selection: &str) -> String {
    format!("content-{}", hex(&[chain, selection]))
}

/// The tag of a cache mount.
pub(super) fn mount_tag(identity: &str) -> String {
    format!("mount-{}", hex(&[identity]))
}

/// Whether it may be a step's or a selection's.
fn is_tag(text: &str) -> bool {
    let hash = text.strip_prefix("step-").or_else(|| text.strip_prefix("content-"));
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The descriptor of OCI's empty document.
pub(super) fn empty() -> Descriptor {
    Descriptor::of(MediaType::from("application/vnd.oci.empty.v1+json"), EMPTY)
}

fn manifest<const N: usize>(layer: Descriptor, annotations: [(&str, String); N]) -> Manifest {
    let mut manifest = Manifest::new(MediaType::ImageManifest, empty(), vec![layer]);
    manifest.extra.insert("artifactType".to_owned(), ARTIFACT.into());
    manifest.annotations = annotations.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    manifest
}

impl Entry {
    /// The document of a step's result.
    pub(super) fn manifest(&self, key: &CacheKey, below: &str) -> Manifest {
        let annotations = [
            (KEY, key.to_string()),
            (BELOW, below.to_owned()),
            (DIFF_ID, self.diff_id.0.to_string()),
            (CREATED, self.created.to_string()),
            (NEXT, self.next.join(" ")),
        ];
        manifest(self.descriptor.clone(), annotations)
    }

    /// Reads what [`Entry::manifest`] wrote.
    pub(super) fn parse(bytes: &[u8], key: &CacheKey, below: &str) -> Result<Entry, String> {
        let manifest = read(bytes)?;
        let annotation = |name| annotation(&manifest.annotations, name);
        if annotation(KEY)? != key.to_string() || annotation(BELOW)? != below {
            return Err("it is for another step".to_owned());
        }
        let diff_id =
            annotation(DIFF_ID)?.parse().map_err(|error| format!("its diff ID is none: {error}"))?;
        let created = annotation(CREATED)?.parse().map_err(|_| "its time is none".to_owned())?;
        // A guess may be missing, or be any text.
        let next = annotation(NEXT).unwrap_or_default();
        let next = next.split(' ').filter(|tag| is_tag(tag)).take(MOST).map(str::to_owned).collect();
        Ok(Entry { diff_id: DiffId(diff_id), descriptor: only_layer(&manifest)?, created, next })
    }
}

/// The document of a selection's digest.
pub(super) fn content_manifest(digest: &Digest) -> Manifest {
    manifest(empty(), [(CONTENT, digest.to_string())])
}

/// Reads what [`content_manifest`] wrote.
pub(super) fn parse_content(bytes: &[u8]) -> Result<Digest, String> {
    let manifest = read(bytes)?;
    let digest = annotation(&manifest.annotations, CONTENT)?.parse();
    digest.map_err(|error| format!("its digest is none: {error}"))
}

/// The document of a cache mount's files.
pub(super) fn mount_manifest(files: &Descriptor) -> Manifest {
    manifest(files.clone(), [])
}

/// Reads what [`mount_manifest`] wrote.
pub(super) fn parse_mount(bytes: &[u8]) -> Result<Descriptor, String> {
    only_layer(&read(bytes)?)
}

fn read(bytes: &[u8]) -> Result<Manifest, String> {
    let manifest = Manifest::parse(bytes).map_err(|error| error.to_string())?;
    match manifest.extra.get("artifactType").and_then(serde_json::Value::as_str) {
        Some(ARTIFACT) => Ok(manifest),
        _ => Err("it is no entry of this form".to_owned()),
    }
}

/// The layer's media type, digest and size: its annotations, or where else it might be had, are not ours to follow.
fn only_layer(manifest: &Manifest) -> Result<Descriptor, String> {
    match manifest.layers.as_slice() {
        [layer] => Ok(Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size)),
        layers => Err(format!("it has {} layers", layers.len())),
    }
}

fn annotation<'a>(annotations: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str, String> {
    annotations.get(name).map(String::as_str).ok_or_else(|| format!("it says no {name}"))
}

#[cfg(test)]
mod tests {
    use rbuild_store::KeyParts;

    use super::*;

    fn entry() -> Entry {
        Entry {
            diff_id: DiffId(Digest::sha256_of(b"tar")),
            descriptor: Descriptor::of(MediaType::ImageLayerGzip, b"blob"),
            created: 7,
            next: vec![content_tag("a", "b"), step_tag(&KeyParts::new().key(), "scratch")],
        }
    }

    #[test]
    fn entries_come_back_as_they_went() {
        let key = KeyParts::new().text("a", "b").key();
        let bytes = entry().manifest(&key, "scratch").to_bytes();
        assert_eq!(Entry::parse(&bytes, &key, "scratch"), Ok(entry()));
        // Whoever may write to the cache may write any guess.
        let [fine, other] = [content_tag("a", "b"), mount_tag("a")];
        for (given, read) in [(vec![&fine; MOST + 1], vec![&fine; MOST]), (vec![&other, &fine], vec![&fine])]
        {
            let next = given.into_iter().cloned().chain(["../x".to_owned(), String::new()]).collect();
            let bytes = Entry { next, ..entry() }.manifest(&key, "scratch").to_bytes();
            assert_eq!(
                Entry::parse(&bytes, &key, "scratch").unwrap().next,
                Vec::from_iter(read.into_iter().cloned())
            );
        }
        let digest = Digest::sha256_of(b"files");
        assert_eq!(parse_content(&content_manifest(&digest).to_bytes()), Ok(digest));
    }

    #[test]
    fn a_document_counts_only_for_its_own_key() {
        let (key, other) = (KeyParts::new().text("a", "b").key(), KeyParts::new().key());
        let bytes = entry().manifest(&key, "scratch").to_bytes();
        assert!(Entry::parse(&bytes, &other, "scratch").unwrap_err().contains("another step"));
        assert!(Entry::parse(&bytes, &key, "sha256:00").unwrap_err().contains("another step"));
        for damaged in [
            &b"{}"[..],
            b"",
            b"[]",
            &bytes[..bytes.len() - 1],
            &content_manifest(&Digest::sha256_of(b"")).to_bytes(),
        ] {
            assert!(Entry::parse(damaged, &key, "scratch").is_err());
        }
    }

    /// Tags are shared between machines: these may change only with [`FORM`].
    #[test]
    fn tags_are_short_and_distinct() {
        let key = KeyParts::new().key();
        let tags = [step_tag(&key, "scratch"), step_tag(&key, "x"), content_tag("a", "b"), mount_tag("a\nb")];
        assert!(tags.iter().all(|tag| tag.len() <= 72), "{tags:?}");
        assert_eq!(tags.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
