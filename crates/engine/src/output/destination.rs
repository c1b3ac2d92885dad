//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, StdoutLock, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rbuild_executor::Cancel;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::cancel::check;
use crate::error::{Explain, FailureKind, Result};
use crate::request::Destination;

/// Where bytes go.
pub(crate) enum Out<'o> {
    File(BufWriter<&'o File>),
    Stdout(BufWriter<StdoutLock<'static>>),
}

/// Bytes that are held before they are written.
const BUFFER: usize = 1 << 20;
/// Bytes of a file copied between two looks at the switch.
const STRIDE: u64 = 16 << 20;

impl<'o> Out<'o> {
    fn to(file: &'o File) -> Out<'o> {
        Out::File(BufWriter::with_capacity(BUFFER, file))
    }

    /// Appends `size` bytes of a file, within the kernel where it can (copy_file_range(2), splice(2)).
    pub(crate) fn append(&mut self, file: &File, size: u64, cancel: Option<&Cancel>) -> io::Result<()> {
        self.flush()?;
        let mut left = size;
        while left > 0 {
            check(cancel)?;
            let mut part = file.take(left.min(STRIDE));
            let copied = match self {
                Out::File(out) => io::copy(&mut part, out.get_mut())?,
                Out::Stdout(out) => io::copy(&mut part, out.get_mut())?,
            };
            if copied == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while being read"));
            }
            left -= copied;
        }
        Ok(())
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::File(out) => out.write(bytes),
            Out::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::File(out) => out.flush(),
            Out::Stdout(out) => out.flush(),
        }
    }
}

/// Writes a file that appears whole or not at all, or standard output.
pub(crate) fn into_destination(
    to: &Destination,
    write: impl FnOnce(&mut Out<'_>) -> io::Result<()>,
) -> Result<()> {
    let write = |mut out: Out<'_>| write(&mut out).and_then(|()| out.flush());
    let written = match to {
        Destination::Stdout => write(Out::Stdout(BufWriter::with_capacity(BUFFER, io::stdout().lock()))),
        Destination::File(path) if is_special(path) => {
            File::options().write(true).open(path).and_then(|file| write(Out::to(&file)))
        }
        Destination::File(path) | Destination::Folder(path) => {
            let temporary = beside(path);
            let result = unfinished(&temporary).and_then(|file| {
                write(Out::to(&file))?;
                give_name(&file, &temporary)?;
                fs::rename(&temporary, path)
            });
            if result.is_err() {
                // What is left is ours alone; the error that matters is the first.
                let _ = fs::remove_file(&temporary);
            }
            result
        }
    };
    written.explain(FailureKind::Environment, || format!("could not write to {}", place(to)))
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
