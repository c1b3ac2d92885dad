//! What a build makes: stages, COPY, RUN, users, the config.

use serde_json::json;

use crate::common::{Kind, Test};

#[test]
fn the_image_holds_the_last_stage_and_what_it_copies() {
    let test = Test::new(
        "FROM busybox AS build\nWORKDIR /app\nRUN mkdir dist && echo page > dist/index.html && echo junk > junk\n\
         FROM busybox\nCOPY --from=build /app/dist /srv\n",
    );
    let image = test.build(&[]);
    assert_eq!(image.text("/srv/index.html"), "page\n");
    assert!(!image.has("/app") && !image.has("/junk"));
    assert_eq!(image.layers.len(), 2, "busybox's layer and that of COPY");
    assert_eq!(image.last_layer(), ["/srv", "/srv/index.html"]);
}

#[test]
fn stages_that_the_target_does_not_need_are_not_built() {
    let test = Test::new(
        "FROM busybox AS first\nRUN touch /first\n\
         FROM nowhere.invalid/no/image AS unused\nRUN exit 9\n\
         FROM first AS last\nRUN touch /last\n",
    );
    let image = test.build(&[]);
    assert!(image.has("/first") && image.has("/last"));
    let image = test.build(&["--target", "first"]);
    assert!(image.has("/first") && !image.has("/last"));
}

#[test]
fn stages_are_built_side_by_side() {
    let stages = ["a", "b", "c", "d"];
    let mut dockerfile = String::new();
    // Each waits until all four are there.
    for stage in stages {
        dockerfile += &format!(
            "FROM busybox AS {stage}\nRUN --mount=type=cache,target=/meet touch /{stage} /meet/{stage}; \
             for turn in $(seq 600); do set -- /meet/*; [ $# = 4 ] && exit 0; sleep 0.1; done; exit 1\n"
        );
    }
    dockerfile += "FROM busybox\n";
    for stage in stages {
        dockerfile += &format!("COPY --from={stage} /{stage} /\n");
    }
    Test::new(&dockerfile).run(&[]).succeeds();
}

#[test]
fn timings_show_every_step_also_of_a_build_that_fails() {
    let test = Test::new(
        "FROM busybox AS one\nRUN echo '<one>' > /f\nFROM busybox\nCOPY --from=one /f /f\nRUN exit 3\n",
    );
    let page = test.beside("timings.html");
    let wish = format!("--timings={}", page.display());
    test.run(&[&wish]).fails(1, &["exit code: 3"]);
    let first = std::fs::read_to_string(&page).unwrap();
    for step in ["[one 2/2] RUN echo &#39;&lt;one&gt;&#39; &gt; /f", "COPY --from=one /f /f", "RUN exit 3"] {
        assert!(first.contains(step), "{step} is not in {first}");
    }
    assert!(first.contains("class=\"run critical failed\""), "{first}");
    test.run(&[&wish, "--target", "one"]).succeeds();
    let second = std::fs::read_to_string(&page).unwrap();
    assert!(second.contains("class=\"cached"), "{second}");
}

#[test]
fn a_stage_is_found_by_number_and_a_name_means_the_stage_above() {
    let test = Test::new(
        "FROM busybox\nRUN echo zero > /f\nFROM busybox AS x\nRUN echo one > /f\n\
         FROM scratch\nCOPY --from=0 /f /zero\nCOPY --from=X /f /one\n",
    );
    let image = test.build(&[]);
    assert_eq!((image.text("/zero"), image.text("/one")), ("zero\n", "one\n"));
    assert_eq!(image.layers.len(), 2, "scratch has no layer of its own");
}

