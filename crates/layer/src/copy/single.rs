//! One file that lies in no tree: a heredoc, or what `ADD` took from a URL.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;

use rbuild_fs::{FileKind, Meta, Root, RootfsPath, Timestamp};

use super::transfer::file_error;
use super::{CopyError, CopyOptions, place_file};

/// A file given by its content.
pub struct SingleFile<'a> {
    /// Its name in a destination that is a directory.
    pub name: OsString,
    /// What is in it.
    pub content: &'a mut dyn Read,
    /// Its mode before `--chmod`: 0644 for heredocs, 0600 for URLs.
    pub mode: u32,
    /// Time of last change; `None` is now.
    pub mtime: Option<Timestamp>,
}

impl fmt::Debug for SingleFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mode, mtime, .. } = self;
        f.debug_struct("SingleFile").field("name", name).field("mode", mode).field("mtime", mtime).finish()
    }
}

/// Copies a file given by its content, by the rules of [`copy`](super::copy()); the answer is where it lies.
///
/// # Errors
/// As [`copy`](super::copy()), and what reading the content says.
pub fn copy_file(
    file: &mut SingleFile<'_>,
    to: &Root,
    destination: &RootfsPath,
    dest_is_dir: bool,
    options: &CopyOptions,
) -> Result<RootfsPath, CopyError> {
    let mut made = Vec::new();
    let target = place_file(to, destination, dest_is_dir, &file.name, options, &mut made)?;
    let mtime = file.mtime.unwrap_or_else(Timestamp::now);
    let meta = options.meta(&Meta::new(FileKind::File, file.mode, 0, 0, mtime));
    to.make(&target, &meta, Some(file.content)).map_err(|error| file_error(error, &target))?;
    options.set_times(to, &made)?;
    Ok(target)
}
