//! The base image `base`: busybox with one of everything that layers can hold, as an OCI layout.

use std::fs;
use std::path::Path;
use std::process::Command;

use rbuild_image::Descriptor;
use rbuild_testkit::tiny_image;
use tar::{Builder, EntryType, Header};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      alice:x:1000:1000::/home/alice:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nstaff:x:50:alice\nalice:x:1000:\n";
/// `cap_net_raw+ep`: struct vfs_cap_data, version 2.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Writes the layout into a new folder.
pub(crate) fn write(folder: &Path) {
    let mut image = tiny_image().layer_of(&lower()).layer_of(&upper());
    image.config.config.env = vec!["PATH=/usr/bin:/bin".into()];
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |descriptor: &Descriptor, content: &[u8]| {
        fs::write(blobs.join(descriptor.digest.to_string().trim_start_matches("sha256:")), content).unwrap();
    };
    for (descriptor, content) in image.blobs() {
        put(&descriptor, &content);
    }
    let descriptor = image.descriptor();
    put(&descriptor, &image.manifest().to_bytes());
    let mut named = serde_json::to_value(&descriptor).unwrap();
    named["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [named] });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// The layer with everything.
fn lower() -> Vec<u8> {
    let mut tar = Tar::default();
    for (path, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("root", 0o700),
        ("srv", 0o755),
        ("srv/deep/er", 0o755),
        ("srv/opaque", 0o755),
        ("tmp", 0o1777),
        ("usr/bin", 0o755),
        ("usr/lib", 0o755),
    ] {
        tar.node(path, EntryType::Directory, mode, (0, 0), b"", "");
    }
    let busybox = fs::read("/bin/busybox").expect("a static busybox");
    tar.node("bin/busybox", EntryType::Regular, 0o755, (0, 0), &busybox, "");
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        tar.link(&format!("bin/{applet}"), "busybox");
    }
    tar.link("lib", "usr/lib");
    tar.link("etc/link", "../srv");
    tar.file("etc/passwd", 0o644, (0, 0), PASSWD);
    tar.file("etc/group", 0o644, (0, 0), GROUP);
    tar.file("etc/shadow", 0o640, (0, 42), "root:*:::::::\nalice:*:::::::\n");
    tar.file("srv/note", 0o600, (1, 2), "note\n");
    tar.attribute("user.note", b"kept");
    tar.node("srv/noted", EntryType::Regular, 0o644, (0, 0), b"attributes", "");
    tar.file("srv/twin-a", 0o644, (33, 33), "twin\n");
    tar.node("srv/twin-b", EntryType::Link, 0o644, (33, 33), b"", "srv/twin-a");
    tar.file("srv/far", 0o644, (70_000, 70_001), "ids above 65535\n");
    tar.file("srv/removed", 0o644, (0, 0), "gone in the next layer\n");
    tar.file("srv/opaque/hidden", 0o644, (0, 0), "hidden by the next layer\n");
    tar.node("srv/shared", EntryType::Directory, 0o2775, (0, 50), b"", "");
    tar.file("srv/shared/owned", 0o664, (33, 44), "owned\n");
    tar.link("srv/shared/link", "owned");
    tar.device("srv/null", EntryType::Char, (1, 3));
    tar.device("srv/zero", EntryType::Char, (1, 5));
    tar.device("srv/disk", EntryType::Block, (8, 1));
    tar.node("srv/pipe", EntryType::Fifo, 0o620, (5, 5), b"", "");
    tar.node("home/alice", EntryType::Directory, 0o700, (1000, 1000), b"", "");
    tar.file("home/alice/.profile", 0o600, (1000, 1000), "hers\n");
    tar.node("usr/bin/setuid", EntryType::Regular, 0o4755, (0, 0), b"#!/bin/sh\n", "");
    tar.node("usr/bin/setgid", EntryType::Regular, 0o2755, (0, 50), b"#!/bin/sh\n", "");
    tar.attribute("security.capability", CAPABILITY);
    tar.node("usr/bin/capable", EntryType::Regular, 0o755, (0, 0), b"#!/bin/sh\n", "");
    tar.end()
}

/// The layer that takes something away.
fn upper() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.file("srv/.wh.removed", 0o600, (0, 0), "");
    tar.node("srv/opaque", EntryType::Directory, 0o750, (0, 50), b"", "");
    tar.file("srv/opaque/.wh..wh..opq", 0o600, (0, 0), "");
    tar.file("srv/opaque/shown", 0o644, (0, 0), "shown\n");
    tar.end()
}

struct Tar(Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Tar(Builder::new(Vec::new()))
    }
}

impl Tar {
    fn node(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        owner: (u64, u64),
        content: &[u8],
        link: &str,
    ) {
        let mut header = header(kind, mode, owner);
        header.set_size(content.len() as u64);
        match link {
            "" => self.0.append_data(&mut header, path, content).unwrap(),
            link => self.0.append_link(&mut header, path, link).unwrap(),
        }
    }

    fn file(&mut self, path: &str, mode: u32, owner: (u64, u64), content: &str) {
        self.node(path, EntryType::Regular, mode, owner, content.as_bytes(), "");
    }

    fn link(&mut self, path: &str, target: &str) {
        self.node(path, EntryType::Symlink, 0o777, (0, 0), b"", target);
    }

    fn device(&mut self, path: &str, kind: EntryType, (major, minor): (u32, u32)) {
        let mut header = header(kind, 0o666, (0, 6));
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
    }

    /// An extended attribute of the entry that follows.
    fn attribute(&mut self, name: &str, value: &[u8]) {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, mode: u32, (uid, gid): (u64, u64)) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(1_600_000_000);
    header.set_size(0);
    header
}
