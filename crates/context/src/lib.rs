//! A build context as a filtered tree with content digests.
//!
//! COPY, ADD and bind mounts read from a [`Tree`]: the directory of the build context, seen through its
//! [`IgnoreFile`], or the root file system of a stage or an image. [`Tree::select`] answers what a source names in
//! it, [`Tree::digest`] what of that belongs in a cache key, with a [`StatCache`] so that unchanged files are not
//! read again. [`ContextSource`] says what the text given as a context means.

mod digest;
mod error;
mod glob;
mod ignore;
mod pattern;
mod select;
pub mod source;
mod stat_cache;
mod tree;
mod walk;

pub use digest::{ContentDigest, EntryDigest, EntryFacts, MOST_LISTED};
pub use error::{ContextError, SelectError};
pub use glob::{Glob, PatternError};
pub use ignore::{IgnoreError, IgnoreFile, IgnoreRule};
pub use pattern::{Pattern, PatternSet};
pub use select::{Entry, Match, SelectOptions, Selection};
pub use source::{ContextSource, GitReference};
pub use stat_cache::StatCache;
pub use tree::Tree;
