//! The dialogues of the registries that people use: each in its own words, places and refusals.

mod common;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use common::{Sink, noise, options};
use rbuild_image::{Descriptor, MediaType, Platform, Reference};
use rbuild_registry::{
    Client, ClientOptions, Credential, ErrorKind, HelperOutput, HelperRunner, Pushed, RegistryError,
};
use rbuild_testkit::registry::{Dialect, Effect, Fault, Logged, Login};
use rbuild_testkit::{TarEntry, TestRegistry, TinyImage, tiny_image};

const USER: &str = "robot$team+ci";
const PASSWORD: &str = "s3cr+t/pass word";

fn basic(user: &str) -> Credential {
    Credential::Basic { username: user.to_owned(), password: PASSWORD.to_owned() }
}

/// Tokens for this user.
fn tokens_for(user: &str) -> Login {
    Login::Token { user: Some((user.to_owned(), PASSWORD.to_owned())), refresh: None, only: None }
}

fn image() -> TinyImage {
    tiny_image().layer(&[TarEntry::file("a", noise(9_000))]).layer(&[TarEntry::file("b", noise(700))])
}

/// A registry of that dialect, with an image at `repository`.
fn registry(dialect: Dialect, login: Login, repository: &str) -> TestRegistry {
    let registry = TestRegistry::start();
    registry.speak(dialect);
    registry.put_image(repository, "1", &image());
    registry.require(login);
    registry
}

fn client(registry: &TestRegistry, credential: Option<Credential>) -> Client {
    Client::new(logged_in(registry, credential)).unwrap()
}

fn logged_in(registry: &TestRegistry, credential: Option<Credential>) -> ClientOptions {
    let mut options = options();
    if let Some(credential) = credential {
        options.credentials.insert(&registry.address(), credential);
    }
    options
}

/// Pulls the image, layers side by side, and compares it.
fn pull(client: &Client, name: &Reference) -> Result<(), RegistryError> {
    let found = client.resolve(name, &Platform::host())?;
    let image = image();
    assert_eq!(found.config, image.config);
    std::thread::scope(|scope| {
        for (layer, bytes) in found.manifest.layers.iter().zip(&image.layers) {
            scope.spawn(move || {
                let mut sink = Sink::default();
                client.blob(name, layer, &mut sink, &|_| {}).unwrap();
                assert!(sink.bytes == *bytes);
            });
        }
    });
    Ok(())
}

/// Pushes the image to `to` side by side, blobs perhaps mounted from `from`; says how each blob got there.
fn push(client: &Client, to: &Reference, from: &Reference) -> Result<Vec<Pushed>, RegistryError> {
    let image = image();
    let blobs = image.blobs();
    let pushed = std::thread::scope(|scope| {
        let each: Vec<_> = blobs
            .iter()
            .map(|(descriptor, bytes)| scope.spawn(move || push_blob(client, to, from, descriptor, bytes)))
            .collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>, _>>()
    })?;
    client.push_manifest(to, &image.media_type(), &image.manifest().to_bytes())?;
    Ok(pushed)
}

fn push_blob(
    client: &Client,
    to: &Reference,
    from: &Reference,
    descriptor: &Descriptor,
    bytes: &[u8],
) -> Result<Pushed, RegistryError> {
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(bytes.to_vec()))) };
    client.push_blob(to, descriptor, &open, std::slice::from_ref(from), &|_| {})
}

/// Pull and push both went well: in few tokens, and no storage host saw a login.
fn both_ways(registry: &TestRegistry, client: &Client, repository: &str, expected: Pushed) {
    let name = registry.reference(&format!("{repository}:1"));
    pull(client, &name).unwrap();
    let to = registry.reference(&format!("{repository}-copy:2"));
    assert_eq!(push(client, &to, &name).unwrap(), [expected; 3]);
    assert!(registry.manifest(&format!("{repository}-copy"), "2").is_some());
    pull(client, &registry.reference(&format!("{repository}-copy:2"))).unwrap();
    no_login_leaks(registry);
}

