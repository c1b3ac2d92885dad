//! An overlay's upper directory as the tar of an OCI layer.

use std::io::Write;

use rbuild_fs::Root;
use rbuild_image::DiffId;

use crate::LayerError;
use crate::hashing::HashingWriter;
use crate::walk::{Form, Walk, WalkOptions};

/// How a layer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// No time in the layer is later than this, in seconds since 1970 (`SOURCE_DATE_EPOCH` with
    /// `rewrite-timestamp=true`).
    pub clamp: Option<i64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the tar, headers and end mark included.
    pub bytes: u64,
}

/// Writes the changes that an overlay's upper directory holds as a layer: whiteouts become `.wh.` entries,
/// opaque directories get `.wh..wh..opq`, overlayfs's own attributes are left out. Entries are sorted, times are
/// whole seconds, there are no user names; equal trees give equal bytes. The root's own entry is not written,
/// as BuildKit writes none.
///
/// # Errors
/// A tree that cannot be read, an `out` that cannot be written, names that a layer cannot express.
pub fn write_layer(
    upper: &Root,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<LayerSummary, LayerError> {
    let (_, entries, bytes) = walk(upper, options, out)?;
    Ok(LayerSummary { entries, bytes })
}

/// The diff ID and the size in bytes of the tar that [`write_layer`] would write.
///
/// # Errors
/// As [`write_layer`].
pub fn digest_layer(upper: &Root, options: &WriteOptions) -> Result<(DiffId, u64), LayerError> {
    let (hasher, _, bytes) = walk(upper, options, HashingWriter::new())?;
    Ok((DiffId(hasher.finish().map_err(LayerError::Write)?), bytes))
}

fn walk<W: Write>(upper: &Root, options: &WriteOptions, out: W) -> Result<(W, u64, u64), LayerError> {
    let options = WalkOptions { form: Form::Upper, clamp: options.clamp, owners: true };
    Walk::new(upper, options, out).run()
}
