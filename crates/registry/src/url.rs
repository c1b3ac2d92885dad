//! The little that is needed of URLs.

use std::net::IpAddr;

use ureq::http::Uri;

/// Query parameters that hold no secret and help to understand an error.
const HARMLESS: [&str; 8] = ["digest", "mount", "from", "service", "scope", "n", "last", "ns"];

/// Is `host` (without port; IPv6 with or without brackets) this machine, as Docker judges it by name?
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of `host[:port]`.
pub(crate) fn host_of(domain: &str) -> &str {
    match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => domain,
    }
}

/// Scheme, host and port of a URL: what decides whether credentials may be sent.
pub(crate) fn origin(url: &Uri) -> (String, String, u16) {
    let scheme = url.scheme_str().unwrap_or("https").to_owned();
    let port = url.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    (scheme, url.host().unwrap_or_default().to_ascii_lowercase(), port)
}

/// What `location` (RFC 9110, 10.2.2: absolute or relative) means in an answer to a request of `base`.
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else {
        let authority = base.authority()?;
        let folder = &base.path()[..=base.path().rfind('/')?];
        match location.chars().next()? {
            '/' => format!("{scheme}://{authority}{location}"),
            '?' => format!("{scheme}://{authority}{}{location}", base.path()),
            _ => format!("{scheme}://{authority}{folder}{location}"),
        }
    };
    let url: Uri = text.parse().ok()?;
    url.host().filter(|host| !host.is_empty())?;
    Some(url)
}

/// Adds a query parameter, keeping those that are there.
pub(crate) fn with_query(url: &Uri, name: &str, value: &str) -> Option<Uri> {
    let joiner = if url.query().is_some_and(|query| !query.is_empty()) { "&" } else { "?" };
    let text = url.to_string();
    format!("{}{joiner}{name}={}", text.trim_end_matches(['?', '&']), encode(value)).parse().ok()
}

/// Percent-encodes a query value.
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'/' => {
                out.push(byte as char)
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The URL as errors may show it: no user, no password, no query values that could be a signature or token.
pub(crate) fn redacted(url: &Uri) -> String {
    let (scheme, host, _) = origin(url);
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("{scheme}://{host}{port}{}", url.path());
    for (count, pair) in url.query().into_iter().flat_map(|query| query.split('&')).enumerate() {
        text.push(if count == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if !HARMLESS.contains(&name) => text.push_str(&format!("{name}=redacted")),
            _ => text.push_str(pair),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base: Uri = "http://r:5000/v2/a/blobs/uploads/?x=1".parse().unwrap();
        for (location, expected) in [
            ("/v2/a/blobs/uploads/1?_state=q", "http://r:5000/v2/a/blobs/uploads/1?_state=q"),
            ("1?_state=q", "http://r:5000/v2/a/blobs/uploads/1?_state=q"),
            ("?y=2", "http://r:5000/v2/a/blobs/uploads/?y=2"),
            ("https://s/x#f", "https://s/x"),
            ("//s/x", "http://s/x"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), expected);
        }
        for location in ["", "http://", "http:// x/"] {
            assert!(join(&base, location).is_none(), "{location}");
        }
    }

    #[test]
    fn queries_are_kept_and_secrets_hidden() {
        let url: Uri = "https://u:p@s.example/b?X-Amz-Signature=abc&from=x".parse().unwrap();
        assert_eq!(redacted(&url), "https://s.example/b?X-Amz-Signature=redacted&from=x");
        let put = with_query(&"http://r/u?_state=a%3D".parse().unwrap(), "digest", "sha256:1").unwrap();
        assert_eq!(put.to_string(), "http://r/u?_state=a%3D&digest=sha256:1");
        let put = with_query(&"http://r/u".parse().unwrap(), "scope", "a b,c").unwrap();
        assert_eq!(put.to_string(), "http://r/u?scope=a%20b%2Cc");
    }

    #[test]
    fn loopback_by_name() {
        for (domain, expected) in [
            ("localhost:5000", true),
            ("127.3.2.1", true),
            ("[::1]:5000", true),
            ("10.0.0.1:80", false),
            ("localhost.evil", false),
        ] {
            assert_eq!(is_loopback(host_of(domain)), expected, "{domain}");
        }
    }
}
