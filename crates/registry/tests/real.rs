//! Against Debian's `docker-registry`.

mod common;

use std::fs;
use std::io::{self, Read};

use common::{Sink, client, noise, options};
use rbuild_image::{Descriptor, MediaType, Platform, Reference};
use rbuild_registry::{Client, ErrorKind, HttpRequest, ProxyConf, Pushed, RegistryError};
use rbuild_testkit::{Access, Authority, RealRegistry, TarEntry, TestProxy, TestRegistry, tiny_image};

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

#[test]
fn tls_with_an_authority_of_our_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let started = Authority::make(folder.path()).and_then(|authority| {
        let tls = Some(authority.sign("server", "DNS:localhost,IP:127.0.0.1")?);
        RealRegistry::start_with(&Access { tls, ..Access::default() })
    });
    let Some(registry) = or_skip(started) else { return };
    let port = registry.port().to_owned();

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

/// A client that reaches everything through this proxy, except what `no_proxy` says.
fn behind(
    proxy: &TestProxy,
    no_proxy: &str,
    change: impl FnOnce(&mut rbuild_registry::ClientOptions),
) -> Client {
    let mut options = options();
    let url = Some(proxy.url());
    options.proxies = ProxyConf { http: url.clone(), https: url, no_proxy: no_proxy.to_owned() };
    change(&mut options);
    Client::new(options).unwrap()
}

/// What a registry says of an image that it does not have; anything else did not get through to it.
fn gets_through(client: &Client) -> Result<(), RegistryError> {
    match client.manifest(&Reference::parse("registry.test/no/such:1").unwrap()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("there is no such image"),
    }
}

#[test]
fn a_registry_elsewhere_is_believed_only_with_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let mut client_files = None;
    let started = Authority::make(folder.path()).and_then(|authority| {
        let tls = Some(authority.sign("server", "DNS:registry.test")?);
        client_files = Some(authority.sign("client", "DNS:client")?);
        let client_authority = Some(authority.certificate());
        RealRegistry::start_with(&Access { tls, client_authority, ..Access::default() })
    });
    let Some(registry) = or_skip(started) else { return };
    let proxy = TestProxy::start(&[("registry.test:443", registry.address())]);
    let error = gets_through(&behind(&proxy, "", |_| {})).unwrap_err();
    assert!(error.to_string().contains("certificate") && !error.to_string().contains("tried"), "{error}");
    // certs.d of Docker and of containers: the authority, and what we show.
    let own = folder.path().join("certs.d/registry.test");
    fs::create_dir_all(&own).unwrap();
    fs::copy(folder.path().join("ca.pem"), own.join("ca.crt")).unwrap();
    let with_folder =
        |options: &mut rbuild_registry::ClientOptions| options.certs_dirs.push(folder.path().join("certs.d"));
    let error = gets_through(&behind(&proxy, "", with_folder)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "it wants a certificate of ours: {error}");
    let (certificate, key) = client_files.unwrap();
    fs::copy(certificate, own.join("client.cert")).unwrap();
    let error = gets_through(&behind(&proxy, "", with_folder)).unwrap_err();
    assert!(error.to_string().contains("client.cert`: its key is missing beside it"), "{error}");
    fs::copy(key, own.join("client.key")).unwrap();
    gets_through(&behind(&proxy, "", with_folder)).unwrap();
    assert!(proxy.asked().iter().all(|host| host == "registry.test:443"));
}

#[test]
fn certificates_are_passed_over_only_where_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let started = Authority::make(folder.path()).and_then(|authority| {
        let tls = Some(authority.sign("server", "DNS:other.test")?);
        RealRegistry::start_with(&Access { tls, ..Access::default() })
    });
    let Some(registry) = or_skip(started) else { return };
    let plain = TestRegistry::start();
    let by_tls = TestProxy::start(&[("registry.test:443", registry.address())]);
    let in_the_clear = TestProxy::start(&[("registry.test:80", &plain.address())]);
    let conf = "[[registry]]\nlocation = \"registry.test\"\ninsecure = true\n";
    for proxy in [&by_tls, &in_the_clear] {
        assert_eq!(gets_through(&behind(proxy, "", |_| {})).unwrap_err().kind(), ErrorKind::Network);
        gets_through(&behind(proxy, "", |options| {
            options.registries.add("registries.conf".as_ref(), conf).unwrap();
        }))
        .unwrap();
        gets_through(&behind(proxy, "", |options| {
            let daemon = br#"{"insecure-registries":["registry.test"]}"#;
            options.registries.add_docker("daemon.json".as_ref(), daemon).unwrap();
        }))
        .unwrap();
    }
    // What is not configured was never asked in the clear.
    assert_eq!(by_tls.asked().iter().filter(|host| *host == "registry.test:80").count(), 0);
}

#[test]
fn proxies_are_used_but_for_what_is_near() {
    let registry = TestRegistry::start();
    registry.put_image("app", "1", &tiny_image());
    let proxy = TestProxy::start(&[]);
    let client = behind(&proxy, "registry.test", |_| {});
    client.manifest(&registry.reference("app:1")).unwrap();
    assert!(proxy.asked().is_empty(), "loopback goes straight");
    // Straight means that the name must be known here.
    let error = gets_through(&client).unwrap_err().to_string();
    let no_resolver = error.contains("Temporary failure in name resolution");
    assert!(error.ends_with("the host `registry.test` is not known") || no_resolver, "{error}");
    assert!(proxy.asked().is_empty());
    let refused = gets_through(&behind(&proxy, "test.example", |_| {})).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Network, "{refused}");
    assert!(proxy.asked().iter().all(|host| host == "registry.test:443") && !proxy.asked().is_empty());
}

#[test]
fn addresses_of_version_6() {
    let registry = TestRegistry::start_at("[::1]");
    assert!(registry.address().starts_with("[::1]:"), "{}", registry.address());
    registry.put_image("team/app", "1", &tiny_image().layer(&[TarEntry::file("a", "b")]));
    let client = client();
    let found = client.resolve(&registry.reference("team/app:1"), &Platform::host()).unwrap();
    client
        .blob(&registry.reference("team/app:1"), &found.manifest.layers[0], &mut Sink::default(), &|_| {})
        .unwrap();
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(b"x".to_vec()))) };
    let descriptor = Descriptor::of(MediaType::ImageLayer, b"x");
    client.push_blob(&registry.reference("team/new:1"), &descriptor, &open, &[], &|_| {}).unwrap();
    assert!(registry.has_blob("team/new", &descriptor.digest));
}
