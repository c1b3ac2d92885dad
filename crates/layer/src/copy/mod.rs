//! `COPY` and `ADD`: where sources land, and what they become there.
//!
//! The rules are those of the reference builder (`fsutil/copy`, BuildKit 0.32), not those of its documentation:
//!
//! - A destination is a directory if its text says so (it ends in `/` or `/.`, or is `.`), if it is one already, or
//!   if the source is one; links on the way to it and at its end are followed inside the root.
//! - Directories that have to be made are 0755 and root's, or the `--chown` owner's; an octal `--chmod` is theirs
//!   too (without setuid, setgid and sticky), a symbolic one not.
//! - Of a directory the contents are copied. The directory they go to keeps mode and owner and takes the source's
//!   time; directories below it take mode and owner of the source's also where they exist already.
//! - A file replaces what has its name by a new inode, so other hard links of that stay as they are. It never
//!   replaces a directory, and a directory replaces nothing.
//!
//! `COPY --link` is the same copy into a bare directory instead of the merged tree: there are no links to follow
//! there, and as an overlay's upper directory it hides what is not a directory below it.

mod error;
mod mode;
mod single;
mod transfer;

use std::ffi::OsStr;

use rayon::prelude::*;
use rbuild_context::{Match, Selection, Tree};
use rbuild_fs::{FinalSymlink, Meta, NewDir, PathError, Root, RootfsPath, Timestamp};

pub use error::CopyError;
pub use mode::{Chmod, InvalidMode, SymbolicMode};
pub use single::{SingleFile, copy_file};

use crate::unpack::{UnpackOptions, is_archive, unpack_archive};
use transfer::{Job, Transfer};

/// Whether archives are unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpack {
    /// Files stay files: `COPY`, `ADD --unpack=false`, and what `ADD` takes from a URL.
    #[default]
    Never,
    /// A regular file that is a tar archive, plain or compressed, is unpacked: other `ADD`s, and `--unpack=true`.
    Auto,
}

/// The flags of an instruction that matter to copying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Owner and group of everything copied and made; `None` keeps the source's, and made directories are root's.
    pub chown: Option<(u32, u32)>,
    /// `--chmod`. Symbolic links have no mode, and unpacked archives keep theirs.
    pub chmod: Option<Chmod>,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
    /// Time of directories that have to be made; `None` is now.
    pub created: Option<Timestamp>,
    /// `--parents`: the destination is made also if nothing matched.
    pub parents: bool,
    /// Names of one file become files of their own, as overlayfs makes them when one is written to.
    pub split_links: bool,
}

impl CopyOptions {
    /// What directories are like that have to be made.
    fn new_dir(&self) -> NewDir {
        let (uid, gid) = self.chown.unwrap_or((0, 0));
        let mode = match self.chmod {
            Some(Chmod::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        };
        NewDir { mode, uid, gid, mtime: self.created }
    }

    /// Gives directories that had to be made their time once nothing is added to them any more.
    fn set_times(&self, to: &Root, made: &[RootfsPath]) -> Result<(), PathError> {
        self.created.map_or(Ok(()), |time| made.iter().try_for_each(|path| to.set_mtime(path, time)))
    }

    /// What a source becomes.
    fn meta(&self, source: &Meta) -> Meta {
        let (uid, gid) = self.chown.unwrap_or((source.uid, source.gid));
        let mode = match &self.chmod {
            Some(chmod) if !source.is_symlink() => chmod.apply(source.mode, source.is_dir()),
            _ => source.mode,
        };
        Meta { uid, gid, mode, ..source.clone() }
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Files of every kind but directories.
    pub files: u64,
    /// Directories, made or merged into.
    pub directories: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Archives unpacked.
    pub archives: u64,
    /// Extended attributes that the destination would not take; as with the reference builder no error.
    pub lost_attributes: u64,
}

/// Copies what the sources of an instruction selected. `dest_is_dir` says that the destination's text ends in `/`
/// or `/.`, or is `.`. A wildcard without a match makes nothing, not even the destination.
///
/// # Errors
/// [`CopyError`]; what was copied by then stays.
pub fn copy(
    from: &Tree,
    selections: &[Selection],
    to: &Root,
    destination: &RootfsPath,
    dest_is_dir: bool,
    options: &CopyOptions,
) -> Result<CopySummary, CopyError> {
    let mut copier = Copier { from, to, destination, dest_is_dir, options, made: Vec::new() };
    let mut summary = CopySummary::default();
    if options.parents {
        copier.made.extend(to.create_dir_all(destination, &options.new_dir())?);
    }
    for found in selections.iter().flat_map(|selection| &selection.matches) {
        match found.entries.first() {
            Some(own) if own.meta.is_dir() => copier.directory(found, &mut summary)?,
            Some(own) => copier.file(found, &own.meta, &mut summary)?,
            None => {}
        }
    }
    options.set_times(to, &copier.made)?;
    Ok(summary)
}

/// Where a single file goes: its folder is made (and added to `made`), links are followed, and a directory takes it
/// under `name`.
fn place_file(
    to: &Root,
    destination: &RootfsPath,
    dest_is_dir: bool,
    name: &OsStr,
    options: &CopyOptions,
    made: &mut Vec<RootfsPath>,
) -> Result<RootfsPath, PathError> {
    made.extend(make_destination(to, destination, dest_is_dir, options)?);
    let resolved = to.resolve(destination, FinalSymlink::Follow)?;
    if to.meta(&resolved)?.is_some_and(|meta| meta.is_dir()) {
        return Ok(resolved.join(name));
    }
    // A dangling link may lead into folders that do not exist yet.
    if let Some(parent) = resolved.parent() {
        made.extend(to.create_dir_all(&parent, &options.new_dir())?);
    }
    Ok(resolved)
}

/// Makes the destination if its text says that it is a directory, else the folder it lies in; the answer is what
/// was made.
fn make_destination(
    to: &Root,
    destination: &RootfsPath,
    dest_is_dir: bool,
    options: &CopyOptions,
) -> Result<Vec<RootfsPath>, PathError> {
    let directory = if dest_is_dir { Some(destination.clone()) } else { destination.parent() };
    directory.map_or(Ok(Vec::new()), |path| to.create_dir_all(&path, &options.new_dir()))
}

struct Copier<'a> {
    from: &'a Tree,
    to: &'a Root,
    destination: &'a RootfsPath,
    dest_is_dir: bool,
    options: &'a CopyOptions,
    /// Directories that had to be made on the way to the destination.
    made: Vec<RootfsPath>,
}

impl Copier<'_> {
    fn file(&mut self, found: &Match, meta: &Meta, summary: &mut CopySummary) -> Result<(), CopyError> {
        if self.options.unpack == Unpack::Auto && self.unpacked(found, meta)? {
            summary.archives += 1;
            return Ok(());
        }
        let (name, made) = (&found.name, &mut self.made);
        let target = place_file(self.to, self.destination, self.dest_is_dir, name, self.options, made)?;
        let job = Job { source: found.path.clone(), meta, target };
        summary.files += 1;
        summary.bytes += job.bytes();
        summary.lost_attributes += self.transfer().node(&job)?;
        Ok(())
    }

