//! Debian's `docker-registry`, started for one test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running `docker-registry` with its storage in a temporary directory; ends with the value.
#[derive(Debug)]
pub struct RealRegistry {
    child: Child,
    address: String,
    _storage: tempfile::TempDir,
}

impl RealRegistry {
    /// Starts it on a free loopback port; the error says in a sentence why it can't be had.
    pub fn start() -> Result<RealRegistry, String> {
        RealRegistry::start_with(None)
    }

    /// As [`RealRegistry::start`], but speaking TLS with this certificate and key (PEM files).
    pub fn start_tls(certificate: &Path, key: &Path) -> Result<RealRegistry, String> {
        RealRegistry::start_with(Some((certificate, key)))
    }

    fn start_with(tls: Option<(&Path, &Path)>) -> Result<RealRegistry, String> {
        let storage = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        // The port is free when we look; the registry takes it a moment later.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| error.to_string())?
            .port();
        let address = format!("127.0.0.1:{port}");
        let data = storage.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            data.display()
        );
        if let Some((certificate, key)) = tls {
            let (certificate, key) = (certificate.display(), key.display());
            config.push_str(&format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"));
        }
        let file = storage.path().join("config.yml");
        fs::write(&file, config).map_err(|error| format!("no configuration file: {error}"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| {
            format!("docker-registry (Debian package docker-registry) can't be run: {error}")
        })?;
        let registry = RealRegistry { child, address, _storage: storage };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&self) -> Result<(), String> {
        let start = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("docker-registry did not listen within 20 seconds".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
