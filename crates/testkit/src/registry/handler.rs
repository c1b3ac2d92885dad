//! The registry's own behaviour: the distribution protocol's endpoints.

use std::sync::Arc;

use rbuild_image::Digest;

use super::http::{Request, Response};
use super::login::{self, parameters};
use super::{Dialect, Shared, State};

/// Where a request goes.
enum Route<'request> {
    Root,
    Manifest(&'request str, &'request str),
    Tags(&'request str),
    Blob(&'request str, &'request str),
    StartUpload(&'request str),
    Upload(&'request str, u64),
}

/// What can be refused before the body is read: for want of a login, or for the body's size.
pub(super) fn refusal(shared: &Shared, request: &Request) -> Option<Response> {
    let state = shared.state();
    if login::is_token_server(&state, request) || request.elsewhere {
        return None;
    }
    let Some(route) = route(request.path(), &state.dialect) else {
        return Some(Response::error(404, "NAME_UNKNOWN", "no such place"));
    };
    let refused = login::check(shared, &state, request, &scopes(&route, request));
    refused.or_else(|| refused_body(&state.dialect, &route, request))
}

fn refused_body(dialect: &Dialect, route: &Route<'_>, request: &Request) -> Option<Response> {
    let length = request.announced().unwrap_or(0) as u64;
    if dialect.largest_body.is_some_and(|most| length > most) {
        let page = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n</html>\r\n";
        return Some(Response::new(413).with("Content-Type", "text/html").body(page.as_bytes()));
    }
    let in_one_piece = request.method == "PUT" && matches!(route, Route::Upload(..)) && length > 0;
    dialect
        .monolithic
        .filter(|_| in_one_piece)
        .map(|status| Response::error(status, "UNSUPPORTED", "The operation is unsupported."))
}

pub(super) fn handle(shared: &Shared, request: &Request) -> Response {
    let mut state = shared.state();
    if login::is_token_server(&state, request) {
        return login::token(&mut state, request);
    }
    if request.elsewhere {
        return storage(&state, request);
    }
    let dialect = state.dialect.clone();
    match (request.method.as_str(), route(request.path(), &dialect)) {
        (_, None) => Response::error(404, "NAME_UNKNOWN", "no such place"),
        (_, Some(Route::Root)) => Response::new(200).body(b"{}"),
        ("GET" | "HEAD", Some(Route::Manifest(repository, name))) => get_manifest(&state, repository, name),
        ("PUT", Some(Route::Manifest(repository, name))) => {
            put_manifest(&mut state, request, repository, name)
        }
        ("GET", Some(Route::Tags(repository))) => tags(&state, request, repository),
        ("HEAD", Some(Route::Blob(repository, digest))) => get_blob(&state, request, repository, digest),
        ("GET", Some(Route::Blob(repository, digest))) => match dialect.storage {
            Some(status) => redirected_blob(shared, &state, repository, digest, status),
            None => get_blob(&state, request, repository, digest),
        },
        ("POST", Some(Route::StartUpload(repository))) => {
            start_upload(shared, &mut state, request, repository)
        }
        ("GET", Some(Route::Upload(repository, number))) => {
            let status = |state: &State| Some(state.uploads.get(&number)?.len());
            match status(&state) {
                Some(length) => upload_answer(shared, &state, 204, repository, number, length),
                None => no_upload(),
            }
        }
        ("PATCH", Some(Route::Upload(repository, number))) => {
            append(shared, &mut state, request, repository, number)
        }
        ("PUT", Some(Route::Upload(repository, number))) => {
            end_upload(&mut state, request, repository, number)
        }
        ("DELETE", Some(Route::Upload(_, number))) if dialect.cancels => {
            state.uploads.remove(&number);
            Response::new(204)
        }
        _ => Response::error(405, "UNSUPPORTED", "The operation is unsupported."),
    }
}

fn route<'request>(path: &'request str, dialect: &Dialect) -> Option<Route<'request>> {
    let (prefix, folder) = dialect.uploads;
    if let Some((repository, number)) =
        path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')?.split_once(&format!("/{folder}/")))
        && let Ok(number) = number.parse()
    {
        return Some(Route::Upload(repository, number));
    }
    let rest = path.strip_prefix("/v2")?;
    if rest == "/" || rest.is_empty() {
        return Some(Route::Root);
    }
    let rest = rest.strip_prefix('/')?;
    if let Some(repository) = rest.strip_suffix("/blobs/uploads/") {
        return Some(Route::StartUpload(repository));
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Some(Route::Tags(repository));
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return Some(Route::Blob(repository, digest));
    }
    rest.split_once("/manifests/").map(|(repository, name)| Route::Manifest(repository, name))
}