fn no_login_leaks(registry: &TestRegistry) {
    for request in registry.requests().iter().filter(|request| request.target.starts_with("/storage/")) {
        assert_eq!((request.header("authorization"), request.status), (None, 200), "{request:?}");
    }
}

/// The requests for tokens.
fn tokens(registry: &TestRegistry, realm: &str) -> Vec<Logged> {
    registry.requests().into_iter().filter(|request| request.target.starts_with(realm)).collect()
}

/// Scopes of a pull and of a push with mounts: one token for each, however many threads want it.
const SCOPES: usize = 4;

#[track_caller]
fn refused(result: Result<(), RegistryError>, kind: ErrorKind, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(!error.to_string().contains("tried"), "{error}");
}

#[test]
fn docker_hub() {
    let registry = registry(Dialect::docker_hub(), tokens_for("me"), "library/node");
    let conf = format!("[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\n", registry.address());
    let as_hub = |credential| {
        let mut options = logged_in(&registry, credential);
        options.registries.add("registries.conf".as_ref(), &conf).unwrap();
        Client::new(options).unwrap()
    };
    let node = Reference::parse("node:1").unwrap();
    let client = as_hub(Some(basic("me")));
    pull(&client, &node).unwrap();
    let copy = Reference::parse("me/node:2").unwrap();
    assert_eq!(push(&client, &copy, &node).unwrap(), [Pushed::Mounted; 3]);
    no_login_leaks(&registry);
    let asked = tokens(&registry, "/token");
    assert_eq!(
        asked.len(),
        3,
        "a pull's, a push's, and a mount's: {:?}",
        asked.iter().map(|a| &a.target).collect::<Vec<_>>()
    );
    assert!(asked[0].target.contains("service=registry.docker.io&scope=repository:library/node:pull"));
    assert_eq!(asked[0].header("host"), Some(registry.elsewhere().as_str()));

    // A stranger gets a token that allows nothing; a second one would be no better.
    refused(
        as_hub(None).manifest(&Reference::parse("me/private").unwrap()).map(drop),
        ErrorKind::Unauthorized,
        "401: authentication required",
    );
    assert_eq!((registry.count("GET", "/manifests/latest"), registry.count("GET", "/token")), (2, 4));
}

#[test]
fn docker_hubs_limits() {
    let registry = registry(Dialect::docker_hub(), tokens_for("me"), "library/node");
    let client = client(&registry, Some(basic("me")));
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
    let count = |left: &str| {
        vec![
            ("ratelimit-limit".to_owned(), "100;w=21600".to_owned()),
            ("ratelimit-remaining".to_owned(), left.to_owned()),
        ]
    };
    // No pulls for hours: that is said at once.
    let used_up = Effect::Status(429, count("0;w=21600"), body.to_owned());
    registry.fault(Fault::once("GET", "/manifests/", used_up));
    let name = registry.reference("library/node:1");
    let error = client.manifest(&name).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "pull rate limit. https://www.docker.com/increase-rate-limit (0 of 100 pulls in 6 hours are left)"
        ),
        "{error}"
    );
    assert_eq!(
        (error.kind(), error.retry_after()),
        (ErrorKind::TooManyRequests, Some(Duration::from_secs(21_600)))
    );
    assert_eq!(registry.count("GET", "/manifests/"), 1);
    // The limit against abuse is short and counts nothing: it passes.
    registry.fault(Fault::once(
        "GET",
        "/manifests/",
        Effect::Status(429, Vec::new(), "Too Many Requests".to_owned()),
    ));
    client.manifest(&name).unwrap();
}

