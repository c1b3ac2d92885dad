//! `flock(2)`, through the standard library: freed by the kernel when the last descriptor of the open file is closed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rbuild_fs::{PathContext, PathError};

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Exclusive,
}

/// Opens `path` for locking, making it where it is missing.
fn open(path: &Path) -> Result<File, PathError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .on("open lock file", path)
}

/// Waits for the lock in the kernel. A signal handler that interrupts the wait does not end it.
pub(crate) fn wait(file: &File, hold: Hold, path: &Path) -> Result<(), PathError> {
    loop {
        let locked = match hold {
            Hold::Shared => file.lock_shared(),
            Hold::Exclusive => file.lock(),
        };
        match locked {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.on("lock", path),
        }
    }
}

/// Takes the lock if it is free now.
pub(crate) fn attempt(file: &File, hold: Hold, path: &Path) -> Result<bool, PathError> {
    let locked = match hold {
        Hold::Shared => file.try_lock_shared(),
        Hold::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).on("lock", path),
    }
}

/// Waits for the lock of a file that is never removed, as the gate's.
pub(crate) fn acquire(path: &Path, hold: Hold) -> Result<File, PathError> {
    let file = open(path)?;
    wait(&file, hold, path)?;
    Ok(file)
}

/// As [`acquire`], or nothing when another holds it.
pub(crate) fn try_acquire(path: &Path, hold: Hold) -> Result<Option<File>, PathError> {
    let file = open(path)?;
    Ok(attempt(&file, hold, path)?.then_some(file))
}

/// Waits for the exclusive lock of a file that its holder may rename or remove. Whoever was waiting then holds the lock of
/// a file that has lost its name, and must begin anew: the lock counts only while `path` still names the locked file.
pub(crate) fn acquire_named(path: &Path) -> Result<File, PathError> {
    loop {
        let file = open(path)?;
        wait(&file, Hold::Exclusive, path)?;
        if still_named(&file, path)? {
            return Ok(file);
        }
    }
}

/// As [`acquire_named`], or nothing when another holds it.
pub(crate) fn try_acquire_named(path: &Path) -> Result<Option<File>, PathError> {
    loop {
        let file = open(path)?;
        if !attempt(&file, Hold::Exclusive, path)? {
            return Ok(None);
        }
        if still_named(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Removes a lock file of [`acquire_named`] that its holder left behind by dying; one that is held stays.
pub(crate) fn remove_if_free(path: &Path) -> Result<(), PathError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.on("open lock file", path)?,
    };
    if attempt(&file, Hold::Exclusive, path)? && still_named(&file, path)? {
        std::fs::remove_file(path).on("remove", path)?;
    }
    Ok(())
}

fn still_named(file: &File, path: &Path) -> Result<bool, PathError> {
    let held = file.metadata().on("examine", path)?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).on("examine", path),
    }
}

/// Whether some process holds the exclusive lock of the file at `path`; false where there is no such file. Asks for a shared
/// lock, so that two that ask at once do not take each other for the holder.
pub(crate) fn is_held(path: &Path) -> Result<bool, PathError> {
    match File::open(path) {
        Ok(file) => Ok(!attempt(&file, Hold::Shared, path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).on("open lock file", path),
    }
}
