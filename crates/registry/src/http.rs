//! One HTTP exchange: the right agent for the host, redirects by our own rules, errors in words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{self, HeaderMap, Method, Uri};
use ureq::{Agent, Body, SendBody};

use crate::options::{ClientOptions, ProxyConf, RetryPolicy};
use crate::tls::Trust;
use crate::{RegistryError, Result, url};

const MAX_REDIRECTS: u32 = 10;
/// From this many bytes on, a body is sent only when the server has looked at the request (RFC 9110, 10.1.1): a 401 or 413 costs nothing then.
const WORTH_ASKING: u64 = 1 << 20;
/// A registry checks and moves what it was sent before it answers; it may take this many times as long as without a body.
const PATIENCE_AFTER_UPLOAD: u32 = 5;
/// How much of an error's body is read, in bytes.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// Makes requests; shared by all threads.
pub(crate) struct Http {
    trust: Trust,
    proxies: ProxyConf,
    retry: RetryPolicy,
    user_agent: String,
    agents: Mutex<BTreeMap<AgentKey, Agent>>,
}

/// Agents keep connections alive, so one is kept for each way of connecting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct AgentKey {
    tls: Option<String>,
    insecure: bool,
    proxy: Option<String>,
}

/// Names and values.
pub(crate) type Headers = Vec<(Cow<'static, str>, String)>;

/// What is sent.
pub(crate) struct Call<'call> {
    pub(crate) method: Method,
    pub(crate) url: Uri,
    /// Sent to whoever is asked.
    pub(crate) headers: Headers,
    /// Sent to the first host only.
    pub(crate) authorization: Option<String>,
    pub(crate) insecure: bool,
    pub(crate) body: Payload<'call>,
}

