//! Asking for manifests, and choosing the image for a platform.

use rbuild_image::{
    Descriptor, Digest, Document, ImageConfig, ImageError, Index, MAX_DOCUMENT, Manifest, MediaType,
    MediaTypeExt, Platform, Reference, select_manifest,
};
use ureq::http::Method;

use crate::client::RepositoryCall;
use crate::http::Answer;
use crate::registries::Endpoint;
use crate::{Client, ErrorKind, RegistryError, Result, url};

/// How deep indexes may point to indexes.
const MAX_NESTING: usize = 3;

/// A manifest or index as it came, checked against its digest.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// The document.
    pub bytes: Vec<u8>,
    /// Its digest, the same as the descriptor's.
    pub digest: Digest,
    /// Where it was found.
    pub endpoint: Endpoint,
}

/// An image chosen for a platform, with everything but its layers.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// What was asked for.
    pub reference: Reference,
    /// Digest of the manifest of the platform.
    pub manifest_digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it came.
    pub manifest_bytes: Vec<u8>,
    /// The index that it was chosen from, if any.
    pub index: Option<Fetched>,
    /// The config as it came.
    pub config_bytes: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
}

impl ResolvedImage {
    /// What the tag itself points to: the index's digest, else the manifest's.
    pub fn digest(&self) -> &Digest {
        self.index.as_ref().map_or(&self.manifest_digest, |index| &index.digest)
    }
}

impl Client {
    /// Gets a manifest or index by digest or tag, from the first of the image's mirrors or its registry that has it.
    pub fn manifest(&self, reference: &Reference) -> Result<Fetched> {
        self.first_endpoint(reference, |endpoint| self.retry.run(|| self.manifest_from(endpoint)))
    }

    /// What the reference points to now, without the document itself; none if it does not exist.
    pub fn head(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        let found = self.first_endpoint(reference, |endpoint| self.retry.run(|| self.head_from(endpoint)));
        match found {
            Ok(descriptor) => Ok(Some(descriptor)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds the image for `platform`: the manifest (through an index if there is one) and the config.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage> {
        let mut fetched = self.manifest(reference)?;
        let mut index = None;
        for _ in 0..MAX_NESTING {
            match parse_document(&fetched)? {
                Document::Manifest(manifest) => return self.with_config(reference, manifest, fetched, index),
                Document::Index(document) => {
                    let chosen = choose(&document, platform)?;
                    let next = self.manifest(&reference.with_digest(chosen))?;
                    let outer = std::mem::replace(&mut fetched, next);
                    index.get_or_insert(outer);
                }
            }
        }
        let reason = format!("indexes are nested more than {MAX_NESTING} deep");
        Err(ImageError::Invalid { document: "index", reason }.into())
    }

    fn with_config(
        &self,
        reference: &Reference,
        manifest: Manifest,
        fetched: Fetched,
        index: Option<Fetched>,
    ) -> Result<ResolvedImage> {
        let descriptor = &manifest.config;
        if descriptor.size > MAX_DOCUMENT {
            let reason = format!("it has {} bytes, more than {MAX_DOCUMENT}", descriptor.size);
            return Err(ImageError::Invalid { document: "image config", reason }.into());
        }
        if !descriptor.media_type.is_config() {
            let reason =
                format!("it is of type `{}`, so this is no image of a file system", descriptor.media_type);
            return Err(ImageError::Invalid { document: "image config", reason }.into());
        }
        let mut sink = Vec::new();
        self.blob(reference, descriptor, &mut sink, &|_| {})?;
        let config = ImageConfig::parse(&sink)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            let (layers, ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
            let reason = format!("it lists {ids} diff IDs, the manifest {layers} layers");
            return Err(ImageError::Invalid { document: "image config", reason }.into());
        }
        let (manifest_digest, manifest_bytes) = (fetched.digest, fetched.bytes);
        let reference = reference.clone();
        Ok(ResolvedImage {
            reference,
            manifest_digest,
            manifest,
            manifest_bytes,
            index,
            config_bytes: sink,
            config,
        })
    }

    fn manifest_from(&self, endpoint: &Endpoint) -> Result<Fetched> {
        let answer = self.ask_manifest(Method::GET, endpoint)?;
        let media_type = content_type(&answer);
        let announced = announced_digest(&answer);
        let shown = url::redacted(&answer.url);
        let content = |source| RegistryError::Content { url: shown.clone(), source };
        if media_type.is_schema1() {
            // The sentence about schema 1 is the document parser's.
            Document::parse(&media_type, b"{}").map_err(content)?;
        }
        let bytes = answer.read(MAX_DOCUMENT)?;
        let expected = endpoint.reference.digest().cloned().or(announced);
        let digest =
            expected.as_ref().map_or_else(|| Digest::sha256_of(&bytes), |known| digest_like(known, &bytes));
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(content(ImageError::DigestMismatch {
                expected: Box::new(expected),
                actual: Box::new(digest),
            }));
        }
        let media_type = own_media_type(&bytes).unwrap_or(media_type);
        let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        Ok(Fetched { descriptor, bytes, digest, endpoint: endpoint.clone() })
    }

    fn head_from(&self, endpoint: &Endpoint) -> Result<Descriptor> {
        let answer = self.ask_manifest(Method::HEAD, endpoint)?;
        let digest = endpoint.reference.digest().cloned().or(announced_digest(&answer));
        match (digest, answer.content_length()) {
            (Some(digest), Some(size)) => Ok(Descriptor::new(content_type(&answer), digest, size)),
            // Some registries leave the digest out of HEAD.
            _ => Ok(self.manifest_from(endpoint)?.descriptor),
        }
    }

    fn ask_manifest(&self, method: Method, endpoint: &Endpoint) -> Result<Answer> {
        let path = format!("manifests/{}", endpoint.reference.identifier());
        let mut call = RepositoryCall::pull(method, endpoint, path);
        call.headers.push(("Accept".into(), accepted()));
        self.ask(endpoint, call)?.expect(&[200])
    }
}

fn parse_document(fetched: &Fetched) -> Result<Document> {
    let shown = format!("{}@{}", fetched.endpoint.reference.repository(), fetched.digest);
    Document::parse(&fetched.descriptor.media_type, &fetched.bytes)
        .map_err(|source| RegistryError::Content { url: shown, source })
}

fn choose(index: &Index, platform: &Platform) -> Result<Digest> {
    Ok(select_manifest(index, platform)?.digest.clone())
}

fn accepted() -> String {
    let types = [
        MediaType::ImageManifest,
        MediaType::ImageIndex,
        MediaType::docker_manifest(),
        MediaType::docker_manifest_list(),
        // Asked for so that the refusal can say what it is; with less, registries convert or answer 404.
        MediaType::Other("application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1".to_owned()),
    ];
    types.map(|kind| kind.to_string()).join(", ")
}

fn content_type(answer: &Answer) -> MediaType {
    let value = answer.header("content-type").unwrap_or_default();
    MediaType::from(value.split(';').next().unwrap_or_default().trim())
}

fn announced_digest(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}

fn digest_like(known: &Digest, bytes: &[u8]) -> Digest {
    let mut digester = known.digester();
    digester.update(bytes);
    digester.finish()
}

/// Proxies and object stores change the Content-Type; the document's own word is covered by its digest.
fn own_media_type(bytes: &[u8]) -> Option<MediaType> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(MediaType::from(value.get("mediaType")?.as_str()?))
}
