//! The client: what it is made of, and asking for manifests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use rbuild_image::{
    Descriptor, Digest, Document, ImageConfig, ImageError, Index, MAX_DOCUMENT, Manifest, MediaType,
    MediaTypeExt, Platform, Reference, select_manifest,
};
use ureq::http::{Method, Uri};

use crate::auth::{Login, Tokens};
use crate::http::{Answer, Call, Headers, Http, Payload, protocol};
use crate::registries::Endpoint;
use crate::{
    ClientOptions, CredentialStore, ErrorKind, HelperRunner, RegistriesConf, RegistryError, Result,
    RetryPolicy, url,
};

/// How deep indexes may point to indexes.
const MAX_NESTING: usize = 3;
/// How often a 401 is answered with a new token before it counts.
const MAX_LOGINS: usize = 2;

/// A base URL, once it is found out.
type BaseSlot = Arc<Mutex<Option<Uri>>>;

/// Talks to registries; shared by all threads of a build.
pub struct Client {
    pub(crate) http: Http,
    pub(crate) registries: RegistriesConf,
    pub(crate) retry: RetryPolicy,
    credentials: CredentialStore,
    helper: Option<Arc<dyn HelperRunner>>,
    tokens: Tokens,
    /// The base URL of each registry, once found out; the lock of one is held while that is done.
    bases: Mutex<BTreeMap<(String, bool), BaseSlot>>,
    /// Logins looked up, so that a helper's program runs once.
    logins: Mutex<BTreeMap<String, Option<crate::Credential>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("http", &self.http)
            .field("registries", &self.registries)
            .finish_non_exhaustive()
    }
}

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

/// A request to one repository, before it is known where the registry answers and who we are there.
pub(crate) struct RepositoryCall<'call> {
    pub(crate) method: Method,
    /// After `/v2/<repository>/`, or a whole URL that the registry gave.
    pub(crate) target: Target,
    pub(crate) headers: Headers,
    /// What the token must allow.
    pub(crate) scopes: Vec<String>,
    pub(crate) body: Option<&'call [u8]>,
}

/// Where within a repository.
pub(crate) enum Target {
    Path(String),
    Url(Uri),
}

impl RepositoryCall<'_> {
    pub(crate) fn pull(method: Method, endpoint: &Endpoint, path: String) -> RepositoryCall<'static> {
        let scopes = vec![format!("repository:{}:pull", endpoint.reference.path())];
        RepositoryCall { method, target: Target::Path(path), headers: Vec::new(), scopes, body: None }
    }
}

impl Client {
    /// Makes a client; nothing is asked of anyone yet.
    pub fn new(options: ClientOptions) -> Result<Client> {
        Ok(Client {
            http: Http::new(&options)?,
            registries: options.registries,
            retry: options.retry,
            credentials: options.credentials,
            helper: options.helper,
            tokens: Tokens::default(),
            bases: Mutex::default(),
            logins: Mutex::default(),
        })
    }

    /// What an image name may mean, in the order to try; see [`RegistriesConf::candidates`].
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>> {
        self.registries.candidates(name)
    }

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

