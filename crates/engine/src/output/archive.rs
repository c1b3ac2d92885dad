//! Archives and layouts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;
use rbuild_executor::Cancel;
use rbuild_image::layout::{Archive, BlobSource, Content, NamedManifest, Opened, Part, write_folder};
use rbuild_image::{Descriptor, Reference};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use crate::cancel::{Cancellable, check};
use crate::error::{Explain, FailureKind, Result};
use crate::request::Destination;

use super::destination::Out;
use super::{Bundle, Exporter, into_destination, place};

/// What kind of archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// For `docker load`.
    Docker,
    /// An OCI layout: a tar, or a folder.
    Oci,
}

impl Exporter<'_> {
    pub(super) fn write_archive(
        &self,
        bundle: &Bundle<'_>,
        kind: ArchiveKind,
        to: &Destination,
        names: &[Reference],
    ) -> Result<()> {
        let named =
            |descriptor: &Descriptor| NamedManifest { descriptor: descriptor.clone(), names: names.to_vec() };
        let manifests: Vec<NamedManifest> = bundle.descriptor().map(named).into_iter().collect();
        write_layout(&bundle.blobs(), &manifests, kind, to, self.images.cancel)
    }
}

/// Writes blobs and their names as an archive, or to a folder as a layout. A file that has the archive's bytes already only
/// gets the present time: to compare it takes a fraction of what it takes to write it.
pub(crate) fn write_layout(
    blobs: &[BlobSource<'_>],
    manifests: &[NamedManifest],
    kind: ArchiveKind,
    to: &Destination,
    cancel: Option<&Cancel>,
) -> Result<()> {
    let fault = || format!("could not write the archive to {}", place(to));
    if let Destination::Folder(path) = to {
        return write_folder(path, blobs, manifests).explain(FailureKind::Environment, fault);
    }
    let archive = match kind {
        ArchiveKind::Docker => Archive::docker(blobs, manifests),
        ArchiveKind::Oci => Archive::oci(blobs, manifests),
    };
    let archive = archive.explain(FailureKind::Environment, fault)?;
    if let Destination::File(path) = to
        && renewed(path, &archive, cancel).unwrap_or(false)
    {
        return Ok(());
    }
    into_destination(to, |out| archive.parts().iter().try_for_each(|part| write(part, out, cancel)))
}

fn write(part: &Part<'_>, out: &mut Out<'_>, cancel: Option<&Cancel>) -> io::Result<()> {
    match part {
        Part::Bytes(bytes) => out.write_all(bytes),
        Part::Blob(blob) => blob
            .with_content(|opened| match opened {
                Opened::File(file) => out.append(&file, blob.descriptor.size, cancel),
                Opened::Stream(content) => io::copy(&mut Cancellable(content, cancel), out).map(drop),
            })
            .map_err(io::Error::other),
    }
}

/// Whether the file is the archive, byte for byte; its time is the present one then. An error means as much as no.
fn renewed(path: &Path, archive: &Archive<'_>, cancel: Option<&Cancel>) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() || found.len() != archive.size() {
        return Ok(false);
    }
    let file = File::open(path)?;
    let (mut at, mut contents) = (0, Vec::new());
    for part in archive.parts() {
        // What is short comes first: most differences show there.
        let same = match part {
            Part::Bytes(bytes) => has_at(&file, at, bytes)?,
            Part::Blob(BlobSource { content: Content::Bytes(bytes), .. }) => has_at(&file, at, bytes)?,
            Part::Blob(BlobSource { content: Content::File(content), descriptor }) => {
                contents.push((File::open(content)?, at, descriptor.size));
                true
            }
            Part::Blob(BlobSource { content: Content::Stream(_), .. }) => false,
        };
        if !same {
            return Ok(false);
        }
        at += part.size();
    }
    for (content, at, size) in contents {
        if !same_content(&content, &file, at, size, cancel)? {
            return Ok(false);
        }
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })?;
    Ok(true)
}

