//! Logging in: challenges, token servers, and the tokens that all threads share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::{Method, Uri};

use crate::http::{Answer, Call, Http, Payload, protocol};
use crate::{Credential, Result, url};

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// Token servers want one, and note it with the token.
const CLIENT_ID: &str = "rbuild";

/// The `Authorization` values in use, one for each registry and set of scopes.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// Threads that need the same token wait for the one that fetches it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    current: Mutex<Current>,
}

#[derive(Clone, Default)]
struct Current {
    authorization: Option<String>,
    /// How often it was renewed: who comes with an old one need not renew it again.
    generation: u64,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Current {{ generation: {} }}", self.generation)
    }
}

impl Tokens {
    pub(crate) fn slot(&self, origin: &str, scopes: &[String]) -> Arc<Slot> {
        let key = format!("{origin} {}", scopes.join(" "));
        Arc::clone(lock(&self.slots).entry(key).or_default())
    }
}

impl Slot {
    /// The header's value to send now, and its generation.
    pub(crate) fn authorization(&self) -> (Option<String>, u64) {
        let current = lock(&self.current);
        (current.authorization.clone(), current.generation)
    }

    /// Gets a new value by `fetch` after one of `generation` was refused, unless another thread did so meanwhile.
    pub(crate) fn renew(
        &self,
        generation: u64,
        fetch: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<Renewal> {
        let mut current = lock(&self.current);
        if current.generation != generation {
            return Ok(Renewal::ByAnother);
        }
        let Some(authorization) = fetch()? else { return Ok(Renewal::Nothing) };
        *current = Current { authorization: Some(authorization), generation: generation + 1 };
        Ok(Renewal::Fetched)
    }
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// There is a new value.
    Fetched,
    /// Another thread had fetched one meanwhile.
    ByAnother,
    /// There is nothing (more) to try.
    Nothing,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Who asks, and for what.
pub(crate) struct Login<'login> {
    pub(crate) credential: Option<Credential>,
    pub(crate) scopes: &'login [String],
    pub(crate) insecure: bool,
    /// Ask the token server for an identity token, too, to be kept instead of the password.
    pub(crate) offline: bool,
}

/// What a login gave.
pub(crate) struct Granted {
    /// The `Authorization` to send.
    pub(crate) header: String,
    /// The identity token that was asked for, where the token server has such.
    pub(crate) identity: Option<String>,
}

impl Granted {
    fn header(header: String) -> Granted {
        Granted { header, identity: None }
    }
}

/// The `Authorization` that answers the challenges of a 401; of an answer without any, another one like what was `sent`.
pub(crate) fn authorize(
    http: &Http,
    answer: &Answer,
    login: &Login<'_>,
    sent: Option<&str>,
) -> Result<Option<Granted>> {
    if let Some(Credential::RegistryToken(token)) = &login.credential {
        return Ok(Some(Granted::header(format!("Bearer {token}"))));
    }
    let challenges: Vec<Challenge> = answer
        .headers
        .get_all("www-authenticate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Challenge::parse_all)
        .collect();
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        return bearer_token(http, answer, bearer, login).map(Some);
    }
    let again = challenges.is_empty() && sent.is_some_and(|sent| sent.starts_with("Basic "));
    let basic = again || challenges.iter().any(|challenge| challenge.scheme == "basic");
    let header = match &login.credential {
        Some(Credential::Basic { username, password }) if basic => Some(basic_value(username, password)),
        _ => None,
    };
    // Without a challenge, the same again is refused again.
    Ok(header.filter(|header| !again || Some(header.as_str()) != sent).map(Granted::header))
}

fn basic_value(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// The token flow of the distribution project ("Token Authentication Specification", "OAuth2").
fn bearer_token(http: &Http, answer: &Answer, challenge: &Challenge, login: &Login<'_>) -> Result<Granted> {
    let fault = |reason: &str| protocol(&answer.method, &answer.url, reason.to_owned());
    let realm = challenge.get("realm").ok_or_else(|| fault("a Bearer challenge without realm"))?;
    let realm: Uri =
        url::join(&answer.url, realm).ok_or_else(|| fault("a Bearer challenge whose realm is no URL"))?;
    // A password must not travel in the clear because a registry reached by TLS says so.
    if realm.scheme_str() == Some("http")
        && answer.url.scheme_str() == Some("https")
        && login.credential.is_some()
    {
        return Err(fault("the token server would get the credentials without TLS; refused"));
    }
    let mut scopes = login.scopes.to_vec();
    if let Some(asked) = challenge.get("scope").filter(|_| scopes.is_empty()) {
        scopes.push(asked.to_owned());
    }
    let service = challenge.get("service");
    let response = match &login.credential {
        Some(Credential::IdentityToken(refresh)) => {
            let form = oauth_form(service, &scopes, refresh);
            send_to_realm(http, login, &answer.url, Method::POST, realm.clone(), None, Some(&form))?
        }
        Some(Credential::Basic { username, password }) => {
            let target = token_url(&realm, service, &scopes, Some(username), login.offline)
                .ok_or_else(|| fault("a scope that fits no URL"))?;
            send_to_realm(
                http,
                login,
                &answer.url,
                Method::GET,
                target,
                Some(basic_value(username, password)),
                None,
            )?
        }
        _ => {
            let target = token_url(&realm, service, &scopes, None, false)
                .ok_or_else(|| fault("a scope that fits no URL"))?;
            send_to_realm(http, login, &answer.url, Method::GET, target, None, None)?
        }
    };
    let (method, target) = (response.method.clone(), response.url.clone());
    let bytes = response.expect(&[200])?.read(MAX_TOKEN)?;
    let wrong = |reason: &str| protocol(&method, &target, reason.to_owned());
    let tokens: TokenAnswer =
        serde_json::from_slice(&bytes).map_err(|_| wrong("the token server's answer is not JSON"))?;
    let token = if tokens.token.is_empty() { tokens.access_token } else { tokens.token };
    if token.is_empty() || !token.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        return Err(wrong("the token server gave no usable token"));
    }
    let identity = tokens.refresh_token.filter(|token| login.offline && !token.is_empty());
    Ok(Granted { header: format!("Bearer {token}"), identity })
}

fn send_to_realm(
    http: &Http,
    login: &Login<'_>,
    asked_by: &Uri,
    method: Method,
    url: Uri,
    authorization: Option<String>,
    form: Option<&str>,
) -> Result<Answer> {
    // A password must not go to a token server that can't be checked, only because its registry can't.
    let insecure = login.insecure && url::origin(&url).1 == url::origin(asked_by).1;
    let headers = match form {
        Some(_) => vec![("Content-Type".into(), "application/x-www-form-urlencoded".to_owned())],
        None => Vec::new(),
    };
    let body = form.map_or(Payload::None, |form| Payload::Bytes(form.as_bytes()));
    http.send(Call { method, url, headers, authorization, insecure, body })
}

fn token_url(
    realm: &Uri,
    service: Option<&str>,
    scopes: &[String],
    account: Option<&str>,
    offline: bool,
) -> Option<Uri> {
    let mut target = realm.clone();
    if offline {
        target = url::with_query(&target, "offline_token", "true")?;
        target = url::with_query(&target, "client_id", CLIENT_ID)?;
    }
    if let Some(account) = account {
        target = url::with_query(&target, "account", account)?;
    }
    if let Some(service) = service {
        target = url::with_query(&target, "service", service)?;
    }
    scopes.iter().try_fold(target, |target, scope| url::with_query(&target, "scope", scope))
}

fn oauth_form(service: Option<&str>, scopes: &[String], refresh: &str) -> String {
    let service = url::encode(service.unwrap_or_default());
    let (scope, refresh) = (url::encode(&scopes.join(" ")), url::encode(refresh));
    format!(
        "grant_type=refresh_token&service={service}&client_id={CLIENT_ID}&scope={scope}&refresh_token={refresh}"
    )
}

/// One challenge of a `WWW-Authenticate` header (RFC 9110, 11.6.1).
#[derive(Debug, PartialEq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads all challenges of one header's value; what can't be understood is passed over.
    fn parse_all(text: &str) -> Vec<Challenge> {
        let mut challenges: Vec<Challenge> = Vec::new();
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.is_empty() {
                // A stray `=` is passed over.
                let Some(after) = rest.strip_prefix('=') else { return challenges };
                rest = after;
                continue;
            }
            match (after.strip_prefix('='), challenges.last_mut()) {
                (Some(after), Some(challenge)) => {
                    let (value, after) = parameter_value(after);
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                    rest = after;
                }
                (Some(after), None) => rest = parameter_value(after).1,
                (None, _) => {
                    challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                    rest = after;
                }
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push", Basic realm=x"#;
        let challenges = Challenge::parse_all(text);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenges[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!((challenges[1].scheme.as_str(), challenges[1].get("realm")), ("basic", Some("x")));
        let odd = Challenge::parse_all(r#"=, BEARER Realm = "a\"b"#);
        assert_eq!(odd[0].scheme, "bearer");
        for hostile in ["", ",,,", "=\"", "a=b=c\"", "\"", "Bearer realm=\"", "é=é, é"] {
            Challenge::parse_all(hostile);
        }
    }
}