#[test]
fn copied_files_belong_to_root_and_keep_their_modes() {
    let test = Test::new("FROM scratch\nCOPY . /data/\n");
    test.file("script", "#!/bin/sh\n");
    test.mode("script", 0o750);
    test.file("deep/er/file", "text");
    test.mode("deep/er", 0o700);
    test.link("deep/link", "er/file");
    let image = test.build(&[]);
    let script = image.entry("/data/script");
    assert_eq!((script.mode, script.uid, script.gid), (0o750, 0, 0));
    assert_eq!(image.entry("/data/deep/er").mode, 0o700);
    assert_eq!(image.text("/data/deep/er/file"), "text");
    let link = image.entry("/data/deep/link");
    assert_eq!((link.kind, link.link.as_deref()), (Kind::Symlink, Some("er/file")));
    assert_eq!(image.entry("/data").mode, 0o755);
}

#[test]
fn copy_takes_wildcards_and_renames_single_files() {
    let test = Test::new(
        "FROM scratch\nCOPY *.txt one/ /all/\nCOPY a.txt /renamed\nCOPY a.txt /folder/\nCOPY one /one\n",
    );
    test.file("a.txt", "a");
    test.file("b.txt", "b");
    test.file("c.md", "c");
    test.file("one/inner", "i");
    let image = test.build(&[]);
    let names: Vec<_> = image.files.keys().map(String::as_str).filter(|path| *path != "/").collect();
    let expected = [
        "/all",
        "/all/a.txt",
        "/all/b.txt",
        "/all/inner",
        "/folder",
        "/folder/a.txt",
        "/one",
        "/one/inner",
        "/renamed",
    ];
    assert_eq!(names, expected);
}

#[test]
fn chown_and_chmod_of_copy() {
    let test = Test::new(
        "FROM busybox\nCOPY --chown=alice:staff f /named\nCOPY --chown=12:34 f /numbers\nCOPY --chown=alice f /user\n\
         COPY --chmod=4711 f /mode\n",
    );
    test.file("f", "");
    let image = test.build(&[]);
    let owner = |path| (image.entry(path).uid, image.entry(path).gid);
    assert_eq!((owner("/named"), owner("/numbers"), owner("/user")), ((1000, 50), (12, 34), (1000, 1000)));
    assert_eq!(image.entry("/mode").mode, 0o4711);
}

#[test]
fn ignored_files_are_no_part_of_the_context() {
    let test = Test::new("FROM scratch\nCOPY . /\n");
    test.file(".dockerignore", "# comment\n**/*.log\nnode_modules\n!keep.log\nDockerfile\n.dockerignore\n");
    for file in ["a.log", "src/b.log", "keep.log", "node_modules/x/y", "src/main"] {
        test.file(file, "");
    }
    let image = test.build(&[]);
    let files = image.files.iter().filter(|(_, entry)| entry.kind == Kind::File);
    assert_eq!(files.map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["/keep.log", "/src/main"]);
}

#[test]
fn run_sees_arguments_environment_and_working_directory() {
    let test = Test::new(
        "ARG GLOBAL=outside\nFROM busybox\nARG GLOBAL\nARG LOCAL=default\nENV NAME=value\nWORKDIR /a\nWORKDIR b/$NAME\n\
         RUN echo \"$GLOBAL $LOCAL $NAME $(pwd)\" > /seen\n",
    );
    assert_eq!(test.build(&[]).text("/seen"), "outside default value /a/b/value\n");
    let image = test.build(&["--build-arg", "GLOBAL=given", "--build-arg", "LOCAL=too"]);
    assert_eq!(image.text("/seen"), "given too value /a/b/value\n");
    assert_eq!(image.config["config"]["WorkingDir"], "/a/b/value");
    let env = image.config["config"]["Env"].as_array().unwrap();
    assert_eq!(env.last().unwrap(), "NAME=value", "build args are no part of the image's environment");
}

#[test]
fn run_takes_words_as_they_are_in_exec_form_and_another_shell() {
    let test = Test::new(
        "FROM busybox\nRUN [\"sh\", \"-c\", \"echo $0 > /exec\", \"$HOME\"]\n\
         SHELL [\"/bin/sh\", \"-eu\", \"-c\"]\nRUN echo $- > /shell\n",
    );
    let image = test.build(&[]);
    assert_eq!(image.text("/exec"), "$HOME\n");
    assert!(image.text("/shell").contains('e') && image.text("/shell").contains('u'));
}

