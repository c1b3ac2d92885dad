//! Build contexts that are not a folder of this machine: archives from a stream, files behind a URL, git repositories.
//!
//! What arrives is unpacked into the store's temporary folder, which goes with the session; nothing in an archive reaches
//! outside it. In such a context every file belongs to root and no ignore file applies, as in the reference.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_context::{GitReference, StatCache, Tree};
use rbuild_fs::{Root, RootfsPath};
use rbuild_layer::{Encoding, UnpackOptions, unpack_archive};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::{EventSink, Steps};
use crate::files::{Files, FolderContext};
use crate::remote::{Fetcher, name_of, step_of_git, step_of_url, time_of};
use crate::request::NamedContext;

/// Length of a tar block: the first one decides what a stream is.
const BLOCK: usize = 512;
/// The name under which a file that is a whole context lies in it (reference: dockerui, `DetectHTTPContext`).
pub const LONE_FILE: &str = "context";
/// Nobody writes a larger Dockerfile; what is larger is something else.
const LARGEST_DOCKERFILE: u64 = 16 << 20;

/// Files that were fetched or unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedContext {
    /// Where they are; the folder goes with the store's session.
    pub folder: PathBuf,
    /// When they are from, in seconds since 1970: the time of the commit; the server's, else that of the newest file in the
    /// archive. `None` where nothing tells.
    pub time: Option<i64>,
}

/// What came of fetching a build context.
#[derive(Debug)]
pub enum FetchedContext {
    /// Files.
    Folder(UnpackedContext),
    /// A Dockerfile alone.
    Dockerfile(String),
}

impl Fetcher<'_> {
    /// Reads a context from a stream: a tar archive (plain, gzip, bzip2, xz, zstd) or a Dockerfile; the first bytes decide.
    /// `name` is what messages call the stream.
    ///
    /// # Errors
    /// A stream that breaks off or is neither; archives that are damaged.
    pub fn stream(&self, mut stream: impl Read + Send, name: &str) -> Result<FetchedContext> {
        let fault = || format!("could not read {name}");
        let mut head = Vec::with_capacity(BLOCK);
        stream.by_ref().take(BLOCK as u64).read_to_end(&mut head).explain(FailureKind::Environment, fault)?;
        let is_archive = is_archive(&head);
        let whole = io::Cursor::new(head).chain(stream);
        if is_archive {
            return Ok(FetchedContext::Folder(self.unpack(whole, name)?));
        }
        let mut bytes = Vec::new();
        whole
            .take(LARGEST_DOCKERFILE + 1)
            .read_to_end(&mut bytes)
            .explain(FailureKind::Environment, fault)?;
        Ok(FetchedContext::Dockerfile(dockerfile_text(bytes, name)?))
    }

    /// Fetches a context from a URL: an archive is unpacked (`true`); another file lies alone in the folder, as `context`.
    ///
    /// # Errors
    /// The network's; archives that are damaged.
    pub fn url(&self, url: &str) -> Result<(UnpackedContext, bool)> {
        let (file, blob) = self.fetch(url)?;
        let fault = || "could not read the store".to_owned();
        let open = || blob.open().explain(FailureKind::Environment, fault);
        let mut head = Vec::with_capacity(BLOCK);
        open()?.take(BLOCK as u64).read_to_end(&mut head).explain(FailureKind::Environment, fault)?;
        let time = file.modified;
        match is_archive(&head) {
            true => {
                let unpacked = self.unpack(open()?, &format!("`{url}`"))?;
                Ok((UnpackedContext { time: time.or(unpacked.time), ..unpacked }, true))
            }
            false => {
                Ok((UnpackedContext { folder: self.folder_with(&file, &blob, LONE_FILE)?, time }, false))
            }
        }
    }

    /// What a named context is fetched from, where it is elsewhere: an archive's files or the file alone (under
    /// `--strict-docker` always the latter), a checkout.
    pub(crate) fn named(
        &self,
        context: &NamedContext,
        strict: bool,
        events: &dyn EventSink,
        steps: &Steps,
    ) -> Result<Option<UnpackedContext>> {
        match context {
            NamedContext::Git { reference, keep } => steps
                .carry_out(events, &step_of_git(reference), || self.clone_git(reference, *keep, None))
                .map(Some),
            NamedContext::Url(url) => steps.carry_out(events, &step_of_url(url), || match strict {
                true => self.lone_file(url).map(Some),
                false => self.url(url).map(|(context, _)| Some(context)),
            }),
            _ => Ok(None),
        }
    }

    /// Fetches a file into a folder where it lies alone, as `context`.
    fn lone_file(&self, url: &str) -> Result<UnpackedContext> {
        let (file, blob) = self.fetch(url)?;
        let folder = self.folder_with(&file, &blob, LONE_FILE)?;
        Ok(UnpackedContext { folder, time: time_of(&file, &blob)? })
    }

    /// Fetches a text from a URL, such as the Dockerfile that `-f` names; and the last part of its path, as its name.
    ///
    /// # Errors
    /// The network's; a file that is no text.
    pub fn text(&self, url: &str) -> Result<(String, String)> {
        let (_, blob) = self.fetch(url)?;
        let fault = || "could not read the store".to_owned();
        let mut bytes = Vec::new();
        let file = blob.open().explain(FailureKind::Environment, fault)?;
        file.take(LARGEST_DOCKERFILE + 1).read_to_end(&mut bytes).explain(FailureKind::Environment, fault)?;
        Ok((dockerfile_text(bytes, &format!("`{url}`"))?, name_of(url)))
    }

    /// Fetches a commit of a repository; `.git` stays only if `keep` or the address says so.
    ///
    /// # Errors
    /// What git says; a folder that is not in the repository.
    pub fn git(&self, reference: &GitReference, keep: Option<bool>) -> Result<UnpackedContext> {
        self.clone_git(reference, keep, None)
    }

    /// Unpacks an archive into a new folder. Its owners do not matter: in a context everything is root's.
    fn unpack(&self, archive: impl Read + Send, name: &str) -> Result<UnpackedContext> {
        let folder = self.made_folder()?;
        let fault = || "could not use the store".to_owned();
        let root = Root::open(&folder).explain(FailureKind::Environment, fault)?;
        let options = UnpackOptions { chown: Some((0, 0)), created: None };
        let newest = unpack_archive(archive, &root, &RootfsPath::root(), &options)
            .explain(FailureKind::Build, || format!("could not unpack the archive from {name}"))?;
        Ok(UnpackedContext { folder, time: newest.map(|time| time.seconds) })
    }
}

