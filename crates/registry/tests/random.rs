//! A thousand transfers with registries that misbehave by chance: each ends right or with one clear error, nothing wrong is stored, and
//! nothing is pushed twice.

mod common;

use std::io::{self, Read};
use std::time::Duration;

use common::{Sink, options};
use rbuild_image::{Descriptor, Digest, MediaType, Reference};
use rbuild_registry::{Client, ClientOptions, ErrorKind, Pushed, RegistryError, RetryPolicy};
use rbuild_testkit::TestRegistry;
use rbuild_testkit::registry::{Dialect, Effect, Fault, Login};

const TRANSFERS: u64 = 1000;
const WORKERS: u64 = 8;
/// More than any transfer has faults.
const ATTEMPTS: u32 = 8;

/// Numbers by chance, the same in every run (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn one_of<'list, T>(&mut self, list: &'list [T]) -> &'list T {
        &list[self.below(list.len() as u64) as usize]
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// Something that goes wrong, and whether trying again helps.
struct Trouble {
    method: &'static str,
    place: &'static str,
    effect: Effect,
    passes: bool,
}

fn refused_login(registry: &TestRegistry) -> Effect {
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test-registry\"", registry.address());
    Effect::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new())
}

/// What may happen to any request.
fn common_trouble(chance: &mut Chance, registry: &TestRegistry) -> (Effect, bool) {
    match chance.below(9) {
        0 => (refused_login(registry), true),
        1 => (Effect::too_many_requests("0"), true),
        2 => (Effect::status(408), true),
        3 => (Effect::status(*chance.one_of(&[403, 400, 451])), false),
        4 => (Effect::Close, true),
        _ => (Effect::status(*chance.one_of(&[500, 502, 503, 504])), true),
    }
}

fn pull_trouble(chance: &mut Chance, registry: &TestRegistry, size: u64) -> Trouble {
    let within = chance.below(size + 1) as usize;
    let (effect, passes) = match chance.below(14) {
        0..=3 => (Effect::Cut(within), true),
        4 => (Effect::Stall(within, Duration::from_secs(3)), true),
        5 => (Effect::Altered, size == 0),
        6 => (Effect::Resized(5), false),
        7 => (Effect::Resized(-5), size == 0),
        // Without a Range these two do nothing.
        8 => (Effect::LyingRange, true),
        9 => (Effect::IgnoreRange, true),
        _ => common_trouble(chance, registry),
    };
    Trouble { method: "GET", place: "blobs/", effect, passes }
}

fn push_trouble(chance: &mut Chance, registry: &TestRegistry, size: u64) -> Trouble {
    let (method, place) = *chance.one_of(&[
        ("HEAD", "blobs/"),
        ("POST", "uploads/"),
        ("PUT", "uploads/"),
        ("PATCH", "uploads/"),
    ]);
    let (effect, passes) = match (method, chance.below(8)) {
        // HEAD says nothing but yes; what stands in the way comes with the upload.
        ("HEAD", _) => (common_trouble(chance, registry).0, true),
        (_, 0 | 1) => (Effect::LostAnswer, true),
        (_, 2) => (Effect::CutRequest(chance.below(size + 1) as usize), true),
        ("POST", 3) => (Effect::Without("Location".to_owned()), false),
        ("PUT", 3) => {
            let other = Digest::sha256_of("other").to_string();
            (Effect::With("Docker-Content-Digest".to_owned(), other), false)
        }
        _ => common_trouble(chance, registry),
    };
    Trouble { method, place, effect, passes }
}

/// Retries at once.
fn quick(chunk: u64) -> Client {
    let retry = RetryPolicy {
        attempts: ATTEMPTS,
        first_wait: Duration::from_micros(200),
        longest_wait: Duration::from_millis(2),
        stall_timeout: Duration::from_millis(700),
        ..options().retry
    };
    Client::new(ClientOptions { retry, chunk, ..options() }).unwrap()
}

/// The registries that one worker has its transfers with.
fn registries() -> Vec<TestRegistry> {
    let dialects = [
        Dialect::default(),
        Dialect { storage: Some(307), ..Dialect::default() },
        Dialect { monolithic: Some(405), ..Dialect::default() },
        Dialect { mounts: false, cancels: false, whole_location: true, ..Dialect::default() },
    ];
    let start = |dialect| {
        let registry = TestRegistry::start();
        registry.speak(dialect);
        registry.require(Login::Token { user: None, refresh: None, only: None });
        registry
    };
    dialects.into_iter().map(start).collect()
}

