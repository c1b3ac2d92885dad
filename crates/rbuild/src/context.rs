//! The build context and the Dockerfile: found, read from standard input, or fetched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rbuild_context::ContextSource;
use rbuild_context::source::GitTime;
use rbuild_engine::{
    Context, Failure, FailureKind, FetchedContext, LONE_FILE, Location, NamedContext, UnpackedContext,
    read_in_context,
};
use rbuild_image::Platform;

use crate::failure::CliError;
use crate::request::image_name;
use crate::workshop::Workshop;

type Result<T> = std::result::Result<T, CliError>;

/// Names under which a Dockerfile is looked for in the context.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// A context with its Dockerfile.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) context: Context,
    pub(crate) dockerfile: String,
    /// What messages call the Dockerfile.
    pub(crate) name: String,
    /// Text and name of the ignore file; contexts that were fetched or unpacked have none.
    pub(crate) ignore: Option<(String, String)>,
}

/// What was typed.
pub(crate) struct Typed<'a> {
    /// The last argument.
    pub(crate) context: &'a str,
    /// `-f`
    pub(crate) file: Option<&'a Path>,
    /// `BUILDKIT_CONTEXT_KEEP_GIT_DIR`
    pub(crate) keep_git_dir: Option<bool>,
    /// Whether a build arg gives `SOURCE_DATE_EPOCH`: then the files of a git context have the time of the commit, as in the
    /// reference.
    pub(crate) is_dated: bool,
}

/// Opens the context and reads the Dockerfile.
pub(crate) fn open(typed: &Typed<'_>, workshop: &Workshop) -> Result<Opened> {
    let source = ContextSource::parse(typed.context).map_err(|error| {
        let message = format!("could not understand the context `{}`", typed.context);
        CliError::from(Failure::new(FailureKind::Usage, message).caused_by(error))
    })?;
    match source {
        ContextSource::Stdin if typed.file == Some(Path::new("-")) => {
            let failure = CliError::usage("standard input cannot be both the context and the Dockerfile");
            Err(failure.help("put the Dockerfile into the archive, and name it with `-f`"))
        }
        ContextSource::Stdin => from_stdin(typed.file, workshop),
        ContextSource::Url(url) => {
            let (context, is_archive) = workshop.fetcher()?.url(&url)?;
            let file = if is_archive { typed.file } else { Some(Path::new(LONE_FILE)) };
            let name = if is_archive { None } else { Some(url.as_str()) };
            unpacked(context, file, name, workshop)
        }
        ContextSource::Git(mut reference) => {
            if typed.is_dated {
                reference.mtime.get_or_insert(GitTime::Commit);
            }
            let context = workshop.fetcher()?.git(&reference, typed.keep_git_dir)?;
            unpacked(context, typed.file, None, workshop)
        }
        ContextSource::Path(path) => local(path, typed.file, workshop),
        ContextSource::Image(_) | ContextSource::OciLayout(_) | ContextSource::Target(_) => {
            Err(CliError::usage(format!("`{}` can only be a named context", typed.context))
                .help("give it with `--build-context NAME=…`"))
        }
    }
}

fn from_stdin(file: Option<&Path>, workshop: &Workshop) -> Result<Opened> {
    // Not locked: the reader must be able to go to the decoder's thread.
    match workshop.fetcher()?.stream(io::stdin(), "standard input")? {
        FetchedContext::Folder(context) => unpacked(context, file, None, workshop),
        FetchedContext::Dockerfile(_) if file.is_some() => {
            let failure = CliError::usage(
                "there are two Dockerfiles: one on standard input, and the one that `-f` names",
            );
            Err(failure.help("leave out `-f`, or give a folder as the context and `-f -`"))
        }
        FetchedContext::Dockerfile(text) => {
            Ok(Opened { context: Context::Empty, dockerfile: text, name: "-".to_owned(), ignore: None })
        }
    }
}

/// A context in the store's temporary folder: its Dockerfile is read as a container would, so that no link in it leads to a
/// file of this machine.
fn unpacked(
    context: UnpackedContext,
    file: Option<&Path>,
    name: Option<&str>,
    workshop: &Workshop,
) -> Result<Opened> {
    let folder = &context.folder;
    let given = match file {
        Some(file) if is_elsewhere(file) => Some(elsewhere(file, workshop)?),
        Some(file) => read_in_context(folder, file)?.map(|text| (text, file.display().to_string())),
        None => {
            let mut found = None;
            for name in DOCKERFILES {
                if let Some(text) = read_in_context(folder, Path::new(name))? {
                    found = Some((text, name.to_owned()));
                    break;
                }
            }
            found
        }
    };
    let Some((dockerfile, found)) = given else {
        let file = file.map_or("Dockerfile".to_owned(), |file| file.display().to_string());
        let failure = CliError::usage(format!("there is no `{file}` in the build context"));
        return Err(failure.help("name it with `-f FILE`, relative to the context's root; a path that begins with `/` is on this machine"));
    };
    let name = name.map_or(found, str::to_owned);
    Ok(Opened { context: Context::Unpacked(context), dockerfile, name, ignore: None })
}