/// Reads a file of an unpacked context as a container would: links lead nowhere outside. `None` where it is not there.
///
/// # Errors
/// What is there but is no text file.
pub fn read_in_context(folder: &Path, name: &Path) -> Result<Option<String>> {
    let fault = || format!("could not read `{}` of the build context", name.display());
    let root = Root::open(folder).explain(FailureKind::Environment, fault)?;
    let path = RootfsPath::new(name);
    match root.meta_follow(&path) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(None),
        Err(error) => return Err(Failure::new(FailureKind::Build, fault()).caused_by(error).into()),
    }
    root.read_to_string(&path, LARGEST_DOCKERFILE).map(Some).explain(FailureKind::Build, fault)
}

/// An unpacked context as something to copy from.
pub(crate) fn unpacked_files(folder: &Path) -> Result<Files> {
    let fault = || "could not read the build context".to_owned();
    let tree = Tree::directory(folder, None).explain(FailureKind::Environment, fault)?;
    Ok(Files::Folder(Arc::new(FolderContext { tree, digests: StatCache::default() })))
}

fn dockerfile_text(bytes: Vec<u8>, name: &str) -> Result<String> {
    let wrong = |what: &str| {
        let failure = Failure::new(FailureKind::Usage, format!("{name} {what}"));
        failure
            .help("a build context is a tar archive (plain, gzip, bzip2, xz or zstd), or a Dockerfile alone")
            .into()
    };
    if bytes.len() as u64 > LARGEST_DOCKERFILE {
        return Err(wrong("is too large for a Dockerfile, and no tar archive"));
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => Err(wrong("is empty")),
        Ok(text) if text.contains('\0') => Err(wrong("is neither a tar archive nor a Dockerfile")),
        Ok(text) => Ok(text),
        Err(_) => Err(wrong("is neither a tar archive nor a Dockerfile")),
    }
}

/// Whether a stream that begins like this is an archive: compressed, or a tar header whose checksum is right, or the end
/// mark that alone is an empty archive.
fn is_archive(head: &[u8]) -> bool {
    if Encoding::sniff(head) != Encoding::Plain {
        return true;
    }
    let Some(block) = head.get(..BLOCK) else { return false };
    block.iter().all(|byte| *byte == 0) || header_checksum(block)
}

/// POSIX.1-2024 pax, "ustar Interchange Format": `chksum` is the sum of the header's bytes, its own eight taken as spaces.
/// Old programs summed signed bytes.
fn header_checksum(block: &[u8]) -> bool {
    let Some(field) = block.get(148..156).and_then(|field| std::str::from_utf8(field).ok()) else {
        return false;
    };
    let Ok(wanted) = i64::from_str_radix(field.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = |value: fn(u8) -> i64| -> i64 {
        let bytes = block.iter().enumerate();
        bytes.map(|(at, byte)| value(if (148..156).contains(&at) { b' ' } else { *byte })).sum()
    };
    wanted == sum(i64::from) || wanted == sum(|byte| i64::from(byte.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar() -> Vec<u8> {
        let mut archive = vec![0; 2048];
        archive[..10].copy_from_slice(b"Dockerfile");
        archive[100..107].copy_from_slice(b"0000644");
        archive[124..135].copy_from_slice(b"00000000000");
        archive[156] = b'0';
        archive[148..156].copy_from_slice(b"        ");
        let sum: u32 = archive[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
        archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive
    }

    #[test]
    fn the_first_bytes_tell_archives_from_dockerfiles() {
        let mut damaged = tar();
        damaged[0] = b'X';
        for (bytes, expected) in [
            (tar(), true),
            (vec![0; 1024], true),
            (b"\x1f\x8b\x08rest".to_vec(), true),
            (b"BZh9rest".to_vec(), true),
            (b"\xfd7zXZ\0rest".to_vec(), true),
            (b"\x28\xb5\x2f\xfdrest".to_vec(), true),
            (damaged, false),
            (b"FROM scratch\n".to_vec(), false),
            (b"FROM scratch\n".repeat(100), false),
            (Vec::new(), false),
            (vec![0; 100], false),
        ] {
            assert_eq!(
                is_archive(&bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(20)])
            );
        }
    }

    #[test]
    fn what_is_no_dockerfile_is_named() {
        for (bytes, words) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (b"\xff\xfe", "neither a tar archive nor a Dockerfile"),
            (b"a\0b", "neither a tar archive nor a Dockerfile"),
        ] {
            let error = dockerfile_text(bytes.to_vec(), "it").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(dockerfile_text(b"FROM a\n".to_vec(), "it").unwrap(), "FROM a\n");
    }
}
