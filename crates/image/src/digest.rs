//! Digests of content, and the ids made of them.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::{ImageError, Result};

/// A hash function that content may be addressed by (OCI image specification, descriptor.md, "Registered algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what everyone uses.
    Sha256,
    /// SHA-512, allowed and rare.
    Sha512,
}

impl Algorithm {
    /// The name in a digest, before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The digest of some bytes: `sha256:` or `sha512:` and lower-case hexadecimal digits, always valid and so always safe as a
/// file name ([`Digest::hex`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256_of(bytes: impl AsRef<[u8]>) -> Digest {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(bytes.as_ref());
        digester.finish()
    }

    /// The digest made of a SHA-256 hash computed elsewhere.
    pub fn from_sha256(hash: [u8; 32]) -> Digest {
        Digest::from_hash(Algorithm::Sha256, &hash)
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Digest {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(7 + hash.len() * 2);
        text.push_str(algorithm.name());
        text.push(':');
        for byte in hash {
            text.push(DIGITS[usize::from(byte >> 4)] as char);
            text.push(DIGITS[usize::from(byte & 15)] as char);
        }
        Digest(text)
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha256") { Algorithm::Sha256 } else { Algorithm::Sha512 }
    }

    /// The hexadecimal digits after the colon.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }

    /// The first 12 digits, as tools show them to people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hasher that computes this kind of digest.
    pub fn digester(&self) -> Digester {
        Digester::new(self.algorithm())
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Digest> {
        let invalid = |reason| ImageError::Digest { text: text.to_owned(), reason };
        let (name, hex) = text.split_once(':').ok_or_else(|| invalid("no algorithm before a colon"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid("the algorithm is neither sha256 nor sha512")),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(invalid("wrong number of digits"));
        }
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("not lower-case hexadecimal"));
        }
        Ok(Digest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Digest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Debug)]
pub struct Digester(Hasher);

#[derive(Clone, Debug)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Digester {
    /// Starts with nothing hashed.
    pub fn new(algorithm: Algorithm) -> Digester {
        Digester(match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        })
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        match self.0 {
            Hasher::Sha256(hasher) => Digest::from_hash(Algorithm::Sha256, &hasher.finalize()),
            Hasher::Sha512(hasher) => Digest::from_hash(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The digest of a layer's uncompressed tar, as `rootfs.diff_ids` of a config lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers (OCI image specification, config.md, "Layer ChainID").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

macro_rules! digest_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ImageError;

            fn from_str(text: &str) -> Result<Self> {
                text.parse().map($name)
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                $name(digest)
            }
        }
    };
}
digest_newtype!(DiffId);
digest_newtype!(ChainId);

/// The chain ID of layers given from the bottom up; none for no layers.
pub fn chain_id(layers: &[DiffId]) -> Option<ChainId> {
    let (first, rest) = layers.split_first()?;
    let chain =
        rest.iter().fold(first.0.clone(), |parent, layer| Digest::sha256_of(format!("{parent} {layer}")));
    Some(ChainId(chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_hashes() {
        assert_eq!(Digest::sha256_of(b"").as_str(), EMPTY);
        let mut digester = Digester::new(Algorithm::Sha512);
        digester.update(b"abc");
        let digest = digester.finish();
        assert!(digest.as_str().starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{digest}");
        assert_eq!(digest.algorithm(), Algorithm::Sha512);
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let upper = EMPTY.replace("e3b0", "E3B0");
        let short = &EMPTY[..70];
        let escape = format!("sha256:{}", "../".repeat(21) + "x");
        for text in ["", "sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &upper, short, &escape]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let layers: Vec<DiffId> = ["a", "b", "c"].iter().map(|text| Digest::sha256_of(text).into()).collect();
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&layers[..1]).unwrap().0, layers[0].0);
        let two = Digest::sha256_of(format!("{} {}", layers[0], layers[1]));
        assert_eq!(chain_id(&layers[..2]).unwrap().0, two);
        assert_eq!(chain_id(&layers).unwrap().0, Digest::sha256_of(format!("{two} {}", layers[2])));
    }
}
