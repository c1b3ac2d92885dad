//! Logging in and out: the registry is asked first, then the credentials are kept where Docker keeps them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rbuild_image::Reference;
use serde::Serialize;
use serde_json::{Map, Value, json};
use ureq::http::{Method, Uri};

use crate::auth::{Login, authorize};
use crate::credentials::{HUB_KEY, normalise_key};
use crate::http::{Answer, Call, Payload, protocol};
use crate::registries::Endpoint;
use crate::{Client, Credential, HelperRunner, RegistryError, Result, url};

/// The user's name beside an identity token, in the protocol of credential helpers.
const IDENTITY_USER: &str = "<token>";

/// Where a login is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginPlace {
    /// In the file, readable for whoever may read the file.
    File,
    /// With this credential helper's program.
    Helper(String),
}

/// The registry that a user means by `docker login TEXT`: `https://index.docker.io/v1/` is `docker.io`.
pub fn registry_name(text: &str) -> String {
    normalise_key(text.trim())
}

impl Client {
    /// Asks the registry at `registry` (`host[:port]`, perhaps with a namespace) whether it takes the credential, through a token
    /// server where it names one. Returns what is to be kept: an identity token where the token server gave one for the password.
    ///
    /// # Errors
    /// Of kind [`crate::ErrorKind::Unauthorized`] where the registry refuses it.
    pub fn check_login(&self, registry: &str, credential: &Credential) -> Result<Credential> {
        let domain = registry.split('/').next().unwrap_or(registry);
        let reference = Reference::parse("login")?.with_repository(&format!("{domain}/login"))?;
        let insecure = self.registries.push_endpoint(&reference)?.insecure;
        let endpoint = Endpoint { reference, insecure, mirror: false };
        let base = self.base(&endpoint)?;
        let target = url::join(&base, "/v2/")
            .ok_or_else(|| protocol(&Method::GET, &base, "the registry fits no URL"))?;
        let insecure = insecure || url::is_loopback(url::host_of(domain));
        self.retry.run(|| {
            let answer = self.ask_version(&target, insecure, None)?;
            if answer.status != 401 {
                return answer.expect(&[200]).map(|_| credential.clone());
            }
            let login = Login { credential: Some(credential.clone()), scopes: &[], insecure, offline: true };
            let Some(granted) = authorize(&self.http, &answer, &login, None)? else {
                return Err(answer.into_error());
            };
            self.ask_version(&target, insecure, Some(granted.header))?.expect(&[200])?;
            Ok(granted.identity.map_or_else(|| credential.clone(), Credential::IdentityToken))
        })
    }

    fn ask_version(&self, target: &Uri, insecure: bool, authorization: Option<String>) -> Result<Answer> {
        let (method, url, headers) = (Method::GET, target.clone(), Vec::new());
        self.http.send(Call { method, url, headers, authorization, insecure, body: Payload::None })
    }
}

/// Keeps a login in Docker's `config.json` (or podman's `auth.json`) at `path`, mode 0600, or with the helper that the file names;
/// everything else in the file stays.
///
/// # Errors
/// A file that is not JSON or can't be written; a helper that fails.
pub fn keep_login(
    path: &Path,
    registry: &str,
    credential: &Credential,
    runner: &dyn HelperRunner,
) -> Result<LoginPlace> {
    let mut document = read(path)?;
    let key = file_key(registry);
    let (place, entry) = match helper_of(&document, registry) {
        Some(name) => {
            let program = format!("docker-credential-{name}");
            run_helper(runner, &program, "store", &key, &for_helper(&key, credential))?;
            (LoginPlace::Helper(program), json!({}))
        }
        None => (LoginPlace::File, for_file(credential)),
    };
    forget_in(&mut document, registry);
    let auths = document.entry("auths").or_insert_with(|| json!({}));
    if let Some(auths) = auths.as_object_mut() {
        auths.insert(key, entry);
    }
    write(path, &document)?;
    Ok(place)
}

/// Forgets the login of a registry, in the file and with its helper; says whether there was one.
///
/// # Errors
/// A file that is not JSON or can't be written; a helper that fails.
pub fn forget_login(path: &Path, registry: &str, runner: &dyn HelperRunner) -> Result<bool> {
    let mut document = read(path)?;
    let mut known = forget_in(&mut document, registry);
    if let Some(name) = helper_of(&document, registry) {
        let key = file_key(registry);
        known |= run_helper(runner, &format!("docker-credential-{name}"), "erase", &key, key.as_bytes())?;
    }
    if known {
        write(path, &document)?;
    }
    Ok(known)
}

/// Docker's own key for its Hub.
fn file_key(registry: &str) -> String {
    if registry == "docker.io" { HUB_KEY.to_owned() } else { registry.to_owned() }
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let wrong = |reason: String| RegistryError::Configuration { path: path.to_owned(), reason };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(RegistryError::File { action: "read", path: path.to_owned(), source }),
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}

fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = document.get("credHelpers").and_then(Value::as_object).into_iter().flatten();
    let own = own.filter(|(key, _)| normalise_key(key) == registry).map(|(_, name)| name).next();
    let name = own.or_else(|| document.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn forget_in(document: &mut Map<String, Value>, registry: &str) -> bool {
    let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) else { return false };
    let before = auths.len();
    auths.retain(|key, _| normalise_key(key) != registry);
    auths.len() != before
}

