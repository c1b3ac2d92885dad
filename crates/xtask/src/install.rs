//! What the tasks need from the distribution: installed when root, named when not.

use std::path::Path;

use crate::process::{Result, find, is_root, run, tool};

/// A program and the Debian package that holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need(&'static str, &'static str);

/// A registry on 127.0.0.1 with base images in it.
pub(crate) const REGISTRY: &[Need] = &[
    Need("busybox", "busybox-static"),
    Need("docker-registry", "docker-registry"),
    Need("mmdebstrap", "mmdebstrap"),
    Need("skopeo", "skopeo"),
    Need("umoci", "umoci"),
];

/// Builds as an ordinary user: maps of subordinate ids.
pub(crate) const ROOTLESS: &[Need] = &[Need("newuidmap", "uidmap"), Need("setpriv", "util-linux")];

/// The tests: other tools that read what rbuild writes, and files with capabilities.
pub(crate) const TESTS: &[Need] = &[
    Need("buildah", "buildah"),
    Need("chromium", "chromium"),
    Need("crun", "crun"),
    Need("git", "git"),
    Need("podman", "podman"),
    Need("runc", "runc"),
    Need("ssh-agent", "openssh-client"),
    Need("script", "bsdutils"),
    Need("setcap", "libcap2-bin"),
    Need("setfattr", "attr"),
    Need("zstd", "zstd"),
    Need("xz", "xz-utils"),
];

/// The benchmark's rivals.
pub(crate) const BENCH: &[Need] = &[Need("buildah", "buildah"), Need("crun", "crun")];

/// Makes sure that all of these programs are there. Root installs what is missing, after saying so; an ordinary user
/// is told what to install.
pub(crate) fn ensure(needs: &[&[Need]]) -> Result<()> {
    let mut missing: Vec<&str> = needs
        .iter()
        .flat_map(|list| list.iter())
        .filter(|Need(program, _)| find(program).is_none())
        .map(|Need(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        println!("nothing to install: all tools are here");
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() {
        return Err(format!(
            "these packages are missing; as root: apt-get install --no-install-recommends {packages}"
        )
        .into());
    }
    if find("apt-get").is_none() {
        return Err(
            format!("this machine has no apt-get; please install what Debian calls: {packages}").into()
        );
    }
    println!("installing with apt-get: {packages}");
    apt(&["update"])?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt(&[&install[..], &missing].concat())?;
    if missing.contains(&"docker-registry") && Path::new("/run/systemd/system").exists() {
        println!("stopping the service that came with docker-registry: the tasks start their own");
        run(tool("systemctl").args(["disable", "--now", "--quiet", "docker-registry"]))?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    run(tool("apt-get")
        .args(["--quiet", "-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}
