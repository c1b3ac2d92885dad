//! Any ignore file and any path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_context::IgnoreFile;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let Ok(file) = IgnoreFile::parse(text) else { return };
    let ignored = file.is_ignored(path.trim_matches('/'));
    assert_eq!(ignored, file.is_ignored(path.trim_matches('/')));
    file.has_negation();
});
