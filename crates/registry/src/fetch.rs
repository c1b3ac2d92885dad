//! Plain downloads, for `ADD https://…`.

use std::fmt;
use std::io::Read;

use ureq::http::{Method, Uri};

use crate::http::{Call, Payload};
use crate::{Client, RegistryError, Result, url};

/// A GET of any URL, with the client's TLS, proxies and retries.
#[derive(Clone, Debug, Default)]
pub struct HttpRequest {
    /// `http:` or `https:`.
    pub url: String,
    /// Sent as they are (`If-None-Match`, `Authorization`); the latter to the first host only.
    pub headers: Vec<(String, String)>,
}

/// What the server sent: a 200 with its body, or a 304 without.
pub struct HttpResponse {
    /// 200 or 304.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Where it came from after redirects.
    pub url: String,
    /// The content as it arrives; an error if the connection breaks before the end.
    pub body: Box<dyn Read + Send>,
}

impl HttpResponse {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpResponse {{ status: {}, url: {:?} }}", self.status, self.url)
    }
}

impl Client {
    /// Downloads a URL: retries until an answer begins, follows redirects. A 304 is an answer (to `If-None-Match`), other statuses
    /// than 200 are errors.
    pub fn http_get(&self, request: &HttpRequest) -> Result<HttpResponse> {
        let url: Uri = request.url.parse().map_err(|_| invalid_url(&request.url))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
            return Err(invalid_url(&request.url));
        }
        let answer =
            self.retry.run(|| self.http.send(plain_get(&url, &request.headers))?.expect(&[200, 304]))?;
        let headers = answer.headers.iter();
        let headers = headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
        let (status, headers) = (answer.status, headers.collect());
        let url = url::redacted(&answer.url);
        let body = Box::new(answer.body.into_reader());
        Ok(HttpResponse { status, headers, url, body })
    }
}

fn plain_get(url: &Uri, headers: &[(String, String)]) -> Call<'static> {
    let (secret, open): (Vec<_>, Vec<_>) =
        headers.iter().cloned().partition(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    Call {
        method: Method::GET,
        url: url.clone(),
        headers: open.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        authorization: secret.into_iter().next().map(|(_, value)| value),
        insecure: false,
        body: Payload::None,
    }
}

fn invalid_url(text: &str) -> RegistryError {
    RegistryError::Protocol {
        method: "GET".to_owned(),
        url: text.split(['?', '@']).next().unwrap_or_default().to_owned(),
        reason: "not an http or https URL".to_owned(),
    }
}
