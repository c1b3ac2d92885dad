//! Pushing to registries that do not take a blob in one piece.

mod common;

use std::io::Read;
use std::time::Duration;

use common::{noise, options};
use rbuild_image::{Descriptor, Digest, MediaType};
use rbuild_registry::{Client, ClientOptions, ErrorKind, Pushed, RegistryError};
use rbuild_testkit::TestRegistry;
use rbuild_testkit::registry::{Dialect, Effect, Fault, Logged, Login};

/// Chunks of half a megabyte.
fn client() -> Client {
    Client::new(ClientOptions { chunk: 512 << 10, ..options() }).unwrap()
}

fn push(client: &Client, registry: &TestRegistry, bytes: &[u8]) -> Result<Pushed, RegistryError> {
    let open =
        || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(std::io::Cursor::new(bytes.to_vec()))) };
    let descriptor = Descriptor::of(MediaType::ImageLayerGzip, bytes);
    client.push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {})
}

fn registry(dialect: Dialect) -> TestRegistry {
    let registry = TestRegistry::start();
    registry.speak(dialect);
    registry
}

/// The chunks that were taken: their ranges.
fn chunks(registry: &TestRegistry) -> Vec<String> {
    let taken = |request: &Logged| request.method == "PATCH" && request.status == 202;
    let ranges = registry.requests().into_iter().filter(taken);
    ranges.filter_map(|request| request.header("content-range").map(str::to_owned)).collect()
}

#[test]
fn what_is_refused_whole_goes_in_chunks() {
    for status in [405, 413, 416] {
        let registry = registry(Dialect { monolithic: Some(status), ..Dialect::default() });
        let (client, bytes) = (client(), noise(1_200_000));
        assert_eq!(push(&client, &registry, &bytes).unwrap(), Pushed::Uploaded, "{status}");
        assert_eq!(*registry.blob(&Digest::sha256_of(&bytes)).unwrap(), bytes);
        assert_eq!(chunks(&registry), ["0-524287", "524288-1048575", "1048576-1199999"]);
        // The refusal came before the blob was sent, and its upload does not lie there.
        let refused = registry.requests().into_iter().find(|request| request.method == "PUT").unwrap();
        assert_eq!((refused.status, refused.received), (status, 0));
        assert_eq!(registry.count("DELETE", "/uploads/"), 1);
        // The next blob is not tried whole.
        push(&client, &registry, &noise(1000)).unwrap();
        assert_eq!(registry.count("PUT", "/uploads/"), 3);
    }
}

#[test]
fn chunks_are_as_large_as_wanted_and_as_small_as_needed() {
    let wants_large =
        registry(Dialect { monolithic: Some(413), smallest_chunk: Some(600_000), ..Dialect::default() });
    push(&client(), &wants_large, &noise(1_500_000)).unwrap();
    assert_eq!(chunks(&wants_large), ["0-599999", "600000-1199999", "1200000-1499999"]);
    // A proxy before the registry has its own limit.
    let takes_small = registry(Dialect { largest_body: Some(100_000), ..Dialect::default() });
    let client = client();
    push(&client, &takes_small, &noise(150_000)).unwrap();
    assert_eq!(chunks(&takes_small), ["0-65535", "65536-131071", "131072-149999"]);
    push(&client, &takes_small, &noise(160_000)).unwrap();
    assert_eq!(takes_small.requests().iter().filter(|request| request.status == 413).count(), 2);
    // Where even that is too much, the server's word is passed on.
    let takes_nothing = registry(Dialect { largest_body: Some(1000), ..Dialect::default() });
    let error = push(&Client::new(options()).unwrap(), &takes_nothing, &noise(200_000)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Protocol, Some(413)));
    assert!(error.to_string().contains("413: payload too large"), "{error}");
}

#[test]
fn a_lost_chunk_is_taken_up_where_the_registry_is() {
    for (name, fault) in [
        ("nothing was done", Effect::Close),
        ("the answer was lost", Effect::LostAnswer),
        ("cut on its way", Effect::CutRequest(1000)),
        ("refused for a while", Effect::status(503)),
        ("no word for a while", Effect::Stall(0, Duration::from_secs(3))),
        ("no Location", Effect::Without("Location".to_owned())),
        ("no Range", Effect::Without("Range".to_owned())),
    ] {
        let registry = registry(Dialect { monolithic: Some(405), ..Dialect::default() });
        let bytes = noise(1_200_000);
        registry.fault(Fault::once("PATCH", "/uploads/", Effect::Without("X-Nothing".to_owned())));
        registry.fault(Fault::once("PATCH", "/uploads/", fault));
        let pushed = push(&client(), &registry, &bytes);
        assert!(matches!(pushed, Ok(Pushed::Uploaded)), "{name}: {pushed:?}");
        assert_eq!(registry.times_stored("app", &Digest::sha256_of(&bytes)), 1, "{name}");
    }
}

#[test]
fn a_token_that_runs_out_between_chunks_is_renewed() {
    let registry = registry(Dialect { monolithic: Some(405), ..Dialect::default() });
    registry.require(Login::Token { user: None, refresh: None, only: None });
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.address());
    registry.fault(Fault::once("PATCH", "/uploads/", Effect::Without("X-Nothing".to_owned())));
    let expired = Effect::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new());
    registry.fault(Fault::once("PATCH", "/uploads/", expired));
    let bytes = noise(1_200_000);
    assert_eq!(push(&client(), &registry, &bytes).unwrap(), Pushed::Uploaded);
    assert_eq!((registry.count("GET", "/token"), chunks(&registry).len()), (2, 3));
}

#[test]
fn an_upload_that_crawls_is_left() {
    let registry = TestRegistry::start();
    let mut options = options();
    options.retry.stall_timeout = Duration::from_millis(300);
    options.retry.least_bytes = 1 << 20;
    options.retry.attempts = 2;
    struct Crawling(u64);
    impl Read for Crawling {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(20));
            buffer[0] = 0;
            self.0 = self.0.saturating_sub(1);
            Ok(usize::from(self.0 > 0))
        }
    }
    let open = || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Crawling(5000))) };
    let descriptor = Descriptor { size: 5000, ..Descriptor::of(MediaType::ImageLayer, b"x") };
    let client = Client::new(options).unwrap();
    let error = client.push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {}).unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Network, 2));
    assert!(error.to_string().contains("bytes in 0.3 seconds"), "{error}");
}
