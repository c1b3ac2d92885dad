//! The canonical form can be read, and is its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::Dockerfile;

fuzz_target!(|text: &str| {
    let Ok(dockerfile) = Dockerfile::parse(text) else { return };
    let once = dockerfile.format();
    let again = Dockerfile::parse(&once).unwrap_or_else(|errors| panic!("{errors:?}\n{once}"));
    assert_eq!(again.instructions().count(), dockerfile.instructions().count());
    assert_eq!(again.format(), once);
});
