//! Debian's `docker-registry`, started for one test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running `docker-registry` that keeps images in memory; ends with the value.
#[derive(Debug)]
pub struct RealRegistry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

/// How a [`RealRegistry`] is reached.
#[derive(Debug, Default)]
pub struct Access {
    /// Certificate and key (PEM files): it speaks TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Clients must show a certificate of this authority (a PEM file).
    pub client_authority: Option<PathBuf>,
    /// Who may come in.
    pub gate: Gate,
}

/// Who may come into a [`RealRegistry`].
#[derive(Debug, Default)]
pub enum Gate {
    /// Everyone.
    #[default]
    Open,
    /// The lines of an htpasswd file (bcrypt).
    Htpasswd(String),
    /// Who has a token.
    Tokens {
        /// URL of the token server.
        realm: String,
        /// What the registry is called there.
        service: String,
        /// What the token server calls itself.
        issuer: String,
        /// The certificate of the key that tokens are signed with (a PEM file).
        certificate: PathBuf,
    },
}

impl RealRegistry {
    /// Starts it on a free loopback port; the error says in a sentence why it can't be had.
    ///
    /// # Errors
    /// The program is missing, or does not listen.
    pub fn start() -> Result<RealRegistry, String> {
        RealRegistry::start_with(&Access::default())
    }

    /// The same, reached in another way.
    ///
    /// # Errors
    /// The same.
    pub fn start_with(access: &Access) -> Result<RealRegistry, String> {
        // The port is free when we look; the registry takes it a moment later, and another program may be faster.
        let mut tries = (0..5).map(|_| RealRegistry::try_to_start(access));
        tries.find_map(Result::transpose).unwrap_or_else(|| Err("docker-registry does not listen".to_owned()))
    }

    fn try_to_start(access: &Access) -> Result<Option<RealRegistry>, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| error.to_string())?
            .port();
        let address = format!("127.0.0.1:{port}");
        let config = access.configuration(&address, folder.path()).map_err(|error| error.to_string())?;
        let file = folder.path().join("config.yml");
        fs::write(&file, config).map_err(|error| format!("no configuration file: {error}"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| {
            format!("docker-registry (Debian package docker-registry) can't be run: {error}")
        })?;
        let mut registry = RealRegistry { child, address, _folder: folder };
        Ok(registry.listens().then_some(registry))
    }

    fn listens(&mut self) -> bool {
        let start = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            let is_over = self.child.try_wait().is_ok_and(|status| status.is_some());
            if is_over || start.elapsed() > Duration::from_secs(20) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port alone.
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }
}

impl Access {
    /// The server's own file: JSON is YAML.
    fn configuration(&self, address: &str, folder: &Path) -> std::io::Result<String> {
        let mut http = serde_json::json!({ "addr": address, "secret": "local" });
        if let Some((certificate, key)) = &self.tls {
            http["tls"] = serde_json::json!({ "certificate": certificate, "key": key });
        }
        if let Some(authority) = &self.client_authority {
            http["tls"]["clientcas"] = serde_json::json!([authority]);
        }
        let mut document = serde_json::json!({
            "version": 0.1,
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "inmemory": {}, "delete": { "enabled": true } },
            "http": http,
        });
        match &self.gate {
            Gate::Open => {}
            Gate::Htpasswd(lines) => {
                let file = folder.join("htpasswd");
                fs::write(&file, lines)?;
                document["auth"] = serde_json::json!({ "htpasswd": { "realm": "tests", "path": file } });
            }
            Gate::Tokens { realm, service, issuer, certificate } => {
                document["auth"] = serde_json::json!({ "token": {
                    "realm": realm, "service": service, "issuer": issuer, "rootcertbundle": certificate,
                } });
            }
        }
        Ok(document.to_string())
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
