//! Files that appear whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{PathContext, PathError};

/// Whether a written file must survive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// The file and its directory are synced; costs a wait for the disk.
    Yes,
    /// A crash of the process is survived, a loss of power need not be.
    No,
}

/// Writes a file by way of a temporary one in the same directory and a rename: a reader sees the old content or the
/// new one, and of two writers the last wins. The file has mode 0600.
pub fn atomic_write(path: impl AsRef<Path>, bytes: &[u8], durable: Durable) -> Result<(), PathError> {
    let path = path.as_ref();
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir).on("create a file in", dir)?;
    file.write_all(bytes).on("write", path)?;
    if durable == Durable::Yes {
        file.as_file().sync_all().on("sync", path)?;
    }
    file.persist(path).map_err(|error| error.error).on("replace", path)?;
    if durable == Durable::Yes {
        File::open(dir).and_then(|dir| dir.sync_all()).on("sync", dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_nothing_else_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        atomic_write(&path, b"one", Durable::No).unwrap();
        atomic_write(&path, b"two", Durable::Yes).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_error_names_the_directory() {
        let error = atomic_write("/nonexistent-dir/f", b"", Durable::No).unwrap_err();
        assert_eq!(error.to_string(), "could not create a file in `/nonexistent-dir`");
    }
}
