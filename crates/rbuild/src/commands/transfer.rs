//! `rbuild pull` and `rbuild push`.

use rbuild_engine::stored::{self, Pulled, StoredImage};
use rbuild_engine::{CompressionChoice, Location};
use rbuild_executor::Place;
use rbuild_image::Reference;
use rbuild_layer::Compression;

use super::archive::{named_by, print_loaded};
use super::args::{CompressionName, PullArgs, PushArgs};
use super::{Work, platform, print, reference};
use crate::args::GlobalArgs;
use crate::failure::CliError;

pub(crate) fn pull(args: &PullArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let platform = platform(args.platform.as_deref())?;
    let from = Location::parse(&args.image)?;
    if args.all_tags && from.archive().is_some() {
        return Err(CliError::usage("could not list tags: `--all-tags` is for a registry's repository"));
    }
    let work = Work::begin(global, place, args.quiet)?;
    if let Some((path, name)) = from.archive() {
        let loaded = work.transfers().load(path, name, &platform);
        work.ui.finish();
        print_loaded(&loaded?);
        return Ok(());
    }
    let name = args.image.strip_prefix("docker://").unwrap_or(&args.image);
    if !args.all_tags {
        let pulled = work.transfers().pull(name, &platform);
        work.ui.finish();
        print_pulled(&pulled?, args.quiet);
        return Ok(());
    }
    let pulled = work.transfers().pull_all(name, &platform);
    work.ui.finish();
    pulled?.iter().for_each(|pulled| print_pulled(pulled, args.quiet));
    Ok(())
}

fn print_pulled(pulled: &Pulled, quiet: bool) {
    if !quiet {
        let status = if pulled.is_new { "Downloaded newer image for" } else { "Image is up to date for" };
        print(&format!("Digest: {}\nStatus: {status} {}\n", pulled.digest, pulled.reference.familiar()));
    }
    print(&format!("{}\n", pulled.reference));
}

pub(crate) fn push(args: &PushArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let work = Work::begin(global, place, args.quiet)?;
    if let Some(to) = archive_to(&args.images)? {
        return push_to_archive(&work, args, &to);
    }
    let compression = match args.compression {
        CompressionName::Gzip => Compression::DEFAULT_GZIP,
        CompressionName::Zstd => Compression::DEFAULT_ZSTD,
        CompressionName::Uncompressed => Compression::None,
    };
    let choice = CompressionChoice { compression, force: args.force_compression };
    for (image, names) in to_push(&work, args)? {
        let pushed = work.transfers().push(&image, &names, &choice);
        if pushed.is_err() {
            work.ui.finish();
        }
        for pushed in pushed? {
            let (tag, manifest) = (pushed.reference.tag().unwrap_or("latest"), &pushed.manifest);
            match args.quiet {
                true => print(&format!("{}\n", manifest.digest)),
                false => print(&format!("{tag}: digest: {} size: {}\n", manifest.digest, manifest.size)),
            }
        }
    }
    work.ui.finish();
    Ok(())
}

/// Where the last of the names says that the image is to be written, if that is no registry.
fn archive_to(images: &[String]) -> Result<Option<Location>, CliError> {
    let mut places =
        images.iter().filter(|text| Location::has_transport(text) && !text.starts_with("docker://"));
    let Some(last) = places.next_back() else { return Ok(None) };
    let to = Location::parse(last)?;
    match images {
        [_, second] if second == last && places.next().is_none() => Ok(Some(to)),
        _ => Err(CliError::usage(format!("could not push to `{to}`"))
            .help(format!("name one image before it: `rbuild push IMAGE {to}`"))),
    }
}

fn push_to_archive(work: &Work, args: &PushArgs, to: &Location) -> Result<(), CliError> {
    let image = stored::find(&work.store, &args.images[0])?;
    let written = work.transfers().save_at(image, to);
    work.ui.finish();
    print(&format!("{}\n", written?.digest));
    Ok(())
}

/// Each image once, with all the names that it is to have at registries.
fn to_push(work: &Work, args: &PushArgs) -> Result<Vec<(StoredImage, Vec<Reference>)>, CliError> {
    let mut wanted: Vec<(StoredImage, Vec<Reference>)> = Vec::new();
    let mut add =
        |image: StoredImage, name: Reference| match wanted.iter_mut().find(|(known, _)| known.id == image.id)
        {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => wanted.push((image, vec![name])),
        };
    for text in &args.images {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let name = reference(text)?;
        if !args.all_tags {
            let image = stored::find(&work.store, text)?;
            let tag = named_by(&image, text).unwrap_or(name);
            add(image, tag);
            continue;
        }
        let tags: Vec<Reference> = stored::list(&work.store)?
            .into_iter()
            .flat_map(|image| image.tags)
            .filter(|tag| tag.repository() == name.repository())
            .collect();
        if tags.is_empty() {
            let message = format!("the store has no tag of `{}`", name.familiar_name());
            return Err(rbuild_engine::Failure::new(rbuild_engine::FailureKind::Build, message).into());
        }
        for tag in tags {
            add(stored::find(&work.store, &tag.to_string())?, tag);
        }
    }
    Ok(wanted)
}
