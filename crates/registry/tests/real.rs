//! Against Debian's `docker-registry`.

mod common;

use std::io::{self, Read};

use common::{Sink, client, noise};
use rbuild_image::{Descriptor, MediaType, Platform, Reference};
use rbuild_registry::{ErrorKind, Pushed};
use rbuild_testkit::{RealRegistry, TarEntry, tiny_image};

/// The registry, or a loud word that the test did not run.
fn registry() -> Option<RealRegistry> {
    match RealRegistry::start() {
        Ok(registry) => Some(registry),
        Err(reason) => {
            assert!(std::env::var_os("CI").is_none(), "SKIPPED in CI: {reason}");
            // The test harness swallows what a passing test prints to its own streams.
            let _ = std::fs::write("/dev/stderr", format!("\nSKIPPED, NOT TESTED: {reason}\n"));
            None
        }
    }
}

#[test]
fn push_pull_and_mount() {
    let Some(registry) = registry() else { return };
    let client = client();
    let named = |name: &str| Reference::parse(&format!("{}/{name}", registry.address())).unwrap();
    let image = tiny_image()
        .layer(&[TarEntry::file("big", noise(3 << 20))])
        .layer(&[TarEntry::directory("d"), TarEntry::file("d/f", "x")]);
    for docker in [false, true] {
        let image = if docker { image.clone().docker_types() } else { image.clone() };
        let base = named(if docker { "library/docker:1" } else { "library/oci:1" });
        let push = |reference: &Reference, from: &[Reference]| -> Vec<Pushed> {
            let each = |(descriptor, bytes): (Descriptor, Vec<u8>)| {
                let open = move || -> io::Result<Box<dyn Read + Send>> {
                    Ok(Box::new(io::Cursor::new(bytes.clone())))
                };
                client.push_blob(reference, &descriptor, &open, from, &|_| {}).unwrap()
            };
            image.blobs().into_iter().map(each).collect()
        };
        assert_eq!(push(&base, &[]), [Pushed::Uploaded; 3]);
        assert_eq!(push(&base, &[]), [Pushed::Exists; 3]);
        let other = named(if docker { "team/docker:1" } else { "team/oci:1" });
        assert_eq!(push(&other, &[named("no/such"), base.clone()]), [Pushed::Mounted; 3]);
        let digest = client.push_manifest(&other, &image.media_type(), &image.manifest().to_bytes()).unwrap();
        assert_eq!(client.head(&other).unwrap().unwrap().digest, digest);
        let found = client.resolve(&other.with_digest(digest.clone()), &Platform::host()).unwrap();
        assert_eq!((&found.manifest_digest, &found.config), (&digest, &image.config));
        for (layer, bytes) in found.manifest.layers.iter().zip(&image.layers) {
            let mut sink = Sink::default();
            client.blob(&other, layer, &mut sink, &|_| {}).unwrap();
            assert!(sink.bytes == *bytes);
            let mut half = Sink { bytes: bytes[..bytes.len() / 2].to_vec(), hashes: true, ..Sink::default() };
            client.blob(&other, layer, &mut half, &|_| {}).unwrap();
            assert!(half.bytes == *bytes && half.restarts == 0);
        }
    }
    assert_eq!(client.head(&named("team/oci:none")).unwrap(), None);
    let missing = client.manifest(&named("no/such:1")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    let absent = Descriptor::of(MediaType::ImageLayer, b"absent");
    let error = client.blob(&named("team/oci:1"), &absent, &mut Sink::default(), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("404: blob unknown to registry"), "{error}");
    let wrong = Descriptor { digest: absent.digest, ..Descriptor::of(MediaType::ImageLayer, b"abcdef") };
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(b"abcdef".to_vec()))) };
    let error = client.push_blob(&named("team/oci:1"), &wrong, &open, &[], &|_| {}).unwrap_err();
    assert!(error.to_string().contains("400: provided digest did not match"), "{error}");
}
