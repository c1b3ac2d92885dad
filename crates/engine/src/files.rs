//! Where COPY, ADD and mounts read from: the build context, a named one, or the root file system of a stage or image.

use std::sync::Arc;

use rbuild_context::{ContentDigest, EntryFacts, SelectOptions, Selection, StatCache, Tree};
use rbuild_dockerfile::Source;
use rbuild_fs::Root;
use rbuild_image::Digest;
use rbuild_store::{FileFacts, MemoLinks, Resource};

use crate::build::{Builder, StageRun};
use crate::contexts::unpacked_files;
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::request::NamedContext;
use crate::shared_cache::TreeContent;
use crate::state::Rootfs;

/// Memo kind of content digests of selections in immutable trees.
const CONTENT: &str = "selection";

/// A tree to read from, opened only when its files are needed.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    /// A folder of this machine; its files may change between builds.
    Folder(Arc<FolderContext>),
    /// A root file system that never changes.
    Rootfs(Rootfs),
    /// Files made for one step: heredocs, what was fetched.
    Made(Arc<Tree>),
}

/// A build context in a folder, with the digests known from earlier builds.
#[derive(Debug)]
pub(crate) struct FolderContext {
    pub(crate) tree: Tree,
    pub(crate) digests: StatCache,
}

/// What a source selected, and what of it belongs in a key.
pub(crate) struct Selected {
    pub(crate) selection: Selection,
    pub(crate) content: ContentDigest,
}

impl Builder<'_> {
    /// What `--from=` or a mount's `from=` means; waits for the stage if it is one.
    pub(crate) fn files_of(&self, source: &Source, run: &StageRun<'_>) -> Result<Files> {
        match source {
            Source::Stage(id) => {
                Ok(Files::Rootfs(self.stage_of(run.stages, run.index, id.0)?.rootfs.clone()))
            }
            Source::Image { name, platform } => {
                Ok(Files::Rootfs(self.images.by_name(name, platform.as_deref())?.rootfs()))
            }
            Source::Scratch => Ok(Files::Rootfs(Rootfs::Empty)),
            Source::Context(name) => self.context_files(name),
        }
    }

    /// The files of a named context.
    pub(crate) fn context_files(&self, name: &str) -> Result<Files> {
        match self.request.named_contexts.get(name) {
            Some(NamedContext::Directory { path, ignore }) => self.folder(path, ignore.as_deref(), name),
            Some(context @ (NamedContext::Git { .. } | NamedContext::Url(_))) => {
                self.fetched(name, || self.fetch_context(context))
            }
            Some(NamedContext::Unpacked(folder)) => self.fetched(name, || unpacked_files(folder)),
            Some(other) => {
                let image = self.images.of_context(other)?;
                Ok(Files::Rootfs(image.map_or(Rootfs::Empty, |image| image.rootfs())))
            }
            None => Err(Failure::new(FailureKind::Build, format!("no build context named `{name}`")).into()),
        }
    }

    /// The tree of these files.
    pub(crate) fn open(&self, files: &Files) -> Result<OpenFiles> {
        match files {
            Files::Folder(folder) => Ok(OpenFiles::Folder(folder.clone())),
            Files::Made(tree) => Ok(OpenFiles::Rootfs(tree.clone())),
            Files::Rootfs(Rootfs::Empty) => {
                let empty = self.store.temporary("empty");
                std::fs::create_dir(&empty)
                    .explain(FailureKind::Environment, || "could not write to the store".to_owned())?;
                let root = Root::open(&empty)
                    .explain(FailureKind::Environment, || "could not write to the store".to_owned())?;
                Ok(OpenFiles::Rootfs(Arc::new(Tree::rootfs(root))))
            }
            Files::Rootfs(rootfs) => {
                let mounted = self.mount_read_only(rootfs)?;
                Ok(OpenFiles::Rootfs(Arc::new(Tree::rootfs(crate::steps::mounted_root(&mounted)?))))
            }
        }
    }

    /// The digest of what `source` selects; for an immutable tree from memory, without opening it. What is said of such a
    /// tree is added to `contents`.
    pub(crate) fn content_digest(
        &self,
        files: &Files,
        source: &str,
        options: &SelectOptions,
        contents: &mut Vec<TreeContent>,
    ) -> Result<Digest> {
        let Some((identity, about)) = identity(files) else {
            return self.digest_and_note(files, source, options);
        };
        let selection = format!("{source:?} {options:?}");
        let key = format!("{identity} {selection}");
        let fault = || "could not read the build cache".to_owned();
        if let Some(known) =
            self.store.memo::<Digest>(CONTENT, &key).explain(FailureKind::Environment, fault)?
        {
            contents.extend(tree_content(files, selection, &known));
            return Ok(known);
        }
        // Another machine may know it: then the tree need not be brought here to be read.
        let known = match files {
            Files::Rootfs(Rootfs::Layers(stack)) => self.shared.cache.content(stack.key(), &selection),
            _ => None,
        };
        let digest = match known {
            Some(known) => known,
            None => self.digest_and_note(files, source, options)?,
        };
        contents.extend(tree_content(files, selection, &digest));
        let links = MemoLinks { keeps: Vec::new(), about };
        self.store.put_memo(CONTENT, &key, &digest, &links).explain(FailureKind::Environment, fault)?;
        Ok(digest)
    }

    /// Digests what `source` selects, and notes which files that were: a later miss can then say which one changed.
    fn digest_and_note(&self, files: &Files, source: &str, options: &SelectOptions) -> Result<Digest> {
        let content = self.select(&self.open(files)?, source, options)?.content;
        let facts = |facts: &EntryFacts| FileFacts {
            mode: facts.mode & 0o7777,
            uid: facts.uid,
            gid: facts.gid,
            content: facts.content.to_string(),
        };
        let list = content.entries.iter().map(|(path, known)| (path.display().to_string(), facts(known)));
        self.store
            .put_file_list(&content.digest, &list.collect())
            .explain(FailureKind::Environment, || "could not write to the build cache".to_owned())?;
        Ok(content.digest)
    }

    /// Selects and digests.
    pub(crate) fn select(
        &self,
        files: &OpenFiles,
        source: &str,
        options: &SelectOptions,
    ) -> Result<Selected> {
        let fault = || format!("could not read `{source}`");
        let selection = files.tree().select(source, options).map_err(|error| missing(error, source))?;
        let cache = match files {
            OpenFiles::Folder(folder) => Some(&folder.digests),
            OpenFiles::Rootfs(_) => None,
        };
        let content = files.tree().digest(&selection, cache).explain(FailureKind::Build, fault)?;
        Ok(Selected { selection, content })
    }
}