/// One transfer; says whether it succeeded.
fn transfer(number: u64, chance: &mut Chance, client: &Client, registry: &TestRegistry) -> bool {
    let size = *chance.one_of(&[0, 1, 700, 9_000, 40_000]);
    let (size, is_pull) = (size + chance.below(size / 2 + 1), chance.below(2) == 0);
    let bytes = chance.bytes(size);
    let troubles: Vec<Trouble> = (0..chance.below(5))
        .map(|_| match is_pull {
            true => pull_trouble(chance, registry, size),
            false => push_trouble(chance, registry, size),
        })
        .collect();
    let repository = format!("t{number}");
    let name = registry.reference(&format!("{repository}:1"));
    let is_warm = chance.below(4) > 0;
    if is_warm {
        fetch_token(client, &name, is_pull);
    }
    for trouble in &troubles {
        let text = format!("{repository}/{}", trouble.place);
        registry.fault(Fault::once(trouble.method, &text, trouble.effect.clone()));
    }
    let logins = troubles.iter().filter(|trouble| matches!(&trouble.effect, Effect::Status(401, ..))).count();
    // A new token that is refused at once is not asked for again.
    let must_succeed = troubles.iter().all(|trouble| trouble.passes) && logins < if is_warm { 2 } else { 1 };
    let said = || {
        troubles.iter().map(|trouble| format!("{} {:?}", trouble.method, trouble.effect)).collect::<Vec<_>>()
    };
    let result = match is_pull {
        true => pull(client, registry, &repository, &name, &bytes),
        false => push(chance, client, registry, &repository, &name, &bytes),
    };
    match &result {
        Ok(()) => {}
        Err(error) => {
            assert!(!must_succeed, "transfer {number}: {error}\n{:#?}", said());
            is_clear(error, number);
        }
    }
    result.is_ok()
}

/// Has the client get the token that the transfer will need.
fn fetch_token(client: &Client, name: &Reference, is_pull: bool) {
    if is_pull {
        assert!(client.head(name).unwrap().is_none());
        return;
    }
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(*b"first"))) };
    let descriptor = Descriptor::of(MediaType::ImageLayer, b"first");
    client.push_blob(name, &descriptor, &open, &[], &|_| {}).unwrap();
}

fn pull(
    client: &Client,
    registry: &TestRegistry,
    repository: &str,
    name: &Reference,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    registry.put_blob(repository, bytes);
    let descriptor = Descriptor::of(MediaType::ImageLayer, bytes);
    let mut sink = Sink { hashes: bytes.len().is_multiple_of(2), ..Sink::default() };
    let result = client.blob(name, &descriptor, &mut sink, &|_| {});
    match &result {
        Ok(()) => assert!(sink.bytes == bytes, "{name} is another"),
        // Nothing, or what can be gone on with.
        Err(_) => assert!(bytes.starts_with(&sink.bytes), "{name} holds what it must not"),
    }
    result
}

fn push(
    chance: &mut Chance,
    client: &Client,
    registry: &TestRegistry,
    repository: &str,
    name: &Reference,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    let (descriptor, mut from) = (Descriptor::of(MediaType::ImageLayer, bytes), Vec::new());
    if chance.below(3) == 0 {
        let other = format!("{repository}-from");
        registry.put_blob(&other, bytes);
        from.push(registry.reference(&format!("{other}:1")));
    }
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(bytes.to_vec()))) };
    let result = client.push_blob(name, &descriptor, &open, &from, &|_| {});
    let stored = registry.times_stored(repository, &descriptor.digest);
    match &result {
        Ok(Pushed::Uploaded) => assert_eq!(stored, 1, "{name}"),
        Ok(Pushed::Mounted) => assert_eq!(stored, 0, "{name}"),
        // Stored, or mounted, by a request whose answer was lost.
        Ok(Pushed::Exists) | Err(_) => assert!(stored <= 1, "{name} was pushed {stored} times"),
    }
    let is_there = registry.has_blob(repository, &descriptor.digest);
    assert!(is_there || result.is_err(), "{name} is not there");
    result.map(drop)
}

/// One line that names the request, in how many tries.
fn is_clear(error: &RegistryError, number: u64) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("secret-token"), "transfer {number}: {text}");
    assert!(text.contains("http://127.0.0.1:"), "transfer {number}: {text}");
    assert!((1..=ATTEMPTS).contains(&error.attempts()), "transfer {number}: {text}");
    let expected = [ErrorKind::Denied, ErrorKind::Unauthorized, ErrorKind::Mismatch, ErrorKind::Protocol];
    assert!(expected.contains(&error.kind()), "transfer {number}: {text}");
}

#[test]
fn a_thousand_transfers_end_right_or_with_one_clear_error() {
    let worker = |worker: u64| {
        let (registries, mut right) = (registries(), 0);
        let client = quick(3_000);
        for number in (worker..TRANSFERS).step_by(WORKERS as usize) {
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9));
            let registry = &registries[chance.below(registries.len() as u64) as usize];
            if chance.below(20) == 0 {
                registry.expire_tokens();
            }
            right += u64::from(transfer(number, &mut chance, &client, registry));
        }
        for (repository, digest, bytes) in registries.iter().flat_map(TestRegistry::holdings) {
            assert!(Digest::sha256_of(&**bytes) == digest, "{repository} holds something wrong");
        }
        right
    };
    let right: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || worker(number))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!((TRANSFERS / 2..TRANSFERS).contains(&right), "{right} of {TRANSFERS} ended right");
}
