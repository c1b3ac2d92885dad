//! Pushing to a registry that misbehaves.

mod common;

use std::io::Read;

use common::{client, noise};
use rbuild_image::{Descriptor, Digest, MediaType, Reference};
use rbuild_registry::{Client, ErrorKind, Pushed, RegistryError};
use rbuild_testkit::registry::{Effect, Fault};
use rbuild_testkit::{TarEntry, TestRegistry, tiny_image};

const SIZE: usize = 200_000;

fn push(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
    from: &[Reference],
) -> Result<Pushed, RegistryError> {
    let open =
        || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(std::io::Cursor::new(bytes.to_vec()))) };
    client.push_blob(reference, &Descriptor::of(MediaType::ImageLayerGzip, bytes), &open, from, &|_| {})
}

#[test]
fn a_blob_is_sent_once() {
    let registry = TestRegistry::start();
    let (client, bytes) = (client(), noise(SIZE));
    let reference = registry.reference("team/app:1");
    assert_eq!(push(&client, &reference, &bytes, &[]).unwrap(), Pushed::Uploaded);
    assert_eq!(push(&client, &reference, &bytes, &[]).unwrap(), Pushed::Exists);
    assert_eq!(*registry.blob(&Digest::sha256_of(&bytes)).unwrap(), bytes);
    let put = registry.requests().into_iter().find(|request| request.method == "PUT").unwrap();
    assert_eq!(put.header("content-length"), Some(SIZE.to_string().as_str()));
    assert!(put.target.contains("_state=a%3Db&digest=sha256:"), "{}", put.target);
    assert_eq!(registry.count("PUT", ""), 1);
}

#[test]
fn blobs_are_mounted_where_they_can_be() {
    let registry = TestRegistry::start();
    let bytes = noise(SIZE);
    let digest = registry.put_blob("base", &bytes);
    let elsewhere = Reference::parse("example.com/base").unwrap();
    let from = [elsewhere, registry.reference("nothing"), registry.reference("base")];
    let reference = registry.reference("app:1");
    assert_eq!(push(&client(), &reference, &bytes, &from).unwrap(), Pushed::Mounted);
    assert!(registry.has_blob("app", &digest));
    // Of `nothing` an upload was begun instead; it is ended, not left to rot.
    assert_eq!((registry.count("POST", "mount="), registry.count("DELETE", "/uploads/")), (2, 1));
    registry.refuse_mounts();
    assert_eq!(push(&client(), &registry.reference("other:1"), &bytes, &from).unwrap(), Pushed::Uploaded);
}

#[test]
fn every_passing_fault_ends_right() {
    for (name, method, text, effect) in [
        ("HEAD 503", "HEAD", "/blobs/", Effect::status(503)),
        ("HEAD 405", "HEAD", "/blobs/", Effect::status(405)),
        ("POST 429", "POST", "/uploads/", Effect::too_many_requests("0")),
        ("POST closed", "POST", "/uploads/", Effect::Close),
        ("PUT 500", "PUT", "/uploads/", Effect::status(500)),
        ("PUT closed", "PUT", "/uploads/", Effect::Close),
        ("PUT answer cut", "PUT", "/uploads/", Effect::Cut(0)),
        ("no digest confirmed", "PUT", "/uploads/", Effect::Without("Docker-Content-Digest".into())),
        ("no Location in the end", "PUT", "/uploads/", Effect::Without("Location".into())),
        ("204", "PUT", "/uploads/", Effect::With("X-Nothing".into(), "1".into())),
    ] {
        let registry = TestRegistry::start();
        let bytes = noise(SIZE);
        registry.fault(Fault::once(method, text, effect));
        let result = push(&client(), &registry.reference("app:1"), &bytes, &[]);
        assert!(matches!(result, Ok(Pushed::Uploaded | Pushed::Exists)), "{name}: {result:?}");
        assert!(registry.has_blob("app", &Digest::sha256_of(&bytes)), "{name}");
    }
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let other = Digest::sha256_of("other").to_string();
    for (name, method, effect, kind, message) in [
        ("denied", "POST", Effect::status(403), ErrorKind::Denied, "403: scripted 403"),
        ("no Location", "POST", Effect::Without("Location".into()), ErrorKind::Protocol, "no Location"),
        (
            "odd Location",
            "POST",
            Effect::With("Location".into(), "http://".into()),
            ErrorKind::Protocol,
            "no URL",
        ),
        ("refused", "PUT", Effect::status(400), ErrorKind::Protocol, "400: scripted 400"),
        (
            "another digest",
            "PUT",
            Effect::With("Docker-Content-Digest".into(), other),
            ErrorKind::Protocol,
            "the registry stored sha256:",
        ),
    ] {
        let registry = TestRegistry::start();
        registry.fault(Fault::once(method, "/uploads/", effect));
        let error = push(&client(), &registry.reference("app:1"), &noise(1000), &[]).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert_eq!(registry.count(method, "/uploads/"), 1, "{name}");
    }
}

#[test]
fn a_source_that_fails_is_not_the_network() {
    let registry = TestRegistry::start();
    let open = || -> std::io::Result<Box<dyn Read + Send>> { Err(std::io::ErrorKind::NotFound.into()) };
    let descriptor = Descriptor::of(MediaType::ImageLayer, b"x");
    let error =
        client().push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {}).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Local, "could not read a blob to push")
    );

    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("disk on fire"))
        }
    }
    let open = || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Failing)) };
    let error =
        client().push_blob(&registry.reference("app:1"), &descriptor, &open, &[], &|_| {}).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Local, "could not read a blob to push")
    );
}

#[test]
fn a_whole_image_goes_and_comes_back() {
    let registry = TestRegistry::start();
    let client = client();
    let image = tiny_image().layer(&[TarEntry::file("a", "1")]).layer(&[TarEntry::file("b", "2")]);
    let reference = registry.reference("team/app:v1");
    for (_, bytes) in image.blobs() {
        push(&client, &reference, &bytes, &[]).unwrap();
    }
    registry.fault(Fault::once("PUT", "/manifests/", Effect::status(503)));
    let digest = client.push_manifest(&reference, &image.media_type(), &image.manifest().to_bytes()).unwrap();
    assert_eq!(digest, image.descriptor().digest);
    let back = client.resolve(&reference, &rbuild_image::Platform::host()).unwrap();
    assert_eq!((back.manifest, back.config), (image.manifest(), image.config.clone()));
    // Without a tag it goes by its digest.
    let pinned = registry.reference(&format!("team/app@{digest}"));
    client.push_manifest(&pinned, &image.media_type(), &image.manifest().to_bytes()).unwrap();
    assert_eq!(registry.count("PUT", &format!("/manifests/{digest}")), 1);
}
