//! Layouts and archives: written and read back, deterministic, and hostile ones refused. What other tools (skopeo) think of them is asked, too.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use rbuild_image::layout::{
    Archive, BlobSource, Content, LayoutReader, NamedManifest, Opened, Part, write_folder,
};
use rbuild_image::{
    Descriptor, Digest, HistoryEntry, ImageConfig, ImageError, Manifest, MediaType, Platform, Reference,
    canonical_json,
};
use serde_json::json;

/// A one-layer image: the blobs and the manifest's descriptor.
fn image(content: &str) -> (Vec<(Descriptor, Vec<u8>)>, Descriptor) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, "file", content.as_bytes()).unwrap();
    let layer = tar.into_inner().unwrap();
    let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
    config.rootfs.diff_ids.push(Digest::sha256_of(&layer).into());
    config.history.push(HistoryEntry { created_by: "COPY".to_owned(), ..HistoryEntry::default() });
    let config = config.to_bytes();
    let described =
        [Descriptor::of(MediaType::ImageConfig, &config), Descriptor::of(MediaType::ImageLayer, &layer)];
    let manifest =
        Manifest::new(MediaType::ImageManifest, described[0].clone(), vec![described[1].clone()]).to_bytes();
    let descriptor = Descriptor::of(MediaType::ImageManifest, &manifest);
    let [config_descriptor, layer_descriptor] = described;
    (vec![(descriptor.clone(), manifest), (config_descriptor, config), (layer_descriptor, layer)], descriptor)
}

/// Where a test's image goes.
enum To<'p> {
    Folder(&'p Path),
    Oci(&'p Path),
    Docker(&'p Path),
}

fn write(to: To<'_>, content: &str, names: &[&str]) -> Descriptor {
    let (blobs, descriptor) = image(content);
    let names = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
    write_blobs(to, &blobs, &[NamedManifest { descriptor: descriptor.clone(), names }]).unwrap();
    descriptor
}

fn write_blobs(
    to: To<'_>,
    blobs: &[(Descriptor, Vec<u8>)],
    manifests: &[NamedManifest],
) -> Result<(), ImageError> {
    let source = |(descriptor, bytes): &(Descriptor, Vec<u8>)| BlobSource {
        descriptor: descriptor.clone(),
        content: Content::Bytes(bytes.clone()),
    };
    let sources: Vec<BlobSource<'_>> = blobs.iter().map(source).collect();
    let (archive, path) = match to {
        To::Folder(path) => return write_folder(path, &sources, manifests),
        To::Oci(path) => (Archive::oci(&sources, manifests)?, path),
        To::Docker(path) => (Archive::docker(&sources, manifests)?, path),
    };
    fs::write(path, bytes_of(&archive)?).unwrap();
    Ok(())
}

fn bytes_of(archive: &Archive<'_>) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    for part in archive.parts() {
        match part {
            Part::Bytes(bytes) => out.extend_from_slice(bytes),
            Part::Blob(blob) => drop(blob.with_content(|opened| match opened {
                Opened::File(mut file) => file.read_to_end(&mut out),
                Opened::Stream(content) => content.read_to_end(&mut out),
            })?),
        }
    }
    assert_eq!(out.len() as u64, archive.size());
    Ok(out)
}

fn assert_holds(path: &Path, selector: Option<&str>, content: &str) {
    let layout = LayoutReader::open(path).unwrap();
    let descriptor = layout.find(selector).unwrap_or_else(|error| panic!("{selector:?}: {error}"));
    let (manifest, config) = layout.image(descriptor).unwrap();
    assert_eq!(config.platform().to_string(), "linux/amd64");
    let mut bytes = Vec::new();
    layout.blob(&manifest.layers[0].digest).unwrap().read_to_end(&mut bytes).unwrap();
    let layer = &image(content).0[2].1;
    assert!(bytes == *layer);
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let names = ["r.io/team/app:v1", "alpine"];
    write(To::Folder(&at("dir")), "x", &names);
    write(To::Oci(&at("oci.tar")), "x", &names);
    write(To::Docker(&at("docker.tar")), "x", &names);
    let digest = image("x").1.digest;
    for file in ["dir", "oci.tar", "docker.tar"] {
        for selector in [None, Some("v1"), Some("r.io/team/app:v1"), Some("alpine"), Some(digest.as_str())] {
            assert_holds(&at(file), selector, "x");
        }
        let error = LayoutReader::open(&at(file)).unwrap().find(Some("none")).unwrap_err().to_string();
        assert!(error.ends_with("it offers r.io/team/app:v1, docker.io/library/alpine:latest"), "{error}");
    }
}

#[test]
fn archives_are_the_same_bytes_and_have_fixed_headers() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| folder.path().join(name));
    let [one, two] = paths.map(|path| {
        write(To::Oci(&path), "x", &["a:1"]);
        fs::read(path).unwrap()
    });
    assert!(one == two);
    let mut archive = tar::Archive::new(&one[..]);
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        names.push(entry.path().unwrap().display().to_string());
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted);
    assert_eq!((names[0].as_str(), names.len()), ("blobs/", 7));
}

