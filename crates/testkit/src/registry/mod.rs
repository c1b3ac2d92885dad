//! A registry in this process, on a loopback port, that misbehaves as a test wishes.
//!
//! It speaks the distribution protocol over plain HTTP: pull (with Range), push (monolithic and in chunks), mounts, Basic and token
//! logins with a token server of its own. A second port plays its other hosts, the blobs' storage and a token server. Every request is
//! logged. Faults are rules: *the next N requests of this method whose path contains that text do this instead* ([`Fault`]); what
//! sets registries apart is a [`Dialect`].

mod dialect;
mod fault;
mod handler;
mod http;
mod login;
mod signer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use rbuild_image::{Digest, Index, MediaType, Reference};

use crate::TinyImage;
pub use dialect::Dialect;
pub use fault::{Effect, Fault};
pub use http::Logged;
pub use login::Login;
use signer::Signer;

/// The running registry; ends with the value.
#[derive(Debug)]
pub struct TestRegistry {
    shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
}

/// What connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    address: SocketAddr,
    /// The other host.
    elsewhere: SocketAddr,
    state: Mutex<State>,
}

/// Media type and bytes.
type StoredManifest = (String, Arc<Vec<u8>>);

/// What the registry holds and how it behaves.
#[derive(Debug, Default)]
pub(crate) struct State {
    blobs: BTreeMap<Digest, Arc<Vec<u8>>>,
    /// Which repository has which blob.
    holdings: BTreeSet<(String, Digest)>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), StoredManifest>,
    uploads: BTreeMap<u64, Vec<u8>>,
    next_number: u64,
    faults: Vec<Fault>,
    log: Vec<Logged>,
    under_way: usize,
    login: Login,
    tokens: BTreeMap<String, Vec<String>>,
    dialect: Dialect,
    signer: Option<Signer>,
    /// How often each blob was received whole, by repository.
    stored: BTreeMap<(String, Digest), u32>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl TestRegistry {
    /// Starts on a free port.
    ///
    /// # Panics
    ///
    /// If no loopback port can be had.
    pub fn start() -> TestRegistry {
        TestRegistry::start_at("127.0.0.1")
    }

    /// Starts on a free port of a loopback address (`127.0.0.1`, `[::1]`).
    ///
    /// # Panics
    ///
    /// If no port can be had there.
    pub fn start_at(host: &str) -> TestRegistry {
        let listen = || TcpListener::bind(format!("{host}:0")).expect("a loopback port");
        let (own, other) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().expect("a bound socket has an address");
        let (address, elsewhere) = (address(&own), address(&other));
        let shared = Arc::new(Shared { address, elsewhere, state: Mutex::default() });
        let stopping = Arc::new(AtomicBool::new(false));
        for (listener, elsewhere) in [(own, false), (other, true)] {
            let (registry, stop) = (Arc::clone(&shared), Arc::clone(&stopping));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let registry = Arc::clone(&registry);
                    thread::spawn(move || http::serve(&registry, &stream, elsewhere));
                }
            });
        }
        TestRegistry { shared, stopping }
    }

    /// Takes on the manners of a registry.
    pub fn speak(&self, dialect: Dialect) {
        self.shared.state().dialect = dialect;
    }

    /// The tokens become JWTs that a real registry believes, which trusts the certificate `FOLDER/token.pem` and this issuer; made by the
    /// openssl program.
    ///
    /// # Errors
    ///
    /// Says why there is no key.
    pub fn sign_tokens(&self, folder: &Path, issuer: &str) -> Result<(), String> {
        let signer = Signer::make(folder, issuer)?;
        self.shared.state().signer = Some(signer);
        Ok(())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// The other host, of storage and perhaps tokens.
    pub fn elsewhere(&self) -> String {
        self.shared.elsewhere.to_string()
    }

    /// A reference to an image of this registry, `name[:tag][@digest]`.
    ///
    /// # Panics
    ///
    /// If `name` breaks the grammar.
    pub fn reference(&self, name: &str) -> Reference {
        Reference::parse(&format!("{}/{name}", self.address())).expect("a reference")
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let mut state = self.shared.state();
        state.holdings.insert((repository.to_owned(), digest.clone()));
        state.blobs.insert(digest.clone(), Arc::new(bytes.to_vec()));
        digest
    }

    /// Puts a manifest under a tag and its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &MediaType, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let stored = (media_type.to_string(), Arc::new(bytes.to_vec()));
        let mut state = self.shared.state();
        for name in [tag, digest.as_str()] {
            state.manifests.insert((repository.to_owned(), name.to_owned()), stored.clone());
        }
        digest
    }

    /// Puts a whole image under a tag.
    pub fn put_image(&self, repository: &str, tag: &str, image: &TinyImage) -> Digest {
        for (_, bytes) in image.blobs() {
            self.put_blob(repository, &bytes);
        }
        self.put_manifest(repository, tag, &image.media_type(), &image.manifest().to_bytes())
    }

    /// Puts several images under one tag, by an index.
    pub fn put_index(&self, repository: &str, tag: &str, images: &[TinyImage]) -> Digest {
        for image in images {
            let name = image.descriptor().digest.to_string();
            self.put_image(repository, &name, image);
        }
        let index = Index::new(MediaType::ImageIndex, images.iter().map(TinyImage::descriptor).collect());
        self.put_manifest(repository, tag, &MediaType::ImageIndex, &index.to_bytes())
    }

    /// The blob, if any repository has it.
    pub fn blob(&self, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        self.shared.state().blobs.get(digest).cloned()
    }

    /// Does the repository have the blob?
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.shared.state().holdings.contains(&(repository.to_owned(), digest.clone()))
    }

    /// A manifest's bytes by tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Arc<Vec<u8>>> {
        self.shared
            .state()
            .manifests
            .get(&(repository.to_owned(), name.to_owned()))
            .map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Adds a fault; the first that fits a request is used.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Sets who may come in.
    pub fn require(&self, login: Login) {
        self.shared.state().login = login;
    }

    /// Makes all tokens given so far worthless.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// Answers mounts with 202, as registries do that can't.
    pub fn refuse_mounts(&self) {
        self.shared.state().dialect.mounts = false;
    }

    /// How often a repository received the blob whole.
    pub fn times_stored(&self, repository: &str, digest: &Digest) -> u32 {
        let key = (repository.to_owned(), digest.clone());
        self.shared.state().stored.get(&key).copied().unwrap_or(0)
    }

    /// All blobs that repositories have, as `repository@digest`, with their bytes.
    pub fn holdings(&self) -> Vec<(String, Digest, Arc<Vec<u8>>)> {
        let state = self.shared.state();
        let held = state.holdings.iter();
        held.filter_map(|(repository, digest)| {
            Some((repository.clone(), digest.clone(), Arc::clone(state.blobs.get(digest)?)))
        })
        .collect()
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<Logged> {
        self.shared.state().log.clone()
    }

    /// How many requests of `method` had `text` in their path.
    pub fn count(&self, method: &str, text: &str) -> usize {
        self.shared
            .state()
            .log
            .iter()
            .filter(|entry| entry.method == method && entry.target.contains(text))
            .count()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the threads that wait for connections.
        let _ = TcpStream::connect(self.shared.address);
        let _ = TcpStream::connect(self.shared.elsewhere);
    }
}
