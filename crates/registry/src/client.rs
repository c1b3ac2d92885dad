//! The client: what it is made of, and how it asks a repository for anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use rbuild_image::Reference;
use ureq::http::{Method, Uri};

use crate::auth::{Login, Renewal, Tokens, authorize};
use crate::http::{Answer, Call, Headers, Http, Payload, protocol};
use crate::lanes::Lanes;
use crate::registries::Endpoint;
use crate::{
    ClientOptions, CredentialStore, ErrorKind, HelperRunner, RegistriesConf, RegistryError, Result,
    RetryPolicy, url,
};

/// A base URL, once it is found out.
type BaseSlot = Arc<Mutex<Option<Uri>>>;

/// Talks to registries; shared by all threads of a build.
pub struct Client {
    pub(crate) http: Http,
    pub(crate) registries: RegistriesConf,
    pub(crate) retry: RetryPolicy,
    pub(crate) lanes: Lanes,
    /// Bytes of the first chunk that is tried.
    pub(crate) chunk: u64,
    /// The chunks that registries get which do not take a blob in one piece, by `host[:port]`, in bytes.
    pub(crate) chunk_sizes: Mutex<BTreeMap<String, u64>>,
    credentials: CredentialStore,
    helper: Option<Arc<dyn HelperRunner>>,
    tokens: Tokens,
    /// The base URL of each registry, once found out; the lock of one is held while that is done.
    pub(crate) bases: Mutex<BTreeMap<(String, bool), BaseSlot>>,
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
#[derive(Clone)]
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
            lanes: Lanes::new(options.transfers),
            chunk: options.chunk.max(1),
            chunk_sizes: Mutex::default(),
            credentials: options.credentials,
            helper: options.helper,
            tokens: Tokens::default(),
            bases: Mutex::default(),
            logins: Mutex::default(),
        })
    }

    /// Reads the system's certificate authorities now instead of when they are first needed: who replaces them later
    /// has no say.
    pub fn read_authorities(&self) {
        self.http.read_authorities();
    }

    /// What an image name may mean, in the order to try; see [`RegistriesConf::candidates`].
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>> {
        self.registries.candidates(name)
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
        let insecure = endpoint.insecure || url::is_loopback(url::host_of(endpoint.reference.domain()));
        let repository = endpoint.reference.repository();
        // What this very call fetched and the registry refuses is not fetched again, unless it came of a login that was
        // looked up long ago.
        let (mut fetched, mut looked_up) = (false, false);
        loop {
            let (authorization, generation) = slot.authorization();
            let sent = authorization.filter(|_| ours);
            let mut answer = self.http.send(Call {
                method: call.method.clone(),
                url: target.clone(),
                headers: call.headers.clone(),
                authorization: sent.clone(),
                insecure,
                body: open()?,
            })?;
            // A 401 of a host that a redirect led to is not about our login.
            let asked_by_us = ours && url::origin(&answer.url) == url::origin(&base);
            if looked_up || !asked_by_us || !wants_login(&mut answer, sent.as_deref()) {
                return Ok(answer);
            }
            let known = self.known_login(&repository);
            // What worked until now may have run out at the helper, too.
            let again = fetched || generation > 0;
            let renewal = slot.renew(generation, || {
                let credential = self.login(&repository, again)?;
                if fetched && known.as_ref() == Some(&credential) {
                    return Ok(None);
                }
                let login = Login { credential, scopes: &call.scopes, insecure, offline: false };
                let granted = authorize(&self.http, &answer, &login, sent.as_deref())?;
                Ok(granted.map(|granted| granted.header))
            })?;
            match renewal {
                Renewal::Nothing => return Ok(answer),
                Renewal::Fetched => (fetched, looked_up) = (true, again || known.is_none()),
                Renewal::ByAnother => {}
            }
        }
    }

    fn known_login(&self, repository: &str) -> Option<Option<crate::Credential>> {
        self.logins.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(repository).cloned()
    }

    /// The login for a repository; `again` asks files and helpers anew.
    fn login(&self, repository: &str, again: bool) -> Result<Option<crate::Credential>> {
        let mut logins = self.logins.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = logins.get(repository).filter(|_| !again) {
            return Ok(known.clone());
        }
        let found = self.credentials.lookup(repository, self.helper.as_deref())?;
        logins.insert(repository.to_owned(), found.clone());
        Ok(found)
    }
}

/// Whether an answer asks for a login, or for another one. Amazon's says of a password that ran out that it is denied, in words
/// alone; of HEAD not even that.
fn wants_login(answer: &mut Answer, sent: Option<&str>) -> bool {
    let with_password = sent.is_some_and(|sent| sent.starts_with("Basic "));
    match answer.status {
        401 => true,
        403 if with_password => {
            answer.method == Method::HEAD || answer.peek().to_ascii_lowercase().contains("token has expired")
        }
        _ => false,
    }
}

fn repository_url(base: &Uri, reference: &Reference, path: &str) -> Result<Uri> {
    let text = format!("/v2/{}/{path}", reference.path());
    url::join(base, &text).ok_or_else(|| protocol(&Method::GET, base, "the repository's name fits no URL"))
}