#[test]
fn run_is_done_by_the_user() {
    let test = Test::new(
        "FROM busybox\nRUN mkdir -m 777 /shared\nUSER alice\nRUN id -u > /shared/uid && id -G > /shared/groups && echo $HOME > /shared/home\n\
         USER 33:44\nRUN echo \"$(id -u) $(id -g)\" > /shared/numbers\n",
    );
    let image = test.build(&[]);
    assert_eq!(image.text("/shared/uid"), "1000\n");
    assert_eq!(image.text("/shared/groups"), "1000 50\n");
    assert_eq!(image.text("/shared/home"), "/home/alice\n");
    assert_eq!(image.text("/shared/numbers"), "33 44\n");
    let owner = |path| (image.entry(path).uid, image.entry(path).gid);
    assert_eq!((owner("/shared/uid"), owner("/shared/numbers")), ((1000, 1000), (33, 44)));
    assert_eq!(image.config["config"]["User"], "33:44");
}

#[test]
fn run_has_the_usual_machine_around_it() {
    let test = Test::new(
        "FROM busybox\nRUN test -r /proc/self/status && test -d /sys/kernel && test -c /dev/null && test -d /dev/pts && test -w /dev/shm\n\
         RUN test -s /etc/resolv.conf -a -s /etc/hosts\nRUN ! read line\nRUN test \"$(cat /proc/1/comm)\" != systemd\n\
         RUN ! mount -t tmpfs none /tmp 2> /dev/null\n",
    );
    test.run(&[]).succeeds();
}

#[test]
fn a_mount_without_target_is_at_the_working_directory() {
    let test = Test::new(
        "FROM busybox\nWORKDIR /src\nRUN --mount=type=bind test \"$(cat hello)\" = hi\n\
         RUN --mount=type=cache --mount=type=bind,source=hello,target=x cp x kept && test -s kept\nRUN test ! -e kept\n",
    );
    test.file("hello", "hi");
    test.run(&[]).succeeds();
    let root = Test::new("FROM busybox\nRUN --mount=type=bind true\n");
    root.run(&[]).fails(1, &["invalid mount target \"/\""]);
}

#[test]
fn what_is_wrong_further_down_is_said_before_anything_runs() {
    let test = Test::new(
        "FROM busybox\nARG A\nRUN touch /ran\nCOPY --chmod=99 . /\nENV B=\"${A:?give A}\"\nUSER \"${PATH^}\"\n",
    );
    let run = test.run(&[]);
    run.fails(1, &["invalid mode `99`", "A: give A", "unsupported modifier (^)"]);
    assert!(!run.stderr.contains("touch /ran"), "{}", run.stderr);
}

#[test]
fn what_is_mounted_for_run_leaves_no_trace() {
    let test = Test::new("FROM busybox\nRUN touch /mark\n");
    let image = test.build(&[]);
    let paths: Vec<&str> = image.last_layer().into_iter().filter(|path| *path != "/").collect();
    // A base without these three gets them, as from Docker; of what is mounted besides, nothing stays.
    assert_eq!(paths, ["/dev", "/mark", "/proc", "/sys"]);
}

#[test]
fn deleted_and_replaced_files_of_the_base_are_gone() {
    let test = Test::new(
        "FROM busybox\nRUN mkdir /d && touch /d/old /d/other\nRUN rm /etc/group && rm -r /d && mkdir /d && touch /d/new && rm -r /home && touch /home\n",
    );
    let image = test.build(&[]);
    assert!(
        !image.has("/etc/group") && !image.has("/d/old") && !image.has("/d/other") && image.has("/d/new")
    );
    assert_eq!(image.entry("/home").kind, Kind::File);
}

