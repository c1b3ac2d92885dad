//! Who we are at a registry: Docker's `config.json`, podman's `auth.json`, and credential helpers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{RegistryError, Result};

/// The name under which Docker stores its Hub's login.
pub(crate) const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Among the helpers of registries.conf: the files.
const FILES: &str = "containers-auth.json";

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password (or access token used as one).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth refresh token, to be exchanged for access tokens.
    IdentityToken(String),
    /// A bearer token to be sent as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Basic { username, .. } => write!(f, "Basic({username}, redacted)"),
            Credential::IdentityToken(_) => f.write_str("IdentityToken(redacted)"),
            Credential::RegistryToken(_) => f.write_str("RegistryToken(redacted)"),
        }
    }
}

/// Runs a credential helper's program; the caller knows how (outside the user namespace, with the user's environment).
pub trait HelperRunner: Send + Sync {
    /// Runs `program action` with `input` on its standard input.
    fn run(&self, program: &str, action: &str, input: &[u8]) -> io::Result<HelperOutput>;
}

/// What a credential helper did.
#[derive(Clone, Debug, Default)]
pub struct HelperOutput {
    /// It ended with exit code 0.
    pub success: bool,
    /// Its standard output: the answer, or why there is none.
    pub stdout: Vec<u8>,
}

/// All logins known, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct CredentialStore {
    given: BTreeMap<String, Credential>,
    files: Vec<AuthFile>,
}

#[derive(Clone, Debug)]
struct AuthFile {
    auths: BTreeMap<String, Credential>,
    helpers: BTreeMap<String, String>,
    default_helper: Option<String>,
}

#[derive(Deserialize)]
struct AuthDocument {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    default_helper: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl CredentialStore {
    /// Reads the files that exist, Docker's `config.json` or podman's `auth.json` (their form is the same); earlier ones are asked
    /// first.
    pub fn load(paths: &[PathBuf]) -> Result<CredentialStore> {
        let mut store = CredentialStore::default();
        for path in paths {
            match fs::read(path) {
                Ok(bytes) => store.add_document(path, &bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(RegistryError::File { action: "read", path: path.clone(), source });
                }
            }
        }
        Ok(store)
    }

    /// Adds the contents of an authentication file; `path` names it in errors.
    pub fn add_document(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let wrong = |reason: String| RegistryError::Configuration { path: path.to_owned(), reason };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let document: AuthDocument =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let mut auths = BTreeMap::new();
        for (key, entry) in document.auths {
            let credential =
                entry.credential().map_err(|reason| wrong(format!("the login of `{key}` {reason}")))?;
            if let Some(credential) = credential {
                auths.insert(normalise_key(&key), credential);
            }
        }
        let helpers = document.helpers.into_iter().map(|(key, name)| (normalise_key(&key), name)).collect();
        let default_helper = document.default_helper.filter(|name| !name.is_empty());
        self.files.push(AuthFile { auths, helpers, default_helper });
        Ok(())
    }

    /// Adds the helpers that registries.conf names for all registries (`credential-helpers`): those before the word for the files
    /// (`containers-auth.json`) are asked before the files, the others after them.
    pub fn add_helpers(&mut self, names: &[String]) {
        let of_helper = |name: &String| AuthFile {
            auths: BTreeMap::new(),
            helpers: BTreeMap::new(),
            default_helper: Some(name.clone()),
        };
        let split = names.iter().position(|name| name == FILES).unwrap_or(names.len());
        let (before, after) = names.split_at(split);
        self.files.splice(0..0, before.iter().map(of_helper));
        self.files.extend(after.iter().filter(|name| *name != FILES).map(of_helper));
    }

    /// Sets the login of a registry (`host[:port]`) or of a part of it (`host/namespace`); it comes before the files'.
    pub fn insert(&mut self, key: &str, credential: Credential) {
        self.given.insert(normalise_key(key), credential);
    }