    /// Asks the mirrors in order, then the registry itself; the latter's error counts.
    pub(crate) fn first_endpoint<T>(
        &self,
        reference: &Reference,
        mut ask: impl FnMut(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let mut mirrors = Vec::new();
        for endpoint in self.registries.resolve(reference)? {
            match ask(&endpoint) {
                Ok(value) => return Ok(value),
                // A full disk here is no reason to ask someone else.
                Err(error) if error.kind() == ErrorKind::Local => return Err(error),
                Err(error) if endpoint.mirror => {
                    mirrors.push(format!("{}: {error}", endpoint.reference.domain()))
                }
                Err(error) if mirrors.is_empty() => return Err(error),
                Err(error) => {
                    let reference = reference.to_string();
                    return Err(RegistryError::Endpoints { reference, mirrors, source: Box::new(error) });
                }
            }
        }
        // `resolve` always ends with the registry itself.
        Err(RegistryError::Blocked {
            reference: reference.to_string(),
            prefix: reference.domain().to_owned(),
        })
    }

    /// One request to a repository, logged in as far as the registry asks for it. Any other status than 401 is an answer.
    pub(crate) fn ask(&self, endpoint: &Endpoint, call: RepositoryCall<'_>) -> Result<Answer> {
        let body = call.body;
        self.ask_with(endpoint, call, &mut || Ok(body.map_or(Payload::None, Payload::Bytes)))
    }

    /// As [`Client::ask`], with a body that is opened for each try.
    pub(crate) fn ask_with<'body>(
        &self,
        endpoint: &Endpoint,
        call: RepositoryCall<'_>,
        open: &mut dyn FnMut() -> Result<Payload<'body>>,
    ) -> Result<Answer> {
        let base = self.base(endpoint)?;
        let target = match &call.target {
            Target::Url(url) => url.clone(),
            Target::Path(path) => repository_url(&base, &endpoint.reference, path)?,
        };
        // An upload that the registry sends to a storage host carries its own permission in the URL.
        let ours = url::origin(&target) == url::origin(&base);
        let slot = self.tokens.slot(&base.to_string(), &call.scopes);
        let mut logins = 0;
        loop {
            let (authorization, generation) = slot.authorization();
            let answer = self.http.send(Call {
                method: call.method.clone(),
                url: target.clone(),
                headers: call.headers.clone(),
                authorization: authorization.filter(|_| ours),
                insecure: endpoint.insecure || url::is_loopback(url::host_of(endpoint.reference.domain())),
                body: open()?,
            })?;
            // A 401 of a host that a redirect led to is not about our login.
            let asked_by_us = ours && url::origin(&answer.url) == url::origin(&base);
            if answer.status != 401 || !asked_by_us || logins == MAX_LOGINS {
                return Ok(answer);
            }
            let credential = self.login(&endpoint.reference.repository())?;
            let login = Login { credential, scopes: &call.scopes, insecure: endpoint.insecure };
            if !slot.renew(&self.http, &answer, &login, generation)? {
                return Ok(answer);
            }
            logins += 1;
        }
    }

    fn login(&self, repository: &str) -> Result<Option<crate::Credential>> {
        let mut logins = self.logins.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = logins.get(repository) {
            return Ok(known.clone());
        }
        let found = self.credentials.lookup(repository, self.helper.as_deref())?;
        logins.insert(repository.to_owned(), found.clone());
        Ok(found)
    }

    /// The base URL of an endpoint's registry, found out once.
    fn base(&self, endpoint: &Endpoint) -> Result<Uri> {
        let domain = endpoint.reference.domain().to_owned();
        let key = (domain, endpoint.insecure);
        let slot = Arc::clone(
            self.bases.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entry(key).or_default(),
        );
        let mut base = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = &*base {
            return Ok(known.clone());
        }
        let found = self.find_base(endpoint)?;
        *base = Some(found.clone());
        Ok(found)
    }

    /// HTTPS, except that registries on this machine and insecure ones may speak plain HTTP: what answers is used.
    fn find_base(&self, endpoint: &Endpoint) -> Result<Uri> {
        let domain = match endpoint.reference.domain() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let at = |scheme: &str| {
            let text = format!("{scheme}://{domain}/");
            text.parse::<Uri>().map_err(|_| ImageError::Reference { text, reason: "it is no URL".to_owned() })
        };
        let (https, http) = (at("https")?, at("http")?);
        if url::is_loopback(url::host_of(domain)) {
            // Most registries here are plain, and a plain one may wait for ever for the rest of a TLS greeting.
            return Ok(if self.speaks(&http)? { http } else { https });
        }
        match endpoint.insecure {
            true => Ok(if self.speaks(&https)? { https } else { http }),
            false => Ok(https),
        }
    }

    /// Does the server answer at `base` in the scheme's own way?
    fn speaks(&self, base: &Uri) -> Result<bool> {
        let url = url::join(base, "/v2/").ok_or_else(|| protocol(&Method::GET, base, "no URL"))?;
        let (headers, authorization) = (Vec::new(), None);
        let call =
            Call { method: Method::GET, url, headers, authorization, insecure: true, body: Payload::None };
        match self.http.send(call) {
            // Go's servers answer plain HTTP on a TLS port with 400 and a sentence.
            Ok(answer) if answer.status == 400 => {
                Ok(!matches!(answer.read(4096), Ok(text) if text.windows(5).any(|word| word == b"HTTPS")))
            }
            Ok(_) => Ok(true),
            Err(RegistryError::Network { transient: false, .. } | RegistryError::Protocol { .. }) => {
                Ok(false)
            }
            Err(_) if base.scheme_str() == Some("https") => Ok(false),
            Err(_) => Ok(true),
        }
    }
}

fn repository_url(base: &Uri, reference: &Reference, path: &str) -> Result<Uri> {
    let text = format!("/v2/{}/{path}", reference.path());
    url::join(base, &text).ok_or_else(|| protocol(&Method::GET, base, "the repository's name fits no URL"))
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
