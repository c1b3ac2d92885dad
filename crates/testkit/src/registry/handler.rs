//! The registry's own behaviour: the distribution protocol's endpoints.

use std::sync::Arc;

use rbuild_image::Digest;

use super::http::{Request, Response};
use super::login::{self, parameters};
use super::{Shared, State};

/// Where a request goes.
enum Route<'request> {
    Root,
    Manifest(&'request str, &'request str),
    Blob(&'request str, &'request str),
    StartUpload(&'request str),
    Upload(&'request str, u64),
}

pub(super) fn handle(shared: &Shared, request: &Request) -> Response {
    let mut state = shared.state();
    if request.path() == "/token" {
        return login::token(&mut state, request);
    }
    let Some(route) = route(request.path()) else {
        return Response::error(404, "NAME_UNKNOWN", "no such place");
    };
    let scopes = scopes(&route, request);
    if let Some(refusal) = login::check(shared, &state, request, &scopes) {
        return refusal;
    }
    match (request.method.as_str(), route) {
        (_, Route::Root) => Response::new(200).body(b"{}"),
        ("GET" | "HEAD", Route::Manifest(repository, name)) => get_manifest(&state, repository, name),
        ("PUT", Route::Manifest(repository, name)) => put_manifest(&mut state, request, repository, name),
        ("GET" | "HEAD", Route::Blob(repository, digest)) => get_blob(&state, request, repository, digest),
        ("POST", Route::StartUpload(repository)) => start_upload(&mut state, request, repository),
        ("PATCH", Route::Upload(repository, number)) => append(&mut state, request, repository, number),
        ("PUT", Route::Upload(repository, number)) => end_upload(&mut state, request, repository, number),
        ("DELETE", Route::Upload(_, number)) => {
            state.uploads.remove(&number);
            Response::new(204)
        }
        _ => Response::error(405, "UNSUPPORTED", "not here"),
    }
}

fn route(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if rest == "/" || rest.is_empty() {
        return Some(Route::Root);
    }
    let rest = rest.strip_prefix('/')?;
    if let Some((repository, rest)) = rest.split_once("/blobs/uploads/") {
        return match rest {
            "" => Some(Route::StartUpload(repository)),
            number => Some(Route::Upload(repository, number.parse().ok()?)),
        };
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
        Route::Manifest(repository, _) | Route::Blob(repository, _) => repository,
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
        return Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    let digest = Digest::sha256_of(&**bytes);
    let response =
        Response::new(200).with("Content-Type", media_type).with("Docker-Content-Digest", digest.as_str());
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

fn get_blob(state: &State, request: &Request, repository: &str, digest: &str) -> Response {
    let held = digest
        .parse::<Digest>()
        .ok()
        .filter(|digest| state.holdings.contains(&(repository.to_owned(), digest.clone())));
    let Some(bytes) = held.and_then(|digest| state.blobs.get(&digest)) else {
        return Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let response = Response::new(200)
        .with("Docker-Content-Digest", digest)
        .with("Content-Type", "application/octet-stream");
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

fn start_upload(state: &mut State, request: &Request, repository: &str) -> Response {
    if let (Some(digest), Some(from)) = (query(request, "mount"), query(request, "from"))
        && let Ok(digest) = digest.parse::<Digest>()
        && !state.refuse_mounts
        && state.holdings.contains(&(from, digest.clone()))
    {
        state.holdings.insert((repository.to_owned(), digest.clone()));
        return Response::new(201).with("Location", &format!("/v2/{repository}/blobs/{digest}"));
    }
    state.next_number += 1;
    let number = state.next_number;
    state.uploads.insert(number, Vec::new());
    Response::new(202)
        .with("Location", &format!("/v2/{repository}/blobs/uploads/{number}?_state=a%3Db"))
        .with("Range", "0-0")
}

fn append(state: &mut State, request: &Request, repository: &str, number: u64) -> Response {
    let Some(upload) = state.uploads.get_mut(&number) else {
        return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
    };
    upload.extend_from_slice(&request.body);
    let end = upload.len().saturating_sub(1);
    let location = format!("/v2/{repository}/blobs/uploads/{number}?_state=a%3Db");
    Response::new(202).with("Location", &location).with("Range", &format!("0-{end}"))
}

fn end_upload(state: &mut State, request: &Request, repository: &str, number: u64) -> Response {
    if query(request, "_state").as_deref() != Some("a=b") {
        return Response::error(400, "BLOB_UPLOAD_INVALID", "the state is missing");
    }
    let Some(mut bytes) = state.uploads.remove(&number) else {
        return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
    };
    bytes.extend_from_slice(&request.body);
    let digest = Digest::sha256_of(&bytes);
    if query(request, "digest").as_deref() != Some(digest.as_str()) {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    state.holdings.insert((repository.to_owned(), digest.clone()));
    state.blobs.insert(digest.clone(), Arc::new(bytes));
    Response::new(201)
        .with("Docker-Content-Digest", digest.as_str())
        .with("Location", &format!("/v2/{repository}/blobs/{digest}"))
}