/// The body of a request.
pub(crate) enum Payload<'call> {
    None,
    Bytes(&'call [u8]),
    Stream(Box<dyn Read + 'call>, u64),
}

/// What came back, its body unread.
pub(crate) struct Answer {
    pub(crate) method: Method,
    /// Where it came from after redirects.
    pub(crate) url: Uri,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

impl Http {
    pub(crate) fn new(options: &ClientOptions) -> Result<Http> {
        Ok(Http {
            trust: Trust::new(options)?,
            proxies: options.proxies.clone(),
            retry: options.retry.clone(),
            user_agent: options.user_agent.clone(),
            agents: Mutex::new(BTreeMap::new()),
        })
    }

    pub(crate) fn read_authorities(&self) {
        self.trust.system();
    }

    /// Sends `call` once, following redirects of GET and HEAD. Any status is an answer.
    pub(crate) fn send(&self, mut call: Call<'_>) -> Result<Answer> {
        for _ in 0..=MAX_REDIRECTS {
            let body = std::mem::replace(&mut call.body, Payload::None);
            let answer = self.exchange(&call, body)?;
            let Some(next) = redirect(&answer)? else { return Ok(answer) };
            let (from, to) = (url::origin(&call.url), url::origin(&next));
            if to != from {
                call.authorization = None;
            }
            // That one host's certificate need not be right says nothing of another's.
            call.insecure &= to.1 == from.1;
            call.url = next;
        }
        Err(protocol(&call.method, &call.url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn exchange(&self, call: &Call<'_>, body: Payload<'_>) -> Result<Answer> {
        let agent = self.agent(&call.url, call.insecure)?;
        let mut request = http::Request::builder().method(call.method.clone()).uri(call.url.clone());
        for (name, value) in &call.headers {
            request = request.header(name.as_ref(), value);
        }
        if let Some(authorization) = &call.authorization {
            request = request.header("Authorization", authorization);
        }
        let invalid = |error: http::Error| protocol(&call.method, &call.url, error.to_string());
        let response = match body {
            Payload::None if call.method == Method::POST || call.method == Method::PUT => {
                agent.run(request.header("Content-Length", "0").body(&[][..]).map_err(invalid)?)
            }
            Payload::None => agent.run(request.body(()).map_err(invalid)?),
            Payload::Bytes(bytes) => agent.run(request.body(bytes).map_err(invalid)?),
            Payload::Stream(mut reader, length) => {
                let mut request = request.header("Content-Length", length.to_string());
                if length >= WORTH_ASKING {
                    request = request.header("Expect", "100-continue");
                }
                let request = request.body(SendBody::from_reader(&mut reader)).map_err(invalid)?;
                let patience = self.retry.stall_timeout * PATIENCE_AFTER_UPLOAD;
                agent.run(agent.configure_request(request).timeout_per_read(Some(patience)).build())
            }
        };
        let response = response.map_err(|error| network(&call.method, &call.url, error))?;
        let (parts, body) = response.into_parts();
        let (method, url) = (call.method.clone(), call.url.clone());
        Ok(Answer { method, url, status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn agent(&self, target: &Uri, insecure: bool) -> Result<Agent> {
        let (scheme, host, port) = url::origin(target);
        let domain = target
            .authority()
            .map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
        let key = AgentKey {
            tls: domain.filter(|_| scheme == "https"),
            insecure,
            proxy: self.proxies.choose(&scheme, &host, port).map(str::to_owned),
        };
        let mut agents = self.agents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let agent = self.new_agent(&key)?;
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn new_agent(&self, key: &AgentKey) -> Result<Agent> {
        let invalid_proxy = |_| RegistryError::Tls { reason: "the proxy's URL is wrong".to_owned() };
        let proxy = key.proxy.as_deref().map(ureq::Proxy::new).transpose().map_err(invalid_proxy)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(&self.user_agent)
            .accept_encoding("identity")
            .timeout_connect(Some(self.retry.connect_timeout))
            .timeout_per_read(Some(self.retry.stall_timeout))
            .timeout_per_write(Some(self.retry.stall_timeout))
            .max_idle_connections_per_host(8)
            .input_buffer_size(128 << 10)
            .output_buffer_size(128 << 10);
        if let Some(domain) = &key.tls {
            config = config.tls_config(self.trust.config(domain, key.insecure)?);
        }
        Ok(config.build().new_agent())
    }
}

impl Answer {
    /// The value of a header, if it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The whole body, if it is not larger than `limit` bytes.
    pub(crate) fn read(self, limit: u64) -> Result<Vec<u8>> {
        let (method, url) = (self.method, self.url);
        let mut bytes = Vec::new();
        let read = self.body.into_reader().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| broken_body(&method, &url, &error))?;
        if bytes.len() as u64 > limit {
            return Err(protocol(&method, &url, format!("the answer is larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The beginning of the body, which stays there to be read. That it can't be read is for the next reader to say.
    pub(crate) fn peek(&mut self) -> String {
        let mut reader = std::mem::replace(&mut self.body, Body::builder().data(Vec::new())).into_reader();
        let mut head = Vec::new();
        let _ = reader.by_ref().take(MAX_ERROR_BODY).read_to_end(&mut head);
        let text = String::from_utf8_lossy(&head).into_owned();
        self.body = Body::builder().reader(io::Cursor::new(head).chain(reader));
        text
    }

    /// The error that this answer means.
    pub(crate) fn into_error(self) -> RegistryError {
        let (status, method, url) = (self.status, self.method.to_string(), url::redacted(&self.url));
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let limit = RateLimit::of(&self).filter(|_| status == 429);
        let asked =
            self.header("retry-after").and_then(|value| crate::retry::retry_after(value, now.cast_signed()));
        let asked = asked.or(limit.as_ref().and_then(RateLimit::over_after));
        let in_words = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let mut body = Vec::new();
        // The error is the news; that its text can't be read is none.
        let _ = self.body.into_reader().take(MAX_ERROR_BODY).read_to_end(&mut body);
        let (code, said) = explain(&body);
        let mut message =
            said.or(in_words.map(str::to_lowercase)).unwrap_or_else(|| "no reason given".to_owned());
        if let Some(limit) = limit {
            message.push_str(&format!(" ({limit})"));
        }
        RegistryError::Status { method, url, status, message, code, retry_after: asked, attempts: 1 }
    }

    /// The answer itself if its status is one of `expected`.
    pub(crate) fn expect(self, expected: &[u16]) -> Result<Answer> {
        if expected.contains(&self.status) { Ok(self) } else { Err(self.into_error()) }
    }
}

/// A count of pulls as Docker Hub keeps it: `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 0;w=21600`.
struct RateLimit {
    limit: u64,
    remaining: u64,
    window: Duration,
}

impl RateLimit {
    fn of(answer: &Answer) -> Option<RateLimit> {
        let (limit, window) = answer.header("ratelimit-limit")?.split_once(";w=")?;
        let remaining = answer.header("ratelimit-remaining")?.split(';').next()?;
        let window = Duration::from_secs(window.trim().parse().ok()?);
        Some(RateLimit {
            limit: limit.trim().parse().ok()?,
            remaining: remaining.trim().parse().ok()?,
            window,
        })
    }

    /// When there may be pulls again, if there are none left.
    fn over_after(&self) -> Option<Duration> {
        (self.remaining == 0).then_some(self.window)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RateLimit { limit, remaining, window } = self;
        write!(f, "{remaining} of {limit} pulls in {} are left", in_words(*window))
    }
}

/// A time of minutes or hours.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        3600 => "an hour".to_owned(),
        seconds if seconds % 3600 == 0 => format!("{} hours", seconds / 3600),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    }
}

fn redirect(answer: &Answer) -> Result<Option<Uri>> {
    let followed = answer.method == Method::GET || answer.method == Method::HEAD;
    if !followed || !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let fault = |reason: &str| protocol(&answer.method, &answer.url, reason.to_owned());
    let location = answer.header("location").ok_or_else(|| fault("a redirect without Location"))?;
    url::join(&answer.url, location).map(Some).ok_or_else(|| fault("a redirect to no URL"))
}

#[derive(Deserialize)]
struct ErrorDocument {
    #[serde(default)]
    errors: Vec<ErrorItem>,
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Code and message of an error body (distribution specification, "Error Codes"; token servers say `details` or `message`).
fn explain(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(document) = serde_json::from_slice::<ErrorDocument>(body) else {
        let text = String::from_utf8_lossy(body);
        let plain = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('<'));
        return (None, plain.map(shortened));
    };
    let Some(first) = document.errors.into_iter().next() else {
        return (None, document.details.or(document.message).map(|text| shortened(&text)));
    };
    let said = if first.message.is_empty() { first.code.to_lowercase() } else { first.message };
    (Some(first.code).filter(|code| !code.is_empty()), Some(shortened(&said)))
}

/// One line without control characters: the text is a stranger's and goes to a terminal.
fn shortened(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    clean.trim().to_owned()
}

pub(crate) fn protocol(method: &Method, url: &Uri, reason: impl Into<String>) -> RegistryError {
    RegistryError::Protocol { method: method.to_string(), url: url::redacted(url), reason: reason.into() }
}

/// The connection broke while the body was read.
pub(crate) fn broken_body(method: &Method, url: &Uri, error: &io::Error) -> RegistryError {
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed before the end of the answer".to_owned(),
        _ => format!("the answer broke off, {}", root_cause(error)),
    };
    let (method, url) = (method.to_string(), url::redacted(url));
    RegistryError::Network { method, url, message, transient: true, attempts: 1 }
}

fn network(method: &Method, target: &Uri, error: ureq::Error) -> RegistryError {
    let host = url::origin(target).1;
    if let ureq::Error::Protocol(source) = &error {
        return protocol(method, target, format!("not an answer in HTTP, {source}"));
    }
    let (message, transient) = match &error {
        ureq::Error::Io(source) if is_unknown_name(source) => {
            (format!("the host `{host}` is not known"), false)
        }
        ureq::Error::Io(source) => (root_cause(source), is_transient(source, &host)),
        ureq::Error::Timeout(what) => (format!("timed out ({what})"), true),
        ureq::Error::HostNotFound => (format!("the host `{host}` is not known"), false),
        ureq::Error::ConnectionFailed => ("could not connect".to_owned(), true),
        other => (other.to_string(), false),
    };
    let (method, url) = (method.to_string(), url::redacted(target));
    RegistryError::Network { method, url, message, transient, attempts: 1 }
}

/// TLS faults arrive as `InvalidData` and stay; on this machine a refused connection means that nobody listens.
fn is_transient(error: &io::Error, host: &str) -> bool {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => false,
        io::ErrorKind::ConnectionRefused => !url::is_loopback(host),
        _ => true,
    }
}

/// The standard library has no kind of error for what `getaddrinfo` says, and its words are the system's; a resolver that does not
/// answer (`EAI_AGAIN`) may do so later.
fn is_unknown_name(error: &io::Error) -> bool {
    let text = error.to_string();
    text.starts_with("failed to lookup address information") && !text.contains("Temporary failure")
}

fn root_cause(error: &io::Error) -> String {
    let text = error.to_string();
    // `(os error 111)` tells nobody anything.
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_all_kinds() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
                Some("MANIFEST_UNKNOWN"),
                Some("manifest unknown"),
            ),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, Some("DENIED"), Some("denied")),
            (r#"{"details":"incorrect username or password"}"#, None, Some("incorrect username or password")),
            ("<html>\n<h1>bad</h1>", None, None),
            ("slow\x1b[31m down\n", None, Some("slow [31m down")),
            ("", None, None),
        ] {
            assert_eq!(
                explain(body.as_bytes()),
                (code.map(str::to_owned), message.map(str::to_owned)),
                "{body}"
            );
        }
    }
}
