//! File work beneath a root: resolution that never escapes, errors that carry the path, the ownership journal.
//!
//! Three ideas meet here:
//!
//! - A [`RootfsPath`] is a path inside a root file system and never one of the host. A [`Root`] resolves it as a
//!   container would: absolute symbolic links and `..` stay inside (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6, and
//!   a walk in user space where the resolved name itself is wanted or `openat2` is not to be had).
//! - A [`Meta`] is what an *image* says of a file. Where the kernel refuses this process an owner or a device node,
//!   the truth is kept in the [`journal`] and put back on reading, so nobody above needs to know.
//! - A [`PathError`] carries verb and path; no I/O error of rbuild comes without them.

mod atomic;
mod error;
pub mod journal;
mod make;
mod meta;
mod path;
mod remove;
mod resolve;
mod root;
mod xattr;

pub use atomic::{Durable, atomic_write};
pub use error::{PathContext, PathError};
pub use journal::{FileSidecar, Journal, Owner, Sidecar};
pub use make::{NewDir, NewFile};
pub use meta::{FileKind, Meta, Timestamp, meta_at};
pub use path::RootfsPath;
pub use remove::remove_tree;
pub use resolve::FinalSymlink;
pub use root::Root;
pub use xattr::{Xattrs, kept_in_images, name_in_image};
