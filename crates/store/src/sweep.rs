//! Removing what dead sessions left unfinished.

use std::fs;
use std::io;

use rbuild_fs::PathContext;

use crate::Store;
use crate::error::Result;
use crate::lock;
use crate::record;
use crate::session::{Sessions, names, sweep_unborn};

/// Removes the temporary folders of dead sessions, then their leases, and their locks' files. An ordinary open finds none: four
/// short lists.
pub(crate) fn dead_sessions(store: &Store) -> Result<()> {
    let layout = &store.inner.layout;
    let (leases, tmp) = (layout.dir("leases"), layout.dir("tmp"));
    sweep_unborn(&leases)?;
    for name in names(&tmp)? {
        if lock::is_held(&leases.join(&name))? {
            continue;
        }
        // Of several that sweep at once, the rename lets one have the folder.
        let claimed = store.inner.session.temporary("dead");
        match fs::rename(tmp.join(&name), &claimed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.on("remove", tmp.join(&name))?,
        }
        // What another id map owns may not be ours to delete: it stays in our folder, for a process that can.
        _ = rbuild_fs::remove_tree(&claimed);
    }
    for name in Sessions::read(layout)?.dead {
        // Its folder may have come into being after the list above was made.
        if !tmp.join(&name).exists() {
            record::remove(&leases.join(&name))?;
        }
    }
    let locks = layout.dir("locks");
    for name in names(&locks)? {
        // One that cannot be removed is in nobody's way.
        _ = lock::remove_if_free(&locks.join(name));
    }
    Ok(())
}
