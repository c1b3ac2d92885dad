//! A layer from anywhere as a lower directory of an overlay.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;

use rbuild_fs::{FileKind, Meta, Root, RootfsPath, Timestamp};
use rbuild_image::DiffId;

use crate::LayerError;
use crate::entry::{Entry, as_os};
use crate::hashing::HashingReader;
use crate::overlay::{OPAQUE, OPAQUE_NAME, WHITEOUT_PREFIX, make_whiteout};
use crate::tar_reader::TarReader;
use crate::unpack::{Placed, Target, Unpacker};

const BUFFER: usize = 256 << 10;

/// A hard link whose target only a lower layer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerLink {
    /// Where the link belongs in this layer.
    pub path: RootfsPath,
    /// The file in the layers below.
    pub target: RootfsPath,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedLayer {
    /// Digest of the uncompressed stream, to its very end.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed stream.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
    /// Whether an entry gave the root's own mode, owner and time. Otherwise the root of the directory means
    /// nothing, and the one of the layers below counts.
    pub has_root: bool,
    /// Directories that no entry told of, made 0755 and root's, parents first. [`settle_layer`](crate::settle_layer)
    /// gives them what the layers below say.
    pub implied: Vec<RootfsPath>,
    /// Hard links still to be made from files of the layers below; see [`settle_layer`](crate::settle_layer).
    pub lower_links: Vec<LowerLink>,
}

impl AppliedLayer {
    /// Whether the layer is not complete without a look at the layers below.
    pub fn needs_settling(&self) -> bool {
        !self.implied.is_empty() || !self.lower_links.is_empty()
    }
}

/// Unpacks an uncompressed layer tar into an empty directory, which then serves as a lower of overlays mounted
/// with `userxattr`: whiteouts are 0:0 character devices (or what stands for them), opaque directories carry `user.overlay.opaque`. No
/// entry leaves the directory. The stream is read to its end, so that it is digested whole.
///
/// # Errors
/// A damaged or cut stream, entries that cannot be made. What was made by then stays; the caller removes it.
pub fn apply_layer(tar: &mut dyn Read, into: &Root) -> Result<AppliedLayer, LayerError> {
    let mut reader = TarReader::new(BufReader::with_capacity(BUFFER, HashingReader::new(tar)));
    let mut layer = Layer {
        root: into,
        unpacker: Unpacker::new(into, Target::Lower),
        lower_links: Vec::new(),
        opaque: BTreeSet::new(),
        has_root: false,
    };
    let plain = Meta::new(FileKind::Directory, 0o755, 0, 0, Timestamp::from_seconds(0));
    into.set_meta(&RootfsPath::root(), &plain)?;
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        layer.apply(&mut reader, &entry).map_err(|error| error.in_entry(&entry.path))?;
        entries += 1;
    }
    reader.drain()?;
    let hashed = reader.into_inner().into_inner();
    let Layer { unpacker, lower_links, has_root, .. } = layer;
    let implied = unpacker.finish()?;
    if !has_root {
        into.set_mtime(&RootfsPath::root(), plain.mtime)?;
    }
    let size = hashed.size;
    let diff_id = DiffId(hashed.finish().map_err(LayerError::Read)?);
    Ok(AppliedLayer { diff_id, size, entries, has_root, implied, lower_links })
}

struct Layer<'a> {
    root: &'a Root,
    unpacker: Unpacker<'a>,
    lower_links: Vec<LowerLink>,
    opaque: BTreeSet<RootfsPath>,
    has_root: bool,
}

impl Layer<'_> {
    fn apply<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), LayerError> {
        let path = RootfsPath::new(as_os(&entry.path));
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        if name == OPAQUE_NAME {
            return self.opaque(&path);
        }
        if let Some(removed) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(&path, removed);
        }
        self.has_root |= path.is_root();
        self.lower_links.retain(|link| link.path != path);
        match self.unpacker.place(tar, entry, &path)? {
            Placed::Made => {}
            Placed::MissingTarget(target) => {
                self.unpacker.clear(&path)?;
                self.lower_links.push(LowerLink { path, target });
            }
        }
        Ok(())
    }

    /// `.wh..wh..opq`: nothing below shows through the directory it lies in.
    fn opaque(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        let Some(directory) = path.parent() else { return Ok(()) };
        self.unpacker.ensure_parent(path)?;
        if self.opaque.insert(directory.clone()) {
            self.root.set_xattr(
                &self.root.resolve(&directory, rbuild_fs::FinalSymlink::Follow)?,
                OPAQUE,
                b"y",
            )?;
        }
        Ok(())
    }

    /// `.wh.name`: `name` is gone.
    fn whiteout(&mut self, path: &RootfsPath, removed: &[u8]) -> Result<(), LayerError> {
        // The other `.wh..wh.` names are aufs's own files; `.wh.`, `.wh..` and `.wh...` name nothing.
        if removed.starts_with(WHITEOUT_PREFIX) || matches!(removed, b"" | b"." | b"..") {
            return Ok(());
        }
        let Some(directory) = path.parent() else { return Ok(()) };
        let path = directory.join(as_os(removed));
        self.unpacker.ensure_parent(&path)?;
        self.unpacker.clear(&path)?;
        self.lower_links.retain(|link| !link.path.starts_with(&path));
        Ok(make_whiteout(self.root, &path)?)
    }
}
