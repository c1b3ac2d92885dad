//! The same inputs give the same bytes: twice, as root and as an ordinary user, here and on any other machine.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Image, RBUILD, Run, Test, is_root, text};

const EPOCH: &str = "1700000000";

/// Every kind of file and every kind of step; nothing in the new layers depends on the base's own files.
const DOCKERFILE: &str = "FROM busybox AS make\n\
    WORKDIR /work\n\
    COPY --chown=33:44 src src\n\
    RUN mkdir -p out/deep && echo page > out/index.html && ln out/index.html out/hard && ln -s index.html out/soft \
    && mkfifo -m 620 out/fifo && chmod 6755 out/index.html && chown 1000:50 out/deep && touch -d @86400 out/old\n\
    FROM busybox\n\
    ENV MODE=production\n\
    COPY --from=make /work/out /srv\n\
    COPY src/main /usr/local/bin/\n\
    RUN rm /srv/hard && rm -r /home && mkdir /home && : > /home/new\n\
    LABEL one=1\n\
    CMD [\"sh\"]\n";

fn test() -> Test {
    let test = Test::new(DOCKERFILE);
    test.file("src/main", "#!/bin/sh\necho main\n");
    test.mode("src/main", 0o755);
    test.mode("src", 0o755);
    test.file("src/lib/data", vec![7; 100_000]);
    test.mode("src/lib", 0o700);
    test
}

/// Builds with the epoch; `before` is put before rbuild's own name.
fn build(test: &Test, before: &[&str]) -> Image {
    let archive = test.beside("image.tar");
    let output = format!("type=oci,rewrite-timestamp=true,dest={}", text(&archive));
    let store = test.store();
    let words = [before, &[RBUILD, "--root", text(&store), "--progress", "plain", "-o", &output]].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg(test.context())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", test.beside("home"))
        .env("CONTAINERS_REGISTRIES_CONF", test.beside("registries.conf"))
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .stdin(Stdio::null());
    Run::of(&mut command).succeeds();
    Image::read(&archive)
}

/// The config without what the base gives to it: its layers, and its history with the day on which these tests made it.
fn own(image: &Image) -> Value {
    let mut config = image.config.clone();
    let own = |list: &Value, from: usize| Value::from(list.as_array().unwrap()[from..].to_vec());
    config["rootfs"]["diff_ids"] = own(&config["rootfs"]["diff_ids"], 1);
    let history = config["history"].as_array().unwrap();
    let first = history.iter().position(|entry| entry["created_by"] == "ENV MODE=production").unwrap();
    config["history"] = own(&config["history"], first);
    for key in ["architecture", "variant", "author"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config
}

/// The digests are written down here: whoever runs this test, wherever, gets the same.
#[test]
fn any_user_on_any_machine_gets_these_bytes() {
    let image = build(&test(), &[]);
    let created = "2023-11-14T22:13:20Z";
    let layer =
        |text: &str| json!({"created": created, "created_by": text, "comment": "buildkit.dockerfile.v0"});
    let empty = |text: &str| json!({"created": created, "created_by": text, "comment": "buildkit.dockerfile.v0", "empty_layer": true});
    let expected = json!({
        "config": {
            "ArgsEscaped": true,
            "Cmd": ["sh"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "MODE=production"],
            "Labels": {"one": "1"},
        },
        "created": created,
        "history": [
            empty("ENV MODE=production"),
            layer("COPY /work/out /srv # buildkit"),
            layer("COPY src/main /usr/local/bin/ # buildkit"),
            layer("RUN /bin/sh -c rm /srv/hard && rm -r /home && mkdir /home && : > /home/new # buildkit"),
            empty("LABEL one=1"),
            empty("CMD [\"sh\"]"),
        ],
        "os": "linux",
        "rootfs": {
            "diff_ids": [
                "sha256:63683709aabd47ed69294a4b4fb551e80f52cd72d28bc877210fc5f36d467d70",
                "sha256:6b9fc6c32e86e5ea7ee23c312ee96385807c4f63917df810ad760445cec91f64",
                "sha256:d92dd22d21771b067dbbbb35785fcfc65ec3702013fdcf6539ea524926395fbe",
            ],
            "type": "layers",
        },
    });
    assert_eq!(
        serde_json::to_string_pretty(&own(&image)).unwrap(),
        serde_json::to_string_pretty(&expected).unwrap()
    );
    let epoch = EPOCH.parse().unwrap();
    assert!(image.layers[1..].iter().flatten().all(|(_, entry)| entry.mtime <= epoch));
    assert_eq!(image.entry("/srv/old").mtime, 86400, "what is older stays so");
}

#[test]
fn two_stores_and_two_times_give_one_image() {
    let (first, second) = (test(), test());
    // Another time of the files, and of the build.
    let other = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let file = std::fs::File::options().write(true).open(second.context().join("src/main")).unwrap();
    file.set_modified(other).unwrap();
    assert_eq!(build(&first, &[]).digest, build(&second, &[]).digest);
}

/// The digests above say the same of root and this user; here the user stands in a namespace that somebody else made.
#[test]
fn the_root_of_a_user_namespace_gives_the_same_image() {
    if is_root() {
        return;
    }
    let namespace = ["unshare", "--map-root-user", "--map-auto", "--mount"];
    assert_eq!(build(&test(), &[]).digest, build(&test(), &namespace).digest);
}

#[test]
fn an_image_does_not_depend_on_the_order_in_which_stages_end() {
    let dockerfile = |first: u32, second: u32| {
        format!(
            "FROM busybox AS a\nRUN sleep 0.{first} && echo a > /a\nFROM busybox AS b\nRUN sleep 0.{second} && echo b > /b\n\
             FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
        )
    };
    let images = [(0, 5), (5, 0)].map(|(first, second)| {
        let test = Test::new(&dockerfile(first, second));
        build(&test, &[]).digest
    });
    assert_eq!(images[0], images[1]);
}

#[test]
fn a_dockerfile_may_give_the_epoch() {
    let test = Test::new("ARG SOURCE_DATE_EPOCH=1700000000\nFROM busybox\nENV A=1\n");
    assert_eq!(test.build(&[]).config["created"], "2023-11-14T22:13:20Z");
    let given = test.build(&["--build-arg", "SOURCE_DATE_EPOCH=0"]);
    assert_eq!(given.config["created"], "1970-01-01T00:00:00Z");
}
