//! Builds in place: root of a container in which nothing can be mounted works in the container's own root file system.
//!
//! ```text
//! signs      this container was made for that, so its root may be wiped          → InPlace
//! emulate    the mounts of a RUN by links, renames and copies                    → Emulated
//! run        the command, as it stands, and the end of all that it left running  → ExitReport
//! ```

mod emulate;
mod run;
mod signs;
mod trees;

/// All that belongs to rbuild in an image for builds in place; never part of an image that is built.
const HOME: &str = "/rbuild";

pub(crate) use run::run_in_place;
pub use signs::{Claim, InPlace, NotHere};
