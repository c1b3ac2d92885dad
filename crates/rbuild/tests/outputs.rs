//! What rbuild writes, as other tools read it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::common::{Image, Kind, Run, Test, registry, text, tool};

const DOCKERFILE: &str = "FROM busybox\nRUN echo content > /file && chown 1000:50 /file && ln -s file /link\nCMD [\"cat\", \"/file\"]\n";

#[test]
fn skopeo_reads_and_copies_the_oci_archive() {
    let test = Test::new(DOCKERFILE);
    let image = test.build(&["-t", "app:1.0"]);
    let archive = format!("oci-archive:{}", test.beside("image.tar").display());
    let seen: Value = serde_json::from_str(&tool("skopeo", &["inspect", &archive])).unwrap();
    assert_eq!(seen["Digest"], image.digest.as_str());
    let copy = format!("dir:{}", test.beside("copy").display());
    tool("skopeo", &["--insecure-policy", "copy", "--quiet", &archive, &copy]);
}

#[test]
fn umoci_unpacks_the_oci_layout() {
    let test = Test::new(DOCKERFILE);
    let layout = test.beside("layout");
    test.run(&["-t", "app:1.0", "-o", &format!("type=oci,tar=false,dest={}", text(&layout))]).succeeds();
    let bundle = test.beside("bundle");
    tool("umoci", &["unpack", "--rootless", "--image", &format!("{}:1.0", text(&layout)), text(&bundle)]);
    assert_eq!(fs::read_to_string(bundle.join("rootfs/file")).unwrap(), "content\n");
    assert_eq!(fs::read_link(bundle.join("rootfs/link")).unwrap().to_str(), Some("file"));
}

#[test]
fn a_docker_archive_keeps_the_name() {
    let test = Test::new(DOCKERFILE);
    let archive = test.beside("docker.tar");
    test.run(&["-t", "app:1.0", "-o", &format!("type=docker,dest={}", text(&archive))]).succeeds();
    let source = format!("docker-archive:{}:docker.io/library/app:1.0", text(&archive));
    let config: Value = serde_json::from_str(&tool("skopeo", &["inspect", "--config", &source])).unwrap();
    assert_eq!(config["config"]["Cmd"][0], "cat");
}

#[test]
fn buildah_takes_the_image() {
    let test = Test::new(DOCKERFILE);
    test.build(&[]);
    let archive = format!("oci-archive:{}", test.beside("image.tar").display());
    let (root, runroot) = (test.beside("buildah"), test.beside("buildah-run"));
    let storage = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    let id = tool("buildah", &[&storage[..], &["pull", "--quiet", &archive]].concat());
    let container = tool("buildah", &[&storage[..], &["from", "--pull-never", id.trim()]].concat());
    let inspected = tool("buildah", &[&storage[..], &["inspect", container.trim()]].concat());
    assert!(inspected.contains("\"Cmd\""), "{inspected}");
}

#[test]
fn podman_takes_the_image() {
    let test = Test::new(DOCKERFILE);
    test.build(&["-t", "app:1.0"]);
    let archive = format!("oci-archive:{}", test.beside("image.tar").display());
    let (root, runroot) = (test.beside("podman"), test.beside("podman-run"));
    let storage = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    let id = tool("podman", &[&storage[..], &["pull", "--quiet", &archive]].concat());
    let format = ["image", "inspect", "--format", "{{json .Config.Cmd}}", id.trim()];
    assert_eq!(tool("podman", &[&storage[..], &format].concat()).trim(), r#"["cat","/file"]"#);
}

/// Every kind of file that a step may leave, and every way of COPY that both builders have.
const SHOWCASE: &str = "FROM busybox AS make\n\
    WORKDIR /work\n\
    COPY . src/\n\
    RUN echo x > f && ln f hard && ln -s f soft && ln -s /nowhere dangling && mkfifo -m 640 fifo && chmod 6755 f \
    && mkdir -m 1777 sticky && chown 1000:50 fifo && touch 'white space' \u{fc}mlaut && mkdir -m 700 empty\n\
    FROM busybox\n\
    COPY --from=make /work /copied\n\
    COPY --chown=33:44 src /owned/\n\
    COPY --chmod=711 script /bin/script\n\
    COPY *.txt one/ /several/\n\
    ADD archive.tar /unpacked/\n\
    RUN rm -r /copied/src/one && rm /etc/group && rm -r /home && mkdir /home && touch /home/new && chmod 4711 /bin/script \
    && mv /several/b.txt /several/c.txt\n\
    USER alice\n\
    WORKDIR /made/by/workdir\n";

#[test]
fn the_files_are_those_that_buildah_makes() {
    let test = Test::new(SHOWCASE);
    for file in ["src/deep/er/file", "script", "a.txt", "b.txt", "one/inner", "one/two/inner", ".hidden"] {
        test.file(file, file);
    }
    test.mode("script", 0o750);
    test.mode("src/deep", 0o710);
    test.link("src/link", "deep/er/file");
    fs::hard_link(test.context().join("a.txt"), test.context().join("src/same")).unwrap();
    // No attributes on context files: the reference loses them, buildah does not.
    let context = test.context();
    let packed = context.join("archive.tar");
    let fixed = ["--owner=7", "--group=8", "--numeric-owner", "--mtime=@1000"];
    tool("tar", &[&["-cf", text(&packed), "-C", text(&context)], &fixed[..], &["one", "script"]].concat());

    let ours = test.build(&[]);
    let (root, runroot) = (test.beside("buildah"), test.beside("buildah-run"));
    let storage = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    let conf = test.beside("registries.conf");
    let build = [
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--tls-verify=false",
        "--format",
        "oci",
        text(&context),
    ];
    let registries = ["--registries-conf", text(&conf)];
    let id = tool("buildah", &[&storage[..], &registries, &build].concat());
    let archive = test.beside("buildah.tar");
    let to = format!("oci-archive:{}", text(&archive));
    tool("buildah", &[&storage[..], &["push", "--quiet", id.trim(), &to]].concat());
    let theirs = Image::read(&archive);

    // What buildah makes to mount upon stays in its layers.
    let stubs = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run"];
    let mut different = String::new();
    for path in ours.files.keys().chain(theirs.files.keys()).collect::<std::collections::BTreeSet<_>>() {
        let seen = |image: &Image| {
            image.files.get(path).map(|file| {
                let link = file.link.as_ref().filter(|_| file.kind == Kind::Symlink);
                format!(
                    "{:?} {:o} {}:{} {link:?} {:?} {} bytes",
                    file.kind,
                    file.mode,
                    file.uid,
                    file.gid,
                    file.xattrs,
                    file.content.len()
                )
            })
        };
        if seen(&ours) != seen(&theirs) && !stubs.contains(&path.as_str()) {
            different += &format!("{path}\n  rbuild:  {:?}\n  buildah: {:?}\n", seen(&ours), seen(&theirs));
        }
    }
    assert!(different.is_empty(), "{different}");
}

#[test]
fn a_push_arrives_whole() {
    let test = Test::new(DOCKERFILE);
    let name = registry().name("team/pushed:v1");
    let metadata = test.beside("metadata.json");
    test.run(&["-t", &name, "--push", "--metadata-file", text(&metadata)]).succeeds();
    let seen = registry().inspect("team/pushed:v1");
    let written: Value = serde_json::from_str(&fs::read_to_string(&metadata).unwrap()).unwrap();
    assert_eq!(seen["Digest"], written["containerimage.digest"]);
    let copy = test.beside("pulled.tar");
    let to = format!("oci-archive:{}", text(&copy));
    tool(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &format!("docker://{name}"), &to],
    );
    let file = Image::read(&copy).entry("/file").clone();
    assert_eq!((file.content.as_slice(), file.uid, file.gid), (b"content\n".as_slice(), 1000, 50));
}

