//! All state on disk: blobs, snapshots, base layers, cache records, memos, tags, cache mounts, and who uses what.
//!
//! The store is plain files. Several processes share one store at a time, any of them may be killed at any instant,
//! and the next one opens a store that is right. There is no daemon, no database and no repair step.
//!
//! # The tree, layout version 1
//!
//! ```text
//! <root>/                              mode 0700
//! ├── version                          layout version, decimal; a newer one than this crate knows is refused
//! ├── lock                             the gate: flock, see "Locks"
//! ├── blobs/<algorithm>/<hex>          immutable, mode 0444; the name is the digest of the content
//! ├── partial/<algorithm>-<hex>        a download under way or broken off; its own flock says whose it is
//! ├── snapshots/<id map>/<id>/
//! │   ├── fs/                          the upper directory as overlayfs left it: whiteouts, opaque marks, journal
//! │   ├── sidecar                      optional: the journal of files that cannot carry an xattr
//! │   └── info.json                    parent, diff ID, size, the step that made it, session
//! ├── layers/<id map>/<chain id>/       base layers as applied: the same three names
//! ├── cache/<2 hex>/<key>.json         cache records; the mtime is the time of last use
//! ├── lineage/<hex>.json               the last few keys of one step, to say why it missed (advice: may be lost)
//! ├── memo/<kind>/<hex>.json           what was worked out once: compressed blobs, content digests, resolved tags
//! ├── tags/<escaped reference>         one image record per reference
//! ├── mounts/<id>/<n>/                 cache mounts; beside each copy `<n>.lock`, `<n>.setup` and `<n>.ready`
//! ├── locks/                           locks of base layers and steps being made; empty when nothing is being made
//! ├── leases/<pid>-<random>            a session: flock held while the process lives; lines name what it uses
//! ├── tmp/<pid>-<random>/              that session's unfinished work
//! ├── undurable/<pid>-<random>         sessions whose writes no `syncfs` has covered yet; content: the boot id
//! ├── pruned                           empty; its mtime is the time of the last collection by a build
//! ├── stat-cache/<hex>                 digests of context files by stat data (kept by the context room)
//! ├── containers/<id>/                 what the container room keeps of a container: settings, state, log
//! └── logs/<build>/<step>.log
//! ```
//!
//! `<id map>` names the user namespace's id map under which a tree was written. A tree is never used in place under
//! another map: owners on disk would mean other owners in the image.
//!
//! # Publishing
//!
//! Everything is made under `tmp/<session>` and published by one `rename(2)`, so a name either does not exist or names
//! something whole. A snapshot's directory is renamed with its `info.json` inside it. What refers is published after
//! what it refers to (record after snapshot after parent) and removed before it.
//!
//! # Locks
//!
//! All locks are `flock(2)` on open file descriptions: the kernel frees them when their holder dies, however it dies.
//!
//! - **The gate** (`lock`) is held shared for the moment in which a process turns a name into a use (look up and lease)
//!   or publishes, and exclusively while collection decides and detaches. It is never held across slow work.
//! - **Leases**: each open store is a *session* with a file under `leases/` that it keeps locked. Whatever it looks up or
//!   publishes is written there first, and stays in use until the session ends. A lease whose lock is free is dead.
//! - **A step** is carried out by the holder of its key's lock ([`Store::try_turn`]): builds that want the same one do it once.
//! - **A base layer** is made by the holder of its lock; others wait and then find it. **A partial blob** is its own lock.
//! - **Cache mounts**: `shared` takes its copy's lock shared, `locked` and `private` exclusively. The descriptor can be
//!   handed to a sandbox's init, so that the lock lasts until the last process of the step is gone.
//!
//! Order, to rule out deadlock: step, cache mounts, layer, partial blob, gate. Of several cache mounts take the lower id first.
//!
//! # Crash
//!
//! At open, the `tmp/` folders of dead sessions are removed, then their leases. What a killed process had published but not
//! referred to yet is whole and unreachable: collection takes it. Nothing else can be left.
//!
//! # Power loss
//!
//! Files that were renamed but not yet written out may be empty or torn afterwards. Syncing each would cost more than the
//! steps themselves, so: before its first publication a session puts its marker, synced, under `undurable/`; every record
//! and `info.json` names the session that wrote it; [`Store::finish_build`] calls `syncfs(2)` once and removes the marker.
//! A store that finds, at open, a marker with another boot id than the present one has lost power (or was shut down in the
//! middle): it drops whatever those sessions wrote and whatever depends on it, and re-reads every blob written since.
//! Only then are all records read; an ordinary open reads none.
//!
//! # Collection
//!
//! In use are: what tags keep, what living sessions lease, and what cache records and memos refer to, from the most
//! recently used on, while they are within the limits of age and size. A snapshot keeps its parents and base layers.
//! The rest is detached by rename under the gate (children before parents) and deleted after it is released. Trees of another
//! id map are left to a process that runs under that map, or to root: others may be unable to delete them.

mod blob;
mod cache;
mod collect;
mod durable;
mod error;
mod explain;
mod holders;
mod inventory;
mod key;
mod layer;
mod layout;
mod lease;
mod lock;
mod memo;
mod mount;
mod partial;
mod record;
mod session;
mod snapshot;
mod store;
mod sweep;
mod tag;
mod turn;
mod usage;
mod verify;

pub use blob::{Blob, BlobWriter};
pub use cache::{BlobDescriptor, CacheRecord, CacheResult, DistantLayer, Lineage, NewRecord, chain_on};
pub use collect::{PruneOptions, PruneReport};
pub use error::StoreError;
pub use explain::{Change, Difference, FileChange, FileFacts, FileList};
pub use holders::{Holder, Holding};
pub use key::{CacheKey, KeyPart, KeyParts, PartValue};
pub use layer::{Layer, LayerInfo, LayerSlot, NewLayer};
pub use lease::{Resource, UnknownResource};
pub use memo::MemoLinks;
pub use mount::{CacheMount, Sharing};
pub use partial::{PartialBlob, PartialSlot};
pub use snapshot::{NewSnapshot, Parent, Snapshot, SnapshotId, SnapshotInfo};
pub use store::{LAYOUT_VERSION, Store, StoreOptions};
pub use tag::ImageRecord;
pub use turn::Turn;
pub use usage::{Share, Usage};
pub use verify::{VerifyOptions, Violation};