fn local(path: PathBuf, file: Option<&Path>, workshop: &Workshop) -> Result<Opened> {
    if !path.is_dir() {
        let (message, help) = match path.exists() {
            true => (
                format!("the build context `{}` is not a folder", path.display()),
                "name the folder, and the Dockerfile with `-f`; an archive is read from standard input: `rbuild - < FILE`",
            ),
            false => (
                format!("there is no build context `{}`", path.display()),
                "the last argument is the folder whose files COPY reads, often `.`",
            ),
        };
        return Err(CliError::usage(message).help(help));
    }
    let (dockerfile, name, dockerfile_path) = match file {
        Some(file) if file == Path::new("-") || is_url(file) => {
            let (text, name) = elsewhere(file, workshop)?;
            (text, name, None)
        }
        file => read_dockerfile(&path, file)?,
    };
    let ignore = read_ignore(&path, dockerfile_path.as_deref())?;
    Ok(Opened { context: Context::Directory(path), dockerfile, name, ignore })
}

fn is_url(file: &Path) -> bool {
    matches!(file.to_str(), Some(text) if text.starts_with("http://") || text.starts_with("https://"))
}

/// Whether `-f` names something that is not in the context, whatever the context is.
fn is_elsewhere(file: &Path) -> bool {
    file == Path::new("-") || is_url(file) || file.is_absolute()
}

/// A Dockerfile on standard input, behind a URL, or anywhere on this machine; and its name.
fn elsewhere(file: &Path, workshop: &Workshop) -> Result<(String, String)> {
    if file == Path::new("-") {
        let text = io::read_to_string(io::stdin()).map_err(|error| {
            CliError::environment("could not read the Dockerfile from standard input".to_owned(), error)
        })?;
        return Ok((text, "-".to_owned()));
    }
    match file.to_str().filter(|_| is_url(file)) {
        Some(url) => Ok(workshop.fetcher()?.text(url)?),
        None => read_file(file).map(|text| (text, file.display().to_string())),
    }
}

/// The Dockerfile's text, the name to show, and its path.
fn read_dockerfile(root: &Path, file: Option<&Path>) -> Result<(String, String, Option<PathBuf>)> {
    let path = match file {
        // As with Docker, a relative name is relative to where the command runs; one in the context is found as well.
        Some(file) if !file.exists() && root.join(file).exists() => root.join(file),
        Some(file) => file.to_owned(),
        None => {
            let found = DOCKERFILES.iter().map(|name| root.join(name)).find(|path| path.exists());
            found.ok_or_else(|| {
                let failure = CliError::usage(format!("there is no Dockerfile in `{}`", root.display()));
                failure.help("name it with `-f FILE`")
            })?
        }
    };
    let text = read_file(&path)?;
    let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
    Ok((text, name, Some(path)))
}

fn read_file(path: &Path) -> Result<String> {
    let fault = format!("could not read the Dockerfile `{}`", path.display());
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::usage(format!("there is no Dockerfile `{}`", path.display())),
        io::ErrorKind::IsADirectory => {
            CliError::usage(format!("`{}` is a folder, not a Dockerfile", path.display()))
        }
        _ => CliError::environment(fault.clone(), error),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        CliError::usage(format!("{fault}: it is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })
}

/// The ignore file beside the Dockerfile before the ones at the context's root.
fn read_ignore(root: &Path, dockerfile: Option<&Path>) -> Result<Option<(String, String)>> {
    let mut candidates = Vec::new();
    if let Some(path) = dockerfile {
        for ending in [".dockerignore", ".containerignore"] {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            candidates.push(PathBuf::from(name));
        }
    }
    candidates.extend([root.join(".dockerignore"), root.join(".containerignore")]);
    for path in candidates {
        match fs::read(&path) {
            Ok(bytes) => {
                return Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), path.display().to_string())));
            }
            // A folder of that name is no ignore file, as in the reference.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
            Err(error) => {
                return Err(CliError::environment(format!("could not read `{}`", path.display()), error));
            }
        }
    }
    Ok(None)
}

/// `--build-context NAME[::PLATFORM]=WHERE`, all of them.
pub(crate) fn named(texts: &[String], keep_git_dir: Option<bool>) -> Result<BTreeMap<String, NamedContext>> {
    texts.iter().map(|text| named_context(text, keep_git_dir)).collect()
}

