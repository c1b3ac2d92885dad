//! Against Debian's `docker-registry`.

mod common;

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use common::{Sink, client, noise, options};
use rbuild_image::{Descriptor, MediaType, Platform, Reference};
use rbuild_registry::{Client, ErrorKind, HttpRequest, Pushed};
use rbuild_testkit::{RealRegistry, TarEntry, tiny_image};

/// The registry, or a loud word that the test did not run.
fn or_skip(started: Result<RealRegistry, String>) -> Option<RealRegistry> {
    match started {
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
    let Some(registry) = or_skip(RealRegistry::start()) else { return };
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

/// A certificate for `localhost` from an authority of our own, by the openssl program; the files are `ca.pem`, `server.pem`, `server.key`.
fn certificates(folder: &Path) -> Result<(), String> {
    let script = "set -e; cd \"$1\"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > names
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("no certificates: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

#[test]
fn tls_with_an_authority_of_our_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let started = certificates(folder.path())
        .and_then(|()| RealRegistry::start_tls(&at("server.pem"), &at("server.key")));
    let Some(registry) = or_skip(started) else { return };
    let port = registry.address().rsplit(':').next().unwrap().to_owned();

    // A registry on this machine is spoken to as it answers, and its certificate is not asked for.
    for domain in [registry.address().to_owned(), format!("localhost:{port}")] {
        let reference = Reference::parse(&format!("{domain}/no/such:1")).unwrap();
        let error = client().manifest(&reference).unwrap_err();
        assert!(
            error.kind() == ErrorKind::NotFound && error.to_string().starts_with("GET https://"),
            "{error}"
        );
    }

    // Anything else is verified: by the system's authorities, extra ones, and those of certs.d.
    let request = HttpRequest { url: format!("https://localhost:{port}/v2/"), headers: Vec::new() };
    let error = client().http_get(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("certificate") && !error.to_string().contains("tried"), "{error}");
    let authority = fs::read(at("ca.pem")).unwrap();
    let mut with_root = options();
    with_root.extra_roots.push(authority.clone());
    assert_eq!(Client::new(with_root).unwrap().http_get(&request).unwrap().status, 200);
    let own = at("certs.d").join(format!("localhost:{port}"));
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("ca.crt"), &authority).unwrap();
    let mut with_folder = options();
    with_folder.certs_dirs.push(at("certs.d"));
    assert_eq!(Client::new(with_folder).unwrap().http_get(&request).unwrap().status, 200);
    let mut nonsense = options();
    nonsense.extra_roots.push(b"not a certificate".to_vec());
    let error = Client::new(nonsense).unwrap_err();
    assert_eq!(error.to_string(), "could not set up TLS: an extra authority's file holds no certificate");
}