#[test]
fn a_pushed_image_can_be_a_base() {
    let test = Test::new("FROM scratch\nCOPY Dockerfile /from-below\nENV KEPT=yes\n");
    let name = registry().name("team/base:v1");
    test.run(&["-t", &name, "--push"]).succeeds();
    let above = Test::new(&format!("FROM {name}\nCOPY Dockerfile /above\n"));
    let image = above.build(&[]);
    assert!(image.has("/from-below") && image.has("/above"));
    assert_eq!(image.config["config"]["Env"].as_array().unwrap().last().unwrap(), "KEPT=yes");
}

#[test]
fn a_folder_belongs_to_the_caller() {
    let test = Test::new(
        "FROM busybox AS make\nRUN echo x > /f && chown 1000:50 /f && chmod 600 /f\nFROM scratch\nCOPY --from=make /f /a/f\n",
    );
    let out = test.beside("out");
    test.run(&["-o", text(&out)]).succeeds();
    let file = fs::metadata(out.join("a/f")).unwrap();
    let me = fs::metadata("/proc/self").unwrap();
    assert_eq!((file.uid(), file.gid()), (me.uid(), me.gid()));
    assert_eq!(fs::read_to_string(out.join("a/f")).unwrap(), "x\n");
}

#[test]
fn a_tar_goes_to_standard_output() {
    let test = Test::new("FROM scratch\nCOPY --chown=5:6 f /dir/\n");
    test.file("f", "content");
    let run = test.run(&["-o", "-"]);
    run.succeeds();
    let mut archive = tar::Archive::new(run.stdout.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.path().unwrap().to_str().unwrap().trim_matches('/').to_owned(), entry.header().uid().unwrap())
    });
    let entries: Vec<_> = entries.filter(|(path, _)| !path.is_empty() && path != ".").collect();
    assert_eq!(
        entries,
        [("dir".to_owned(), 5), ("dir/f".to_owned(), 5)],
        "folders made on the way belong to --chown's"
    );
}

#[test]
fn quiet_says_the_image_id_and_nothing_else() {
    let test = Test::new(DOCKERFILE);
    let iidfile = test.beside("iid");
    let run = Run::of(test.command().args(["-q", "--iidfile", text(&iidfile)]).arg(test.context()));
    run.succeeds();
    assert_eq!(run.stderr, "");
    assert!(run.said().starts_with("sha256:") && run.said().len() == 71, "{}", run.said());
    assert_eq!(fs::read_to_string(iidfile).unwrap(), run.said());
}

#[test]
fn an_epoch_makes_two_stores_agree() {
    let images = ["first", "second"].map(|_| {
        let test = Test::new(DOCKERFILE);
        let archive = test.beside("image.tar");
        let output = format!("type=oci,rewrite-timestamp=true,dest={}", text(&archive));
        let mut command = test.command();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["-o", &output]).arg(test.context());
        Run::of(&mut command).succeeds();
        Image::read(&archive)
    });
    assert_eq!(images[0].digest, images[1].digest);
    assert_eq!(images[0].config["created"], "2023-11-14T22:13:20Z");
    assert!(images[0].layers[1].iter().all(|(_, entry)| entry.mtime <= 1_700_000_000));
}

#[test]
fn the_same_image_in_every_form() {
    let test = Test::new(DOCKERFILE);
    let image = test.build(&[]);
    let name = registry().name("team/forms:v1");
    test.run(&["-t", &name, "--push"]).succeeds();
    assert_eq!(registry().inspect("team/forms:v1")["Digest"], image.digest.as_str());
}
