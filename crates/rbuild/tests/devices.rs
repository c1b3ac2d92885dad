//! `RUN --device` and `--device`, with a folder of made-up specifications.

use crate::common::{Run, Test};

/// Two devices under other names, a folder, and an environment.
const SPECIFICATION: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.test/thing",
  "containerEdits": {"env": ["ALL=every"]},
  "devices": [
    {"name": "zero", "containerEdits": {
        "env": ["THING=zero", "PATH=/bin:/vendor"],
        "deviceNodes": [{"path": "/dev/thing0", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "FOLDER", "containerPath": "/opt/vendor", "options": ["ro", "nosuid"]}]}},
    {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/gone", "hostPath": "/dev/no-such-device"}]}},
    {"name": "file", "containerEdits": {"deviceNodes": [{"path": "/dev/file", "hostPath": "/etc/passwd"}]}},
    {"name": "free", "annotations": {"org.mobyproject.buildkit.device.autoallow": "true", "org.mobyproject.buildkit.device.class": "free-ones"},
     "containerEdits": {"env": ["FREE=1"]}}]}"#;

fn with_devices(dockerfile: &str) -> Test {
    let test = Test::new(dockerfile);
    let folder = test.beside("vendor");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("library"), "of the vendor\n").unwrap();
    std::fs::create_dir(test.beside("cdi")).unwrap();
    let text = SPECIFICATION.replace("FOLDER", folder.to_str().unwrap());
    std::fs::write(test.beside("cdi").join("thing.json"), text).unwrap();
    test
}

fn build(test: &Test, arguments: &[&str]) -> Run {
    let folder = test.beside("cdi");
    test.run(&[&["--cdi-spec-dir", folder.to_str().unwrap()], arguments].concat())
}

/// Node, mount and environment are there in that RUN, and nothing of them in the next one or in the image.
#[test]
fn a_device_is_there_for_its_run() {
    let test = with_devices(
        "FROM busybox\n\
         RUN --device=vendor.test/thing=zero,required head -c 3 /dev/thing0 | od -An -tx1 >/found && cat /opt/vendor/library >>/found && \
         echo $ALL $THING >>/found && ! touch /opt/vendor/new\n\
         RUN ls /dev/thing0 /opt/vendor 2>/dev/null >>/found; echo \"[$THING]\" >>/found\n",
    );
    let folder = test.beside("cdi");
    let image =
        test.build(&["--cdi-spec-dir", folder.to_str().unwrap(), "--allow", "device=vendor.test/thing=zero"]);
    assert_eq!(image.text("/found"), " 00 00 00\nof the vendor\nevery zero\n[]\n");
    assert!(!image.has("/dev/thing0") && !image.has("/opt/vendor"));
}

#[test]
fn devices_are_to_be_allowed() {
    let test = with_devices("FROM busybox\nRUN --device=vendor.test/thing=zero test -c /dev/thing0\n");
    build(&test, &[]).fails(
        1,
        &["`vendor.test/thing=zero` is not allowed", "--allow device=vendor.test/thing=zero", "Dockerfile:2"],
    );
    build(&test, &["--allow", "device=vendor.test/thing=gone"]).fails(1, &["is not allowed"]);
    build(&test, &["--allow", "device"]).succeeds();
    let cached = build(&test, &["--allow", "device=vendor.test/thing=*"]);
    assert_eq!(cached.succeeds().cached(), 1);
    // What is cached is not a way around.
    build(&test, &[]).fails(1, &["is not allowed"]);
}

#[test]
fn aliases_classes_and_devices_for_all() {
    let test = with_devices("FROM busybox\nRUN --device=gpu,required test -c /dev/thing0\n");
    build(&test, &["--allow", "device=vendor.test/thing=zero,alias=gpu"]).succeeds();
    test.dockerfile("FROM busybox\nRUN --device=free-ones test \"$FREE\" = 1\n");
    build(&test, &[]).succeeds();
    test.dockerfile("FROM busybox\nRUN test -c /dev/thing0\nRUN test \"$THING\" = zero\n");
    build(&test, &["--device", "vendor.test/thing=zero"]).succeeds();
}

#[test]
fn what_is_not_there_is_left_out_or_refused() {
    let test = with_devices("FROM busybox\nRUN --device=vendor.test/none true\n");
    let run = build(&test, &[]);
    assert!(
        run.succeeds().stderr.contains("optional device `vendor.test/none` is not registered"),
        "{}",
        run.stderr
    );
    test.dockerfile("FROM busybox\nRUN --device=vendor.test/none,required true\n");
    build(&test, &[]).fails(3, &["required device `vendor.test/none` is not registered", "/cdi"]);
    let yaml = test.beside("cdi").join("other.yaml");
    std::fs::write(&yaml, "kind: vendor.test\n---\n").unwrap();
    build(&test, &[]).fails(3, &["other.yaml` could not be read: it holds 2 documents"]);
    std::fs::write(&yaml, "kind: vendor.test/none\ndevices:\n- name: it\n").unwrap();
    build(&test, &["--allow", "device=vendor.test/none"]).succeeds();
    test.dockerfile("FROM busybox\nRUN --device=vendor.test/thing=gone true\n");
    build(&test, &["--allow", "device"]).fails(3, &["/dev/no-such-device"]);
    test.dockerfile("FROM busybox\nRUN --device=vendor.test/thing=file true\n");
    build(&test, &["--allow", "device"]).fails(3, &["use as a device `/etc/passwd`"]);
    test.dockerfile("FROM busybox\nRUN --device=a/b=c,colour true\n");
    build(&test, &[]).fails(1, &["invalid field 'colour'"]);
}
