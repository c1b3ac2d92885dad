//! Secrets leave no trace: builds that use them in every way, and a search through every byte that is there afterwards.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::common::{Protected, Run, Test, log_in, text};

/// A word that nobody may find, and what it was used as.
struct Secret {
    used_as: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    /// Itself, in hexadecimal, and in base64 wherever it may begin in what was encoded.
    fn new(used_as: &'static str, bytes: &[u8]) -> Secret {
        assert!(bytes.len() >= 10, "too short to be told from chance");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
        for before in 0..3 {
            let shifted = [&vec![0; before], bytes].concat();
            for encoded in [STANDARD.encode(&shifted), URL_SAFE.encode(&shifted)] {
                // The digits that neighbours share go.
                let digits = encoded.trim_end_matches('=').as_bytes();
                forms.push(digits[[0, 2, 3][before]..digits.len() - 1].to_vec());
            }
        }
        Secret { used_as, forms }
    }
}

/// Looks through texts and files, and through what is packed in them.
struct Search<'a> {
    /// What each form of a secret begins with, as an index, and all that begin so.
    forms: Vec<Vec<(&'static str, &'a [u8])>>,
    found: Vec<String>,
    bytes: usize,
}

impl Search<'_> {
    fn new(secrets: &[Secret]) -> Search<'_> {
        let mut forms = vec![Vec::new(); 1 << 16];
        for secret in secrets {
            for form in &secret.forms {
                forms[Search::index(form[0], form[1])].push((secret.used_as, &**form));
            }
        }
        Search { forms, found: Vec::new(), bytes: 0 }
    }

    fn index(first: u8, second: u8) -> usize {
        usize::from(first) << 8 | usize::from(second)
    }

    fn bytes(&mut self, place: &str, bytes: &[u8]) {
        self.bytes += bytes.len();
        for at in 1..bytes.len() {
            for (used_as, form) in &self.forms[Search::index(bytes[at - 1], bytes[at])] {
                if bytes[at - 1..].starts_with(form) {
                    self.found.push(format!("{used_as} in {place}"));
                }
            }
        }
        let mut unpacked = Vec::new();
        let is_packed = match bytes {
            [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut unpacked).is_ok(),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                zstd::Decoder::new(bytes).unwrap().read_to_end(&mut unpacked).is_ok()
            }
            _ => false,
        };
        if is_packed {
            self.bytes(&format!("{place}, unpacked"), &unpacked);
        }
        // Blobs in an archive begin where their heads say.
        if bytes.get(257..262) == Some(b"ustar") {
            for entry in tar::Archive::new(bytes).entries().unwrap() {
                let (mut entry, mut content) = (entry.unwrap(), Vec::new());
                let name = entry.path().unwrap().display().to_string();
                entry.read_to_end(&mut content).unwrap();
                self.bytes(&format!("{place}, {name}"), &content);
            }
        }
    }

    /// A file's name, attributes and content; a folder with all that is in it.
    fn tree(&mut self, path: &Path) {
        let place = path.display().to_string();
        self.bytes(&format!("the name of {place}"), path.file_name().unwrap().as_bytes());
        self.attributes(path);
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if kind.is_symlink() {
            self.bytes(&place, fs::read_link(path).unwrap().as_os_str().as_bytes());
        } else if kind.is_file() {
            let content = fs::read(path).unwrap_or_else(|error| panic!("{place}: {error}"));
            self.bytes(&place, &content);
        } else if kind.is_dir() {
            let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{place}: {error}"));
            entries.for_each(|entry| self.tree(&entry.unwrap().path()));
        } else {
            assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device(), "{place}");
        }
    }

    fn attributes(&mut self, path: &Path) {
        let (mut names, mut value) = (vec![0; 4096], vec![0; 65_536]);
        let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
            self.bytes(&format!("an attribute of {}", path.display()), &value[..length]);
        }
    }
}

const FILE: &str = "file-secret-Qk3vX9pL2mZ7tR5w";
const ENVIRONMENT: &str = "env-secret-Hd8sJ4nB6yC1gF0k";
const VARIABLE: &str = "variable-secret-Vz2qW7eA9uM5xT3r";
const IN_KEY: &str = "key-secret-Pb6oL1iK8jN4hG7d";
const PROXY: &str = "proxy-secret-Yc5tE0wU3rS9aD2f";

