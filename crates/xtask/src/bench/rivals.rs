//! How the other builders are told to build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::builder::Store;
use crate::process::{Result, tool};
use crate::registry::Registry;
use crate::user::remove_tree;

/// What the machine trusts, where Debian keeps it.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// As buildah's users type them: it builds into its store, and a second command pushes from there, to archives as well.
pub(super) fn buildah(store: &Store, context: &Path, more: &str, push: &str) -> Command {
    let folder = store.folder.display();
    // A runtime needs rights that root of a container may lack, such as those to raise limits.
    let options = "--layers --jobs 8 --isolation chroot --network host --quiet --tag bench";
    let volume = if Path::new(CERTIFICATES).exists() {
        format!("--volume {CERTIFICATES}:{CERTIFICATES}:ro")
    } else {
        String::new()
    };
    let script = format!(
        "set -e; buildah=\"buildah --root {folder}/root --runroot {folder}/run\"; \
         $buildah bud {options} {more} {volume} \"$1\"; {push}"
    );
    let mut command = tool("sh");
    command.args(["-c", &script, "sh"]).arg(context);
    command
}

/// It takes the root file system for its own, deletes it between stages, and keeps what is mounted: it gets a new one for
/// each build, in a mount namespace, with the context read-only and devices of its own.
pub(super) fn kaniko(
    executor: &Path,
    store: &Store,
    context: &Path,
    mirror: &Registry,
    options: &str,
) -> Result<Command> {
    let root = store.folder.join("root");
    if root.exists() {
        remove_tree(&root)?;
    }
    for folder in ["kaniko", "workspace", "proc", "dev", "etc/ssl/certs", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(executor, root.join("kaniko/executor"))?;
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let address = &mirror.address;
    let script = format!(
        "set -e; cd \"$1\"; mount --bind . .; cd \"$1\"
         mount --bind \"$2\" workspace; mount -o remount,bind,ro workspace
         mount -t proc proc proc; mount -t tmpfs tmpfs dev; for node in null zero full random urandom tty; do
         touch dev/$node; mount --bind /dev/$node dev/$node; done
         if [ -e {CERTIFICATES} ]; then touch .{CERTIFICATES}; mount --bind {CERTIFICATES} .{CERTIFICATES}; fi
         exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SSL_CERT_FILE={CERTIFICATES} \
         chroot . /kaniko/executor --force --context dir:///workspace --dockerfile Dockerfile --verbosity error \
         --registry-mirror {address} --insecure-registry {address} --insecure-pull --skip-default-registry-fallback {options}"
    );
    let mut command = tool("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(&root).arg(context);
    Ok(command)
}

/// Writes into `folder` what tells buildkitd of the registry.
pub(super) fn buildkit_configuration(folder: &Path, mirror: &Registry) -> Result<PathBuf> {
    let address = &mirror.address;
    let configuration = folder.join("buildkitd.toml");
    let mirrors = format!(
        "[registry.\"docker.io\"]\nmirrors = [\"{address}\"]\n[registry.\"{address}\"]\nhttp = true\n"
    );
    fs::write(&configuration, mirrors)?;
    Ok(configuration)
}

/// buildctl with a buildkitd that lives as long as the build, as BuildKit's own `buildctl-daemonless.sh` has it.
pub(super) fn daemonless(folder: &Path, mirror: &Registry) -> Result<Command> {
    let socket = format!("unix://{}", folder.join("socket").display());
    let configuration = buildkit_configuration(folder, mirror)?;
    let script = "buildkitd --oci-worker-net=host --addr \"$1\" --root \"$2\" --config \"$3\" > \"$4\" 2>&1 &
        socket=$1; shift 4; trap 'kill $!; wait' EXIT
        until buildctl --addr \"$socket\" debug workers > /dev/null 2>&1; do kill -0 $! || exit 1; sleep 0.02; done
        buildctl --addr \"$socket\" \"$@\"";
    let mut command = tool("sh");
    command.args(["-c", script, "sh", &socket]);
    command.args([&folder.join("root"), &configuration, &folder.join("log")]);
    Ok(command)
}

/// A RUN that asks the npm registry gets the machine's certificates as a secret; `folder` is for the Dockerfile that says so.
/// `command` is a buildctl with a buildkitd to speak to.
pub(super) fn buildctl(mut command: Command, context: &Path, folder: &Path) -> Result<Command> {
    command.args(["build", "--frontend", "dockerfile.v0"]);
    command.args(["--local", &format!("context={}", context.display())]);
    let dockerfile = fs::read_to_string(context.join("Dockerfile"))?;
    if dockerfile.contains("RUN npm install") && Path::new(CERTIFICATES).exists() {
        let run = format!("RUN --mount=type=secret,id=certificates,target={CERTIFICATES} npm install");
        fs::write(folder.join("Dockerfile"), dockerfile.replace("RUN npm install", &run))?;
        command.args(["--local", &format!("dockerfile={}", folder.display())]);
        command.args(["--secret", &format!("id=certificates,src={CERTIFICATES}")]);
    } else {
        command.args(["--local", &format!("dockerfile={}", context.display())]);
    }
    Ok(command)
}
