//! Tokens as the distribution project's server reads them ("Token Authentication Implementation": JWT, RFC 7519, signed by ES256).

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, fs};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

/// How long a token is good, in seconds.
const LIFETIME: u64 = 300;

/// A key with its certificate.
pub(super) struct Signer {
    issuer: String,
    key: EcdsaKeyPair,
    /// DER in base64, as the `x5c` header wants it.
    certificate: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer {{ issuer: {:?} }}", self.issuer)
    }
}

impl Signer {
    /// Makes a key and `FOLDER/token.pem`, its certificate.
    pub(super) fn make(folder: &Path, issuer: &str) -> Result<Signer, String> {
        let (key, certificate) = (folder.join("token.key"), folder.join("token.pem"));
        let options =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tokens";
        let output = Command::new("openssl")
            .args(options.split(' '))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .map_err(|error| format!("openssl can't be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("no key for tokens: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let key = STANDARD.decode(inner_text(&key)?).map_err(|error| error.to_string())?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random)
            .map_err(|error| format!("openssl's key can't be used: {error}"))?;
        Ok(Signer { issuer: issuer.to_owned(), key, certificate: inner_text(&certificate)? })
    }

    /// A token for `service` that allows `scopes` (`repository:NAME:pull,push`); `number` tells it from others.
    pub(super) fn sign(&self, service: &str, scopes: &[String], number: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let access: Vec<Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<&str> = actions.split(',').collect();
                Some(json!({ "type": kind, "name": name, "actions": actions }))
            })
            .collect();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": self.issuer, "sub": "test", "aud": service, "jti": number.to_string(),
            "iat": now, "nbf": now.saturating_sub(10), "exp": now + LIFETIME, "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("P-256 signs anything");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The base64 between the lines of a PEM file with one item.
fn inner_text(file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.lines().filter(|line| !line.starts_with("-----")).collect())
}