    /// The login for a repository (`quay.io/team/app`): the longest matching key of the first source that has one.
    pub fn lookup(&self, repository: &str, helper: Option<&dyn HelperRunner>) -> Result<Option<Credential>> {
        if let Some(found) = longest(&self.given, repository) {
            return Ok(Some(found.clone()));
        }
        for file in &self.files {
            if let Some(found) = file.lookup(repository, helper)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl AuthFile {
    fn lookup(&self, repository: &str, runner: Option<&dyn HelperRunner>) -> Result<Option<Credential>> {
        let domain = repository.split('/').next().unwrap_or(repository);
        let name = longest(&self.helpers, repository).or(self.default_helper.as_ref());
        if let (Some(name), Some(runner)) = (name, runner)
            && let Some(found) = ask_helper(runner, name, domain)?
        {
            return Ok(Some(found));
        }
        Ok(longest(&self.auths, repository).cloned())
    }
}

/// The value of the longest key that is `repository` or a folder above it (containers-auth.json(5)).
fn longest<'map, T>(map: &'map BTreeMap<String, T>, repository: &str) -> Option<&'map T> {
    let mut key = repository;
    loop {
        if let Some(found) = map.get(key) {
            return Some(found);
        }
        key = key.rsplit_once('/')?.0;
    }
}

impl AuthEntry {
    fn credential(self) -> Result<Option<Credential>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken)));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken)));
        }
        if self.auth.is_empty() {
            let given = !self.username.is_empty();
            return Ok(
                given.then_some(Credential::Basic { username: self.username, password: self.password })
            );
        }
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| "is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
        let (username, password) = text.split_once(':').ok_or("has no colon between user and password")?;
        // Docker pads old entries with zero bytes.
        let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
        Ok(Some(Credential::Basic { username, password }))
    }
}

