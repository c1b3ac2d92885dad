//! Pulling from a registry that misbehaves.

mod common;

use std::cell::Cell;
use std::time::Duration;

use common::{Sink, client, noise, options};
use rbuild_image::{Descriptor, Digest, MediaType, Platform};
use rbuild_registry::{BlobSink, Client, ErrorKind, RegistryError};
use rbuild_testkit::registry::{Effect, Fault};
use rbuild_testkit::{TarEntry, TestRegistry, tiny_image};

const SIZE: usize = 200_000;

/// A registry with one blob.
fn with_blob() -> (TestRegistry, Descriptor, Vec<u8>) {
    let registry = TestRegistry::start();
    let bytes = noise(SIZE);
    registry.put_blob("app", &bytes);
    let descriptor = Descriptor::of(MediaType::ImageLayerGzip, &bytes);
    (registry, descriptor, bytes)
}

fn pull(
    client: &Client,
    registry: &TestRegistry,
    descriptor: &Descriptor,
    sink: &mut Sink,
) -> Result<(), RegistryError> {
    client.blob(&registry.reference("app:1"), descriptor, sink, &|_| {})
}

#[test]
fn a_blob_arrives_once_with_progress() {
    let (registry, descriptor, bytes) = with_blob();
    let mut sink = Sink::default();
    let last = Cell::new(0);
    let grows = |total| {
        assert!(total > last.get());
        last.set(total);
    };
    client().blob(&registry.reference("app:1"), &descriptor, &mut sink, &grows).unwrap();
    assert!(sink.bytes == bytes && sink.written == SIZE as u64 && last.get() == SIZE as u64);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[test]
fn every_passing_fault_ends_right() {
    let redirected = TestRegistry::start();
    redirected.put_blob("app", &noise(SIZE));
    for (name, faults, requests, restarts) in [
        ("cut at the start", vec![Effect::Cut(0)], 2, 0),
        ("cut in the middle", vec![Effect::Cut(SIZE / 2)], 2, 0),
        ("cut again and again", vec![Effect::Cut(SIZE / 2), Effect::Cut(10), Effect::Cut(10)], 4, 0),
        ("closed without an answer", vec![Effect::Close, Effect::Close], 3, 0),
        ("503", vec![Effect::status(503), Effect::status(500), Effect::status(502)], 4, 0),
        ("429", vec![Effect::too_many_requests("0")], 2, 0),
        ("408", vec![Effect::status(408)], 2, 0),
        ("range ignored", vec![Effect::Cut(1000), Effect::IgnoreRange], 2, 1),
        ("range lied about", vec![Effect::Cut(1000), Effect::LyingRange], 3, 1),
        ("416", vec![Effect::Cut(1000), Effect::status(416)], 3, 1),
    ] {
        let (registry, descriptor, bytes) = with_blob();
        for fault in faults {
            registry.fault(Fault::once("GET", "/blobs/", fault));
        }
        let mut sink = Sink::default();
        pull(&client(), &registry, &descriptor, &mut sink).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(sink.bytes == bytes, "{name}");
        assert_eq!((registry.count("GET", "/blobs/"), sink.restarts), (requests, restarts), "{name}");
    }
}

#[test]
fn what_cannot_succeed_is_not_tried_again_and_leaves_nothing() {
    for (name, fault, kind, message) in [
        ("altered", Effect::Altered, ErrorKind::Mismatch, "could not accept http://127.0.0.1:"),
        ("longer", Effect::Resized(5), ErrorKind::Mismatch, "could not accept"),
        ("shorter", Effect::Resized(-5), ErrorKind::Mismatch, "could not accept"),
        ("404", Effect::status(404), ErrorKind::NotFound, "404: scripted 404"),
        ("403", Effect::status(403), ErrorKind::Denied, "403: scripted 403"),
        ("400", Effect::status(400), ErrorKind::Protocol, "400: scripted 400"),
        ("an hour's wait", Effect::too_many_requests("3600"), ErrorKind::TooManyRequests, "429: slow down"),
    ] {
        let (registry, descriptor, _) = with_blob();
        registry.fault(Fault::once("GET", "/blobs/", fault).times(9));
        let mut sink = Sink::default();
        let error = pull(&client(), &registry, &descriptor, &mut sink).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert!(!error.to_string().contains("tried"), "{name}: {error}");
        assert_eq!(registry.count("GET", "/blobs/"), 1, "{name}");
        assert!(sink.is_empty(), "{name}");
    }
}

#[test]
fn it_gives_up_at_last_and_says_how_often_it_tried() {
    let (registry, descriptor, _) = with_blob();
    registry.fault(Fault::once("GET", "/blobs/", Effect::status(503)).times(99));
    let error = pull(&client(), &registry, &descriptor, &mut Sink::default()).unwrap_err();
    let expected = format!(
        "GET http://{}/v2/app/blobs/{}: 503: scripted 503 (tried 4 times)",
        registry.address(),
        descriptor.digest
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Unavailable, 4));
}