/// What a token must allow for the request.
fn scopes(route: &Route<'_>, request: &Request) -> Vec<String> {
    let repository = match route {
        Route::Root => return Vec::new(),
        Route::Manifest(repository, _) | Route::Blob(repository, _) | Route::Tags(repository) => repository,
        Route::StartUpload(repository) | Route::Upload(repository, _) => repository,
    };
    let actions = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "pull,push" };
    let mut scopes = vec![format!("repository:{repository}:{actions}")];
    scopes.extend(query(request, "from").map(|from| format!("repository:{from}:pull")));
    scopes
}

fn query(request: &Request, name: &str) -> Option<String> {
    parameters(request.query()).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn get_manifest(state: &State, repository: &str, name: &str) -> Response {
    let Some((media_type, bytes)) = state.manifests.get(&(repository.to_owned(), name.to_owned())) else {
        return Response::json(404, state.dialect.no_manifest);
    };
    let digest = Digest::sha256_of(&**bytes);
    let plain =
        Response::new(200).with("Content-Type", media_type).with("Docker-Content-Digest", digest.as_str());
    let own = state.dialect.on_manifests.iter();
    let response = own.fold(plain, |response, (name, value)| response.with(name, value));
    Response { body: Arc::clone(bytes), ..response }
}

fn put_manifest(state: &mut State, request: &Request, repository: &str, name: &str) -> Response {
    let digest = Digest::sha256_of(&request.body);
    if name.contains(':') && name != digest.as_str() {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    let media_type = request.header("content-type").unwrap_or_default().to_owned();
    let stored = (media_type, Arc::new(request.body.clone()));
    for name in [name, digest.as_str()] {
        state.manifests.insert((repository.to_owned(), name.to_owned()), stored.clone());
    }
    Response::new(201)
        .with("Docker-Content-Digest", digest.as_str())
        .with("Location", &format!("/v2/{repository}/manifests/{digest}"))
}

/// Two at a time, so that whoever wants all must follow the links.
fn tags(state: &State, request: &Request, repository: &str) -> Response {
    const PAGE: usize = 2;
    let known = state.manifests.keys().filter(|(known, name)| known == repository && !name.contains(':'));
    let all: Vec<&str> = known.map(|(_, name)| name.as_str()).collect();
    if all.is_empty() {
        return Response::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    }
    let last = query(request, "last").unwrap_or_default();
    let page: Vec<&str> = all.iter().copied().filter(|name| *name > last.as_str()).take(PAGE).collect();
    let body = serde_json::json!({ "name": repository, "tags": page }).to_string();
    match page.last() {
        Some(end) if all.last() != Some(end) => {
            let link = format!("</v2/{repository}/tags/list?last={end}&n={PAGE}>; rel=\"next\"");
            Response::json(200, &body).with("Link", &link)
        }
        _ => Response::json(200, &body),
    }
}

fn held<'state>(state: &'state State, repository: &str, digest: &str) -> Option<&'state Arc<Vec<u8>>> {
    let digest = digest.parse::<Digest>().ok()?;
    let holds = state.holdings.contains(&(repository.to_owned(), digest.clone()));
    state.blobs.get(&digest).filter(|_| holds)
}

fn no_blob() -> Response {
    Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
}

fn get_blob(state: &State, request: &Request, repository: &str, digest: &str) -> Response {
    match held(state, repository, digest) {
        Some(bytes) => content(request, bytes).with("Docker-Content-Digest", digest),
        None => no_blob(),
    }
}

fn redirected_blob(shared: &Shared, state: &State, repository: &str, digest: &str, status: u16) -> Response {
    if held(state, repository, digest).is_none() {
        return no_blob();
    }
    let url = format!(
        "http://{}/storage/{repository}/{digest}?X-Amz-Expires=1200&X-Amz-Signature=s3cret",
        shared.elsewhere
    );
    Response::new(status).with("Location", &url)
}

