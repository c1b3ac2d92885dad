//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::error::{Explain, FailureKind, Result};
use crate::request::Destination;

/// Writes a file that appears whole or not at all, or standard output.
pub(crate) fn into_destination(
    to: &Destination,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let fault = || format!("could not write to {}", place(to));
    match to {
        Destination::Stdout => {
            let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
            write(&mut out).and_then(|()| out.flush()).explain(FailureKind::Environment, fault)
        }
        Destination::File(path) if is_special(path) => {
            let mut out = BufWriter::new(
                File::options().write(true).open(path).explain(FailureKind::Environment, fault)?,
            );
            write(&mut out).and_then(|()| out.flush()).explain(FailureKind::Environment, fault)
        }
        Destination::File(path) | Destination::Folder(path) => {
            let temporary = beside(path);
            let result = unfinished(&temporary).and_then(|file| {
                let mut out = BufWriter::with_capacity(1 << 20, &file);
                write(&mut out)?;
                out.flush()?;
                give_name(&file, &temporary)?;
                fs::rename(&temporary, path)
            });
            if result.is_err() {
                // What is left is ours alone; the error that matters is the first.
                let _ = fs::remove_file(&temporary);
            }
            result.explain(FailureKind::Environment, fault)
        }
    }
}

/// A file without a name, so that nothing is left if this process is killed; with the name `temporary` where the file
/// system has no such files (`O_TMPFILE`, Linux 3.11).
fn unfinished(temporary: &Path) -> io::Result<File> {
    let folder = match temporary.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(file.into()),
        Err(_) => File::create(temporary),
    }
}

/// Gives a file of [`unfinished`] its name, if it has none yet.
fn give_name(file: &File, temporary: &Path) -> io::Result<()> {
    if file.metadata()?.nlink() > 0 {
        return Ok(());
    }
    // An earlier process of this number may have been killed with the name taken.
    if let Err(error) = fs::remove_file(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, opened, CWD, temporary, AtFlags::SYMLINK_FOLLOW)?)
}

/// A pipe or device is written in place.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

pub(crate) fn place(to: &Destination) -> String {
    match to {
        Destination::File(path) | Destination::Folder(path) => path.display().to_string(),
        Destination::Stdout => "standard output".to_owned(),
    }
}