#[test]
fn a_transfer_that_gets_on_is_never_given_up() {
    let registry = TestRegistry::start();
    let bytes = noise(3 << 20);
    registry.put_blob("app", &bytes);
    let descriptor = Descriptor::of(MediaType::ImageLayerGzip, &bytes);
    registry.fault(Fault::once("GET", "/blobs/", Effect::Cut(5 << 18)).times(99));
    let mut sink = Sink::default();
    // 1.25 MiB with each try, and never two failures in a row without progress.
    let mut options = options();
    options.retry.attempts = 2;
    pull(&Client::new(options).unwrap(), &registry, &descriptor, &mut sink).unwrap();
    assert!(sink.bytes == bytes);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (registry, descriptor, bytes) = with_blob();
    registry.fault(Fault::once("GET", "/blobs/", Effect::Stall(1000, Duration::from_secs(30))));
    let mut options = options();
    options.retry.stall_timeout = Duration::from_millis(700);
    let mut sink = Sink::default();
    pull(&Client::new(options).unwrap(), &registry, &descriptor, &mut sink).unwrap();
    assert!(sink.bytes == bytes && sink.restarts == 0);
}

#[test]
fn a_server_that_trickles_is_left() {
    let (registry, descriptor, bytes) = with_blob();
    registry.fault(Fault::once("GET", "/blobs/", Effect::Drip(Duration::from_millis(5))));
    let mut options = options();
    options.retry.stall_timeout = Duration::from_millis(300);
    options.retry.least_bytes = 100_000;
    let mut sink = Sink::default();
    pull(&Client::new(options).unwrap(), &registry, &descriptor, &mut sink).unwrap();
    // What trickled in was kept.
    assert!(sink.bytes == bytes && sink.restarts == 0);
    assert_eq!(registry.count("GET", "/blobs/"), 2);
}

#[test]
fn an_earlier_transfer_is_taken_up_only_if_it_can_be_checked() {
    let (registry, descriptor, bytes) = with_blob();
    let half = bytes[..SIZE / 2].to_vec();
    let mut hashing = Sink { bytes: half.clone(), hashes: true, ..Sink::default() };
    pull(&client(), &registry, &descriptor, &mut hashing).unwrap();
    assert_eq!((hashing.written, hashing.restarts), (SIZE as u64 / 2, 0));
    assert!(hashing.bytes == bytes);
    let mut blind = Sink { bytes: half.clone(), ..Sink::default() };
    pull(&client(), &registry, &descriptor, &mut blind).unwrap();
    assert!(blind.bytes == bytes && blind.restarts == 1);
    let mut wrong = Sink { bytes: vec![0; SIZE / 2], hashes: true, ..Sink::default() };
    pull(&client(), &registry, &descriptor, &mut wrong).unwrap();
    assert!(wrong.bytes == bytes && wrong.restarts == 1, "the wrong half is thrown away, once");
    let mut whole = Sink { bytes: bytes.clone(), hashes: true, ..Sink::default() };
    pull(&client(), &registry, &descriptor, &mut whole).unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), 4, "a whole blob needs no request");
}

#[test]
fn a_full_disk_is_not_the_network() {
    let (registry, descriptor, _) = with_blob();
    let mut sink = Sink { full_at: Some(1000), ..Sink::default() };
    let error = pull(&client(), &registry, &descriptor, &mut sink).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Local, "could not store a blob"));
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[test]
fn empty_blobs_exist() {
    let registry = TestRegistry::start();
    registry.put_blob("app", b"");
    let descriptor = Descriptor::of(MediaType::ImageLayer, b"");
    pull(&client(), &registry, &descriptor, &mut Sink::default()).unwrap();
}

#[test]
fn manifests_by_tag_and_digest() {
    let registry = TestRegistry::start();
    let image = tiny_image().layer(&[TarEntry::file("a", "b")]);
    let digest = registry.put_image("app", "1", &image);
    let client = client();
    for name in ["app:1".to_owned(), format!("app@{digest}"), format!("app:2@{digest}")] {
        let fetched = client.manifest(&registry.reference(&name)).unwrap();
        assert_eq!((&fetched.digest, fetched.bytes), (&digest, image.manifest().to_bytes()));
        assert_eq!(client.head(&registry.reference(&name)).unwrap().unwrap().digest, digest);
    }
    assert_eq!(client.head(&registry.reference("app:none")).unwrap(), None);
    let error = client.manifest(&registry.reference("app:none")).unwrap_err();
    let expected = format!("GET http://{}/v2/app/manifests/none: 404: manifest unknown", registry.address());
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::NotFound));
}

