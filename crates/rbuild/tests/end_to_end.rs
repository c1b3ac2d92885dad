//! End-to-end tests of the binary against a real registry server: one file per feature, `common` is what they share.
//!
//! They need Debian's busybox-static, docker-registry, skopeo, umoci, buildah and podman (`cargo xtask test` installs them), and
//! run as root and as an ordinary user with subordinate ids.

#![expect(clippy::print_stderr, reason = "a test that cannot run says so")]

mod access;
mod build;
mod cache;
mod cache_property;
mod checks;
mod common;
mod contexts;
mod devices;
mod epoch;
mod errors;
mod faults;
mod fleet;
mod images;
mod interop;
mod kills;
mod outputs;
mod pages;
mod platforms;
mod registry;
mod reproducible;
mod resources;
mod run;
mod run_network;
mod secrets;
mod shared_cache;
mod shell;
mod transports;

/// A file of tests that is not listed above would never run.
#[test]
fn every_file_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let listed = std::fs::read_to_string(format!("{folder}/end_to_end.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        // `places` is a program of its own.
        let missing =
            !["end_to_end", "places"].contains(&module) && !listed.contains(&format!("\nmod {module};"));
        assert!(!missing, "`mod {module};` is missing in end_to_end.rs");
    }
}