fn for_file(credential: &Credential) -> Value {
    match credential {
        Credential::Basic { username, password } => {
            json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
        }
        // Other tools pass over an entry without `auth`; the user's name in it says nothing.
        Credential::IdentityToken(token) => {
            json!({ "auth": STANDARD.encode(format!("{IDENTITY_USER}:")), "identitytoken": token })
        }
        Credential::RegistryToken(token) => json!({ "registrytoken": token }),
    }
}

fn for_helper(key: &str, credential: &Credential) -> Vec<u8> {
    let (username, secret) = match credential {
        Credential::Basic { username, password } => (username.as_str(), password),
        Credential::IdentityToken(token) | Credential::RegistryToken(token) => (IDENTITY_USER, token),
    };
    json!({ "ServerURL": key, "Username": username, "Secret": secret }).to_string().into_bytes()
}

/// Whether the helper did it; that it knows no such login is no fault.
fn run_helper(
    runner: &dyn HelperRunner,
    program: &str,
    action: &'static str,
    server: &str,
    input: &[u8],
) -> Result<bool> {
    let failed = |reason: String| RegistryError::HelperAction {
        program: program.to_owned(),
        server: server.to_owned(),
        action,
        reason,
    };
    let output = runner.run(program, action, input).map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.success {
        true => Ok(true),
        false if said.contains("credentials not found") => Ok(false),
        false => Err(failed(said)),
    }
}

/// As Docker writes it: tabs, and only for its owner. Whoever reads it meanwhile sees the old or the new file.
fn write(path: &Path, document: &Map<String, Value>) -> Result<()> {
    let failed = |source| RegistryError::File { action: "write", path: path.to_owned(), source };
    // A link to a file kept elsewhere stays a link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = target.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    document.serialize(&mut serializer).map_err(|error| failed(error.into()))?;
    let (temporary, mut file) = create_beside(&target).map_err(failed)?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    let published = written.and_then(|()| fs::rename(&temporary, &target));
    if published.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    published.map_err(failed)
}

fn create_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let path = PathBuf::from(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;
    use crate::HelperOutput;

    /// Notes what it is asked; fails where the program is `docker-credential-broken`.
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl HelperRunner for Notes {
        fn run(&self, program: &str, action: &str, input: &[u8]) -> io::Result<HelperOutput> {
            self.0.lock().unwrap().push(format!("{program} {action} {}", String::from_utf8_lossy(input)));
            let success = program != "docker-credential-broken";
            Ok(HelperOutput { success, stdout: b"locked".to_vec() })
        }
    }

    fn basic() -> Credential {
        Credential::Basic { username: "me".to_owned(), password: "p:w".to_owned() }
    }

    #[test]
    fn the_file_is_dockers_and_the_rest_of_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        let notes = Notes::default();
        assert_eq!(keep_login(&path, "docker.io", &basic(), &notes).unwrap(), LoginPlace::File);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"bWU6cDp3\"\n\t\t}\n\t}\n}"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, r#"{"HttpHeaders":{"A":"b"},"auths":{"https://r.io/v2/":{"auth":"x"},"q.io":{}}}"#)
            .unwrap();
        keep_login(&path, "r.io", &basic(), &notes).unwrap();
        let document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = json!({"HttpHeaders":{"A":"b"},"auths":{"r.io":{"auth":"bWU6cDp3"},"q.io":{}}});
        assert_eq!(document, expected);
        assert!(forget_login(&path, "r.io", &notes).unwrap());
        assert!(!forget_login(&path, "r.io", &notes).unwrap());
        assert!(notes.0.lock().unwrap().is_empty());
    }

    #[test]
    fn helpers_keep_what_the_file_must_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, r#"{"credsStore":"store","credHelpers":{"b.io":"broken"}}"#).unwrap();
        let notes = Notes::default();
        let place = keep_login(&path, "r.io", &basic(), &notes).unwrap();
        assert_eq!(place, LoginPlace::Helper("docker-credential-store".to_owned()));
        assert!(!fs::read_to_string(&path).unwrap().contains("bWU6cDp3"));
        assert!(forget_login(&path, "r.io", &notes).unwrap());
        let said = notes.0.lock().unwrap().join("\n");
        assert_eq!(
            said,
            "docker-credential-store store {\"Secret\":\"p:w\",\"ServerURL\":\"r.io\",\"Username\":\"me\"}\ndocker-credential-store erase r.io"
        );
        let error = keep_login(&path, "b.io", &basic(), &notes).unwrap_err().to_string();
        assert_eq!(
            error,
            "could not store the credentials for `b.io` with `docker-credential-broken`: locked"
        );
    }

    #[test]
    fn a_link_stays_a_link_and_nonsense_stays_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("config.json"));
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        keep_login(&link, "r.io", &basic(), &Notes::default()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::write(&real, "[]").unwrap();
        assert!(keep_login(&link, "r.io", &basic(), &Notes::default()).is_err());
        assert_eq!(fs::read_to_string(&real).unwrap(), "[]");
    }

    #[test]
    fn registries_by_any_name() {
        for (text, name) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://r:5000", "r:5000"),
            ("quay.io/team", "quay.io/team"),
            (" r.io ", "r.io"),
        ] {
            assert_eq!(registry_name(text), name);
        }
    }
}
