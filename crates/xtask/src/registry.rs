//! A `docker-registry` on 127.0.0.1 that lives as long as the task.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::oci::Layout;
use crate::process::{Result, run_quietly, tool};

/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running registry; dropping it stops the server.
#[derive(Debug)]
pub(crate) struct Registry {
    server: Child,
    /// Host and port: `127.0.0.1:41234`.
    pub(crate) address: String,
    folder: PathBuf,
}

impl Registry {
    /// Starts a server that keeps its content in `folder` (what lies there from before is served again).
    pub(crate) fn start(folder: &Path) -> Result<Registry> {
        // The port was free a moment ago; where another process was quicker the server ends and the next is tried.
        let mut last = String::new();
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut registry = Registry::spawn(folder, port)?;
            match registry.wait_until_listening() {
                Ok(()) => return Ok(registry),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last.into())
    }

    fn spawn(folder: &Path, port: u16) -> Result<Registry> {
        fs::create_dir_all(folder.join("storage"))?;
        let address = format!("127.0.0.1:{port}");
        let configuration = folder.join("config.yml");
        fs::write(&configuration, configuration_text(&folder.join("storage"), &address))?;
        let log = fs::File::create(folder.join("log"))?;
        // The kernel ends the server with us, however we end.
        let server = tool("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&configuration)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("could not start docker-registry: {error}"))?;
        Ok(Registry { server, address, folder: folder.to_path_buf() })
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            if self.server.try_wait()?.is_some() || started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("docker-registry does not listen on {}\n{log}", self.address).into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes a `registries.conf` that knows this registry as one without TLS, and gives its path. With `mirror` set,
    /// images of docker.io are looked for here first.
    pub(crate) fn registries_conf(&self, mirror: bool) -> Result<PathBuf> {
        let file = self.folder.join("registries.conf");
        let address = &self.address;
        let mut text = format!(
            "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"
        );
        if mirror {
            text += &format!(
                "\n[[registry]]\nlocation = \"docker.io\"\n\n[[registry.mirror]]\nlocation = \"{address}\"\ninsecure = true\n"
            );
        }
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Puts an image into the registry under `name` (`library/busybox:latest`).
    pub(crate) fn put(&self, layout: &Layout, name: &str) -> Result<()> {
        run_quietly(
            tool("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                .arg(layout.source())
                .arg(format!("docker://{}/{name}", self.address)),
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The server's configuration. Uploads need no shared secret: there is one server.
fn configuration_text(storage: &Path, address: &str) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: '{}'}}\n  delete: {{enabled: true}}\n\
         http: {{addr: '{address}', secret: local}}\n",
        storage.display()
    )
}
