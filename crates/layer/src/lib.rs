//! Trees to layers and back: the copy rules, deterministic tar, compression, safe apply.
//!
//! - [`write_layer`], [`digest_layer`]: the upper directory of an overlay → the tar of an OCI layer. The bytes
//!   depend on the tree alone.
//! - [`apply_layer`], [`settle_layer`]: a layer tar from anywhere → a directory that serves as a lower of an
//!   overlay. No entry reaches outside it.
//! - [`compress`], [`decompress`]: what lies between a tar and a blob.
//! - [`copy`]: `COPY` and `ADD` of files, and of archives that are unpacked.
//! - [`flat`]: the same trees where overlayfs is not to be had.
//! - [`Kept`]: what is left alone in a root file system that is not all ours.
//! - [`write_flat`], [`export_tree`]: a whole root file system for `type=tar` and `type=local`.
//!
//! Trees are read and written through [`rbuild_fs::Root`], so what the kernel refuses this process is kept in
//! and read from the root's journal.

mod apply;
mod compress;
pub mod copy;
mod decompress;
mod entry;
mod error;
mod export;
pub mod flat;
mod hashing;
mod kept;
mod overlay;
mod settle;
mod tar_reader;
mod tar_writer;
mod unpack;
mod walk;
mod write;

pub use apply::{AppliedLayer, LowerLink, apply_layer};
pub use compress::{Compressed, Compression, compress, compress_with};
pub use decompress::{Encoding, decompress, decompress_sniffed};
pub use error::LayerError;
pub use export::{ExportOptions, FlatOptions, export_tree, write_flat, write_flat_folders};
pub use kept::Kept;
pub use settle::settle_layer;
pub use unpack::{UnpackOptions, is_archive, newest_file, unpack_archive};
pub use write::{LayerSummary, WriteOptions, digest_layer, write_layer};
