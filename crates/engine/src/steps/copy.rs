//! COPY and ADD.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_context::source::is_http_source;
use rbuild_context::{GitReference, SelectOptions, Tree};
use rbuild_dockerfile::{Command, Copy, CopyKind, Diagnostic, Heredoc, Instruction};
use rbuild_fs::{Root, RootfsPath, Timestamp};
use rbuild_image::{Digest, ImageError};
use rbuild_layer::copy::{Chmod, CopyOptions, Unpack};

use super::Step;
use crate::build::Builder;
use crate::error::{AtSpan, BuildError, Explain, Failure, FailureKind, Result};
use crate::files::Files;
use crate::state::{Rootfs, StageState};
use crate::users;

/// One source of the instruction.
struct Piece {
    files: Files,
    /// As written, or the name of a file made for the purpose.
    source: String,
    options: SelectOptions,
    unpack: Unpack,
}

impl Builder<'_> {
    /// `COPY` and `ADD`, their words expanded; `from` is where COPY reads, the build context unless `--from` says otherwise.
    pub(crate) fn copy(
        &self,
        state: &mut StageState,
        copy: &Copy,
        from: &Files,
        mut step: Step,
    ) -> Result<()> {
        let destination_text = copy.destination.text.as_str();
        let destination = RootfsPath::new(state.working_dir()).join(destination_text);
        let into_folder = destination_text.ends_with('/')
            || matches!(destination_text, "." | "..")
            || destination_text.ends_with("/.")
            || destination_text.ends_with("/..");
        let pieces = self.pieces(copy, from)?;
        let chown = copy.chown.as_ref().filter(|word| !word.text.is_empty());
        let chmod = copy.chmod.as_ref().filter(|word| !word.text.is_empty());
        if let Some(owner) = chown {
            let bare = if step.bare { &Rootfs::Empty } else { &state.rootfs };
            users::can_be_found(&owner.text, bare).at(owner.span)?;
        }

        let Step { parts, contents, .. } = &mut step;
        parts.text("instruction", if copy.kind == CopyKind::Add { "ADD" } else { "COPY" });
        parts.text("parent", &*state.key);
        parts.text("destination", format!("{destination}{}", if into_folder { "/" } else { "" }));
        for (name, value) in [("--chown", chown), ("--chmod", chmod)] {
            if let Some(word) = value {
                parts.text(name, &*word.text);
            }
        }
        let chmod = chmod.map(|word| parse_chmod(&word.text).at(word.span)).transpose()?;
        let flags = [("--link", copy.link), ("--parents", copy.parents)];
        for (name, _) in flags.into_iter().filter(|(_, given)| *given) {
            parts.text(name, "true");
        }
        if let Some(epoch) = self.request.epoch {
            parts.text("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        for (piece, span) in pieces.iter().zip(spans(copy)) {
            let digest =
                self.content_digest(&piece.files, &piece.source, &piece.options, contents).at(span)?;
            parts.content(format!("source {}", name_in_key(&piece.source, copy.parents)), digest);
            parts.text("unpack", format!("{:?}", piece.unpack));
        }

        self.step(state, step, |workspace| {
            let chown = chown.map(|owner| users::for_chown(&workspace.root, &owner.text)).transpose()?;
            for (piece, span) in pieces.iter().zip(spans(copy)) {
                let opened = self.open(&piece.files)?;
                let selection = self.select(&opened, &piece.source, &piece.options).at(span)?.selection;
                let options = CopyOptions {
                    chown,
                    chmod: chmod.clone(),
                    unpack: piece.unpack,
                    created: self.request.epoch.map(Timestamp::from_seconds),
                    parents: copy.parents,
                    split_links: false,
                };
                rbuild_layer::copy::copy(
                    opened.tree(),
                    &[selection],
                    &workspace.root,
                    &destination,
                    into_folder,
                    &options,
                )
                .explain(FailureKind::Build, || {
                    format!("could not copy `{}` to `{destination_text}`", piece.source)
                })
                .at(span)?;
            }
            Ok(())
        })
    }

    fn pieces(&self, copy: &Copy, from: &Files) -> Result<Vec<Piece>> {
        let options = SelectOptions {
            wildcards: true,
            exclude: copy.exclude.iter().map(|word| word.text.clone()).collect(),
            parents: copy.parents,
        };
        let unpack = match (copy.kind, copy.unpack) {
            (CopyKind::Copy, _) | (CopyKind::Add, Some(false)) => Unpack::Never,
            (CopyKind::Add, _) => Unpack::Auto,
        };
        if let Some(fault) = bad_checksum(copy) {
            return Err(BuildError::Dockerfile(vec![fault]));
        }
        let mut pieces = Vec::new();
        for source in &copy.sources {
            let checksum = copy.checksum.as_ref().map(|word| word.text.as_str());
            pieces.push(match remote_source(copy.kind, &source.text).at(source.span)? {
                Some(Remote::Http) => {
                    let (files, name) = self.fetch_file(&source.text, checksum).at(source.span)?;
                    let unpack = if copy.unpack == Some(true) { Unpack::Auto } else { Unpack::Never };
                    Piece { files, source: format!("/{name}"), options: SelectOptions::default(), unpack }
                }
                Some(Remote::Git(reference)) => {
                    let files = self.fetch_git(&reference, copy.keep_git_dir, checksum).at(source.span)?;
                    let options = SelectOptions { wildcards: false, parents: false, ..options.clone() };
                    Piece { files, source: "/".to_owned(), options, unpack: Unpack::Never }
                }
                None => Piece {
                    files: from.clone(),
                    source: source.text.clone(),
                    options: options.clone(),
                    unpack,
                },
            });
        }
        if !copy.heredocs.is_empty() {
            let files = self.heredoc_files(&copy.heredocs)?;
            pieces.extend(copy.heredocs.iter().map(|heredoc| Piece {
                files: files.clone(),
                source: format!("/{}", heredoc.name),
                options: SelectOptions::default(),
                unpack: Unpack::Never,
            }));
        }
        Ok(pieces)
    }

    /// The bodies as files named by their delimiters, mode 0644.
    fn heredoc_files(&self, heredocs: &[Heredoc]) -> Result<Files> {
        let folder = self.made_folder()?;
        for heredoc in heredocs {
            write_file(&folder, &heredoc.name, heredoc.chomped().as_bytes(), 0o644)?;
        }
        made_files(&folder)
    }

    /// A folder for files that a step needs; it goes with the build.
    pub(crate) fn made_folder(&self) -> Result<PathBuf> {
        self.fetcher().made_folder()
    }
}

