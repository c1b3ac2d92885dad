//! Build contexts of every kind: archives and Dockerfiles on standard input, behind a URL, git repositories; named ones.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::{GitServer, Image, Run, Test, archive, commit, serve, text, tool};

/// The Dockerfile or the context is at fault.
const BUILD: i32 = 1;
/// The command line is at fault.
const USAGE: i32 = 2;
/// A registry or the network is at fault.
const REGISTRY: i32 = 4;

/// What a program makes of bytes.
fn filtered(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// Runs rbuild with these bytes on standard input; the image goes to `image.tar` beside the context.
fn run_with(test: &Test, stdin: &[u8], arguments: &[&str]) -> Run {
    let file = test.beside("stdin");
    fs::write(&file, stdin).unwrap();
    let output = format!("type=oci,dest={}", test.beside("image.tar").display());
    let mut command = test.command();
    Run::of(
        command
            .args(["--progress", "plain", "-o", &output])
            .args(arguments)
            .stdin(File::open(&file).unwrap()),
    )
}

fn image(test: &Test, run: &Run) -> Image {
    run.succeeds();
    Image::read(&test.beside("image.tar"))
}

#[test]
fn archives_on_standard_input() {
    let files =
        [("Dockerfile", "FROM scratch\nCOPY . /c/\n"), ("sub/file", "content"), (".dockerignore", "sub\n")];
    let plain = archive(&files);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let kinds = [
        ("plain", plain.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&plain[..], 1).unwrap()),
        ("bzip2", filtered("bzip2", &plain)),
        ("xz", filtered("xz", &plain)),
    ];
    let test = Test::new("");
    for (kind, bytes) in kinds {
        let image = image(&test, &run_with(&test, &bytes, &["-"]));
        let file = image.entry("/c/sub/file");
        assert_eq!(file.content, b"content", "{kind}: no ignore file applies to an archive");
        assert_eq!((file.uid, file.gid, file.mode), (0, 0, 0o640), "{kind}: files of a context are root's");
    }
}