/// Files that can be read now.
#[derive(Debug)]
pub(crate) enum OpenFiles {
    Folder(Arc<FolderContext>),
    Rootfs(Arc<Tree>),
}

impl OpenFiles {
    pub(crate) fn tree(&self) -> &Tree {
        match self {
            OpenFiles::Folder(folder) => &folder.tree,
            OpenFiles::Rootfs(tree) => tree,
        }
    }
}

fn tree_content(files: &Files, selection: String, digest: &Digest) -> Option<TreeContent> {
    let Files::Rootfs(rootfs) = files else { return None };
    Some(TreeContent { rootfs: rootfs.clone(), selection, digest: digest.clone() })
}

/// A name for a tree that never changes, and what it goes with.
fn identity(files: &Files) -> Option<(String, Vec<Resource>)> {
    match files {
        Files::Rootfs(Rootfs::Snapshot(id)) => {
            Some((format!("snapshot {id}"), vec![Resource::Snapshot(*id)]))
        }
        Files::Rootfs(Rootfs::Layers(stack)) => Some((format!("image {}", stack.key()), Vec::new())),
        Files::Rootfs(Rootfs::Empty) | Files::Folder(_) | Files::Made(_) => None,
    }
}

fn missing(error: rbuild_context::SelectError, source: &str) -> Failure {
    use rbuild_context::SelectError::{Dangling, NotFound};
    let help = match &error {
        NotFound { ignored_by: Some(rule), .. } | Dangling { ignored_by: Some(rule), .. } => {
            Some(format!("line {} of the ignore file (`{}`) excludes it", rule.line, rule.pattern))
        }
        NotFound { .. } => Some("sources are looked for beneath the root of what is copied from".to_owned()),
        _ => None,
    };
    let mut failure = Failure::new(FailureKind::Build, format!("could not find `{source}`"));
    if !matches!(error, NotFound { .. }) {
        failure = failure.caused_by(error);
    }
    failure.help = help;
    failure
}
