//! `cargo xtask demo`: the Node and nginx example, from base images to a pushed image.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{self, Result, find, is_set, output, tool};
use crate::registry::Registry;
use crate::report::{heading, seconds, size};
use crate::user::remove_tree;
use crate::workspace::Workspace;
use crate::{bases, install, page};

const NAME: &str = "my-node-nginx-app";

/// Proxies that a RUN may use without a trace: Dockerfiles know these build args without ARG.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Everything a build of the demo needs.
struct Demo {
    rbuild: PathBuf,
    context: PathBuf,
    store: PathBuf,
    registries_conf: PathBuf,
}

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    heading("Tools");
    install::ensure(&[install::REGISTRY, install::ROOTLESS])?;

    heading("rbuild, in release");
    let rbuild = workspace.release_binary()?;

    heading("Base images");
    let folder = workspace.scratch("demo")?;
    let registry = Registry::start(&folder.join("registry"))?;
    let stand_ins = !bases::hub_answers();
    if stand_ins {
        println!(
            "Docker Hub is not asked or does not answer; {} serves stand-ins under its names",
            registry.address
        );
        bases::serve_stand_ins(workspace, &registry)?;
    } else {
        println!("Docker Hub answers: the real ones");
    }

    let demo = Demo {
        rbuild,
        context: workspace.root.join("examples/node-nginx"),
        store: folder.join("store"),
        registries_conf: registry.registries_conf(stand_ins)?,
    };
    if demo.store.exists() {
        remove_tree(&demo.store)?;
    }
    tell_of_npm();

    heading("The build, nothing cached");
    let cold = demo.build(&["-t", NAME])?;
    heading("The image beside its build stage");
    demo.compare_sizes()?;
    heading("An OCI archive");
    let archive = demo.write_archive(&folder.join(format!("{NAME}.tar")))?;
    heading("A push");
    let pushed = demo.push(&registry)?;
    if archive != pushed {
        return Err(format!("the archive holds {archive} and the registry {pushed}: not one image").into());
    }
    println!("the same manifest as in the archive");
    heading("The build again, everything cached");
    let warm = demo.build(&["-t", NAME])?;

    heading("The image, run");
    demo.show_page()?;

    println!(
        "\nfirst build {}, second {}; the store stays in {}",
        seconds(cold),
        seconds(warm),
        demo.store.display()
    );
    Ok(())
}

