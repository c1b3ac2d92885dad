//! Logging in, redirects, and who gets to see the credentials.

mod common;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Sink, noise, options};
use rbuild_image::{Descriptor, MediaType, Platform};
use rbuild_registry::{Client, Credential, ErrorKind, HelperOutput, HelperRunner, HttpRequest, Pushed};
use rbuild_testkit::registry::{Effect, Fault, Login};
use rbuild_testkit::{TarEntry, TestRegistry, tiny_image};

fn user() -> Option<(String, String)> {
    Some(("me".to_owned(), "hunter2".to_owned()))
}

fn token_login(user: Option<(String, String)>) -> Login {
    Login::Token { user, refresh: None, only: None }
}

fn client_as(registry: &TestRegistry, credential: Option<Credential>) -> Client {
    let mut options = options();
    if let Some(credential) = credential {
        options.credentials.insert(&registry.address(), credential);
    }
    Client::new(options).unwrap()
}

fn me() -> Option<Credential> {
    Some(Credential::Basic { username: "me".to_owned(), password: "hunter2".to_owned() })
}

#[test]
fn all_ways_in() {
    let refresh = Login::Token { user: user(), refresh: Some("re/fresh+1".to_owned()), only: None };
    for (name, login, credential) in [
        ("basic", Login::Basic("me".into(), "hunter2".into()), me()),
        ("anonymous token", token_login(None), None),
        ("token with password", token_login(user()), me()),
        ("identity token", refresh, Some(Credential::IdentityToken("re/fresh+1".into()))),
    ] {
        let registry = TestRegistry::start();
        let image = tiny_image().layer(&[TarEntry::file("a", "b")]);
        registry.put_image("team/app", "1", &image);
        registry.require(login);
        let client = client_as(&registry, credential);
        let found = client.resolve(&registry.reference("team/app:1"), &Platform::host());
        assert!(found.is_ok(), "{name}: {found:?}");
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(noise(1000)))) };
        let descriptor = Descriptor::of(MediaType::ImageLayer, &noise(1000));
        let from = [registry.reference("team/app")];
        let pushed = client.push_blob(&registry.reference("team/new:1"), &descriptor, &open, &from, &|_| {});
        assert!(matches!(pushed, Ok(Pushed::Uploaded)), "{name}: {pushed:?}");
    }
}

#[test]
fn a_login_is_tried_before_it_is_kept() {
    let right = Credential::Basic { username: "me".to_owned(), password: "hunter2".to_owned() };
    let wrong = Credential::Basic { username: "me".to_owned(), password: "x".to_owned() };
    for login in [Login::Basic("me".into(), "hunter2".into()), token_login(user())] {
        let registry = TestRegistry::start();
        registry.require(login.clone());
        let client = client_as(&registry, None);
        client.check_login(&registry.address(), &right).unwrap();
        client.check_login(&format!("{}/namespace", registry.address()), &right).unwrap();
        let error = client.check_login(&registry.address(), &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{login:?}: {error}");
    }
    let refresh = Login::Token { user: user(), refresh: Some("fresh".to_owned()), only: None };
    let registry = TestRegistry::start();
    registry.require(refresh);
    let client = client_as(&registry, None);
    client.check_login(&registry.address(), &Credential::IdentityToken("fresh".to_owned())).unwrap();
    assert!(client.check_login(&registry.address(), &Credential::IdentityToken("stale".to_owned())).is_err());
    let open = TestRegistry::start();
    client_as(&open, None).check_login(&open.address(), &wrong).unwrap();
    assert!(client.check_login("no registry", &right).is_err());
}

#[test]
fn wrong_or_missing_logins_are_told_once() {
    for (name, login, credential, message) in [
        ("none", Login::Basic("me".into(), "hunter2".into()), None, "401: authentication required"),
        ("wrong basic", Login::Basic("me".into(), "x".into()), me(), "401: authentication required"),
        (
            "wrong at the token server",
            Login::Token { user: Some(("me".into(), "x".into())), refresh: None, only: None },
            me(),
            "401: incorrect username or password",
        ),
    ] {
        let registry = TestRegistry::start();
        registry.require(login);
        let error = client_as(&registry, credential).manifest(&registry.reference("app:1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{name}");
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{name}");
        assert!(registry.requests().len() <= 4, "{name}: {:?}", registry.requests());
    }
}

#[test]
fn one_token_serves_all_threads_and_is_renewed() {
    let registry = TestRegistry::start();
    let blobs: Vec<Vec<u8>> = (1..=8).map(|length| noise(length * 1000)).collect();
    blobs.iter().for_each(|bytes| drop(registry.put_blob("app", bytes)));
    registry.require(token_login(None));
    let client = client_as(&registry, None);
    let pull_all = || {
        std::thread::scope(|scope| {
            for bytes in &blobs {
                scope.spawn(|| {
                    let descriptor = Descriptor::of(MediaType::ImageLayer, bytes);
                    client
                        .blob(&registry.reference("app:1"), &descriptor, &mut Sink::default(), &|_| {})
                        .unwrap();
                });
            }
        });
    };
    pull_all();
    assert_eq!(registry.count("GET", "/token"), 1);
    registry.expire_tokens();
    pull_all();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[test]
fn a_token_that_expires_within_a_push_is_renewed() {
    let registry = TestRegistry::start();
    registry.require(token_login(user()));
    // The PUT is refused once, its body already sent.
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.address());
    registry.fault(Fault::once(
        "PUT",
        "/uploads/",
        Effect::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new()),
    ));
    let bytes = noise(300_000);
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(bytes.clone()))) };
    let descriptor = Descriptor::of(MediaType::ImageLayer, &bytes);
    let pushed =
        client_as(&registry, me()).push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {});
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("PUT", "/uploads/"), 2);
    assert!(registry.blob(&descriptor.digest).is_some());
}