fn has_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<bool> {
    let mut found = vec![0; bytes.len()];
    file.read_exact_at(&mut found, at)?;
    Ok(found == bytes)
}

/// Whether `content` lies in `file` from `at` on, found out with all cores.
fn same_content(
    content: &File,
    file: &File,
    at: u64,
    size: u64,
    cancel: Option<&Cancel>,
) -> io::Result<bool> {
    /// Bytes compared at a time.
    const STRIDE: u64 = 256 << 10;
    let buffers = || (Vec::new(), Vec::new());
    let differs = |(one, other): &mut (Vec<u8>, Vec<u8>), stride: u64| -> io::Result<bool> {
        check(cancel)?;
        let from = stride * STRIDE;
        let count = usize::try_from(STRIDE.min(size - from)).unwrap_or(0);
        one.resize(count, 0);
        other.resize(count, 0);
        content.read_exact_at(one, from)?;
        file.read_exact_at(other, at + from)?;
        Ok(one != other)
    };
    let strides = (0..size.div_ceil(STRIDE)).into_par_iter();
    let first = strides.map_init(buffers, differs).find_any(|found| !matches!(found, Ok(false)));
    first.map_or(Ok(true), |found| found.map(|_| false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_image::{Digest, MediaType};

    /// An archive of one blob that lies in a file.
    fn written(folder: &Path, content: &[u8]) -> (BlobSource<'static>, std::path::PathBuf) {
        let file = folder.join("blob");
        fs::write(&file, content).unwrap();
        let descriptor =
            Descriptor::new(MediaType::ImageLayer, Digest::sha256_of(content), content.len() as u64);
        let blob = BlobSource { descriptor, content: Content::File(file) };
        let path = folder.join("archive.tar");
        write_layout(
            std::slice::from_ref(&blob),
            &[],
            ArchiveKind::Oci,
            &Destination::File(path.clone()),
            None,
        )
        .unwrap();
        (blob, path)
    }

    fn inode(path: &Path) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
    }

    #[test]
    fn a_file_with_these_very_bytes_stays_and_any_other_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (blob, path) = written(folder.path(), &content);
        let right = fs::read(&path).unwrap();
        let again = || {
            let blobs = std::slice::from_ref(&blob);
            write_layout(blobs, &[], ArchiveKind::Oci, &Destination::File(path.clone()), None).unwrap();
        };
        let old = std::time::SystemTime::UNIX_EPOCH;
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let first = inode(&path);
        again();
        assert_eq!(inode(&path), first);
        assert_ne!(fs::metadata(&path).unwrap().modified().unwrap(), old);

        // A byte in the first header, in the middle of the blob, the blob's last, the last of all; and other lengths.
        for at in [0, 1_500_000, right.len() - 2049, right.len() - 1] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            fs::write(&path, &wrong).unwrap();
            again();
            assert!(fs::read(&path).unwrap() == right, "{at}");
        }
        for length in [0, 1000, right.len() + 1] {
            let mut wrong = right.clone();
            wrong.resize(length, 0);
            fs::write(&path, &wrong).unwrap();
            again();
            assert!(fs::read(&path).unwrap() == right, "{length}");
        }
    }

    #[test]
    fn a_link_gives_way_to_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, path) = written(folder.path(), b"content");
        let moved = folder.path().join("moved.tar");
        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        write_layout(&[blob], &[], ArchiveKind::Oci, &Destination::File(path.clone()), None).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert!(fs::read(path).unwrap() == fs::read(moved).unwrap());
    }

    #[test]
    fn a_blob_that_is_too_short_makes_no_archive() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, path) = written(folder.path(), b"content");
        fs::remove_file(&path).unwrap();
        fs::write(folder.path().join("blob"), b"conten").unwrap();
        let to = Destination::File(path.clone());
        let error = write_layout(&[blob], &[], ArchiveKind::Oci, &to, None).unwrap_err();
        assert!(format!("{error:?}").contains("Size"), "{error:?}");
        assert!(!path.exists());
    }
}