impl Demo {
    fn rbuild(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.rbuild);
        command.stdin(Stdio::null()).env("CONTAINERS_REGISTRIES_CONF", &self.registries_conf);
        command.arg("--root").arg(&self.store).arg("--host-certs");
        for proxy in PROXIES.iter().filter(|name| is_set(name)) {
            command.args(["--build-arg", proxy]);
        }
        command.args(arguments).arg(&self.context);
        command
    }

    /// A build whose steps the user sees; how long it took.
    fn build(&self, arguments: &[&str]) -> Result<Duration> {
        println!("$ rbuild {} examples/node-nginx", arguments.join(" "));
        let started = Instant::now();
        process::run(self.rbuild(&["--progress", "plain"]).args(arguments))?;
        let took = started.elapsed();
        println!("took {}", seconds(took));
        Ok(took)
    }

    /// Another command than a build, with the demo's store.
    fn command(&self, arguments: &[&str]) -> Command {
        println!("$ rbuild {}", arguments.join(" "));
        let mut command = Command::new(&self.rbuild);
        command.stdin(Stdio::null()).env("CONTAINERS_REGISTRIES_CONF", &self.registries_conf);
        command.arg("--root").arg(&self.store).args(arguments);
        command
    }

    /// Runs the image, and looks at its page until it is seen that the app's script ran.
    fn show_page(&self) -> Result<()> {
        let container = Container { demo: self, name: format!("demo-{}", std::process::id()) };
        process::run(&mut self.command(&[
            "run",
            "-d",
            "--name",
            &container.name,
            "-p",
            "127.0.0.1::80",
            NAME,
        ]))?;
        process::run(&mut self.command(&["ps"]))?;
        let port = container.port()?;
        println!("$ curl localhost:{port}");
        let document = page::fetch(port, "/")?;
        println!("{}", document.trim_end());
        match page::in_browser(port)? {
            None => println!(
                "\nNOT LOOKED AT in a browser: there is no chromium here (Debian's package of that name)"
            ),
            Some(shown) => {
                println!("\nand in Chromium, after the app's script ran:");
                let lines = page::text_of(&shown);
                lines.iter().for_each(|line| println!("  {line}"));
                if !lines.iter().any(|line| line.contains("Built with node")) {
                    return Err("the app's script did not run in the browser".into());
                }
            }
        }
        process::run(&mut self.command(&["stop", &container.name]))
    }

    fn compare_sizes(&self) -> Result<()> {
        let image = self.unpacked_size(&[])?;
        let stage = self.unpacked_size(&["--target", "build"])?;
        println!("the build stage, with node, npm and node_modules: {:>10}", size(stage));
        println!("the image:                                        {:>10}", size(image));
        if image >= stage {
            return Err("the image is no smaller than its build stage".into());
        }
        Ok(())
    }

    /// The size of a stage's files as one archive.
    fn unpacked_size(&self, arguments: &[&str]) -> Result<u64> {
        let mut command = self.rbuild(&["--progress", "quiet", "-o", "-"]);
        let mut build = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut bytes = 0;
        if let Some(mut archive) = build.stdout.take() {
            let mut buffer = vec![0; 1 << 20];
            loop {
                match archive.read(&mut buffer)? {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
        }
        let status = build.wait()?;
        if status.success() { Ok(bytes) } else { Err(format!("`rbuild -o -` ended with {status}").into()) }
    }

    /// Writes the archive and gives the digest of the manifest that another tool finds in it.
    fn write_archive(&self, file: &Path) -> Result<String> {
        let destination = format!("type=oci,dest={}", file.display());
        self.build(&["-t", NAME, "-o", &destination])?;
        println!("{}: {}", file.display(), size(fs::metadata(file)?.len()));
        inspect(&[&format!("oci-archive:{}", file.display())])
    }

    /// Pushes and gives the digest of the manifest that another tool finds in the registry.
    fn push(&self, registry: &Registry) -> Result<String> {
        let name = format!("{}/{NAME}:latest", registry.address);
        self.build(&["-t", &name, "--push"])?;
        inspect(&["--tls-verify=false", &format!("docker://{name}")])
    }
}

/// A container of the demo; removed with the value.
struct Container<'a> {
    demo: &'a Demo,
    name: String,
}

impl Container<'_> {
    /// The port of this machine that leads into it.
    fn port(&self) -> Result<u16> {
        let format = ["ps", "--format", "{{.Names}} {{.Ports}}"];
        let all = output(Command::new(&self.demo.rbuild).arg("--root").arg(&self.demo.store).args(format))?;
        let line = all.lines().find(|line| line.starts_with(&format!("{} ", self.name)));
        let before = line.and_then(|line| line.split_once("->")).ok_or("the container has no port")?.0;
        Ok(before.rsplit(':').next().unwrap_or_default().parse()?)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Nothing is left to remove where it did not start.
        let _ = process::run_quietly(&mut self.demo.command(&["rm", "-f", &self.name]));
    }
}

/// What skopeo reads: the image's layers and digest.
fn inspect(arguments: &[&str]) -> Result<String> {
    let text = output(tool("skopeo").args(["--insecure-policy", "inspect"]).args(arguments))?;
    let image: serde_json::Value = serde_json::from_str(&text)?;
    let layers = image["Layers"].as_array().map_or(0, Vec::len);
    let digest = image["Digest"].as_str().ok_or("skopeo names no digest")?;
    println!("skopeo inspect: {layers} layers, {digest}");
    Ok(digest.to_owned())
}

/// A RUN sees the image's npm settings, not the host's: where they name different registries, the user should know.
fn tell_of_npm() {
    let registry =
        |arguments: &[&str]| output(tool("npm").args(["config", "get", "registry"]).args(arguments)).ok();
    if find("npm").is_none() {
        return;
    }
    let without_files = ["--userconfig=/nonexistent/user", "--globalconfig=/nonexistent/global"];
    if let (Some(here), Some(usual)) = (registry(&[]), registry(&without_files))
        && here != usual
    {
        println!(
            "note: npm on this machine is set up for another registry; `npm install` in the build uses npm's own"
        );
    }
}