/// Each RUN proves that it has its secrets by what it writes of them: lengths.
const DOCKERFILE: &str = "FROM BASE AS first\n\
    ARG VERSION=1\n\
    RUN --mount=type=secret,id=file,required --mount=type=secret,id=environment,required,target=/etc/token,mode=0444 \
        echo $(wc -c </run/secrets/file) $(wc -c </etc/token) >/lengths; cp /run/secrets/file /dev/shm/copy; cp /etc/token /tmp/copy && rm /tmp/copy\n\
    RUN --mount=type=secret,id=variable,env=TOKEN --mount=type=secret,id=in-key export OTHER=$TOKEN; \
        echo ${#TOKEN} $(wc -c </run/secrets/in-key) ${#HTTP_PROXY} ${#https_proxy} >>/lengths\n\
    RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo agent >>/lengths\n\
    FROM BASE\n\
    COPY --from=first /lengths /\n\
    RUN --mount=type=secret,id=file --mount=type=cache,target=/cache --mount=type=secret,id=variable,env=TOKEN <<EOF\n\
    test -n \"$TOKEN\" && wc -c </run/secrets/file >/cache/length\n\
    EOF\n";

struct Agent(Child);

impl Agent {
    /// With one key: the socket, and the bytes of the key that only its owner has.
    fn start(folder: &Path) -> (Agent, PathBuf, Vec<u8>) {
        let (key, socket) = (folder.join("key"), folder.join("agent"));
        let quiet = |command: &mut Command| {
            assert!(
                command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(),
                "{command:?}"
            );
        };
        quiet(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        let mut agent = Command::new("ssh-agent");
        let agent = Agent(agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        quiet(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket));
        let armoured: String =
            fs::read_to_string(&key).unwrap().lines().filter(|line| !line.starts_with("--")).collect();
        // OpenSSH's form of an ed25519 key without a password has the private half here.
        let private = STANDARD.decode(armoured).unwrap()[161..193].to_vec();
        (agent, socket, private)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One test with everything that secrets are used for.
struct Scene {
    test: Test,
    server: Protected,
    _agent: Agent,
    /// Where the secrets themselves lie; never searched.
    _vault: tempfile::TempDir,
    secrets: Vec<Secret>,
    options: Vec<String>,
}

impl Scene {
    fn new() -> Scene {
        let (test, server, vault) =
            (Test::new("FROM busybox\n"), Protected::start(), tempfile::tempdir().unwrap());
        log_in(&test, &server.address);
        let base = format!("{}/base:1", server.address);
        test.run(&["-t", &base, "--push"]).succeeds();
        test.dockerfile(&DOCKERFILE.replace("BASE", &base));
        let (agent, socket, key) = Agent::start(vault.path());
        for (name, secret) in [("file", FILE), ("in-key", IN_KEY)] {
            fs::write(vault.path().join(name), secret).unwrap();
        }
        let file = |name: &str| vault.path().join(name).display().to_string();
        let proxy = format!("http://user:{PROXY}@127.0.0.1:9");
        let options = vec![
            format!("--secret=id=file,src={}", file("file")),
            "--secret=id=environment,env=RBUILD_TEST_TOKEN".into(),
            "--secret=id=variable,env=RBUILD_TEST_VARIABLE".into(),
            format!("--secret=id=in-key,src={},cache-key=digest", file("in-key")),
            format!("--ssh=default={}", socket.display()),
            format!("--build-arg=HTTP_PROXY={proxy}"),
            format!("--build-arg=HTTPS_PROXY={proxy}"),
        ];
        let secrets = vec![
            Secret::new("a secret from a file", FILE.as_bytes()),
            Secret::new("a secret from the environment", ENVIRONMENT.as_bytes()),
            Secret::new("a secret as a variable", VARIABLE.as_bytes()),
            Secret::new("a secret in the key", IN_KEY.as_bytes()),
            Secret::new("a proxy's password", PROXY.as_bytes()),
            Secret::new("an SSH key", &key),
            Secret::new("a registry's password", Protected::PASSWORD.as_bytes()),
        ];
        Scene { test, server, _agent: agent, _vault: vault, secrets, options }
    }

    fn rbuild(&self, arguments: &[&str]) -> Run {
        let mut command = self.test.command();
        command.env("RBUILD_TEST_TOKEN", ENVIRONMENT).env("RBUILD_TEST_VARIABLE", VARIABLE);
        Run::of(command.args(arguments))
    }

    fn build(&self, arguments: &[&str]) -> Run {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.rbuild(&[&options[..], arguments, &[text(&self.test.context())]].concat())
    }

    fn path(&self, name: &str) -> String {
        self.test.beside(name).display().to_string()
    }
}

/// The store, all that is written out, and all that is said; the login is where it was put, in the home folder.
#[track_caller]
fn nothing_is_found(scene: &Scene, said: &[Run]) {
    let mut search = Search::new(&scene.secrets);
    for entry in fs::read_dir(scene.test.beside("")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name() != Some("home".as_ref()) {
            search.tree(&path);
        }
    }
    for (index, run) in said.iter().enumerate() {
        search.bytes(&format!("the output of command {index}"), run.stderr.as_bytes());
        search.bytes(&format!("the data of command {index}"), &run.stdout);
    }
    assert!(search.bytes > 1_000_000, "only {} bytes were looked through", search.bytes);
    assert!(search.found.is_empty(), "{:#?}", search.found);
}

#[test]
fn builds_leave_no_trace_of_secrets() {
    let scene = Scene::new();
    let name = format!("{}/app:1", scene.server.address);
    let outputs = [
        format!("type=oci,dest={}", scene.path("oci.tar")),
        format!("type=oci,compression=zstd,dest={}", scene.path("zstd.tar")),
        format!("type=docker,dest={}", scene.path("docker.tar")),
        format!("type=tar,dest={}", scene.path("files.tar")),
        format!("type=local,dest={}", scene.path("files")),
    ];
    let mut arguments: Vec<&str> = outputs.iter().flat_map(|output| ["-o", output]).collect();
    let (cache, metadata) =
        (format!("type=local,dest={},mode=max", scene.path("cache")), scene.path("metadata.json"));
    let timings = format!("--timings={}", scene.path("timings.html"));
    let iid = scene.path("iid");
    let more = [
        "-t",
        &name,
        "--push",
        "--cache-to",
        &cache,
        "--metadata-file",
        &metadata,
        "--iidfile",
        &iid,
        &timings,
    ];
    arguments.extend(more);
    let mut said = vec![scene.build(&[&arguments[..], &["--progress", "plain", "--explain"]].concat())];
    assert_eq!(said[0].code, 0, "{}", said[0].stderr);
    let proxy = "http://user:@127.0.0.1:9".len() + PROXY.len();
    assert_eq!(
        fs::read_to_string(scene.path("files/lengths")).unwrap(),
        format!(
            "{} {}\n{} {} {proxy} {proxy}\nagent\n",
            FILE.len(),
            ENVIRONMENT.len(),
            VARIABLE.len(),
            IN_KEY.len()
        ),
    );
    // Again, where a secret of the key has changed, and as other programs read it.
    fs::write(scene._vault.path().join("in-key"), format!("{IN_KEY}, another")).unwrap();
    said.push(scene.build(&["--progress", "rawjson", "--explain"]));
    said.push(scene.build(&["--progress", "plain", "--no-cache", "-t", "local"]));
    for command in [
        &["history", "--no-trunc", &name][..],
        &["inspect", &name],
        &["history", "local"],
        &["images"],
        &["du"],
    ] {
        said.push(scene.rbuild(command));
    }
    for run in &said {
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    nothing_is_found(&scene, &said);
}

#[test]
fn builds_that_fail_leave_no_trace_of_secrets() {
    let scene = Scene::new();
    let dockerfile = fs::read_to_string(scene.test.context().join("Dockerfile")).unwrap();
    let failing = "RUN --mount=type=secret,id=file,required --mount=type=secret,id=variable,env=TOKEN test -n \"$TOKEN\" && exit 3\n";
    scene.test.dockerfile(&format!("{dockerfile}{failing}"));
    let mut said = vec![
        scene.build(&["--progress", "plain", "--keep-failed", "--explain"]),
        scene.build(&["--progress", "rawjson"]),
    ];
    assert!(said.iter().all(|run| run.code == 1), "{}", said[0].stderr);
    // A download that fails.
    scene.test.dockerfile("FROM busybox\nADD http://nowhere.invalid/file /\n");
    said.push(scene.build(&["--progress", "plain"]));
    assert_ne!(said[2].code, 0);
    nothing_is_found(&scene, &said);
}

/// The search finds what a careless command leaves, in whatever it is wrapped.
#[test]
fn what_is_left_is_found() {
    let test = Test::new(
        "FROM busybox\n\
         RUN --mount=type=secret,id=one cat /run/secrets/one >/plain\n\
         RUN --mount=type=secret,id=two (echo x; cat /run/secrets/two) | base64 -w 0 >/encoded; \
             od -An -tx1 -v /run/secrets/two | tr -d ' \\n' >/hexadecimal\n",
    );
    let secrets = [Secret::new("one", FILE.as_bytes()), Secret::new("two", ENVIRONMENT.as_bytes())];
    let mut command = test.command();
    command
        .env("ONE", FILE)
        .env("TWO", ENVIRONMENT)
        .args(["--secret=id=one,env=ONE", "--secret=id=two,env=TWO"]);
    let output = format!("type=oci,dest={}", test.beside("oci.tar").display());
    Run::of(command.args(["-o", &output]).arg(test.context())).succeeds();
    let mut search = Search::new(&secrets);
    search.tree(&test.beside("oci.tar"));
    search.tree(&test.store());
    for (used_as, place) in [
        ("one", "/plain"),
        ("two", "/encoded"),
        ("two", "/hexadecimal"),
        ("one", "oci.tar, blobs/"),
        ("two", "oci.tar, blobs/"),
    ] {
        let is_it = |line: &&String| line.starts_with(&format!("{used_as} in ")) && line.contains(place);
        assert!(search.found.iter().any(|line| is_it(&line)), "{used_as} {place}: {:#?}", search.found);
    }
}