#[test]
fn pull_only_accounts_cannot_push() {
    let registry = TestRegistry::start();
    registry.require(Login::Token { user: user(), refresh: None, only: Some("pull".to_owned()) });
    registry.put_image("app", "1", &tiny_image());
    let client = client_as(&registry, me());
    client.manifest(&registry.reference("app:1")).unwrap();
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(vec![1]))) };
    let descriptor = Descriptor::of(MediaType::ImageLayer, &[1]);
    let error = client.push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

#[test]
fn redirects_do_not_carry_the_login_to_another_host() {
    let (registry, storage) = (TestRegistry::start(), TestRegistry::start());
    let bytes = noise(500_000);
    registry.put_blob("app", &bytes);
    storage.put_blob("app", &bytes);
    registry.require(Login::Basic("me".into(), "hunter2".into()));
    let descriptor = Descriptor::of(MediaType::ImageLayer, &bytes);
    let client = client_as(&registry, me());
    let address =
        format!("http://{}/v2/app/blobs/{}?X-Amz-Signature=s3cret", storage.address(), descriptor.digest);
    // The first request is the 401; the redirect comes after the login, and again when the transfer is taken up.
    let first = client.manifest(&registry.reference("app:none"));
    assert!(first.is_err());
    registry.fault(Fault::once("GET", "/blobs/", Effect::Redirect(address)).times(3));
    storage.fault(Fault::once("GET", "/blobs/", Effect::Cut(1000)));
    let mut sink = Sink::default();
    let result = client.blob(&registry.reference("app:1"), &descriptor, &mut sink, &|_| {});
    result.unwrap();
    assert!(sink.bytes == bytes && sink.restarts == 0);
    assert_eq!(storage.requests().len(), 2);
    assert!(storage.requests().iter().all(|request| request.header("authorization").is_none()));
    // And its errors do not show the signature.
    storage.fault(Fault::once("GET", "/blobs/", Effect::status(403)));
    let error = client
        .blob(&registry.reference("app:1"), &descriptor, &mut Sink::default(), &|_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("X-Amz-Signature=redacted") && !error.contains("s3cret"), "{error}");
}

#[test]
fn redirects_without_end_end() {
    let registry = TestRegistry::start();
    registry.fault(
        Fault::once("GET", "/manifests/", Effect::Redirect("/v2/app/manifests/1".to_owned())).times(99),
    );
    let error = client_as(&registry, None).manifest(&registry.reference("app:1")).unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
    registry.fault(Fault::once("GET", "/x", Effect::Status(302, Vec::new(), String::new())));
    let request = HttpRequest { url: format!("http://{}/x", registry.address()), headers: Vec::new() };
    let error = client_as(&registry, None).http_get(&request).unwrap_err();
    assert!(error.to_string().contains("a redirect without Location"), "{error}");
}

#[test]
fn helpers_are_run_once() {
    #[derive(Default)]
    struct Helper(AtomicUsize);
    impl HelperRunner for Helper {
        fn run(&self, program: &str, action: &str, _: &[u8]) -> io::Result<HelperOutput> {
            self.0.fetch_add(1, Ordering::SeqCst);
            assert_eq!((program, action), ("docker-credential-test", "get"));
            Ok(HelperOutput { success: true, stdout: br#"{"Username":"me","Secret":"hunter2"}"#.to_vec() })
        }
    }
    let registry = TestRegistry::start();
    registry.put_image("app", "1", &tiny_image());
    registry.require(Login::Basic("me".into(), "hunter2".into()));
    let helper = Arc::new(Helper::default());
    let mut options = options();
    options.credentials.add_document("config.json".as_ref(), br#"{"credsStore":"test"}"#).unwrap();
    options.helper = Some(Arc::clone(&helper) as Arc<dyn HelperRunner>);
    let client = Client::new(options).unwrap();
    for _ in 0..3 {
        client.resolve(&registry.reference("app:1"), &Platform::host()).unwrap();
    }
    assert_eq!(helper.0.load(Ordering::SeqCst), 1);
}

#[test]
fn downloads_of_any_url() {
    let server = TestRegistry::start();
    let digest = server.put_blob("files", b"content");
    let client = client_as(&server, None);
    let url = format!("http://{}/v2/files/blobs/{digest}", server.address());
    server.fault(Fault::once("GET", "/files/", Effect::status(503)));
    server.fault(Fault::once("GET", "/start", Effect::Redirect(url.clone())).times(2));
    let request = |url: String, headers: Vec<(String, String)>| HttpRequest { url, headers };
    let start =
        request(format!("http://{}/start", server.address()), vec![("Accept".into(), "text/plain".into())]);
    let mut response = client.http_get(&start).unwrap();
    let mut text = String::new();
    response.body.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), response.url.as_str(), response.status), ("content", url.as_str(), 200));
    assert_eq!(response.header("content-length"), Some("7"));
    assert_eq!(server.requests()[0].header("accept"), Some("text/plain"));
    server.fault(Fault::once(
        "GET",
        "/files/",
        Effect::Status(304, vec![("ETag".into(), "\"e\"".into())], String::new()),
    ));
    let again = client.http_get(&request(url, vec![("If-None-Match".into(), "\"e\"".into())])).unwrap();
    assert_eq!((again.status, again.header("etag")), (304, Some("\"e\"")));
    for url in ["ftp://x/y", "not a url", "http://", "/etc/passwd"] {
        let error = client.http_get(&request(url.to_owned(), Vec::new())).unwrap_err();
        assert!(error.to_string().contains("not an http or https URL"), "{error}");
    }
}
