//! One way to write JSON, and one way to read it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ImageError, Result};

/// Writes `value` as compact JSON with the keys of every object sorted, so that equal values give equal bytes.
///
/// # Panics
///
/// Never for this workspace's documents: `serde_json` refuses only maps whose keys are not strings, and errors that a
/// hand-written `Serialize` raises; input can cause neither.
pub fn canonical_json(value: &impl Serialize) -> Vec<u8> {
    // `Value` keeps objects in a `BTreeMap` (the feature `preserve_order` must stay off), which sorts them.
    let tree = serde_json::to_value(value).expect("documents have string keys");
    tree.to_string().into_bytes()
}

/// Reads a document; `document` names it in the error (`manifest`, `index`…).
pub fn parse_json<T: DeserializeOwned>(document: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { document, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let text = r#"{"b":{"z":1,"a":[{"y":null,"x":"<&>"}]},"a":2}"#;
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(canonical_json(&value), br#"{"a":2,"b":{"a":[{"x":"<&>","y":null}],"z":1}}"#);
    }
}
