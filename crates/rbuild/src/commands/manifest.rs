//! `rbuild manifest create|annotate|inspect|push|rm`.

use std::sync::Arc;

use rbuild_engine::stored::ImageList;
use rbuild_engine::{BuildError, Failure, FailureKind, Location, relay};
use rbuild_executor::Place;
use rbuild_image::{Platform, Reference};
use rbuild_store::Store;

use super::args::ManifestCommand;
use super::inspect::pretty;
use super::{Work, print, reference};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

pub(crate) fn run(
    command: &ManifestCommand,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<(), CliError> {
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    match command {
        ManifestCommand::Create { list, images, amend } => {
            create(&store, list, images, *amend, global, place)
        }
        ManifestCommand::Annotate { list, image, os, arch, variant, os_version, os_features } => {
            let mut list = ImageList::find(&store, &reference(list)?)?;
            list.annotate(image, |platform: &mut Platform| {
                let set = |field: &mut String, value: &Option<String>| {
                    field.clone_from(value.as_ref().unwrap_or(&field.clone()))
                };
                set(&mut platform.os, os);
                set(&mut platform.architecture, arch);
                platform.variant = variant.clone().or(platform.variant.take());
                platform.os_version = os_version.clone().or(platform.os_version.take());
                if !os_features.is_empty() {
                    platform.os_features.clone_from(os_features);
                }
            })?;
            Ok(list.keep(&store)?)
        }
        ManifestCommand::Inspect { name } => inspect(&store, name, global, place),
        ManifestCommand::Push { list, destination, purge } => {
            push(&reference(list)?, destination.as_deref(), *purge, global, place)
        }
        ManifestCommand::Rm { lists } => lists.iter().try_for_each(|list| forget(&store, &reference(list)?)),
    }
}

fn create(
    store: &Store,
    list: &str,
    images: &[String],
    amend: bool,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<(), CliError> {
    let name = reference(list)?;
    let known = ImageList::find(store, &name).ok();
    let mut list = match (known, amend) {
        (Some(_), false) => {
            let message = format!("an index `{}` was begun already", name.familiar());
            let failure = Failure::new(FailureKind::Build, message);
            return Err(failure
                .help("add to it with `--amend`, or forget it with `rbuild manifest rm`")
                .into());
        }
        (known, _) => known.unwrap_or_else(|| ImageList::new(name.clone())),
    };
    if !images.is_empty() {
        let client = Arc::new(surroundings::client(global, place)?);
        images.iter().try_for_each(|image| list.add(&client, image))?;
    }
    list.keep(store)?;
    print(&format!("Created manifest list {name}\n"));
    Ok(())
}

/// The index that was begun, else what is elsewhere under the name.
fn inspect(store: &Store, text: &str, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let location = Location::parse(text)?;
    let begun = match &location {
        Location::Registry(name) if !Location::has_transport(text) => ImageList::find(store, name).ok(),
        _ => None,
    };
    let bytes = match begun {
        Some(list) => list.document().to_bytes(),
        None => relay::document(&Arc::new(surroundings::client(global, place)?), &location)?.1,
    };
    let document = serde_json::from_slice(&bytes)
        .map_err(|error| CliError::environment("could not read the manifest".to_owned(), error))?;
    print(&pretty(&document));
    Ok(())
}

fn push(
    name: &Reference,
    destination: Option<&str>,
    purge: bool,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<(), CliError> {
    let to = match destination {
        Some(text) => Location::parse(text)?,
        None => Location::Registry(name.clone()),
    };
    let work = Work::begin(global, place, false)?;
    let list = ImageList::find(&work.store, name)?;
    let digest: Result<_, BuildError> = list.push(&Arc::clone(&work.client), &to, &work.ui);
    work.ui.finish();
    print(&format!("{}\n", digest?));
    if purge { forget(&work.store, name) } else { Ok(()) }
}

fn forget(store: &Store, name: &Reference) -> Result<(), CliError> {
    if ImageList::forget(store, name)? {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Build, format!("no index `{}` was begun", name.familiar())).into())
}
