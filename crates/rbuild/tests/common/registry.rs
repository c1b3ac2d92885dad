//! A `docker-registry` on 127.0.0.1 for all tests of this program, with `busybox` in it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use super::{text, tool};

/// The registry, once it listens.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Host and port.
    pub(crate) address: String,
}

/// The registry of this run, started by the first test that asks.
pub(crate) fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let registry = start();
        registry.add_busybox();
        registry
    })
}

/// Starts the server from a thread that lives until the program ends: the kernel ends the server with that thread.
/// Images are kept in memory, so nothing is left of it.
fn start() -> Registry {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let folder = tempfile::tempdir().unwrap();
        let (server, address) =
            (0..5).find_map(|_| try_to_start(folder.path())).expect("docker-registry does not listen");
        drop(folder);
        sender.send(address).unwrap();
        loop {
            thread::park();
            let _ = server.id();
        }
    });
    Registry { address: receiver.recv().expect("the registry's thread failed") }
}

/// One try with a port that was free a moment ago.
fn try_to_start(folder: &Path) -> Option<(Child, String)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let configuration = folder.join("config.yml");
    let settings =
        "log: {level: error, accesslog: {disabled: true}}\nstorage: {inmemory: {}, delete: {enabled: true}}";
    fs::write(
        &configuration,
        format!("version: 0.1\n{settings}\nhttp: {{addr: '{address}', secret: local}}\n"),
    )
    .unwrap();
    let mut server = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve", text(&configuration)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv of util-linux");
    for _ in 0..500 {
        if TcpStream::connect(&address).is_ok() {
            return Some((server, address));
        }
        if server.try_wait().unwrap().is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    None
}

impl Registry {
    /// A `registries.conf` in which this registry stands for docker.io.
    pub(crate) fn registries_conf(&self) -> String {
        let address = &self.address;
        format!(
            "unqualified-search-registries = [\"docker.io\"]\n\
             [[registry]]\nlocation = \"{address}\"\ninsecure = true\n\
             [[registry]]\nprefix = \"docker.io\"\nlocation = \"{address}\"\ninsecure = true\n"
        )
    }

    /// The name of an image here, for pushes: `127.0.0.1:PORT/name`.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// What skopeo knows of an image here.
    pub(crate) fn inspect(&self, image: &str) -> serde_json::Value {
        let source = format!("docker://{}", self.name(image));
        serde_json::from_str(&tool("skopeo", &["inspect", "--tls-verify=false", &source])).unwrap()
    }

    /// Puts `library/busybox:latest` here: the static busybox of this machine with a link for each command.
    fn add_busybox(&self) {
        let folder = tempfile::tempdir().unwrap();
        let (layer, layout) = (folder.path().join("layer.tar"), folder.path().join("layout"));
        pack_busybox(&folder.path().join("root"), &layer);
        let image = format!("{}:latest", layout.display());
        tool("umoci", &["init", "--layout", text(&layout)]);
        tool("umoci", &["new", "--image", &image]);
        tool("umoci", &["raw", "add-layer", "--image", &image, text(&layer)]);
        let path = "--config.env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        tool("umoci", &["config", "--image", &image, path, "--config.cmd=sh"]);
        let (from, to) =
            (format!("oci:{image}"), format!("docker://{}", self.name("library/busybox:latest")));
        tool("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
    }
}

/// The layer's archive. Owners and times are fixed: it is made by any user.
fn pack_busybox(root: &Path, layer: &Path) {
    for folder in ["bin", "etc", "home", "root", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let binary = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|file| Path::new(file).is_file());
    fs::copy(binary.expect("Debian's busybox-static"), root.join("bin/busybox")).unwrap();
    for command in tool("busybox", &["--list"]).lines().filter(|command| *command != "busybox") {
        symlink("busybox", root.join("bin").join(command)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nalice:x:1000:1000::/home/alice:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\nstaff:x:50:alice\nalice:x:1000:\n").unwrap();
    let fixed = [
        "--sort=name",
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "--mtime=@1735689600",
        "--mode=u=rwX,go=rX",
    ];
    tool("tar", &[&["-cf", text(layer)], &fixed[..], &["-C", text(root), "."]].concat());
}