#[test]
fn wrong_manifests_are_refused() {
    let registry = TestRegistry::start();
    let digest = registry.put_image("app", "1", &tiny_image());
    let schema1 = br#"{"schemaVersion":1,"name":"app","tag":"old","fsLayers":[],"history":[]}"#;
    registry.put_manifest(
        "app",
        "old",
        &"application/vnd.docker.distribution.manifest.v1+prettyjws".into(),
        schema1,
    );
    registry.put_manifest("app", "large", &MediaType::ImageManifest, &vec![b' '; (4 << 20) + 1]);
    registry.put_manifest("app", "text", &MediaType::ImageManifest, b"hello");
    let other = Digest::sha256_of("x").to_string();
    for (name, fault, kind, message) in [
        (format!("app@{digest}"), Some(Effect::Altered), ErrorKind::Mismatch, "could not accept"),
        ("app:1".to_owned(), Some(Effect::Altered), ErrorKind::Mismatch, "could not accept"),
        (
            "app:1".to_owned(),
            Some(Effect::With("Docker-Content-Digest".into(), other)),
            ErrorKind::Mismatch,
            "could not accept",
        ),
        ("app:old".to_owned(), None, ErrorKind::Refused, "could not accept"),
        ("app:large".to_owned(), None, ErrorKind::Protocol, "larger than 4194304 bytes"),
        ("app:text".to_owned(), None, ErrorKind::Protocol, "could not accept"),
    ] {
        registry.fault(Fault::once("GET", "/manifests/", fault.unwrap_or(Effect::Without("X".into()))));
        let error = client().resolve(&registry.reference(&name), &Platform::host()).expect_err(&name);
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
    // Without the header there is nothing to compare with, and the tag decides.
    registry.fault(Fault::once("GET", "/manifests/", Effect::Without("Docker-Content-Digest".into())));
    assert_eq!(client().manifest(&registry.reference("app:1")).unwrap().digest, digest);
    registry.fault(Fault::once("HEAD", "/manifests/", Effect::Without("Docker-Content-Digest".into())));
    assert_eq!(client().head(&registry.reference("app:1")).unwrap().unwrap().digest, digest);
}

#[test]
fn platforms_are_chosen_from_an_index() {
    let registry = TestRegistry::start();
    let images = ["linux/arm/v6", "linux/s390x", "linux/amd64"]
        .map(|platform| tiny_image().platform(platform).layer(&[TarEntry::file("p", platform)]));
    let digest = registry.put_index("app", "1", &images);
    let client = client();
    let found =
        client.resolve(&registry.reference("app:1"), &Platform::parse("linux/arm/v7").unwrap()).unwrap();
    assert_eq!((found.digest(), &found.manifest_digest), (&digest, &images[0].descriptor().digest));
    assert_eq!((found.config, found.config_bytes), (images[0].config.clone(), images[0].config.to_bytes()));
    let error =
        client.resolve(&registry.reference("app:1"), &Platform::parse("linux/386").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoPlatform);
    assert!(
        error.to_string().ends_with("the index offers linux/arm/v6, linux/s390x, linux/amd64"),
        "{error}"
    );
}

#[test]
fn mirrors_come_first_and_are_left_when_they_fail() {
    let (mirror, origin) = (TestRegistry::start(), TestRegistry::start());
    let image = tiny_image().layer(&[TarEntry::file("a", noise(1000))]);
    origin.put_image("app", "1", &image);
    mirror.put_image("hub/app", "1", &image);
    let conf = format!(
        "[[registry]]\nlocation=\"{}\"\n[[registry.mirror]]\nlocation=\"{}/hub\"\n",
        origin.address(),
        mirror.address()
    );
    let mut options = options();
    options.registries.add("registries.conf".as_ref(), &conf).unwrap();
    let client = Client::new(options).unwrap();
    let reference = origin.reference("app:1");
    client.resolve(&reference, &Platform::host()).unwrap();
    assert_eq!((origin.requests().len(), mirror.count("GET", "/v2/hub/app/")), (0, 2));
    // Half a layer from the mirror, the rest from the registry itself: the digest says that it is right.
    let (descriptor, bytes) = image.blobs().pop().unwrap();
    mirror.fault(Fault::once("GET", "/blobs/", Effect::Cut(100)));
    mirror.fault(Fault::once("GET", "/blobs/", Effect::status(404)).times(9));
    let mut sink = Sink::default();
    client.blob(&reference, &descriptor, &mut sink, &|_| {}).unwrap();
    assert!(sink.bytes == bytes && sink.restarts == 0);
    let error = client.manifest(&origin.reference("gone:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("before that from {}: GET", mirror.address())), "{error}");
}

#[test]
fn nobody_listening_is_told_at_once() {
    let address = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap()
    };
    let reference = rbuild_image::Reference::parse(&format!("{address}/app")).unwrap();
    let error = client().manifest(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("refused") && !error.to_string().contains("tried"), "{error}");
}

#[test]
fn joined_parts_that_are_wrong_are_fetched_whole_once() {
    let (registry, descriptor, _) = with_blob();
    registry.fault(Fault::once("GET", "/blobs/", Effect::Cut(1000)));
    registry.fault(Fault::once("GET", "/blobs/", Effect::Altered).times(9));
    let mut sink = Sink::default();
    let error = pull(&client(), &registry, &descriptor, &mut sink).unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && sink.is_empty());
    assert_eq!(registry.count("GET", "/blobs/"), 3);
}