#[test]
fn amazon_ecr() {
    struct EcrLogin;
    impl HelperRunner for EcrLogin {
        fn run(&self, program: &str, action: &str, _: &[u8]) -> io::Result<HelperOutput> {
            assert_eq!((program, action), ("docker-credential-ecr-login", "get"));
            let answer = serde_json::json!({ "ServerURL": "", "Username": "AWS", "Secret": PASSWORD });
            Ok(HelperOutput { success: true, stdout: answer.to_string().into_bytes() })
        }
    }
    let registry = registry(Dialect::ecr(), Login::Basic("AWS".into(), PASSWORD.into()), "team/app");
    let mut options = options();
    let config = format!(r#"{{"credHelpers":{{"{}":"ecr-login"}}}}"#, registry.address());
    options.credentials.add_document("config.json".as_ref(), config.as_bytes()).unwrap();
    options.helper = Some(Arc::new(EcrLogin));
    let client = Client::new(options).unwrap();
    both_ways(&registry, &client, "team/app", Pushed::Uploaded);
    // Mounts that were not made leave uploads that can't be ended here.
    let mounts = registry.requests().into_iter().filter(|request| request.target.contains("mount="));
    assert_eq!(mounts.filter(|request| request.status == 202).count(), 3);
    assert_eq!(registry.count("DELETE", "/uploads/"), 3);

    let missing = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'team/none' does not exist in the registry with id '123456789012'"}]}"#;
    registry.fault(Fault::once("POST", "team/none", Effect::Status(404, Vec::new(), missing.to_owned())));
    let (from, to) = (registry.reference("other:1"), registry.reference("team/none:1"));
    // A mount can't be told from a missing repository: the upload then says it.
    registry.fault(Fault::once("POST", "team/none", Effect::Status(404, Vec::new(), missing.to_owned())));
    let (descriptor, bytes) = image().blobs().swap_remove(0);
    let result = push_blob(&client, &to, &from, &descriptor, &bytes).map(drop);
    refused(result, ErrorKind::NotFound, "404: The repository with name 'team/none' does not exist");
    let immutable = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists in the 'team/app' repository and cannot be overwritten because the repository is immutable."}]}"#;
    registry.fault(Fault::once("PUT", "/manifests/1", Effect::Status(400, Vec::new(), immutable.to_owned())));
    let manifest = image().manifest().to_bytes();
    let result = client.push_manifest(&registry.reference("team/app:1"), &image().media_type(), &manifest);
    refused(result.map(drop), ErrorKind::Protocol, "400: The image tag '1' already exists");
    let stranger = crate::client(&registry, None).manifest(&registry.reference("team/app:1")).map(drop);
    refused(stranger, ErrorKind::Unauthorized, "401: Not Authorized");
}

/// A helper whose password is another each time; says how often it was asked.
#[derive(Default)]
struct Rotating(std::sync::atomic::AtomicUsize);

impl HelperRunner for Rotating {
    fn run(&self, _: &str, _: &str, _: &[u8]) -> io::Result<HelperOutput> {
        let number = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let answer =
            serde_json::json!({ "ServerURL": "", "Username": "AWS", "Secret": format!("password-{number}") });
        Ok(HelperOutput { success: true, stdout: answer.to_string().into_bytes() })
    }
}

#[test]
fn a_password_that_runs_out_within_a_push_is_asked_for_again() {
    let expired = r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#;
    let denied =
        r#"{"errors":[{"code":"DENIED","message":"User: arn:aws:iam::1:user/ci is not authorized"}]}"#;
    for status in [403, 401] {
        let password = |number: usize| Login::Basic("AWS".into(), format!("password-{number}"));
        let dialect = Dialect { expired: Some((status, expired)), ..Dialect::ecr() };
        let registry = registry(dialect, password(1), "team/app");
        let (helper, mut options) = (Arc::new(Rotating::default()), options());
        let config = format!(r#"{{"credHelpers":{{"{}":"ecr-login"}}}}"#, registry.address());
        options.credentials.add_document("config.json".as_ref(), config.as_bytes()).unwrap();
        options.helper = Some(helper.clone());
        let client = Client::new(options).unwrap();
        let asked = || helper.0.load(std::sync::atomic::Ordering::SeqCst);
        let to = registry.reference("team/copy:1");
        let image = image();
        let blobs = image.blobs();
        // It runs out before each of these: a HEAD without a body is the first to hear of it, then a PUT, then a GET that
        // asks for less than the push did.
        push_blob(&client, &to, &to, &blobs[0].0, &blobs[0].1).unwrap();
        registry.require(password(2));
        push_blob(&client, &to, &to, &blobs[1].0, &blobs[1].1).unwrap();
        push_blob(&client, &to, &to, &blobs[2].0, &blobs[2].1).unwrap();
        registry.require(password(3));
        let manifest = image.manifest().to_bytes();
        client.push_manifest(&to, &image.media_type(), &manifest).unwrap();
        assert_eq!(asked(), 3, "{status}: once for each password");
        registry.require(password(4));
        client.manifest(&to).unwrap();
        assert_eq!(asked(), 4, "{status}");
        // The helper has nothing newer that helps: it is asked once, and the registry's words are told.
        registry.require(password(100));
        let sent = registry.requests().len();
        let result = client.push_manifest(&to, &image.media_type(), &manifest).map(drop);
        let kind = if status == 403 { ErrorKind::Denied } else { ErrorKind::Unauthorized };
        refused(result, kind, "Your authorization token has expired");
        assert_eq!((asked(), registry.requests().len() - sent), (5, 2), "{status}");
        // What is forbidden for another reason is no matter of the password.
        registry.require(password(5));
        registry.fault(Fault::once("PUT", "/manifests/", Effect::Status(403, Vec::new(), denied.to_owned())));
        let result = client.push_manifest(&to, &image.media_type(), &manifest).map(drop);
        refused(result, ErrorKind::Denied, "is not authorized");
        assert_eq!(asked(), 5, "{status}");
    }
}

#[test]
fn azure_acr() {
    let login = Login::Token {
        user: Some(("me".to_owned(), PASSWORD.to_owned())),
        refresh: Some("re/fresh+token".to_owned()),
        only: None,
    };
    let registry = registry(Dialect::acr(), login, "app");
    // What `az acr login` leaves: no password, an identity token.
    let mut options = options();
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==","identitytoken":"re/fresh+token"}}}}}}"#,
        registry.address()
    );
    options.credentials.add_document("config.json".as_ref(), config.as_bytes()).unwrap();
    let client = Client::new(options).unwrap();
    both_ways(&registry, &client, "app", Pushed::Mounted);
    let exchanges = tokens(&registry, "/oauth2/token");
    assert_eq!(exchanges.len(), SCOPES);
    assert!(exchanges.iter().all(|request| {
        request.method == "POST"
            && request.header("authorization").is_none()
            && request.header("content-type") == Some("application/x-www-form-urlencoded")
    }));
    // A login with a password is kept as the identity token that the registry gives for it.
    let kept = crate::client(&registry, None).check_login(&registry.address(), &basic("me")).unwrap();
    assert!(kept == Credential::IdentityToken("re/fresh+token".to_owned()));
    let stale = crate::client(&registry, Some(Credential::IdentityToken("stale".to_owned())));
    let result = stale.manifest(&registry.reference("app:1")).map(drop);
    refused(
        result,
        ErrorKind::Unauthorized,
        "401: authentication required, visit https://aka.ms/acr/authorization",
    );
}

#[test]
fn github_ghcr() {
    let registry = registry(Dialect::ghcr(), tokens_for("me"), "me/app");
    let client = client(&registry, Some(basic("me")));
    both_ways(&registry, &client, "me/app", Pushed::Mounted);
    assert_eq!(tokens(&registry, "/token").len(), SCOPES);
    // What does not exist is denied already by the token server, to strangers and to others.
    let stranger = crate::client(&registry, None).manifest(&registry.reference("me/none:1")).map(drop);
    refused(stranger, ErrorKind::Denied, "403: requested access to the resource is denied");
    let other = crate::client(&registry, Some(basic("other"))).manifest(&registry.reference("me/app:1"));
    refused(other.map(drop), ErrorKind::Denied, "403: denied");
    let scope = r#"{"errors":[{"code":"DENIED","message":"permission_denied: The token provided does not match expected scopes."}]}"#;
    registry.fault(Fault::once("POST", "/uploads/", Effect::Status(403, Vec::new(), scope.to_owned())));
    let (from, to) = (registry.reference("me/app:1"), registry.reference("me/app:2"));
    let blob = noise(100);
    let result = push_blob(&client, &to, &from, &Descriptor::of(MediaType::ImageLayer, &blob), &blob);
    refused(result.map(drop), ErrorKind::Denied, "permission_denied: The token provided does not match");
}

#[test]
fn gitlab() {
    let registry = registry(Dialect::gitlab(), tokens_for("gitlab-ci-token"), "group/sub/project/app");
    let client = client(&registry, Some(basic("gitlab-ci-token")));
    both_ways(&registry, &client, "group/sub/project/app", Pushed::Mounted);
    let asked = tokens(&registry, "/jwt/auth");
    assert_eq!(asked.len(), SCOPES);
    assert!(asked.iter().all(|request| {
        request.target.contains("account=gitlab-ci-token&service=container_registry&scope=repository:group/")
            && request.header("host") == Some(registry.elsewhere().as_str())
    }));
    let wrong = crate::client(&registry, Some(basic("me"))).check_login(&registry.address(), &basic("me"));
    refused(wrong.map(drop), ErrorKind::Unauthorized, "401: HTTP Basic: Access denied.");
    let stranger = crate::client(&registry, None).manifest(&registry.reference("group/app:1")).map(drop);
    refused(stranger, ErrorKind::Denied, "403: access forbidden");
}

#[test]
fn harbor() {
    let registry = registry(Dialect::harbor(), tokens_for(USER), "library/app");
    let client = client(&registry, Some(basic(USER)));
    both_ways(&registry, &client, "library/app", Pushed::Mounted);
    let asked = tokens(&registry, "/service/token");
    assert!(
        asked
            .iter()
            .all(|request| request.target.contains("account=robot%24team%2Bci&service=harbor-registry"))
    );
    let missing = client.manifest(&registry.reference("library/app:none")).map(drop);
    refused(missing, ErrorKind::NotFound, "404: artifact library/app:none not found");
    let quota = r#"{"errors":[{"code":"DENIED","message":"adding 1.0 MiB of storage resource, which when updated to current usage of 9.5 MiB will exceed the configured upper limit of 10.0 MiB."}]}"#;
    registry.fault(Fault::once("PUT", "/manifests/", Effect::Status(403, Vec::new(), quota.to_owned())));
    let manifest = image().manifest().to_bytes();
    let result = client.push_manifest(&registry.reference("library/app:1"), &image().media_type(), &manifest);
    refused(result.map(drop), ErrorKind::Denied, "will exceed the configured upper limit of 10.0 MiB");
    let stranger = crate::client(&registry, None).manifest(&registry.reference("library/app:1")).map(drop);
    refused(stranger, ErrorKind::Unauthorized, "401: unauthorized to access repository: library/app");
}

#[test]
fn quay() {
    let registry = registry(Dialect::quay(), tokens_for("team+robot"), "team/app");
    let client = client(&registry, Some(basic("team+robot")));
    both_ways(&registry, &client, "team/app", Pushed::Mounted);
    assert_eq!(tokens(&registry, "/v2/auth").len(), SCOPES);
    let missing = client.manifest(&registry.reference("team/app:none")).map(drop);
    refused(missing, ErrorKind::NotFound, "404: manifest unknown");
    let stranger = crate::client(&registry, None).manifest(&registry.reference("team/none:1")).map(drop);
    refused(stranger, ErrorKind::Unauthorized, "401: access to the requested resource is not authorized");
    let wrong =
        crate::client(&registry, Some(basic("team+other"))).manifest(&registry.reference("team/app:1"));
    refused(wrong.map(drop), ErrorKind::Unauthorized, "401: Could not find robot with specified username");
}

#[test]
fn artifactory() {
    let registry = registry(Dialect::artifactory(), tokens_for("me@example.com"), "docker-local/team/app");
    let client = client(&registry, Some(basic("me@example.com")));
    both_ways(&registry, &client, "docker-local/team/app", Pushed::Mounted);
    let bytes = noise(5_000);
    let to = registry.reference("docker-local/team/app:3");
    let pushed = push_blob(&client, &to, &to, &Descriptor::of(MediaType::ImageLayer, &bytes), &bytes);
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("PUT", "/artifactory/api/docker/v2/docker-local/team/app/blobs/uploads/"), 1);
    let realm = "/artifactory/api/docker/docker-local/v2/token";
    assert!(
        tokens(&registry, realm).iter().all(|request| request.target.contains("account=me%40example.com"))
    );
    let wrong = crate::client(&registry, Some(basic("you"))).manifest(&to).map(drop);
    refused(wrong, ErrorKind::Unauthorized, "401: Wrong username was used");
    let missing = client.manifest(&registry.reference("docker-local/team/app:none")).map(drop);
    refused(missing, ErrorKind::NotFound, "404: The named manifest is not known to the registry.");
    let deploy = r#"{"errors":[{"code":"DENIED","message":"Not allowed to deploy to a virtual repository without a default deployment repository"}]}"#;
    registry.fault(Fault::once("POST", "docker-virtual", Effect::Status(403, Vec::new(), deploy.to_owned())));
    let virtual_one = registry.reference("docker-virtual/app:1");
    let result = push_blob(
        &client,
        &virtual_one,
        &virtual_one,
        &Descriptor::of(MediaType::ImageLayer, &bytes),
        &bytes,
    );
    refused(result.map(drop), ErrorKind::Denied, "403: Not allowed to deploy");
}

