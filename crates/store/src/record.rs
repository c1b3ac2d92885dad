//! JSON documents of the store: read with leave to be missing, written whole or not at all.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rbuild_fs::{PathContext, PathError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::error::Result;
use crate::layout::parent;
use crate::session::Session;

/// How old a time of last use may become before a use renews it: one `utimensat` an hour, not one a build.
const TOUCH_EVERY: Duration = Duration::from_secs(3600);

/// The document at `path`, or nothing where there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| damaged(path, source)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).on("read", path).map_err(Into::into),
    }
}

/// As [`read`]; a document that does not parse is removed and counts as missing. For what can be worked out again.
pub(crate) fn read_or_drop<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match read(path) {
        Err(StoreError::Damaged { .. }) => {
            remove(path)?;
            Ok(None)
        }
        other => other,
    }
}

/// Publishes `value` at `path`, replacing what is there. The caller holds the gate and a publishing guard.
pub(crate) fn write<T: Serialize>(session: &Session, path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|source| damaged(path, source))?;
    let temporary = session.temporary("record");
    fs::write(&temporary, bytes).on("write", &temporary)?;
    publish(&temporary, path)?;
    Ok(())
}

/// Renames `from` to `to`, making the folder where it is missing.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), PathError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent(to)).on("create", parent(to))?;
            fs::rename(from, to).on("publish", to)
        }
        other => other.on("publish", to),
    }
}

/// Removes a file that another process may have removed already; says whether this call did.
pub(crate) fn remove(path: &Path) -> Result<bool, PathError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).on("remove", path),
    }
}

/// Renews the time of last use, which is the file's mtime.
pub(crate) fn touch(path: &Path) -> Result<(), PathError> {
    let file = match fs::File::options().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.on("open", path)?,
    };
    let now = SystemTime::now();
    let last = file.metadata().and_then(|metadata| metadata.modified()).on("examine", path)?;
    // A time of last use in the future (the clock was set back) is renewed as well.
    match now.duration_since(last) {
        Ok(age) if age < TOUCH_EVERY => Ok(()),
        _ => file.set_modified(now).on("touch", path),
    }
}

pub(crate) fn damaged(path: &Path, source: serde_json::Error) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), source }
}

/// A small text file, or nothing where there is none or it is empty.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, PathError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).on("read", path),
    }
}