#[test]
fn every_kind_of_file_survives() {
    let test = Test::new(
        "FROM busybox\nRUN echo x > /f && ln /f /hard && ln -s f /soft && mkfifo -m 640 /fifo && chmod 6755 /f && mkdir -m 1777 /sticky \
         && chown 1000:50 /fifo && touch '/white space' '/\u{fc}mlaut' && mkdir -p /long/$(printf 'n%.0s' $(seq 120))/$(printf 'm%.0s' $(seq 120))\n",
    );
    let image = test.build(&[]);
    let links: Vec<_> = image.layers[1].iter().filter(|(_, entry)| entry.kind == Kind::HardLink).collect();
    assert_eq!(links.len(), 1, "one name is the file, the other a link to it");
    assert_eq!((image.entry("/f").mode, image.text("/hard")), (0o6755, "x\n"));
    assert_eq!(image.entry("/soft").link.as_deref(), Some("f"));
    let fifo = image.entry("/fifo");
    assert_eq!((fifo.kind, fifo.mode, fifo.uid, fifo.gid), (Kind::Fifo, 0o640, 1000, 50));
    assert_eq!(image.entry("/sticky").mode, 0o1777);
    assert!(image.has("/white space") && image.has("/\u{fc}mlaut"));
    assert!(image.has(&format!("/long/{}/{}", "n".repeat(120), "m".repeat(120))));
}

#[test]
fn the_config_is_dockers() {
    let test = Test::new(
        "FROM busybox\nENV A=1 B=\"two words\"\nLABEL one=1 two=\"2 3\"\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL SIGQUIT\n\
         HEALTHCHECK --interval=5s --retries=2 CMD true\nONBUILD RUN echo later\nENTRYPOINT [\"/entry\"]\nCMD run it\n",
    );
    let image = test.build(&["--label", "three=3"]);
    let config = &image.config["config"];
    let env: Vec<_> = config["Env"].as_array().unwrap().iter().skip(1).cloned().collect();
    assert_eq!(env, ["A=1", "B=two words"]);
    assert_eq!(config["Labels"], json!({"one": "1", "two": "2 3", "three": "3"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert_eq!(config["StopSignal"], "SIGQUIT");
    assert_eq!(
        config["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2})
    );
    assert_eq!(config["OnBuild"], json!(["RUN echo later"]));
    assert_eq!(config["Entrypoint"], json!(["/entry"]));
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-c", "run it"]));
}

#[test]
fn history_and_layers_agree() {
    let test = Test::new("FROM busybox\nENV A=1\nRUN touch /x\nCMD [\"sh\"]\n");
    let image = test.build(&[]);
    let history = image.config["history"].as_array().unwrap();
    let full = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    assert_eq!(full, image.layers.len());
    assert_eq!(image.config["rootfs"]["diff_ids"].as_array().unwrap().len(), image.layers.len());
    let texts: Vec<_> =
        history.iter().rev().take(3).map(|entry| entry["created_by"].as_str().unwrap()).collect();
    assert_eq!(texts, ["CMD [\"sh\"]", "RUN /bin/sh -c touch /x # buildkit", "ENV A=1"]);
}

#[test]
fn the_dockerfile_may_come_from_elsewhere() {
    let test = Test::new("FROM nowhere.invalid/never:read\n");
    test.file("other/Some.dockerfile", "FROM busybox\nRUN touch /other\n");
    let file = test.context().join("other/Some.dockerfile");
    assert!(test.build(&["-f", file.to_str().unwrap()]).has("/other"));
}

#[test]
fn the_way_of_isolation_can_be_forced() {
    let test = Test::new("FROM busybox\nRUN chown 33:44 /etc/group && mknod /null c 1 3\n");
    let run = test.run(&["--isolation", "none"]);
    run.fails(3, &["RUN needs user namespaces", "leave out `--isolation`"]);
    for way in ["single-id", "namespace", "auto"] {
        let image = test.build(&["--isolation", way]);
        let (group, null) = (image.entry("/etc/group"), image.entry("/null"));
        assert_eq!((group.uid, group.gid, null.kind), (33, 44, Kind::Device), "{way}");
    }
    test.run(&["--isolation", "elsewhere"]).fails(2, &["elsewhere", "single-id"]);
}
