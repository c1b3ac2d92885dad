//! The folder that all places see: rbuild, the base images, the builds; and the one process that runs them all.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::base;
use crate::places::Place;

/// The program under test.
const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");
const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/places");

const CI_IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/ci-image");

/// Runs every build, one after the other: `sh RUN OUT STORE SHARED CASE…`.
const RUN: &str = r#"
out=$1 store=$2 shared=$3; shift 3
rbuild=$shared/rbuild
# Below /rbuild it is in an image that is there to be built in, and only from there it may.
test -x /rbuild/rbuild && rbuild=/rbuild/rbuild
$rbuild --root "$store" doctor >"$out/doctor" 2>&1
for case; do
    $rbuild --root "$store" --progress plain --secret id=key,src=$shared/key \
        --build-context base=oci-layout://$shared/base:latest --build-context debian=oci-layout://$shared/debian:latest \
        -o type=tar,dest="$out/$case.tar" "$shared/cases/$case" >"$out/$case.log" 2>&1
    echo $? >"$out/$case.code"
done
"#;

/// A folder of `testdata/places/cases`.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// It has a RUN.
    pub(crate) runs: bool,
}

/// What all places share. It is gone with this value.
pub(crate) struct Fixture {
    folder: TempDir,
    pub(crate) cases: Vec<Case>,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let folder =
            tempfile::Builder::new().prefix("rbuild-places-").tempdir_in("/var/tmp").expect("a folder");
        let fixture = Fixture { cases: cases(), folder };
        let shared = fixture.shared();
        for path in [fixture.folder.path(), &shared] {
            fs::create_dir_all(path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        fs::copy(RBUILD, shared.join("rbuild")).expect("rbuild");
        fs::write(shared.join("run"), RUN).unwrap();
        fs::write(shared.join("guards"), crate::guards::SCRIPT).unwrap();
        fs::write(shared.join("key"), "a secret of 22 letters").unwrap();
        base::write(&shared.join("base"));
        copy_tree(&Path::new(TESTDATA).join("cases"), &shared.join("cases"));
        if let Some(debian) = debian() {
            copy_tree(&debian, &shared.join("debian"));
        }
        // Whoever made them, every place reads them.
        let status = Command::new("chmod").args(["-R", "a+rX"]).arg(&shared).status();
        assert!(status.expect("chmod").success());
        fixture.make_rootfs();
        fixture.make_ci_image();
        fixture
    }

    /// The root file system of `examples/ci-image`, built by rbuild, and a shell for the tests where no build sees it.
    pub(crate) fn ci_image(&self) -> PathBuf {
        self.folder.path().join("ci-image")
    }

    fn make_ci_image(&self) {
        let authorities = self.folder.path().join("authorities");
        fs::create_dir_all(&authorities).unwrap();
        fs::write(authorities.join("ca-certificates.crt"), "").unwrap();
        let root = self.ci_image();
        let built = Command::new(RBUILD)
            .arg("--root")
            .arg(self.folder.path().join("ci-store"))
            .arg(format!("--build-context=program={}", self.shared().display()))
            .arg(format!("--build-context=authorities={}", authorities.display()))
            .arg(format!("--output=type=local,dest={}", root.display()))
            .arg(CI_IMAGE)
            .output()
            .expect("rbuild");
        assert!(built.status.success(), "examples/ci-image: {}", text(&built.stderr));
        fs::copy("/bin/busybox", root.join("rbuild/busybox")).expect("a static busybox");
    }

    /// What every place sees, read-only.
    pub(crate) fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// The root file system of the containers: a shell and two accounts.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    fn make_rootfs(&self) {
        let root = self.rootfs();
        for name in ["bin", "etc", "tmp", "work", "out", "shared", "proc", "sys", "dev", "root", "home/u"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["tmp", "work", "home/u"] {
            fs::set_permissions(root.join(name), Permissions::from_mode(0o1777)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a static busybox");
        symlink("busybox", root.join("bin/sh")).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nu:x:1000:\n").unwrap();
    }

    /// The folder of one place, with `out` and `volume` in it.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        let own = self.folder.path().join(name);
        for path in [&own, &own.join("out"), &own.join("volume")] {
            fs::create_dir_all(path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        own
    }

    /// Runs all builds in a place; the answer is the folder with what came out, or why the place cannot be made here.
    pub(crate) fn run(&self, place: &Place) -> Result<PathBuf, String> {
        let own = self.own(place.name);
        let out = own.join("out");
        let mut command = place.command(self, &own)?;
        command.args(self.cases.iter().map(|case| &case.name));
        let output = command.current_dir("/").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let began = out.join("doctor").exists();
        assert!(output.status.success() || !began, "{}: {}", place.name, text(&output.stderr));
        if began { Ok(out) } else { Err(text(&output.stderr)) }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn cases() -> Vec<Case> {
    let has_debian = debian().is_some();
    let mut cases = Vec::new();
    for entry in fs::read_dir(Path::new(TESTDATA).join("cases")).expect("testdata/places/cases") {
        let path = entry.unwrap().path();
        let dockerfile = fs::read_to_string(path.join("Dockerfile")).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if dockerfile.starts_with("# base: debian") && !has_debian {
            eprintln!("SKIP {name}: it needs Debian as a base (`cargo xtask test --only rbuild` makes it)");
            continue;
        }
        cases.push(Case { name, runs: dockerfile.lines().any(|line| line.starts_with("RUN ")) });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The base with apt, where `cargo xtask test` has made it: beside the program, in the target folder.
fn debian() -> Option<PathBuf> {
    let target = Path::new(RBUILD).parent()?.parent()?;
    Some(target.join("demo/bases/debian/layout")).filter(|layout| layout.join("index.json").exists())
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(from).arg(to).status();
    assert!(status.expect("cp").success(), "cp {}", from.display());
}
