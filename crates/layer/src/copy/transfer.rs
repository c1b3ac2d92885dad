//! Bringing single files and directories over.

use std::collections::HashMap;
use std::io;

use rbuild_context::Tree;
use rbuild_fs::{FileKind, Meta, NewDir, PathContext, PathError, Root, RootfsPath};
use rustix::io::Errno;

use super::{CopyError, CopyOptions};

/// Files that one thread takes at a time at least: small ones cost less than handing them over.
pub(super) const FILES_AT_ONCE: usize = 16;

/// One file or directory to copy.
pub(super) struct Job<'a> {
    /// In the source's tree.
    pub(super) source: RootfsPath,
    /// As the source's tree shows it.
    pub(super) meta: &'a Meta,
    /// In the destination's root.
    pub(super) target: RootfsPath,
}

impl Job<'_> {
    /// Bytes of content.
    pub(super) fn bytes(&self) -> u64 {
        if self.meta.is_file() { self.meta.size } else { 0 }
    }
}

/// Sets apart the further names of files, with where the first name goes. Hard links are kept within one copied
/// directory, as the reference builder keeps them.
pub(super) fn apart_from_hard_links(jobs: Vec<Job<'_>>) -> (Vec<Job<'_>>, Vec<(RootfsPath, Job<'_>)>) {
    let mut first_names: HashMap<(u64, u64), RootfsPath> = HashMap::new();
    let (mut files, mut links) = (Vec::with_capacity(jobs.len()), Vec::new());
    for job in jobs {
        if job.meta.nlink > 1 && job.meta.is_file() {
            let inode = (job.meta.device, job.meta.inode);
            if let Some(first) = first_names.get(&inode) {
                links.push((first.clone(), job));
                continue;
            }
            first_names.insert(inode, job.target.clone());
        }
        files.push(job);
    }
    (files, links)
}

/// Says what it means that a directory lies where a file should go.
pub(super) fn file_error(error: PathError, target: &RootfsPath) -> CopyError {
    if error.is(Errno::ISDIR) { CopyError::FileOverDirectory(target.clone()) } else { error.into() }
}

/// From where to where, and how.
pub(super) struct Transfer<'a> {
    pub(super) from: &'a Tree,
    pub(super) to: &'a Root,
    pub(super) options: &'a CopyOptions,
}

impl Transfer<'_> {
    /// Copies anything but a directory; the answer is the number of attributes that were lost.
    pub(super) fn node(&self, job: &Job<'_>) -> Result<u64, CopyError> {
        let meta = self.options.meta(job.meta);
        if meta.kind != FileKind::File {
            let made = self.to.make(&job.target, &meta, None);
            return made.map(|()| 0).map_err(|error| file_error(error, &job.target));
        }
        let mut new = self.to.create_file(&job.target).map_err(|error| file_error(error, &job.target))?;
        if let Some(mut content) = self.from.content(&job.source, job.meta)? {
            // Within the kernel, and as a reflink where the file system has them (copy_file_range(2)).
            io::copy(&mut content, new.file()).on("copy", self.from.root().name_of(&job.source))?;
        }
        new.finish(&meta)?;
        self.attributes(job)
    }

    pub(super) fn hard_link(&self, first: &RootfsPath, job: &Job<'_>) -> Result<(), CopyError> {
        self.to.hard_link(first, &job.target).map_err(|error| file_error(error, &job.target))
    }

    /// Makes a directory if it is not there yet, open to us until it is finished.
    pub(super) fn make_directory(&self, job: &Job<'_>) -> Result<(), CopyError> {
        match self.to.meta(&job.target)? {
            Some(meta) if meta.is_dir() => Ok(()),
            Some(_) => Err(CopyError::NotADirectory(job.target.clone())),
            None => {
                let new = NewDir { mode: 0o700, ..self.options.new_dir() };
                Ok(self.to.create_dir_all(&job.target, &new).map(drop)?)
            }
        }
    }

    /// Gives a directory what its source has; the answer is the number of attributes that were lost.
    pub(super) fn finish_directory(&self, job: &Job<'_>) -> Result<u64, CopyError> {
        self.to.set_meta(&job.target, &self.options.meta(job.meta))?;
        self.attributes(job)
    }

    fn attributes(&self, job: &Job<'_>) -> Result<u64, CopyError> {
        let attributes = self.from.xattrs(&job.source)?;
        let lost =
            attributes.iter().filter(|(name, value)| self.to.set_xattr(&job.target, name, value).is_err());
        Ok(lost.count() as u64)
    }
}
