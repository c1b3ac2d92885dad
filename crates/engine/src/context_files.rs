//! The contexts of a build: each is opened, or brought here, when the first step wants it, once.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use rbuild_context::{IgnoreFile, StatCache, Tree};

use crate::build::Builder;
use crate::contexts::unpacked_files;
use crate::error::{Explain, FailureKind, Result};
use crate::event::Event;
use crate::files::{Files, FolderContext};
use crate::request::Context;
use crate::state::Rootfs;

impl Builder<'_> {
    /// The build context, opened when the first step wants it.
    pub(crate) fn context(&self) -> Result<Files> {
        match &self.request.context {
            Context::Directory(path) => {
                self.folder(path, self.request.ignore.as_ref().map(|(text, _)| text.as_str()), "")
            }
            Context::Unpacked(context) => self.fetched("", || unpacked_files(&context.folder)),
            Context::Empty => Ok(Files::Rootfs(Rootfs::Empty)),
        }
    }

    /// A context that is brought here when the first step wants it, once.
    pub(crate) fn fetched(&self, name: &str, fetch: impl FnOnce() -> Result<Files>) -> Result<Files> {
        let mut fetched = self.shared.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = fetched.get(name) {
            return Ok(files.clone());
        }
        let files = fetch()?;
        fetched.insert(name.to_owned(), files.clone());
        Ok(files)
    }

    /// A folder of this machine as a context, each opened once.
    pub(crate) fn folder(&self, path: &Path, ignore: Option<&str>, name: &str) -> Result<Files> {
        let mut folders = self.shared.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{name}\0{}", path.display());
        if let Some(files) = folders.get(&key) {
            return Ok(files.clone());
        }
        let ignore = match ignore {
            Some(text) => Some(
                IgnoreFile::parse(text)
                    .explain(FailureKind::Build, || "could not understand the ignore file".to_owned())?,
            ),
            None => None,
        };
        let tree = Tree::directory(path, ignore).explain(FailureKind::Build, || {
            format!("could not read the build context `{}`", path.display())
        })?;
        let digests = StatCache::load(self.store.stat_cache_path(&tree.root().name().display().to_string()));
        let files = Files::Folder(Arc::new(FolderContext { tree, digests }));
        folders.insert(key, files.clone());
        Ok(files)
    }

    /// Keeps the digests of context files for the next build. They only save time: a failure costs nothing else.
    pub(crate) fn save_stat_caches(&self) {
        for files in self.shared.folders.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if let Files::Folder(folder) = files {
                let path = self.store.stat_cache_path(&folder.tree.root().name().display().to_string());
                if let Err(error) = folder.digests.save(path) {
                    self.events.event(Event::Warning { text: &error.to_string() });
                }
            }
        }
    }
}