/// The storage host: the URL is the permission, and another one beside it is refused, as by S3.
fn storage(state: &State, request: &Request) -> Response {
    if request.header("authorization").is_some() {
        let body = "<?xml version=\"1.0\"?><Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>";
        return Response::new(400).with("Content-Type", "application/xml").body(body.as_bytes());
    }
    let rest = request.path().strip_prefix("/storage/").and_then(|rest| rest.rsplit_once('/'));
    match rest.and_then(|(repository, digest)| held(state, repository, digest)) {
        Some(bytes) => content(request, bytes),
        None => Response::new(404),
    }
}

/// The bytes, or the part that a Range asks for.
fn content(request: &Request, bytes: &Arc<Vec<u8>>) -> Response {
    let response = Response::new(200).with("Content-Type", "application/octet-stream");
    let response = Response { body: Arc::clone(bytes), ..response };
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match range {
        None => response,
        Some(start) if start >= bytes.len() => Response::error(416, "RANGE_INVALID", "no such range"),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Response { status: 206, start, ..response }.with("Content-Range", &range)
        }
    }
}

fn start_upload(shared: &Shared, state: &mut State, request: &Request, repository: &str) -> Response {
    if let (Some(digest), Some(from)) = (query(request, "mount"), query(request, "from"))
        && let Ok(digest) = digest.parse::<Digest>()
        && state.dialect.mounts
        && state.holdings.contains(&(from, digest.clone()))
    {
        state.holdings.insert((repository.to_owned(), digest.clone()));
        return Response::new(201).with("Location", &format!("/v2/{repository}/blobs/{digest}"));
    }
    state.next_number += 1;
    let number = state.next_number;
    state.uploads.insert(number, Vec::new());
    let answer = upload_answer(shared, state, 202, repository, number, 0);
    match state.dialect.smallest_chunk {
        Some(least) => answer.with("OCI-Chunk-Min-Length", &least.to_string()),
        None => answer,
    }
}

/// Where an upload goes on, and how much of it is there.
fn upload_answer(
    shared: &Shared,
    state: &State,
    status: u16,
    repository: &str,
    number: u64,
    length: usize,
) -> Response {
    let (prefix, folder) = state.dialect.uploads;
    let host = match state.dialect.whole_location {
        true => format!("http://{}", shared.address),
        false => String::new(),
    };
    let location = format!("{host}{prefix}/{repository}/{folder}/{number}?_state=a%3Db");
    let range = format!("0-{}", length.saturating_sub(1));
    Response::new(status).with("Location", &location).with("Range", &range)
}

fn no_upload() -> Response {
    Response::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

/// A chunk, which must begin where the last one ended.
fn append(shared: &Shared, state: &mut State, request: &Request, repository: &str, number: u64) -> Response {
    let Some(upload) = state.uploads.get_mut(&number) else { return no_upload() };
    let start = request.header("content-range").and_then(|range| range.split_once('-')?.0.parse().ok());
    let in_order = start.is_none_or(|start: usize| start == upload.len());
    if in_order {
        upload.extend_from_slice(&request.body);
    }
    let (length, status) = (upload.len(), if in_order { 202 } else { 416 });
    upload_answer(shared, state, status, repository, number, length)
}

fn end_upload(state: &mut State, request: &Request, repository: &str, number: u64) -> Response {
    if query(request, "_state").as_deref() != Some("a=b") {
        return Response::error(400, "BLOB_UPLOAD_INVALID", "the state is missing");
    }
    let Some(mut bytes) = state.uploads.remove(&number) else { return no_upload() };
    bytes.extend_from_slice(&request.body);
    let digest = Digest::sha256_of(&bytes);
    if query(request, "digest").as_deref() != Some(digest.as_str()) {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    state.holdings.insert((repository.to_owned(), digest.clone()));
    *state.stored.entry((repository.to_owned(), digest.clone())).or_default() += 1;
    state.blobs.insert(digest.clone(), Arc::new(bytes));
    Response::new(201)
        .with("Docker-Content-Digest", digest.as_str())
        .with("Location", &format!("/v2/{repository}/blobs/{digest}"))
}
