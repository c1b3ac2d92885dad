//! `rbuild save` and `rbuild load`.

use std::io::{IsTerminal, stdin, stdout};

use rbuild_engine::Destination;
use rbuild_engine::stored::{self, ArchiveKind, Loaded, StoredImage};
use rbuild_executor::Place;
use rbuild_image::{Digest, Reference};

use super::args::{ArchiveFormat, LoadArgs, SaveArgs};
use super::{Work, platform, print};
use crate::args::GlobalArgs;
use crate::failure::CliError;

pub(crate) fn save(args: &SaveArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let to = match (&args.output, args.format) {
        (Some(path), ArchiveFormat::OciDir) => Destination::Folder(path.clone()),
        (Some(path), _) => Destination::File(path.clone()),
        (None, ArchiveFormat::OciDir) => {
            return Err(
                CliError::usage("could not write a folder to standard output").help("name it with `-o DIR`")
            );
        }
        (None, _) if stdout().is_terminal() => {
            let failure = CliError::usage("could not write an archive to a terminal");
            return Err(failure.help("name a file with `-o FILE`, or redirect standard output"));
        }
        (None, _) => Destination::Stdout,
    };
    let kind = if args.format == ArchiveFormat::Docker { ArchiveKind::Docker } else { ArchiveKind::Oci };
    let work = Work::begin(global, place, false)?;
    let mut images: Vec<(StoredImage, Vec<Reference>)> = Vec::new();
    for name in &args.images {
        let image = stored::find(&work.store, name)?;
        let tag = named_by(&image, name);
        match images.iter_mut().find(|(known, _)| known.id == image.id) {
            Some((_, names)) => names.extend(tag.filter(|tag| !names.contains(tag))),
            None => images.push((image, tag.into_iter().collect())),
        }
    }
    let result = work.transfers().save(&images, kind, &to);
    work.ui.finish();
    Ok(result?)
}

/// The tag that the user means; none where an image ID or a digest was given, as for Docker.
pub(super) fn named_by(image: &StoredImage, text: &str) -> Option<Reference> {
    let name = Reference::parse(text).ok().filter(|name| name.digest().is_none())?;
    image.tags.contains(&name).then_some(name)
}

pub(crate) fn load(args: &LoadArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let platform = platform(args.platform.as_deref())?;
    if args.input.is_none() && stdin().is_terminal() {
        let failure = CliError::usage("could not read an archive from a terminal");
        return Err(failure.help("name a file with `-i FILE`, or redirect standard input"));
    }
    let work = Work::begin(global, place, args.quiet)?;
    let transfers = work.transfers();
    let loaded = match &args.input {
        Some(path) => transfers.load(path, None, &platform),
        None => transfers.load_stream(&mut stdin(), &platform),
    };
    work.ui.finish();
    print_loaded(&loaded?);
    Ok(())
}

pub(super) fn print_loaded(loaded: &[Loaded]) {
    for Loaded { id, names } in loaded {
        for name in names {
            print(&format!("Loaded image: {}\n", name.familiar()));
        }
        if names.is_empty() {
            print(&format!("Loaded image ID: {}\n", Digest::as_str(id)));
        }
    }
}
