//! Overlays on their own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rbuild_executor::{Overlay, SandboxError};

use crate::fixture::{Box, Test, base, directory, run_spec};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("overlay_of_200_lowers", overlay_of_200_lowers),
        ("overlay_refuses_501_lowers", overlay_refuses_501_lowers),
        ("overlay_is_probed_by_doing", overlay_is_probed_by_doing),
        ("whiteouts_lie_in_the_upper", whiteouts_lie_in_the_upper),
        ("without_an_upper_it_is_read_only", without_an_upper_it_is_read_only),
        ("an_upper_alone_is_written_directly", an_upper_alone_is_written_directly),
    ]
}

fn overlay_of_200_lowers() {
    let directory = directory();
    let mut lowers: Vec<_> =
        (0..200).map(|n| directory.path().join(format!("a-lower-with-a-rather-long-name-{n}"))).collect();
    for (n, lower) in lowers.iter().enumerate() {
        fs::create_dir(lower).unwrap();
        fs::write(lower.join(format!("file-{n}")), "").unwrap();
        fs::write(lower.join("same"), n.to_string()).unwrap();
    }
    lowers.push(base().to_path_buf());
    let sandbox = Box::over(&lowers);
    let ran = run_spec(&sandbox.spec(&["sh", "-c", "ls / | grep -c file-; cat /same"]));
    assert_eq!(ran.stdout, "200\n0", "{ran:?}");
}

fn overlay_refuses_501_lowers() {
    let lowers: Vec<_> = (0..501).map(|n| base().join(n.to_string())).collect();
    let error = Overlay { lowers: &lowers, upper: None, work: None }.mount().unwrap_err();
    assert!(matches!(error, SandboxError::Overlay { lowers: 501, .. }), "{error}");
}

fn overlay_is_probed_by_doing() {
    let directory = directory();
    Overlay::probe(directory.path()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the probe left something behind");
    assert!(Overlay::probe(std::path::Path::new("/proc/self")).is_err());
}

fn whiteouts_lie_in_the_upper() {
    let mut sandbox = Box::new();
    let ran = run_spec(&sandbox.spec(&[
        "sh",
        "-c",
        "rm /etc/passwd && rm -r /home && mkdir /home && echo new >/home/x",
    ]));
    assert!(ran.report.success(), "{ran:?}");
    let names = sandbox.upper();
    assert_eq!(names, ["dev", "etc", "etc/passwd", "home", "home/x", "proc", "sys"]);
    let whiteout = fs::symlink_metadata(sandbox.path("upper/etc/passwd")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0; 4];
    let length =
        rustix::fs::lgetxattr(sandbox.path("upper/home"), "user.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
}

fn without_an_upper_it_is_read_only() {
    let other = directory();
    for lowers in [vec![base().to_path_buf()], vec![other.path().to_path_buf(), base().to_path_buf()]] {
        let mounted = Overlay { lowers: &lowers, upper: None, work: None }.mount().unwrap();
        assert!(mounted.path().join("etc/passwd").exists());
        let error = fs::write(mounted.path().join("new"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert!(Overlay { lowers: &[], upper: None, work: None }.mount().is_err());
}

fn an_upper_alone_is_written_directly() {
    let directory = directory();
    let mounted = Overlay { lowers: &[], upper: Some(directory.path()), work: None }.mount().unwrap();
    fs::write(mounted.path().join("new"), "text").unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("new")).unwrap(), "text");
}
