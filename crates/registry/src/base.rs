//! Finding out where a registry answers: by TLS, or in the clear where that is allowed.

use std::sync::Arc;

use rbuild_image::ImageError;
use ureq::http::{Method, Uri};

use crate::http::{Call, Payload, protocol};
use crate::registries::Endpoint;
use crate::{Client, RegistryError, Result, url};

impl Client {
    /// The base URL of an endpoint's registry, found out once.
    pub(crate) fn base(&self, endpoint: &Endpoint) -> Result<Uri> {
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
            return self.first_that_speaks(http, https);
        }
        if endpoint.insecure { self.first_that_speaks(https, http) } else { Ok(https) }
    }

    /// The URL that is answered in its own protocol. If neither is, the first one's error counts and nothing is remembered.
    fn first_that_speaks(&self, first: Uri, second: Uri) -> Result<Uri> {
        match self.speaks(&first) {
            Ok(true) => Ok(first),
            Ok(false) => Ok(second),
            Err(error) => match self.speaks(&second) {
                Ok(true) => Ok(second),
                _ => Err(error),
            },
        }
    }

    /// Does the server answer at `base` in the scheme's own way?
    fn speaks(&self, base: &Uri) -> Result<bool> {
        let url = url::join(base, "/v2/").ok_or_else(|| protocol(&Method::GET, base, "no URL"))?;
        let (headers, authorization) = (Vec::new(), None);
        let call =
            Call { method: Method::GET, url, headers, authorization, insecure: true, body: Payload::None };
        match self.http.send(call) {
            // Go's servers and nginx answer plain HTTP on a TLS port with 400 and a sentence.
            Ok(answer) if answer.status == 400 => {
                Ok(!matches!(answer.read(4096), Ok(text) if text.windows(5).any(|word| word == b"HTTPS")))
            }
            Ok(_) => Ok(true),
            Err(RegistryError::Protocol { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
