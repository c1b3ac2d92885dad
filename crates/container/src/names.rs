//! Names for containers that were given none.

const FIRST: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clever", "cosy", "crisp", "eager", "early", "fair", "fond", "gentle",
    "glad", "green", "hardy", "jolly", "keen", "kind", "light", "lively", "lucky", "merry", "neat", "plain",
    "proud", "quick", "quiet", "ready", "sunny", "tidy", "warm", "wise",
];
const SECOND: [&str; 32] = [
    "anchor", "badger", "beacon", "birch", "bridge", "brook", "cedar", "comet", "dune", "falcon", "fern",
    "finch", "harbour", "heron", "island", "lantern", "lark", "maple", "meadow", "otter", "pebble", "pine",
    "quarry", "raven", "reef", "ridge", "robin", "sparrow", "spruce", "valley", "willow", "wren",
];

/// A name from random bytes; the third is a number, should the first two not tell it from another.
pub(crate) fn name_of(random: [u8; 3], numbered: bool) -> String {
    let pick = |list: &[&'static str; 32], byte: u8| list[usize::from(byte) % list.len()];
    let name = format!("{}_{}", pick(&FIRST, random[0]), pick(&SECOND, random[1]));
    if numbered { format!("{name}{}", random[2]) } else { name }
}

/// Docker's rule for names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_valid(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_valid() {
        assert_eq!(name_of([0, 0, 7], false), "amber_anchor");
        assert_eq!(name_of([33, 255, 7], true), "bold_wren7");
        for first in 0..=255 {
            assert!(is_valid(&name_of([first, first, first], true)));
        }
        for wrong in ["", "a", "-a", "a/b", "a b", "ä1"] {
            assert!(!is_valid(wrong), "{wrong}");
        }
    }
}