#[test]
fn tags_come_page_by_page() {
    let registry = registry(Dialect::gitlab(), tokens_for("me"), "app");
    for tag in ["2", "3", "4", "latest"] {
        registry.put_image("app", tag, &image());
    }
    let client = client(&registry, Some(basic("me")));
    assert_eq!(client.tags(&registry.reference("app")).unwrap(), ["1", "2", "3", "4", "latest"]);
    assert_eq!(registry.count("GET", "/tags/list"), 1 + 3, "a 401 and three pages");
    refused(
        client.tags(&registry.reference("none")).map(drop),
        ErrorKind::NotFound,
        "404: repository name not known",
    );
    let null = Effect::Status(200, Vec::new(), r#"{"name":"app","tags":null}"#.to_owned());
    registry.fault(Fault::once("GET", "/tags/list", null));
    assert!(client.tags(&registry.reference("app")).unwrap().is_empty());
    let circle = vec![("Link".to_owned(), "</v2/app/tags/list?n=1>; rel=\"prev\"".to_owned())];
    registry.fault(Fault::once(
        "GET",
        "/tags/list",
        Effect::Status(200, circle, "{\"tags\":[\"1\"]}".to_owned()),
    ));
    assert_eq!(client.tags(&registry.reference("app")).unwrap(), ["1"]);
    registry.fault(Fault::once("GET", "/tags/list", Effect::Status(200, Vec::new(), "<html>".to_owned())));
    refused(client.tags(&registry.reference("app")).map(drop), ErrorKind::Protocol, "is no JSON");
}