/// Writes one file of a made folder; its name is one component, whatever the Dockerfile says.
pub(crate) fn write_file(folder: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let fault = || format!("could not write the file `{name}`");
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Failure::new(FailureKind::Build, format!("`{name}` cannot be the name of a file")).into());
    }
    let path = folder.join(name);
    fs::write(&path, content).explain(FailureKind::Environment, fault)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).explain(FailureKind::Environment, fault)
}

/// A made folder as something to copy from: owners and modes as they were made.
pub(crate) fn made_files(folder: &Path) -> Result<Files> {
    let root =
        Root::open(folder).explain(FailureKind::Environment, || "could not read the store".to_owned())?;
    Ok(Files::Made(Arc::new(Tree::rootfs(root))))
}

/// What of a source belongs in the key beside its content, as in the reference: the last name, for that is what lands at
/// the destination; with `--parents` all of it.
fn name_in_key(source: &str, parents: bool) -> String {
    let path = RootfsPath::new(source);
    match path.file_name().filter(|_| !parents) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => source.to_owned(),
    }
}

/// The places of the sources, heredocs last, as [`Builder::pieces`] lists them.
fn spans(copy: &Copy) -> impl Iterator<Item = rbuild_dockerfile::Span> + '_ {
    copy.sources.iter().map(|word| word.span).chain(copy.heredocs.iter().map(|heredoc| heredoc.word))
}

/// A source of ADD that is not in the context.
pub(crate) enum Remote {
    /// A file by HTTP.
    Http,
    /// A commit of a repository.
    Git(GitReference),
}

/// What a source is, of COPY and ADD, where it is elsewhere.
pub(crate) fn remote_source(kind: CopyKind, source: &str) -> Result<Option<Remote>> {
    if kind == CopyKind::Copy {
        return Ok(None);
    }
    let reference = GitReference::parse(source)
        .explain(FailureKind::Build, || format!("could not understand the address `{source}`"))?;
    match reference.filter(|reference| !reference.bare) {
        Some(reference) => Ok(Some(Remote::Git(reference))),
        None => Ok(is_http_source(source).then_some(Remote::Http)),
    }
}

/// What is wrong with an instruction whose variables are replaced, whatever files it will find.
pub(crate) fn refused(instruction: &Instruction) -> Option<Diagnostic> {
    let (Command::Copy(copy) | Command::Add(copy)) = &instruction.command else { return None };
    let chmod = copy.chmod.as_ref().filter(|word| !word.text.is_empty());
    let no_mode = chmod.and_then(|word| {
        let error = word.text.parse::<Chmod>().err()?;
        Some(Diagnostic::error(error.to_string(), word.span).help("write 0755, or u=rwX,go=rX"))
    });
    no_mode.or_else(|| bad_checksum(copy))
}

/// A `--checksum` that is none, or has nothing to check.
fn bad_checksum(copy: &Copy) -> Option<Diagnostic> {
    let word = copy.checksum.as_ref()?;
    let [source] = copy.sources.as_slice() else {
        let fault = Diagnostic::error("checksum can't be specified for multiple sources", word.span);
        return Some(fault.help("write one ADD for each source"));
    };
    match remote_source(copy.kind, &source.text) {
        Ok(None) => Some(
            Diagnostic::error("checksum requires HTTP(S) or Git sources", word.span)
                .label(source.span, "a file of the build context"),
        ),
        Ok(Some(Remote::Http)) => {
            let reason = match word.text.parse::<Digest>().err()? {
                ImageError::Digest { reason, .. } => reason.to_owned(),
                other => other.to_string(),
            };
            let fault = Diagnostic::error(format!("`{}` is no checksum", word.text), word.span);
            Some(fault.label(word.span, reason).help("write sha256: and 64 hexadecimal digits"))
        }
        _ => None,
    }
}

fn parse_chmod(text: &str) -> Result<Chmod> {
    text.parse::<Chmod>().map_err(|error| Failure::new(FailureKind::Build, error.to_string()).into())
}
