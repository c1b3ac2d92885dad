//! What a layer only implies, taken from the layers below once these are known.

use std::collections::BTreeMap;

use rbuild_fs::{FinalSymlink, Meta, NewDir, Root, RootfsPath};

use crate::LayerError;
use crate::apply::{AppliedLayer, LowerLink};

/// Completes a layer with what the layers below it say: directories that it only implied take mode, owner, time
/// and attributes from there; where there is a link to a directory instead, what the layer has moves behind the
/// link, as if the layer had been unpacked over them; hard links to files below become copies.
///
/// `lower` is the tree of all layers below, for instance a read-only overlay of them.
///
/// # Errors
/// [`LayerError::MissingLinkTarget`]; files that cannot be copied or moved.
pub fn settle_layer(layer: &Root, applied: &AppliedLayer, lower: &Root) -> Result<(), LayerError> {
    let mut copied: BTreeMap<&RootfsPath, &RootfsPath> = BTreeMap::new();
    for link in &applied.lower_links {
        match copied.get(&link.target) {
            Some(first) => layer.hard_link(first, &link.path)?,
            None => {
                copy_up(layer, link, lower)?;
                copied.insert(&link.target, &link.path);
            }
        }
    }
    // From the deepest, so that a directory's time is set after all in it; a moved one takes all in it along.
    for path in applied.implied.iter().rev() {
        settle_directory(layer, path, lower)?;
    }
    Ok(())
}

fn copy_up(layer: &Root, link: &LowerLink, lower: &Root) -> Result<(), LayerError> {
    let missing = || LayerError::MissingLinkTarget(link.target.to_string());
    let meta = lower.meta(&link.target)?.filter(|meta| !meta.is_dir()).ok_or_else(missing)?;
    if meta.is_file() {
        let mut content = lower.open_file(&link.target)?;
        layer.make(&link.path, &meta, Some(&mut content))?;
        copy_xattrs(lower, &link.target, layer, &link.path)
    } else {
        Ok(layer.make(&link.path, &meta, None)?)
    }
}

fn settle_directory(layer: &Root, path: &RootfsPath, lower: &Root) -> Result<(), LayerError> {
    match lower.meta(path)? {
        Some(meta) if meta.is_dir() => take_over(layer, path, lower, path, &meta),
        Some(meta) if meta.is_symlink() => {
            let target = lower.resolve(path, FinalSymlink::Follow)?;
            let leads_to_directory = lower.meta(&target)?.is_some_and(|meta| meta.is_dir());
            if leads_to_directory { move_behind(layer, path, &target, lower) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

fn take_over(
    layer: &Root,
    path: &RootfsPath,
    lower: &Root,
    from: &RootfsPath,
    meta: &Meta,
) -> Result<(), LayerError> {
    layer.set_meta(path, meta)?;
    copy_xattrs(lower, from, layer, path)
}

fn copy_xattrs(lower: &Root, from: &RootfsPath, layer: &Root, to: &RootfsPath) -> Result<(), LayerError> {
    for (name, value) in lower.xattrs(from)? {
        layer.set_xattr(to, &name, &value)?;
    }
    Ok(())
}

/// Moves a directory of the layer to where a link of the layers below leads.
fn move_behind(layer: &Root, from: &RootfsPath, to: &RootfsPath, lower: &Root) -> Result<(), LayerError> {
    let made = layer.create_dir_all(to, &NewDir::default())?;
    merge(layer, from, to)?;
    for path in made.iter().rev() {
        if let Some(meta) = lower.meta(path)?.filter(Meta::is_dir) {
            take_over(layer, path, lower, path, &meta)?;
        }
    }
    Ok(())
}

/// Moves all that a directory holds into another; what is only here wins over what is there.
fn merge(layer: &Root, from: &RootfsPath, to: &RootfsPath) -> Result<(), LayerError> {
    for (name, meta) in layer.read_dir_meta(from)? {
        let (source, destination) = (from.join(&name), to.join(&name));
        let both = meta.is_dir() && layer.meta(&destination)?.is_some_and(|meta| meta.is_dir());
        if both {
            merge(layer, &source, &destination)?;
        } else {
            layer.remove_all(&destination)?;
            layer.rename(&source, &destination)?;
        }
    }
    Ok(layer.remove_all(from)?)
}