    /// Unpacks the file if it is an archive.
    fn unpacked(&self, found: &Match, meta: &Meta) -> Result<bool, CopyError> {
        let Some(file) = self.from.content(&found.path, meta)? else { return Ok(false) };
        if !is_archive(file) {
            return Ok(false);
        }
        let Some(archive) = self.from.content(&found.path, meta)? else { return Ok(false) };
        let options = UnpackOptions { chown: self.options.chown, created: self.options.created };
        let destination = self.to.resolve(self.destination, FinalSymlink::Follow)?;
        unpack_archive(archive, self.to, &destination, &options)?;
        Ok(true)
    }

    fn directory(&mut self, found: &Match, summary: &mut CopySummary) -> Result<(), CopyError> {
        let Some((own, entries)) = found.entries.split_first() else { return Ok(()) };
        let target = self.directory_target()?;
        let jobs = entries.iter().map(|entry| Job {
            source: found.path.join(&entry.path),
            meta: &entry.meta,
            target: target.join(&entry.path),
        });
        let (directories, files): (Vec<_>, Vec<_>) = jobs.partition(|job| job.meta.is_dir());
        let transfer = self.transfer();
        directories.iter().try_for_each(|job| transfer.make_directory(job))?;
        let (files, links) = if self.options.split_links {
            (files, Vec::new())
        } else {
            transfer::apart_from_hard_links(files)
        };
        let lost: u64 = files
            .par_iter()
            .with_min_len(transfer::FILES_AT_ONCE)
            .map(|job| transfer.node(job))
            .try_reduce(|| 0, |a, b| Ok(a + b))?;
        links.iter().try_for_each(|(first, job)| transfer.hard_link(first, job))?;
        // From the deepest, and after all that lies in them, so that their times stay.
        for job in directories.iter().rev() {
            summary.lost_attributes += transfer.finish_directory(job)?;
        }
        self.to.set_mtime(&target, own.meta.mtime)?;
        summary.directories += directories.len() as u64 + 1;
        summary.files += (files.len() + links.len()) as u64;
        summary.bytes += files.iter().map(Job::bytes).sum::<u64>();
        summary.lost_attributes += lost;
        Ok(())
    }

    /// The directory that the contents of a source go to; it is made if it is missing.
    fn directory_target(&mut self) -> Result<RootfsPath, CopyError> {
        self.made.extend(make_destination(self.to, self.destination, self.dest_is_dir, self.options)?);
        let target = self.to.resolve(self.destination, FinalSymlink::Follow)?;
        match self.to.meta(&target)? {
            Some(meta) if !meta.is_dir() => return Err(CopyError::NotADirectory(target)),
            Some(_) => {}
            None => self.made.extend(self.to.create_dir_all(&target, &self.options.new_dir())?),
        }
        Ok(target)
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer { from: self.from, to: self.to, options: self.options }
    }
}
