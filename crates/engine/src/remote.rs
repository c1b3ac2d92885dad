//! What is somewhere else: files by HTTP, repositories by git. For ADD, and for build contexts ([`crate::contexts`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbuild_context::GitReference;
use rbuild_context::source::GitTime;
use rbuild_executor::{OutsideCommand, Place};
use rbuild_fs::{Root, RootfsPath, Timestamp};
use rbuild_image::Digest;
use rbuild_layer::{is_archive, newest_file};
use rbuild_registry::{Client, HttpRequest};
use rbuild_store::{Blob, MemoLinks, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::build::Builder;
use crate::contexts::{UnpackedContext, unpacked_files};
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::files::Files;
use crate::request::NamedContext;
use crate::state::Rootfs;
use crate::steps::made_files;

/// Memo kind: what a URL gave when it was last fetched.
const FETCHED: &str = "url";
/// The name of a file whose URL has none, as in the reference.
const UNNAMED: &str = "__unnamed__";

/// What is known of a URL.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FetchedFile {
    digest: Digest,
    etag: Option<String>,
    /// Seconds since 1970, where the server says it.
    pub(crate) modified: Option<i64>,
}

/// Brings here what is somewhere else.
#[derive(Debug, Clone, Copy)]
pub struct Fetcher<'a> {
    /// Where fetched files are kept.
    pub store: &'a Store,
    /// For files by HTTP.
    pub client: &'a Client,
    /// Where git runs.
    pub place: &'a Place,
    /// Environment of `git`: the caller's.
    pub git_environment: &'a BTreeMap<OsString, OsString>,
}

impl Builder<'_> {
    /// The file behind a URL as something to copy: mode 0600, the server's time; and its name. It is not fetched again while
    /// the server says that it has not changed.
    pub(crate) fn fetch_file(&self, url: &str, checksum: Option<&str>) -> Result<(Files, String)> {
        let fetcher = self.fetcher();
        let files = self.steps.carry_out(self.events, &step_of_url(url), || {
            let (file, blob) = fetcher.fetch(url)?;
            check(checksum, &file.digest, url)?;
            made_files(&fetcher.folder_with(&file, &blob, &name_of(url))?)
        })?;
        Ok((files, name_of(url)))
    }

    /// A commit of a repository as something to copy. git runs as the calling user, outside the user namespace.
    pub(crate) fn fetch_git(
        &self,
        reference: &GitReference,
        keep: Option<bool>,
        checksum: Option<&str>,
    ) -> Result<Files> {
        self.steps.carry_out(self.events, &step_of_git(reference), || {
            unpacked_files(&self.fetcher().clone_git(reference, keep, checksum)?.folder)
        })
    }

    /// The files of a named context that is elsewhere.
    pub(crate) fn fetch_context(&self, context: &NamedContext) -> Result<Files> {
        match self.fetcher().named(context, self.request.strict_docker, self.events, self.steps)? {
            Some(fetched) => unpacked_files(&fetched.folder),
            None => Ok(Files::Rootfs(Rootfs::Empty)),
        }
    }

    pub(crate) fn fetcher(&self) -> Fetcher<'_> {
        let (client, git_environment) = (self.images.client, &self.request.git_environment);
        Fetcher { store: self.store, client, place: self.place, git_environment }
    }
}

