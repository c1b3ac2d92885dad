//! The patterns against `globset`, on what the two have in common.

use globset::GlobBuilder;
use proptest::prelude::*;
use rbuild_context::{Glob, Pattern};

/// Names, `*`, `?` and simple classes, folder by folder; `**` only as a whole folder in front, which is where both
/// mean the same.
fn pattern() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ab]{1,2}",
        2 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => Just("[ab]".to_owned()),
        1 => Just("[a-c]".to_owned()),
        1 => Just("\\*".to_owned()),
        1 => Just(".".to_owned()),
    ];
    let name = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    let clean =
        name.prop_filter("cleaning changes it", |name| name != "." && name != ".." && !name.contains("**"));
    (any::<bool>(), prop::collection::vec(clean, 1..4))
        .prop_map(|(front, names)| if front { format!("**/{}", names.join("/")) } else { names.join("/") })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc.*]{1,3}", 1..4).prop_map(|names| names.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn patterns_agree_with_globset(pattern in pattern(), path in path()) {
        let oracle = GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build().unwrap();
        let expected = oracle.compile_matcher().is_match(&path);
        prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&path), expected);
        if !pattern.contains("**") {
            prop_assert_eq!(Glob::new(&pattern).unwrap().matches(&path), expected);
        }
    }

    #[test]
    fn no_pattern_panics(pattern in "\\PC{0,12}", path in "\\PC{0,12}") {
        if let Ok(glob) = Glob::new(&pattern) {
            glob.matches(&path);
        }
        if let Ok(pattern) = Pattern::new(&pattern) {
            pattern.matches(&path);
            pattern.can_match_below(&path);
        }
    }
}