#[test]
fn the_dockerfile_of_an_archive_may_have_another_name() {
    let bytes = archive(&[("build/My.Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    let test = Test::new("");
    assert!(image(&test, &run_with(&test, &bytes, &["-f", "build/My.Dockerfile", "-"])).has("/f"));
    run_with(&test, &bytes, &["-"]).fails(USAGE, &["there is no `Dockerfile` in the build context"]);
    // One that is on this machine is named by its whole path.
    fs::write(test.beside("Outer"), "FROM scratch\nCOPY f /outer\n").unwrap();
    let outer = test.beside("Outer");
    assert!(image(&test, &run_with(&test, &bytes, &["-f", text(&outer), "-"])).has("/outer"));
}

#[test]
fn nothing_in_an_archive_reaches_outside() {
    let test = Test::new("");
    let outside = test.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(test.beside("secret"), "hidden").unwrap();
    let (folder, secret) = (text(&outside).to_owned(), test.beside("secret").display().to_string());
    let into = format!("{folder}/absolute");
    let bytes = archive(&[
        ("Dockerfile", "FROM scratch\nCOPY . /c/\n"),
        ("../../../../../../../../../../up", "x"),
        (&into, "x"),
        ("link@", &folder),
        ("link/through", "x"),
        ("secret@", &secret),
    ]);
    let run = run_with(&test, &bytes, &["-"]);
    let image = image(&test, &run);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was written outside");
    assert!(!Path::new("/up").exists());
    assert!(image.files.values().all(|file| file.content != b"hidden"));
    for (dockerfile, target) in
        [("Dockerfile@", secret.as_str()), ("Dockerfile@", "../../../../../../etc/passwd")]
    {
        let run = run_with(&test, &archive(&[(dockerfile, target)]), &["-"]);
        assert!(run.code == USAGE || run.code == BUILD, "{}", run.stderr);
        assert!(!run.stderr.contains("hidden") && !run.stderr.contains("root:"), "{}", run.stderr);
    }
}

#[test]
fn a_dockerfile_on_standard_input() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /wrong\n");
    let alone = b"FROM busybox\nRUN touch /made\n";
    assert!(image(&test, &run_with(&test, alone, &["-"])).has("/made"));
    run_with(&test, b"FROM scratch\nCOPY f /\n", &["-"]).fails(BUILD, &["-:2", "`f`"]);
    let (folder, dockerfile) = (test.context(), b"FROM scratch\nCOPY Dockerfile /right\n");
    assert!(image(&test, &run_with(&test, dockerfile, &["-f", "-", text(&folder)])).has("/right"));
}

#[test]
fn standard_input_that_is_neither() {
    let test = Test::new("");
    let mut damaged = archive(&[("Dockerfile", "FROM scratch\n")]);
    damaged.truncate(600);
    for (bytes, arguments, code, words) in [
        (&b""[..], &["-"][..], USAGE, "standard input is empty"),
        (b"\xff\xfe\x00\x01", &["-"], USAGE, "neither a tar archive nor a Dockerfile"),
        (b"FROM scratch\n", &["-f", "-", "-"], USAGE, "cannot be both"),
        (b"FROM scratch\n", &["-f", "Dockerfile", "-"], USAGE, "two Dockerfiles"),
        (b"\x1f\x8b\x08 no gzip at all", &["-"], BUILD, "could not unpack the archive"),
        (&damaged, &["-"], BUILD, "could not unpack the archive"),
    ] {
        run_with(&test, bytes, arguments).fails(code, &[words]);
    }
}

#[test]
fn contexts_behind_a_url() {
    let tar = archive(&[("Dockerfile", "FROM scratch\nCOPY . /c/\n"), ("f", "x"), (".dockerignore", "f\n")]);
    let server = serve(vec![
        ("/c.tar", tar),
        ("/Dockerfile", b"FROM scratch\nCOPY context /\n".to_vec()),
        ("/other/Dockerfile", b"FROM scratch\nCOPY g /from-url\n".to_vec()),
        ("/picture", b"\x89PNG\r\n\x1a\n\xff\x00".to_vec()),
    ]);
    let test = Test::new("");
    test.file("g", "g");
    let folder = test.context();
    let run = |arguments: &[&str]| run_with(&test, b"", arguments);
    assert!(image(&test, &run(&[&format!("{server}/c.tar")])).has("/c/f"), "no ignore file applies");
    assert!(image(&test, &run(&[&format!("{server}/Dockerfile")])).has("/context"));
    let file = format!("{server}/other/Dockerfile");
    assert!(image(&test, &run(&["-f", &file, text(&folder)])).has("/from-url"));
    run(&[&format!("{server}/missing")]).fails(REGISTRY, &["/missing", "404"]);
    run(&["-f", &format!("{server}/missing"), text(&folder)]).fails(REGISTRY, &["/missing", "404"]);
    run(&[&format!("{server}/picture")]).fails(BUILD, &["could not read `context`"]);
}

#[test]
fn named_contexts() {
    let server =
        serve(vec![("/c.tar.gz", filtered("gzip", &archive(&[("inside", "x")]))), ("/lone", b"1".to_vec())]);
    let test = Test::new(
        "FROM named\nCOPY --from=tar inside /tar\nCOPY --from=lone context /lone\n\
         COPY --from=platform f /platform\nRUN --mount=from=tar,target=/m [\"/busybox\", \"cp\", \"/m/inside\", \"/mounted\"]\n",
    );
    for folder in ["named", "other"] {
        fs::create_dir(test.beside(folder)).unwrap();
        fs::write(test.beside(folder).join("f"), folder).unwrap();
    }
    fs::copy("/bin/busybox", test.beside("named").join("busybox")).unwrap();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let contexts = [
        "named=named".to_owned(),
        format!("tar={server}/c.tar.gz"),
        format!("lone={server}/lone"),
        "platform=other".to_owned(),
        format!("platform::linux/{architecture}=named"),
    ];
    let mut arguments: Vec<&str> = contexts.iter().flat_map(|context| ["--build-context", context]).collect();
    let image = test.build(&arguments);
    for file in ["/tar", "/lone", "/mounted", "/f"] {
        assert!(image.has(file), "{file}");
    }
    assert_eq!(image.text("/platform"), "named", "the context of the platform goes first");
    let (_, again) = test.build_and_say(&arguments);
    assert!(again.was_cached("COPY --from=tar inside"), "{}", again.stderr);
    arguments.extend(["--build-context", "base=target:base"]);
    test.run(&arguments).fails(USAGE, &["bake", "docker-image://"]);
    test.run(&["--build-context", "tar=-"]).fails(USAGE, &["standard input can only be the build context"]);
}

#[test]
fn git_repositories() {
    let test = Test::new("");
    let repository = test.beside("repositories/r.git");
    fs::create_dir_all(repository.join("sub")).unwrap();
    tool("git", &["init", "-q", "-b", "main", text(&repository)]);
    fs::write(repository.join("Dockerfile"), "FROM scratch\nCOPY . /c/\n").unwrap();
    fs::write(repository.join(".dockerignore"), "f\n").unwrap();
    fs::write(repository.join("f"), "first").unwrap();
    fs::write(repository.join("sub/Dockerfile"), "FROM scratch\nCOPY . /sub/\n").unwrap();
    let first = commit(&repository, 1_000_000_000);
    tool("git", &["-C", text(&repository), "tag", "v1"]);
    fs::write(repository.join("f"), "second").unwrap();
    commit(&repository, 1_000_000_001);
    tool("git", &["-C", text(&repository), "branch", "other"]);
    let server = GitServer::of(&test.beside("repositories"));
    let address = format!("{}/r.git", server.address());
    let run = |suffix: &str, arguments: &[&str]| {
        let context = format!("{address}{suffix}");
        run_with(&test, b"", &[arguments, &[&context]].concat())
    };
    for (suffix, content) in [
        ("", "second"),
        ("#main", "second"),
        ("#v1", "first"),
        ("#other", "second"),
        (&format!("#{first}"), "first"),
        ("?tag=v1", "first"),
        ("?branch=main", "second"),
        (&format!("?ref=v1&checksum={}", &first[..12]), "first"),
    ] {
        let image = image(&test, &run(suffix, &[]));
        assert_eq!(image.text("/c/f"), content, "{suffix}: no ignore file applies");
        let file = image.entry("/c/f");
        assert_eq!((file.uid, file.gid), (0, 0), "{suffix}");
        assert!(!image.has("/c/.git"), "{suffix}");
    }
    for suffix in ["#main:sub", "?branch=main&subdir=sub", "#:sub"] {
        assert!(image(&test, &run(suffix, &[])).has("/sub/Dockerfile"), "{suffix}");
    }
    assert!(image(&test, &run("", &["-f", "sub/Dockerfile"])).has("/sub/f"));
    assert!(image(&test, &run("", &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"])).has("/c/.git/HEAD"));
    assert!(image(&test, &run("?keep-git-dir=1", &[])).has("/c/.git/HEAD"));
    let image = image(&test, &run("?mtime=commit", &["--no-cache"]));
    assert_eq!(image.entry("/c/f").mtime, 1_000_000_001, "the time of the commit");
    run("#nosuch", &[]).fails(REGISTRY, &["could not fetch the git repository", "nosuch"]);
    run("#main:nosuch", &[]).fails(BUILD, &["nosuch"]);
    run("?depth=1", &[]).fails(USAGE, &["unknown key `depth`"]);
    run("?ref=v1&checksum=0123456789", &[]).fails(BUILD, &["expected checksum to match 0123456789"]);
    run("", &["-f", "nosuch"]).fails(USAGE, &["there is no `nosuch` in the build context"]);

    let named = format!("repo={address}#v1");
    test.dockerfile("FROM scratch\nCOPY --from=repo f /named\n");
    assert_eq!(test.build(&["--build-context", &named]).text("/named"), "first");
}

#[test]
fn a_dockerfile_outside_the_context() {
    let test = Test::new("");
    test.file("f", "x");
    fs::write(test.beside("Elsewhere"), "FROM scratch\nCOPY f /f\n").unwrap();
    fs::write(test.beside("Elsewhere.dockerignore"), "g\n").unwrap();
    let file = test.beside("Elsewhere");
    assert!(test.build(&["-f", text(&file)]).has("/f"));
    fs::write(test.beside("Elsewhere.dockerignore"), "f\n").unwrap();
    test.run(&["-f", text(&file)]).fails(BUILD, &["Elsewhere:2", "ignore file"]);
}
