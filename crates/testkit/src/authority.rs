//! A certificate authority for one test, by the openssl program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority's folder with what it signed.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes `ca.pem` in `folder`.
    ///
    /// # Errors
    /// openssl is missing or fails.
    pub fn make(folder: &Path) -> Result<Authority, String> {
        let authority = Authority { folder: folder.to_owned() };
        authority.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2")?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Signs a new key: `NAME.pem` and `NAME.key`, for these subject alternative names (`DNS:localhost,IP:127.0.0.1`).
    ///
    /// # Errors
    /// openssl is missing or fails.
    pub fn sign(&self, name: &str, subject_names: &str) -> Result<(PathBuf, PathBuf), String> {
        let extensions = self.folder.join("extensions");
        std::fs::write(&extensions, format!("subjectAltName={subject_names}\n"))
            .map_err(|error| error.to_string())?;
        self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile extensions"))?;
        Ok((self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key"))))
    }

    fn openssl(&self, arguments: &str) -> Result<(), String> {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.folder)
            .output()
            .map_err(|error| format!("openssl (Debian package openssl) can't be run: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("no certificates: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}
