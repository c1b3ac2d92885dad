//! What the end-to-end tests share: a context and a store of their own, a registry for all, and the image that came out.
//!
//! ```ignore
//! let test = Test::new("FROM busybox\nRUN echo hi > /greeting\n");
//! test.file("src/main.c", "int main;");
//! let image = test.build(&["--build-arg", "A=1"]);
//! assert_eq!(image.text("/greeting"), "hi\n");
//! test.run(&["--target", "nowhere"]).fails(1, &["nowhere"]);
//! ```

mod browser;
mod containers;
mod image;
mod protected;
mod registry;
mod running;
mod servers;
mod typing;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use tempfile::TempDir;

pub(crate) use browser::in_browser;
pub(crate) use containers::{Place, fetch};
pub(crate) use image::{Entry, Image, Kind};
pub(crate) use protected::{Protected, log_in, succeeds_with_password};
pub(crate) use registry::registry;
pub(crate) use running::{Running, alive};
pub(crate) use servers::{GitServer, archive, commit, serve, serve_dated};
pub(crate) use typing::typed;

/// The longest that one run of rbuild may take, in seconds; then it is killed and the test fails.
const PATIENCE: &str = "120";

/// The program under test.
pub(crate) const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// The surroundings of one test: a build context, a store, a home folder. All of it is gone when the test ends.
pub(crate) struct Test {
    folder: Option<TempDir>,
    path: PathBuf,
}

/// A finished run of rbuild.
pub(crate) struct Run {
    /// The exit code; 128 and the signal's number where a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    /// Everything that is for the user's eyes: progress and errors.
    pub(crate) stderr: String,
}

impl Test {
    /// A context that holds this Dockerfile and nothing else.
    pub(crate) fn new(dockerfile: &str) -> Test {
        let folder = tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for name in ["context", "home"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let test = Test { folder: Some(folder), path };
        fs::write(test.path.join("registries.conf"), registry().registries_conf()).unwrap();
        test.dockerfile(dockerfile);
        test
    }

    /// Writes the Dockerfile anew.
    pub(crate) fn dockerfile(&self, text: &str) {
        self.file("Dockerfile", text);
    }

    /// Writes a file of the context, mode 0644, with its folders.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.context().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        self.mode(path, 0o644);
    }

    /// Sets the mode of a file of the context.
    pub(crate) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.context().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Makes a symbolic link in the context.
    pub(crate) fn link(&self, path: &str, target: &str) {
        symlink(target, self.context().join(path)).unwrap();
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path.join("context")
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The names in a folder of the store, sorted; none where there is no such folder.
    pub(crate) fn stored(&self, folder: &str) -> Vec<String> {
        names(&self.store().join(folder))
    }

    /// A path beside the context, for outputs.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// rbuild with the test's store, registry and home, and nothing else of this process's environment. Standard input
    /// is empty.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE, RBUILD]);
        self.set_up(command)
    }

    /// Gives a command that ends in rbuild's path its surroundings.
    fn set_up(&self, mut command: Command) -> Command {
        command
            .arg("--root")
            .arg(self.store())
            .current_dir(&self.path)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path.join("home"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path.join("registries.conf"))
            .stdin(Stdio::null());
        command
    }

    /// Starts `rbuild ARGUMENTS CONTEXT` with plain progress and does not wait for its end. No other process stands between:
    /// a signal reaches rbuild itself.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.set_up(Command::new(RBUILD));
        Running::of(command.args(["--progress", "plain"]).args(arguments).arg(self.context()))
    }

    /// Runs `rbuild ARGUMENTS CONTEXT` with plain progress.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command().args(["--progress", "plain"]).args(arguments).arg(self.context()))
    }

    /// Runs a build that fails, and returns its exit code and all that it says when nothing but errors is shown. What differs
    /// from run to run has a name instead: `TEST` is the folder of the test, `REGISTRY` the registry's address, `LOG` a log's name.
    pub(crate) fn complaint(&self, arguments: &[&str]) -> (i32, String) {
        let run = Run::of(self.command().args(["--progress", "quiet"]).args(arguments).arg(self.context()));
        (run.code, self.steady(&run.stderr))
    }

    /// A message without what differs from run to run.
    pub(crate) fn steady(&self, message: &str) -> String {
        let message = message.replace(text(&self.path), "TEST").replace(&registry().address, "REGISTRY");
        let lines = message.lines().map(|line| match line.split_once("/logs/") {
            Some((before, _)) => format!("{before}/LOG\n"),
            None => format!("{line}\n"),
        });
        lines.collect()
    }

    /// Builds, which must succeed, and reads the image out of an OCI archive.
    pub(crate) fn build(&self, arguments: &[&str]) -> Image {
        self.build_and_say(arguments).0
    }

    /// The same, with what rbuild said.
    pub(crate) fn build_and_say(&self, arguments: &[&str]) -> (Image, Run) {
        let archive = self.beside("image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let run = self.run(&[&["-o", &output], arguments].concat());
        run.succeeds();
        (Image::read(&archive), run)
    }
}

impl Drop for Test {
    /// An ordinary user's store holds files of subordinate ids, which only a user namespace may delete.
    fn drop(&mut self) {
        if is_root() {
            return;
        }
        if let Some(folder) = self.folder.take() {
            let remove = ["--map-root-user", "--map-auto", "rm", "-rf", "--"];
            let _ = Command::new("unshare").args(remove).arg(folder.keep()).stderr(Stdio::null()).status();
        }
    }
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Run {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Run::ended(status, stdout, String::from_utf8_lossy(&stderr).into_owned())
    }

    fn ended(status: ExitStatus, stdout: Vec<u8>, stderr: String) -> Run {
        let code = status.signal().map_or_else(|| status.code().unwrap(), |signal| 128 + signal);
        Run { code, stdout, stderr }
    }

    /// Asserts exit code 0.
    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Run {
        assert_eq!(self.code, 0, "rbuild failed:\n{}", self.stderr);
        self
    }

    /// Asserts this exit code, and that the message names each of these words; never a panic.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, mentions: &[&str]) -> &Run {
        assert!(!self.stderr.contains("panicked at"), "rbuild panicked:\n{}", self.stderr);
        assert_eq!(self.code, code, "another exit code:\n{}", self.stderr);
        for words in mentions {
            assert!(self.stderr.contains(words), "no word of `{words}`:\n{}", self.stderr);
        }
        self
    }

    /// Standard output as text, without the line's end.
    pub(crate) fn said(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }

    /// How many steps came from the cache.
    pub(crate) fn cached(&self) -> usize {
        self.stderr.lines().filter(|line| line.starts_with('#') && line.ends_with(" CACHED")).count()
    }

    /// Whether the step whose heading holds these words came from the cache.
    #[track_caller]
    pub(crate) fn was_cached(&self, step: &str) -> bool {
        let heading = self.stderr.lines().find(|line| line.starts_with('#') && line.contains(step));
        let number = heading.and_then(|line| line.split(' ').next());
        let number = number.unwrap_or_else(|| panic!("no step `{step}`:\n{}", self.stderr));
        self.stderr.lines().any(|line| line == format!("{number} CACHED"))
    }
}

/// Runs another tool, which must succeed; its standard output.
#[track_caller]
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    // podman changes into the folder it was started in, which an ordinary user may not be able to enter.
    let output = Command::new(program).args(arguments).current_dir("/").stdin(Stdio::null()).output();
    let output = output
        .unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs what tests need"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}:\n{stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names in a folder, sorted; none where there is no such folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