impl Fetcher<'_> {
    /// The file behind a URL, from the store where the server says that it has not changed.
    pub(crate) fn fetch(&self, url: &str) -> Result<(FetchedFile, Blob)> {
        let fault = || "could not use the store".to_owned();
        let known: Option<FetchedFile> =
            self.store.memo(FETCHED, url).explain(FailureKind::Environment, fault)?;
        let known = match known {
            Some(file) => self
                .store
                .blob(&file.digest)
                .explain(FailureKind::Environment, fault)?
                .map(|blob| (file, blob)),
            None => None,
        };
        let mut request = HttpRequest { url: url.to_owned(), headers: Vec::new() };
        if let Some((FetchedFile { etag: Some(etag), .. }, _)) = &known {
            request.headers.push(("If-None-Match".to_owned(), etag.clone()));
        }
        let mut response = self.client.http_get(&request).map_err(|error| {
            Failure::new(FailureKind::Registry, format!("could not fetch `{url}`")).caused_by(error)
        })?;
        if let (304, Some(known)) = (response.status, known) {
            return Ok(known);
        }
        let mut writer = self.store.blob_writer().explain(FailureKind::Environment, fault)?;
        io::copy(&mut response.body, &mut writer)
            .explain(FailureKind::Registry, || format!("could not fetch `{url}`"))?;
        let blob = writer.commit(None).explain(FailureKind::Environment, fault)?;
        let file = FetchedFile {
            digest: blob.digest.clone(),
            etag: response.header("etag").map(str::to_owned),
            modified: response.header("last-modified").and_then(http_date),
        };
        let links = MemoLinks { keeps: vec![Resource::Blob(blob.digest.clone())], about: Vec::new() };
        self.store.put_memo(FETCHED, url, &file, &links).explain(FailureKind::Environment, fault)?;
        Ok((file, blob))
    }

    /// A folder with the fetched file in it: mode 0600, the server's time.
    pub(crate) fn folder_with(&self, file: &FetchedFile, blob: &Blob, name: &str) -> Result<PathBuf> {
        let fault = || format!("could not keep the file `{name}`");
        let folder = self.made_folder()?;
        let path = folder.join(name);
        let mut from = blob.open().explain(FailureKind::Environment, fault)?;
        let mut to = File::create_new(&path).explain(FailureKind::Environment, fault)?;
        io::copy(&mut from, &mut to).explain(FailureKind::Environment, fault)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .explain(FailureKind::Environment, fault)?;
        let root = Root::open(&folder).explain(FailureKind::Environment, fault)?;
        root.set_mtime(&RootfsPath::new(name), Timestamp::from_seconds(file.modified.unwrap_or(0)))
            .explain(FailureKind::Environment, fault)?;
        Ok(folder)
    }

    /// A checkout of a commit in a folder that goes with the session; its subfolder where the reference names one.
    pub(crate) fn clone_git(
        &self,
        reference: &GitReference,
        keep: Option<bool>,
        checksum: Option<&str>,
    ) -> Result<UnpackedContext> {
        // The user's own folder, not the store's: git runs outside the namespace and the store may belong to ids of ours.
        let folder = self.made_folder()?;
        let commit = self.fetch_commit(&folder, reference, checksum)?;
        let git = |arguments: &[&str]| self.run_git(&folder, &reference.remote, arguments);
        git(&["checkout", "--quiet", "--detach", &commit])?;
        if reference.submodules.unwrap_or(true) && folder.join(".gitmodules").exists() {
            git(&["submodule", "update", "--init", "--recursive", "--depth=1", "--quiet"])?;
        }
        let time = self.time_of_commit(&folder, reference, &commit)?;
        if !keep.or(reference.keep_git_dir).unwrap_or(false) {
            let repository = folder.join(".git");
            rbuild_fs::remove_tree(&repository)
                .explain(FailureKind::Environment, || "could not remove `.git`".to_owned())?;
        }
        if reference.mtime == Some(GitTime::Commit) {
            set_times(&folder, time)?;
        }
        let time = Some(time);
        match &reference.subdir {
            Some(subdir) => {
                let whole = Root::open(&folder)
                    .explain(FailureKind::Environment, || "could not open the repository".to_owned())?;
                let inside = whole
                    .resolve(&RootfsPath::new(subdir), rbuild_fs::FinalSymlink::Follow)
                    .explain(FailureKind::Build, || format!("could not find `{subdir}` in the repository"))?;
                let inside = folder.join(inside.relative());
                if !inside.is_dir() {
                    let message = format!("could not find the folder `{subdir}` in the repository");
                    return Err(Failure::new(FailureKind::Build, message).into());
                }
                Ok(UnpackedContext { folder: inside, time })
            }
            None => Ok(UnpackedContext { folder, time }),
        }
    }

    /// The time of a commit, in seconds since 1970. Without its files (`--filter`) not every server gives it: git then waits
    /// for ever on one that serves plain files.
    pub(crate) fn time_of_git(&self, reference: &GitReference, checksum: Option<&str>) -> Result<i64> {
        let folder = self.made_folder()?;
        let commit = self.fetch_commit(&folder, reference, checksum)?;
        self.time_of_commit(&folder, reference, &commit)
    }

    fn time_of_commit(&self, folder: &Path, reference: &GitReference, commit: &str) -> Result<i64> {
        let show = ["log", "-1", "--no-show-signature", "--format=%ct", commit];
        let time = self.run_git(folder, &reference.remote, &show)?;
        time.trim().parse().explain(FailureKind::Build, || format!("the commit {commit} has no time"))
    }

    /// Fetches a commit into a new repository in an empty folder; its hash.
    fn fetch_commit(
        &self,
        folder: &Path,
        reference: &GitReference,
        checksum: Option<&str>,
    ) -> Result<String> {
        open_to_caller(folder)?;
        let git = |arguments: &[&str]| self.run_git(folder, &reference.remote, arguments);
        git(&["init", "--quiet"])?;
        git(&["remote", "add", "origin", &reference.remote])?;
        let wanted = reference.reference.as_deref().unwrap_or("HEAD");
        let checksum = checksum.or(reference.checksum.as_deref());
        let fetch = |depth: &[&str]| {
            git(&[&["fetch", "--quiet", "--no-tags"], depth, &["origin", "--", wanted]].concat())
        };
        let mut fetched = fetch(if checksum.is_some() { &[] } else { &["--depth=1"] });
        if fetched.as_ref().is_err_and(lacks_shallow) {
            // A repository of plain files behind a web server gives all of its history or nothing.
            fetched = fetch(&[]);
        }
        let found = if fetched.is_err() && looks_like_commit(wanted) {
            // Not every server gives a commit by its name; then everything has to come.
            let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
            git(&[&["fetch", "--quiet", "origin"], &all[..]].concat())?;
            wanted
        } else {
            fetched?;
            "FETCH_HEAD"
        };
        let commit = git(&["rev-parse", "--verify", &format!("{found}^{{commit}}")])?.trim().to_owned();
        if let Some(wanted) = checksum.filter(|wanted| !commit.starts_with(wanted)) {
            let message = format!("expected checksum to match {wanted}, got {commit}");
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        Ok(commit)
    }

    /// The time of the file behind a URL, in seconds since 1970.
    pub(crate) fn time_of_url(&self, url: &str, checksum: Option<&str>) -> Result<Option<i64>> {
        let (file, blob) = self.fetch(url)?;
        check(checksum, &file.digest, url)?;
        time_of(&file, &blob)
    }

    /// A new folder that goes with the session.
    pub(crate) fn made_folder(&self) -> Result<PathBuf> {
        let folder = self.store.temporary("made");
        fs::create_dir(&folder)
            .explain(FailureKind::Environment, || "could not write to the store".to_owned())?;
        Ok(folder)
    }

    fn run_git(&self, folder: &Path, remote: &str, arguments: &[&str]) -> Result<String> {
        let options =
            ["-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"];
        let argv: Vec<OsString> =
            ["git"].iter().chain(&options).chain(arguments).map(OsString::from).collect();
        let command = OutsideCommand {
            argv,
            env: self.environment_of_git(),
            cwd: Some(folder.to_owned()),
            stdin: Vec::new(),
        };
        let output = self.place.outside().run(&command).map_err(|error| {
            let failure = Failure::new(FailureKind::Environment, "could not run `git`").caused_by(error);
            failure.help("install it: `apt-get install git`")
        })?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let message = format!("could not fetch the git repository `{remote}`");
            return Err(Failure::new(FailureKind::Registry, message).caused_by(words).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// No prompts, no configuration that changes what is checked out.
    fn environment_of_git(&self) -> Vec<(OsString, OsString)> {
        let mut environment: BTreeMap<OsString, OsString> = self.git_environment.clone();
        for (name, value) in [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            ("LC_ALL", "C"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
        ] {
            environment.insert(name.into(), value.into());
        }
        environment.into_iter().collect()
    }
}

/// The step that fetches a URL, as progress shows it.
pub(crate) fn step_of_url(url: &str) -> String {
    format!("[internal] fetch {url}")
}

/// The step that fetches a repository.
pub(crate) fn step_of_git(reference: &GitReference) -> String {
    format!("[internal] git {}", reference.remote)
}

/// When a fetched file is from: the server's time, else that of the newest file in it, if it is an archive.
pub(crate) fn time_of(file: &FetchedFile, blob: &Blob) -> Result<Option<i64>> {
    let fault = || "could not read the store".to_owned();
    let open = || blob.open().explain(FailureKind::Environment, fault);
    if file.modified.is_some() || !is_archive(open()?) {
        return Ok(file.modified);
    }
    let newest = newest_file(open()?)
        .explain(FailureKind::Build, || "could not find the time of the archive".to_owned())?;
    Ok(newest.map(|time| time.seconds))
}

/// Whether git says that the server can only give everything.
fn lacks_shallow(error: &BuildError) -> bool {
    std::error::Error::source(error).is_some_and(|words| words.to_string().contains("shallow"))
}

/// `?mtime=commit`: every file has the time of the commit. Folders come after what is in them.
fn set_times(folder: &Path, seconds: i64) -> Result<()> {
    let fault = || "could not set the times of the checkout".to_owned();
    let root = Root::open(folder).explain(FailureKind::Environment, fault)?;
    let mut folders = vec![RootfsPath::root()];
    let mut next = 0;
    while let Some(path) = folders.get(next).cloned() {
        next += 1;
        for (name, meta) in root.read_dir_meta(&path).explain(FailureKind::Environment, fault)? {
            let inside = path.join(Path::new(&name));
            match meta.is_dir() {
                true => folders.push(inside),
                false => root
                    .set_mtime(&inside, Timestamp::from_seconds(seconds))
                    .explain(FailureKind::Environment, fault)?,
            }
        }
    }
    for path in folders.iter().rev() {
        root.set_mtime(path, Timestamp::from_seconds(seconds)).explain(FailureKind::Environment, fault)?;
    }
    Ok(())
}

/// git writes here as the calling user, who is uid 0 inside and so already the owner; others may not look.
fn open_to_caller(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .explain(FailureKind::Environment, || "could not prepare a folder for git".to_owned())
}

fn looks_like_commit(name: &str) -> bool {
    name.len() >= 7 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check(checksum: Option<&str>, digest: &Digest, url: &str) -> Result<()> {
    let Some(text) = checksum else { return Ok(()) };
    let wanted: Digest = text.parse().explain(FailureKind::Build, || format!("`{text}` is no checksum"))?;
    if wanted != *digest {
        let message = format!("digest mismatch: `{url}` has {digest}, `--checksum` wants {wanted}");
        return Err(Failure::new(FailureKind::Build, message).into());
    }
    Ok(())
}

/// The last part of the URL's path, without the query.
pub(crate) fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    match path.split_once('/').map(|(_, path)| path.rsplit('/').next().unwrap_or_default()) {
        Some(name) if !name.is_empty() && name != "." && name != ".." => percent_decoded(name),
        _ => UNNAMED.to_owned(),
    }
}

/// `%20` and its like; a name that would hold a slash stays as written.
fn percent_decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(decoded) if !decoded.contains(['/', '\0']) && decoded != "." && decoded != ".." => decoded,
        _ => name.to_owned(),
    }
}

/// Seconds since 1970 of an HTTP date.
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_the_path_of_their_url() {
        for (url, name) in [
            ("http://h/a/b.txt?x=1/2#y", "b.txt"),
            ("http://h", UNNAMED),
            ("http://h/", UNNAMED),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2Fb", "a%2Fb"),
            ("http://h/..", UNNAMED),
            ("http://h/%2e%2e", "%2e%2e"),
        ] {
            assert_eq!(name_of(url), name, "{url}");
        }
    }

    #[test]
    fn http_dates() {
        assert_eq!(http_date("Tue, 14 Nov 2023 22:13:20 GMT"), Some(1_700_000_000));
        assert_eq!(http_date("yesterday"), None);
    }
}
