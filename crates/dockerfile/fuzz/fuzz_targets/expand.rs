//! Any word, in both modes: no panic, no blow-up.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::{Escape, Mode, expand, expand_words};

fuzz_target!(|word: &str| {
    let variables: BTreeMap<String, String> =
        [("a", "value"), ("b", ""), ("c", "x/y.*z"), ("d", "$a ${b}")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    for escape in [Escape::Backslash, Escape::Backtick] {
        for mode in [Mode::Word, Mode::Heredoc] {
            let _ = expand(word, &variables, escape, mode);
        }
        let _ = expand_words(word, &variables, escape);
    }
});
