//! What a [`Client`](crate::Client) is made from; all of it comes from the caller.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{CredentialStore, HelperRunner, RegistriesConf};

/// Everything that a client needs to know of its surroundings.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where images live: mirrors, blocked and insecure registries.
    pub registries: RegistriesConf,
    /// Who we are at each registry.
    pub credentials: CredentialStore,
    /// Runs credential helpers; without it none is asked.
    pub helper: Option<Arc<dyn HelperRunner>>,
    /// Certificate authorities trusted beside the system's: PEM files' contents, each with one or more certificates.
    pub extra_roots: Vec<Vec<u8>>,
    /// Folders in the form of `/etc/docker/certs.d`: a folder for each `host[:port]` with `*.crt` (authorities), `*.cert` and `*.key`
    /// (the client's own).
    pub certs_dirs: Vec<PathBuf>,
    /// A folder of such files for every registry.
    pub cert_dir: Option<PathBuf>,
    /// HTTP proxies.
    pub proxies: ProxyConf,
    /// How often and how patiently requests are made again.
    pub retry: RetryPolicy,
    /// Blobs that come from one registry at a time, and as many that go there.
    pub transfers: usize,
    /// Bytes of a chunk, for registries that do not take a blob in one piece; less where that is too much, more where they want it.
    pub chunk: u64,
    /// The `User-Agent` header.
    pub user_agent: String,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            registries: RegistriesConf::default(),
            credentials: CredentialStore::default(),
            helper: None,
            extra_roots: Vec::new(),
            certs_dirs: Vec::new(),
            cert_dir: None,
            proxies: ProxyConf::default(),
            retry: RetryPolicy::default(),
            transfers: 6,
            chunk: 8 << 20,
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("registries", &self.registries)
            .field("certs_dirs", &self.certs_dirs)
            .field("retry", &self.retry)
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}

/// The usual proxy variables' values. Loopback hosts are never reached through a proxy.
#[derive(Clone, Default)]
pub struct ProxyConf {
    /// `HTTP_PROXY`: for `http:` URLs.
    pub http: Option<String>,
    /// `HTTPS_PROXY`: for `https:` URLs.
    pub https: Option<String>,
    /// `NO_PROXY`: hosts (`example.com` also means its subdomains), `host:port`, or `*`, separated by commas.
    pub no_proxy: String,
}

impl fmt::Debug for ProxyConf {
    /// Proxy URLs may hold passwords: says only whether there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (http, https) = (self.http.is_some(), self.https.is_some());
        write!(f, "ProxyConf {{ http: {http}, https: {https}, no_proxy: {:?} }}", self.no_proxy)
    }
}

impl ProxyConf {
    /// The proxy for a URL of `scheme` at `host`, `port`.
    pub(crate) fn choose(&self, scheme: &str, host: &str, port: u16) -> Option<&str> {
        let proxy = if scheme == "https" { self.https.as_deref() } else { self.http.as_deref() };
        let proxy = proxy.filter(|proxy| !proxy.is_empty())?;
        let excluded = crate::url::is_loopback(host) || self.excludes(host, port);
        (!excluded).then_some(proxy)
    }

    fn excludes(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let entries = self.no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        entries.filter(|entry| !entry.is_empty()).any(|entry| {
            let entry = match entry.rsplit_once(':') {
                Some((name, digits)) if digits.parse() == Ok(port) => name.to_owned(),
                _ => entry,
            };
            let suffix = entry.trim_start_matches("*.").trim_start_matches('.');
            entry == "*"
                || host == suffix
                || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

/// When a request is made again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// Wait before the second try; doubles each time, half of it by chance.
    pub first_wait: Duration,
    /// Longest wait of our own.
    pub longest_wait: Duration,
    /// Longest `Retry-After` that is obeyed; a server that wants more gets no further try.
    pub longest_retry_after: Duration,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time in which at least some bytes must arrive or leave.
    pub stall_timeout: Duration,
    /// A transfer that moves fewer bytes than this within `stall_timeout` has stalled, too.
    pub least_bytes: u64,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(20),
            longest_retry_after: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            least_bytes: 64 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_chosen_by_scheme_and_host() {
        let proxies = ProxyConf {
            http: Some("http://p:1".to_owned()),
            https: Some("http://p:2".to_owned()),
            no_proxy: "example.com, .internal,*.corp,reg:5000".to_owned(),
        };
        for (scheme, host, port, expected) in [
            ("https", "quay.io", 443, Some("http://p:2")),
            ("http", "quay.io", 80, Some("http://p:1")),
            ("https", "example.com", 443, None),
            ("https", "a.Example.com", 443, None),
            ("https", "notexample.com", 443, Some("http://p:2")),
            ("https", "x.internal", 443, None),
            ("https", "x.corp", 443, None),
            ("https", "reg", 5000, None),
            ("https", "reg", 5001, Some("http://p:2")),
            ("http", "127.0.0.1", 5000, None),
            ("http", "localhost", 5000, None),
        ] {
            assert_eq!(proxies.choose(scheme, host, port), expected, "{scheme} {host} {port}");
        }
        assert_eq!(ProxyConf { no_proxy: "*".to_owned(), ..proxies }.choose("https", "quay.io", 443), None);
    }
}
