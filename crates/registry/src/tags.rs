//! Which tags a repository has (distribution specification, "Listing Tags").

use rbuild_image::Reference;
use serde::Deserialize;
use ureq::http::{Method, Uri};

use crate::client::{RepositoryCall, Target};
use crate::http::{Answer, protocol};
use crate::registries::Endpoint;
use crate::{Client, Result, url};

/// Largest page, in bytes.
const MAX_PAGE: u64 = 8 << 20;
/// Pages after which a list is taken for endless.
const MAX_PAGES: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    /// Some registries say `null` where there are none.
    tags: Option<Vec<String>>,
}

impl Client {
    /// All tags of the repository of `reference`, in the registry's order, page by page.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        self.first_endpoint(reference, |endpoint| self.tags_from(endpoint))
    }

    fn tags_from(&self, endpoint: &Endpoint) -> Result<Vec<String>> {
        let mut target = Target::Path("tags/list".to_owned());
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, next) = self.retry.run(|| self.page(endpoint, &target))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(url) => target = Target::Url(url),
                None => return Ok(tags),
            }
        }
        let base = self.base(endpoint)?;
        Err(protocol(&Method::GET, &base, "the registry's list of tags has no end"))
    }

    fn page(&self, endpoint: &Endpoint, target: &Target) -> Result<(Page, Option<Uri>)> {
        let mut call = RepositoryCall::pull(Method::GET, endpoint, String::new());
        call.target = target.clone();
        let answer = self.ask(endpoint, call)?.expect(&[200])?;
        let (next, at) = (next_page(&answer), answer.url.clone());
        let bytes = answer.read(MAX_PAGE)?;
        let wrong = |_| protocol(&Method::GET, &at, "the registry's list of tags is no JSON");
        Ok((serde_json::from_slice(&bytes).map_err(wrong)?, next))
    }
}

/// `Link: </v2/name/tags/list?last=x&n=2>; rel="next"` (RFC 8288).
fn next_page(answer: &Answer) -> Option<Uri> {
    let link = answer.header("link")?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.contains("rel=\"next\"") || parameters.contains("rel=next");
    url::join(&answer.url, target).filter(|_| is_next)
}
