//! A `docker-registry` that wants user name and password.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::text;

/// The registry; it ends with the value.
pub(crate) struct Protected {
    /// Host and port.
    pub(crate) address: String,
    server: Child,
    _folder: TempDir,
}

impl Protected {
    /// The password of the user `ci`.
    pub(crate) const PASSWORD: &str = "secret word";
    /// What `htpasswd -B` says of it.
    const HTPASSWD: &str = "ci:$2y$05$abcdefghijklmnopqrstuu1C7yeI3ZG3Jm.nHdnKkGJg1xTYKP9Oy\n";

    /// Starts it on a port that was free a moment ago.
    pub(crate) fn start() -> Protected {
        (0..5).find_map(|_| Protected::try_to_start()).expect("docker-registry does not listen")
    }

    fn try_to_start() -> Option<Protected> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let (configuration, passwords) = (folder.path().join("config.yml"), folder.path().join("htpasswd"));
        fs::write(&passwords, Protected::HTPASSWD).unwrap();
        let settings = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{inmemory: {{}}}}\n\
             auth: {{htpasswd: {{realm: tests, path: '{}'}}}}\nhttp: {{addr: '{address}', secret: local}}\n",
            text(&passwords)
        );
        fs::write(&configuration, settings).unwrap();
        let mut server = Command::new("docker-registry")
            .args(["serve", text(&configuration)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..500 {
            if TcpStream::connect(&address).is_ok() {
                return Some(Protected { address, server, _folder: folder });
            }
            if server.try_wait().unwrap().is_some() {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = server.kill();
        let _ = server.wait();
        None
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
