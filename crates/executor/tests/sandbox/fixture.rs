//! A busybox root file system, and sandboxes in it with one line.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rbuild_executor::{Cancel, ExitReport, Mounted, Overlay, Place, PlaceKind, SandboxSpec, Stream, run};
use tempfile::TempDir;

/// Name and body of a test; it fails by panicking.
pub(crate) type Test = (&'static str, fn());

static PLACE: OnceLock<Place> = OnceLock::new();
static BASE: OnceLock<TempDir> = OnceLock::new();

const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "cp", "dd", "echo", "env", "false", "grep", "head", "hostname", "id",
    "ifconfig", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "ps", "pwd", "readlink", "rm",
    "rmdir", "sed", "sh", "sleep", "sort", "stat", "test", "touch", "true", "tty", "umount", "unshare", "wc",
    "yes", "nsenter", "chroot", "seq", "find", "nohup", "su", "mkfifo", "tar", "xargs",
];

pub(crate) const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1500:1501::/home/app:/bin/sh\n";
pub(crate) const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1501:\nextra:x:20:app\n";

pub(crate) fn remember(place: Place) {
    PLACE.set(place).expect("entered once");
}

pub(crate) fn place() -> &'static Place {
    PLACE.get().expect("entered")
}

/// Whether other ids than root's can be had; says so when not.
pub(crate) fn has_other_ids(test: &str) -> bool {
    let many = place().kind() != PlaceKind::SingleId;
    if !many {
        eprintln!("SKIP {test}: this place has a single id");
    }
    many
}

/// A command that starts `program` as an account, or as a number; `None` where that can't be done.
pub(crate) fn as_user(user: &str, program: &Path) -> Option<Command> {
    let number = user.bytes().all(|b| b.is_ascii_digit());
    let known = number || Command::new("id").arg(user).output().ok()?.status.success();
    let setpriv = Command::new("setpriv").arg("--version").output().ok()?.status.success();
    let mut command = Command::new("setpriv");
    let groups = if number { "--clear-groups" } else { "--init-groups" };
    command.args(["--reuid", user, "--regid", user, groups]).arg(program);
    command.env_clear().env("PATH", std::env::var_os("PATH")?).env("HOME", "/tmp").current_dir("/");
    (known && setpriv).then_some(command)
}

/// A directory for a test's trees, on the disk (a tmpfs is no place for overlays on older kernels).
pub(crate) fn directory() -> TempDir {
    let parent = std::env::var("EXECUTOR_TEST_DIRECTORY").unwrap_or_else(|_| "/var/tmp".into());
    tempfile::Builder::new().prefix("executor-test-").tempdir_in(parent).expect("a temporary directory")
}

/// The lower directory that all tests share: /bin, /etc with passwd and group, /tmp, and neither /proc, /sys nor /dev.
pub(crate) fn base() -> &'static Path {
    BASE.get_or_init(|| {
        let directory = directory();
        make_base(directory.path());
        directory
    })
    .path()
}

/// Removes [`base`]: nothing drops a static.
pub(crate) fn clean() {
    if let Some(base) = BASE.get() {
        let _ = fs::remove_dir_all(base.path());
    }
}

pub(crate) fn make_base(root: &Path) {
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    for folder in ["bin", "etc", "tmp", "home/app", "root"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a static busybox");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("etc/passwd"), PASSWD).unwrap();
    fs::write(root.join("etc/group"), GROUP).unwrap();
    fs::write(root.join("etc/script"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(root.join("etc/script"), Permissions::from_mode(0o755)).unwrap();
    // Times in the past, so that a change shows.
    for folder in ["etc", "bin", "tmp", "home", "root", ""] {
        set_time(&root.join(folder), 1_000_000_000);
    }
}

pub(crate) fn set_time(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A merged tree over [`base`], and what a command did to it.
pub(crate) struct Box {
    pub(crate) mounted: Option<Mounted>,
    directory: TempDir,
}

/// How a command ended and what it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) report: ExitReport,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Box {
    pub(crate) fn new() -> Self {
        Self::over(&[base().to_path_buf()])
    }

    pub(crate) fn over(lowers: &[PathBuf]) -> Self {
        let directory = directory();
        for name in ["upper", "work", "other-upper", "other-work"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let (upper, work) = (directory.path().join("upper"), directory.path().join("work"));
        fs::set_permissions(&upper, Permissions::from_mode(0o755)).unwrap();
        set_time(&upper, 1_000_000_000);
        let mounted = Overlay { lowers, upper: Some(&upper), work: Some(&work) }.mount().expect("an overlay");
        Self { mounted: Some(mounted), directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn spec(&self, argv: &[&str]) -> SandboxSpec<'_> {
        let mut spec = SandboxSpec::new(self.mounted.as_ref().expect("still mounted"), argv.iter().copied());
        spec.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        spec
    }

    /// Lets the overlay go; then the upper is what a layer would be.
    pub(crate) fn upper(&mut self) -> Vec<String> {
        self.mounted = None;
        let upper = self.path("upper");
        let mut names = Vec::new();
        list(&upper, Path::new(""), &mut names);
        names
    }
}

fn list(root: &Path, below: &Path, names: &mut Vec<String>) {
    let mut entries: Vec<_> =
        fs::read_dir(root.join(below)).unwrap().map(|e| e.unwrap().file_name()).collect();
    entries.sort();
    for entry in entries {
        let path = below.join(entry);
        names.push(path.display().to_string());
        if root.join(&path).symlink_metadata().unwrap().is_dir() {
            list(root, &path, names);
        }
    }
}

pub(crate) fn run_spec(spec: &SandboxSpec<'_>) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut sink = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => stdout.extend_from_slice(bytes),
        Stream::Stderr => stderr.extend_from_slice(bytes),
    };
    let report = run(spec, &mut sink, &Cancel::new().unwrap()).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { report, stdout: text(&stdout), stderr: text(&stderr) }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Runs a shell line as root in a fresh tree.
pub(crate) fn shell(line: &str) -> Ran {
    let sandbox = Box::new();
    run_spec(&sandbox.spec(&["sh", "-c", line]))
}
