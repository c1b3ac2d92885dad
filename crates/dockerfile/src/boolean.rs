//! Yes and no as Docker reads them.

/// A boolean as Go's `strconv.ParseBool` reads it: `1`, `t`, `T`, `true`, `TRUE`, `True` and their opposites; `None` is neither.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_mixed_spellings_only_some_count() {
        assert_eq!(["1", "True", "t"].map(parse_bool), [Some(true); 3]);
        assert_eq!(["0", "False", "F"].map(parse_bool), [Some(false); 3]);
        assert_eq!(["", "tRUE", "yes", "on", " 1", "2"].map(parse_bool), [None; 6]);
    }
}
