//! Cache keys: records of what a step depends on, not only hashes.

use std::fmt;
use std::str::FromStr;

use rbuild_image::{Digest, canonical_json};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::error::Result;
use crate::layout::sha256_hex;

/// The SHA-256 of the canonical JSON of [`KeyParts`], as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheKey(String);

impl fmt::Display for CacheKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for CacheKey {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for CacheKey {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && digits {
            Ok(Self(text))
        } else {
            Err(StoreError::BadName { what: "a cache key", name: text })
        }
    }
}

impl From<CacheKey> for String {
    fn from(key: CacheKey) -> Self {
        key.0
    }
}

/// The value of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartValue {
    /// A text: an option, an argument's value, the parent's key.
    Text(String),
    /// The digest of files. What they were can be noted beside it with [`crate::Store::put_file_list`].
    Content(Digest),
}

/// One named thing that a step depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPart {
    /// As people would call it: `instruction`, `parent`, `ARG VERSION`, `ENV PATH`, `source src/`, `--chown`.
    pub name: String,
    /// Its value.
    pub value: PartValue,
}

/// Everything that a step depends on, in order. No time, no path of the machine, no uid of the user: two machines compute the
/// same key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyParts(Vec<KeyPart>);

impl KeyParts {
    /// No parts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.push(KeyPart { name: name.into(), value: PartValue::Text(value.into()) });
        self
    }

    /// Adds the digest of files.
    pub fn content(&mut self, name: impl Into<String>, digest: Digest) -> &mut Self {
        self.0.push(KeyPart { name: name.into(), value: PartValue::Content(digest) });
        self
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[KeyPart] {
        &self.0
    }

    /// The key of these parts.
    #[must_use]
    pub fn key(&self) -> CacheKey {
        CacheKey(sha256_hex(&canonical_json(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_names_values_kinds_and_order_and_nothing_else() {
        let key = |parts: &[(&str, &str)]| {
            let mut key_parts = KeyParts::new();
            for (name, value) in parts {
                key_parts.text(*name, *value);
            }
            key_parts.key()
        };
        let first = key(&[("a", "1"), ("b", "2")]);
        assert_eq!(first, key(&[("a", "1"), ("b", "2")]));
        for other in [
            &[("b", "2"), ("a", "1")][..],
            &[("a", "12"), ("b", "")],
            &[("a", "1")],
            &[("a1", ""), ("b", "2")],
        ] {
            assert_ne!(first, key(other));
        }
        let digest = Digest::sha256_of(b"x");
        let (mut text, mut content) = (KeyParts::new(), KeyParts::new());
        text.text("a", digest.to_string());
        content.content("a", digest);
        assert_ne!(text.key(), content.key());
    }

    /// Keys are shared between machines and versions: this one may change only with a reason in the change log.
    #[test]
    fn the_bytes_hashed_are_fixed() {
        let mut parts = KeyParts::new();
        parts.text("instruction", "RUN").content("source .", Digest::sha256_of(b""));
        let json = concat!(
            r#"[{"name":"instruction","value":{"text":"RUN"}},{"name":"source .","value":{"content":"sha256:"#,
            r#"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}]"#
        );
        assert_eq!(parts.key().to_string(), sha256_hex(json.as_bytes()));
    }
}