/// Docker's keys are URLs (`https://index.docker.io/v1/`), podman's hosts with perhaps a namespace.
pub(crate) fn normalise_key(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let was_url = bare.len() != key.len();
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let (domain, rest) = bare.split_once('/').map_or((bare, None), |(domain, rest)| (domain, Some(rest)));
    let domain = match domain {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    match rest {
        Some(rest) if !was_url => format!("{domain}/{rest}"),
        _ => domain.to_owned(),
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The protocol of docker-credential-helpers: `get` with the server on standard input.
fn ask_helper(runner: &dyn HelperRunner, name: &str, domain: &str) -> Result<Option<Credential>> {
    let program = format!("docker-credential-{name}");
    let server = if domain == "docker.io" { HUB_KEY } else { domain };
    let failed = |reason: String| RegistryError::Helper {
        program: program.clone(),
        server: server.to_owned(),
        reason,
    };
    let output = runner.run(&program, "get", server.as_bytes()).map_err(|error| failed(error.to_string()))?;
    if !output.success {
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // The sentence is part of the protocol (credentials.ErrCredentialsNotFound).
        return if said.contains("credentials not found") { Ok(None) } else { Err(failed(said)) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    Ok(match answer.username.as_str() {
        "" if answer.secret.is_empty() => None,
        "<token>" => Some(Credential::IdentityToken(answer.secret)),
        _ => Some(Credential::Basic { username: answer.username, password: answer.secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl HelperRunner for Fake {
        fn run(&self, program: &str, action: &str, input: &[u8]) -> io::Result<HelperOutput> {
            assert_eq!(action, "get");
            let answer = |success, text: &str| Ok(HelperOutput { success, stdout: text.into() });
            match (program, input) {
                ("docker-credential-ecr-login", b"ecr.aws") => {
                    answer(true, r#"{"ServerURL":"","Username":"AWS","Secret":"s"}"#)
                }
                ("docker-credential-ecr-login", _) => {
                    answer(false, "credentials not found in native keychain")
                }
                ("docker-credential-acr", _) => answer(true, r#"{"Username":"<token>","Secret":"refresh"}"#),
                ("docker-credential-store", b"https://index.docker.io/v1/") => {
                    answer(true, r#"{"Username":"hub","Secret":"p"}"#)
                }
                ("docker-credential-store", _) => answer(false, "credentials not found in native keychain\n"),
                ("docker-credential-broken", _) => answer(false, "no D-Bus"),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    fn store(text: &str) -> CredentialStore {
        let mut store = CredentialStore::default();
        store.add_document(Path::new("config.json"), text.as_bytes()).unwrap();
        store
    }

    fn user(store: &CredentialStore, repository: &str) -> String {
        match store.lookup(repository, Some(&Fake)).unwrap() {
            Some(Credential::Basic { username, password }) => format!("{username}:{password}"),
            Some(Credential::IdentityToken(token)) => format!("identity {token}"),
            Some(Credential::RegistryToken(token)) => format!("registry {token}"),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn keys_of_docker_and_podman() {
        let store = store(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA6dw=="},"quay.io":{"auth":"cTpx"},
            "quay.io/team":{"auth":"dDp0"},"quay.io/team/app":{"username":"a","password":"a"},"http://r:5000/v2/":{"auth":"cjpyAAA="},
            "acr.io":{"auth":"MDA6","identitytoken":"it"},"tok.io":{"registrytoken":"rt"},"empty.io":{}},"HttpHeaders":{}}"#,
        );
        for (repository, expected) in [
            ("docker.io/library/alpine", "hub:p:w"),
            ("quay.io/other", "q:q"),
            ("quay.io/team/x", "t:t"),
            ("quay.io/teams", "q:q"),
            ("quay.io/team/app", "a:a"),
            ("r:5000/x", "r:r"),
            ("acr.io/x", "identity it"),
            ("tok.io/x", "registry rt"),
            ("empty.io/x", "none"),
            ("other.io/x", "none"),
        ] {
            assert_eq!(user(&store, repository), expected, "{repository}");
        }
    }

    #[test]
    fn helpers_come_before_the_file() {
        let store = store(
            r#"{"auths":{"plain.io":{"auth":"cDpw"}},"credsStore":"store","credHelpers":{"ecr.aws":"ecr-login","acr.io":"acr","b.io":"broken"}}"#,
        );
        for (repository, expected) in [
            ("ecr.aws/x", "AWS:s"),
            ("acr.io/x", "identity refresh"),
            ("docker.io/library/x", "hub:p"),
            ("plain.io/x", "p:p"),
            ("none.io/x", "none"),
        ] {
            assert_eq!(user(&store, repository), expected, "{repository}");
        }
        let error = store.lookup("b.io/x", Some(&Fake)).unwrap_err().to_string();
        assert_eq!(error, "could not get credentials for `b.io` from `docker-credential-broken`: no D-Bus");
        assert_eq!(store.lookup("ecr.aws/x", None).unwrap(), None);
    }

    #[test]
    fn helpers_of_registries_conf_stand_around_the_files() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let file = r#"{"auths":{"ecr.aws":{"auth":"ZmlsZTpw"}}}"#;
        let mut before = store(file);
        before.add_helpers(&names(&["ecr-login", "containers-auth.json", "store"]));
        assert_eq!(user(&before, "ecr.aws/x"), "AWS:s");
        assert_eq!(user(&before, "docker.io/library/x"), "hub:p");
        let mut after = store(file);
        after.add_helpers(&names(&["containers-auth.json", "store"]));
        assert_eq!(
            (user(&after, "ecr.aws/x"), user(&after, "docker.io/library/x")),
            ("file:p".into(), "hub:p".into())
        );
    }

    #[test]
    fn what_was_given_comes_first_and_secrets_are_not_shown() {
        let mut store = store(r#"{"auths":{"r.io":{"auth":"cDpw"}}}"#);
        store.insert("r.io", Credential::Basic { username: "me".to_owned(), password: "hunter2".to_owned() });
        assert_eq!(user(&store, "r.io/x"), "me:hunter2");
        assert!(!format!("{store:?}").contains("hunter2"));
    }

    #[test]
    fn wrong_files_are_named() {
        for (text, reason) in [
            ("{", "EOF"),
            (r#"{"auths":{"r.io":{"auth":"%"}}}"#, "login of `r.io` is not base64"),
            (r#"{"auths":{"r.io":{"auth":"cA=="}}}"#, "no colon"),
        ] {
            let error = CredentialStore::default()
                .add_document(Path::new("/x/config.json"), text.as_bytes())
                .unwrap_err();
            assert!(error.to_string().starts_with("could not use `/x/config.json`: "), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert!(CredentialStore::default().add_document(Path::new("x"), b" \n").is_ok());
    }
}