fn named_context(text: &str, keep_git_dir: Option<bool>) -> Result<(String, NamedContext)> {
    let bad = |why: String| CliError::usage(format!("could not understand `--build-context {text}`: {why}"));
    let (name, place) = text.split_once('=').ok_or_else(|| bad("write it as NAME=WHERE".to_owned()))?;
    if name.is_empty() || place.is_empty() {
        return Err(bad("write it as NAME=WHERE".to_owned()));
    }
    if Location::has_transport(place) {
        return Ok((context_name(name).map_err(bad)?, image_elsewhere(place)?));
    }
    let context = match ContextSource::parse_named(place).map_err(|error| bad(error.to_string()))? {
        ContextSource::Image(name) if name == "scratch" => NamedContext::Scratch,
        ContextSource::Image(name) => NamedContext::Image(image_name(&name)?),
        ContextSource::OciLayout(rest) => oci_layout(&rest).map_err(bad)?,
        ContextSource::Git(reference) => {
            NamedContext::Git { reference: Box::new(reference), keep: keep_git_dir }
        }
        ContextSource::Url(url) => NamedContext::Url(url),
        ContextSource::Path(path) if path.is_dir() => {
            let ignore = read_ignore(&path, None)?.map(|(text, _)| text);
            NamedContext::Directory { path, ignore }
        }
        ContextSource::Path(path) => return Err(bad(format!("there is no folder `{}`", path.display()))),
        ContextSource::Stdin => {
            return Err(bad("standard input can only be the build context".to_owned())
                .help("unpack the archive, and name the folder"));
        }
        ContextSource::Target(target) => {
            return Err(bad(format!("`target:{target}` means a target of a bake file, which a single build does not have"))
                .help("build that target first, and give its image: `docker-image://REFERENCE` or `oci-layout://PATH`"));
        }
    };
    Ok((context_name(name).map_err(bad)?, context))
}

/// `NAME` in lower case, or `NAME::PLATFORM` with the platform as rbuild writes it.
fn context_name(text: &str) -> std::result::Result<String, String> {
    let Some((name, platform)) = text.split_once("::") else { return Ok(text.to_lowercase()) };
    let platform = Platform::parse(platform).map_err(|error| error.to_string())?;
    Ok(format!("{}::{}", name.to_lowercase(), platform.normalised()))
}

/// An image in skopeo's words.
fn image_elsewhere(text: &str) -> Result<NamedContext> {
    let location = Location::parse(text)?;
    let (path, name) = match &location {
        Location::Registry(name) => return Ok(NamedContext::Image(name.clone())),
        archive => archive.archive().ok_or_else(|| CliError::usage(format!("`{text}` names no image")))?,
    };
    let digest = name.and_then(|name| name.parse().ok());
    let tag = name.filter(|_| digest.is_none()).map(str::to_owned);
    Ok(NamedContext::OciLayout { path: path.to_owned(), tag, digest })
}

/// `PATH[:TAG][@DIGEST]`.
fn oci_layout(text: &str) -> std::result::Result<NamedContext, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|error| format!("`{digest}` is no digest: {error}"))?))
        }
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(NamedContext::OciLayout { path: path.into(), tag, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> std::result::Result<(String, String), String> {
        match named_context(text, None) {
            Ok((name, context)) => {
                Ok((name, format!("{context:?}").split([' ', '(']).next().unwrap_or_default().to_owned()))
            }
            Err(CliError::Plain(failure)) => Err(failure.to_string()),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_folder_is_no_ignore_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".dockerignore")).unwrap();
        assert_eq!(read_ignore(root.path(), None).unwrap(), None);
        fs::write(root.path().join(".containerignore"), "x").unwrap();
        assert_eq!(read_ignore(root.path(), None).unwrap().unwrap().0, "x");
    }

    #[test]
    fn named_contexts_of_every_kind() {
        for (text, name, kind) in [
            ("src=.", "src", "Directory"),
            ("SRC=https://x.test/a.tar.gz", "src", "Url"),
            ("src=https://x.test/a.git#main:sub", "src", "Git"),
            ("src=git@x.test:a/b", "src", "Git"),
            ("alpine=docker-image://alpine:3", "alpine", "Image"),
            ("alpine::linux/x86_64=docker-image://alpine:3", "alpine::linux/amd64", "Image"),
            ("base=docker-image://scratch", "base", "Scratch"),
            ("base=oci-layout://./l:tag", "base", "OciLayout"),
            ("base=oci:l:tag", "base", "OciLayout"),
            ("base=oci-archive:l.tar", "base", "OciLayout"),
            ("base=docker-archive:l.tar:app:1", "base", "OciLayout"),
            ("base=docker://alpine:3", "base", "Image"),
        ] {
            assert_eq!(named(text), Ok((name.to_owned(), kind.to_owned())), "{text}");
        }
        for (text, words) in [
            ("src", "NAME=WHERE"),
            ("=x", "NAME=WHERE"),
            ("src=", "NAME=WHERE"),
            ("src=-", "standard input"),
            ("src=target:base", "bake file"),
            ("src=no/such/folder", "there is no folder"),
            ("src=https://x.test/a.git?depth=1", "unknown key `depth`"),
            ("src::a/b/c/d=.", "a/b/c/d"),
        ] {
            let error = named(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