#[test]
fn a_directory_gains_images_and_replaces_names() {
    let folder = tempfile::tempdir().unwrap();
    for (content, name) in [("one", "a:1"), ("two", "a:2"), ("three", "a:1")] {
        write(To::Folder(folder.path()), content, &[name]);
    }
    assert_eq!(LayoutReader::open(folder.path()).unwrap().index().manifests.len(), 2);
    assert_holds(folder.path(), Some("a:1"), "three");
    assert_holds(folder.path(), Some("a:2"), "two");
    let error = LayoutReader::open(folder.path()).unwrap().find(None).unwrap_err().to_string();
    assert!(error.contains("several images"), "{error}");
}

#[test]
fn wrong_content_is_neither_written_nor_read() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = Descriptor::of(MediaType::ImageLayer, b"right");
    let file = folder.path().join("short");
    fs::write(&file, b"righ").unwrap();
    let stream =
        |bytes: &'static [u8]| Content::Stream(Box::new(move || Ok(Box::new(bytes) as Box<dyn Read + Send>)));
    let wrong = [stream(b"wrong"), stream(b"righ"), stream(b"right!"), Content::Bytes(b"wrong".to_vec())];
    for content in wrong.into_iter().chain([Content::File(file)]) {
        let blobs = [BlobSource { descriptor: descriptor.clone(), content }];
        assert!(write_folder(folder.path(), &blobs, &[]).is_err(), "{blobs:?}");
        assert!(bytes_of(&Archive::oci(&blobs, &[]).unwrap()).is_err(), "{blobs:?}");
    }
    assert_eq!(fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    write(To::Folder(folder.path()), "x", &["a"]);
    let layer = image("x").0[2].0.digest.clone();
    let path = folder.path().join("blobs/sha256").join(layer.hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes[700] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let layout = LayoutReader::open(folder.path()).unwrap();
    let error = layout.blob(&layer).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("is altered"), "{error}");
}

/// An archive in the form of older `docker save`, by hand.
fn docker_archive(path: &Path, config_name: &str, layer_name: &str, link: Option<&str>) {
    let (blobs, _) = image("old");
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    put("0123.json", &blobs[1].1);
    put("real/layer.tar", &blobs[2].1);
    let manifest = json!([{"Config": config_name, "RepoTags": ["old:1"], "Layers": [layer_name]}]);
    put("manifest.json", &canonical_json(&manifest));
    if let Some(target) = link {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "linked/layer.tar", target).unwrap();
    }
    tar.finish().unwrap();
}

#[test]
fn older_docker_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    docker_archive(&path, "0123.json", "real/layer.tar", None);
    assert_holds(&path, Some("old:1"), "old");
    docker_archive(&path, "0123.json", "linked/layer.tar", Some("../real/layer.tar"));
    assert_holds(&path, None, "old");
}

#[test]
fn hostile_archives_reach_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), b"{}").unwrap();
    let path = folder.path().join("a.tar");
    for (config, layer, link) in [
        ("../secret", "real/layer.tar", None),
        ("/etc/passwd", "real/layer.tar", None),
        ("0123.json", "../../../etc/passwd", None),
        ("0123.json", "linked/layer.tar", Some("../../../../etc/passwd")),
        ("0123.json", "linked/layer.tar", Some("/etc/passwd")),
        ("0123.json", "linked/layer.tar", Some("layer.tar")),
        ("0123.json", "real", None),
    ] {
        docker_archive(&path, config, layer, link);
        assert!(LayoutReader::open(&path).is_err(), "{config} {layer} {link:?}");
    }
    fs::write(&path, b"\x1f\x8b\x08\x00").unwrap();
    let error = LayoutReader::open(&path).unwrap_err().to_string();
    assert!(error.contains("it is compressed"), "{error}");
    fs::write(&path, vec![0; 10240]).unwrap();
    assert!(LayoutReader::open(&path).unwrap_err().to_string().contains("neither index.json"));
    fs::write(&path, vec![b'x'; 5000]).unwrap();
    assert!(LayoutReader::open(&path).is_err());
    let large = folder.path().join("large");
    fs::create_dir(&large).unwrap();
    fs::write(large.join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(LayoutReader::open(&large).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn skopeo_reads_what_is_written() {
    if let Err(error) = Command::new("skopeo").arg("--version").output() {
        let _ = fs::write("/dev/stderr", format!("\nSKIPPED, NOT TESTED: skopeo can't be run: {error}\n"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write(To::Folder(at("dir").as_ref()), "x", &["r.io/app:v1"]);
    write(To::Oci(at("oci.tar").as_ref()), "x", &["r.io/app:v1"]);
    write(To::Docker(at("docker.tar").as_ref()), "x", &["r.io/app:v1"]);
    for (number, source) in [
        format!("oci:{}:v1", at("dir")),
        format!("oci-archive:{}", at("oci.tar")),
        format!("docker-archive:{}", at("docker.tar")),
    ]
    .iter()
    .enumerate()
    {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "-q",
                source,
                &format!("docker-archive:{}:r.io/back:1", at(&number.to_string())),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        assert_holds(at(&number.to_string()).as_ref(), Some("r.io/back:1"), "x");
    }
}
