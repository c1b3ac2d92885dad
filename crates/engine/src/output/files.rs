//! The files of an image, without an image: a folder or a flat tar.

use std::io::{self};
use std::path::Path;

use rbuild_layer::{ExportOptions, FlatOptions, export_tree, write_flat, write_flat_folders};

use crate::build::Builder;
use crate::cancel::Cancellable;
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::event::StepNumber;
use crate::image::{Image, ImageLayer, Origin};
use crate::platforms::folder_name;
use crate::request::Destination;

use super::{Written, into_destination, place};

impl Builder<'_> {
    /// Layers of a folder are taken into the store where a name keeps the image: nothing would tell later where they were.
    pub(super) fn bring_what_has_no_name(&self, images: &[Image], number: StepNumber) -> Result<()> {
        let layers = images.iter().flat_map(|image| &image.layers).filter(|_| !self.request.tags.is_empty());
        for layer in layers {
            if let ImageLayer::Blob { descriptor, origin: origin @ Origin::Layout(_), .. } = layer {
                self.images.blob(descriptor, origin, number)?;
            }
        }
        Ok(())
    }

    /// The files of the one image, or of each in a folder of its platform.
    pub(super) fn write_local(&self, images: &[Image], path: &Path) -> Result<Written> {
        let fault = || format!("could not write the files to `{}`", path.display());
        let options = ExportOptions { clamp: self.request.epoch, ..ExportOptions::default() };
        for image in images {
            let path = match images.len() {
                1 => path.to_owned(),
                _ => path.join(folder_name(&image.config.platform())),
            };
            let tree = self.final_tree(image)?;
            export_tree(tree.root(), &path, &options).explain(FailureKind::Environment, fault)?;
        }
        Ok(Written { kind: "local", place: path.display().to_string(), manifest: None })
    }

    pub(super) fn write_tar(&self, images: &[Image], to: &Destination) -> Result<Written> {
        let options = FlatOptions { clamp: self.request.epoch, ..FlatOptions::default() };
        let trees = images.iter().map(|image| self.final_tree(image)).collect::<Result<Vec<_>>>()?;
        let folders = images.iter().map(|image| folder_name(&image.config.platform()));
        let folders: Vec<_> = folders.zip(trees.iter().map(|tree| tree.root())).collect();
        into_destination(to, |out| {
            let mut out = Cancellable(out, Some(self.cancel));
            let written = match &folders[..] {
                [(_, root)] => write_flat(root, &options, &mut out),
                folders => write_flat_folders(folders, &options, &mut out),
            };
            written.map(drop).map_err(io::Error::other)
        })?;
        Ok(Written { kind: "tar", place: place(to), manifest: None })
    }

    fn final_tree(&self, image: &Image) -> Result<std::sync::Arc<rbuild_context::Tree>> {
        match self.open(&crate::files::Files::Rootfs(image.rootfs()))? {
            crate::files::OpenFiles::Rootfs(tree) => Ok(tree),
            crate::files::OpenFiles::Folder(_) => {
                Err(Failure::new(FailureKind::Environment, "the image has no files").into())
            }
        }
    }
}
