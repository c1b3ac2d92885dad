//! `rbuild tag` and `rbuild rmi`.

use rbuild_container::{Container, Containers};
use rbuild_engine::stored::{self, Removed};
use rbuild_engine::{BuildError, Failure, FailureKind};
use rbuild_executor::Place;
use rbuild_image::Reference;
use rbuild_store::{PruneOptions, Store};

use super::args::{RmiArgs, TagArgs};
use super::{print, reference};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

pub(crate) fn tag(args: &TagArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let target = reference(&args.target)?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    Ok(stored::tag(&store, &args.source, &target)?)
}

/// Removes what can be removed, and fails afterwards if something could not be.
pub(crate) fn rmi(args: &RmiArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let (mut failures, mut deleted) = (Vec::new(), false);
    let containers = running(&store)?;
    for name in &args.images {
        if let Some(conflict) = conflict(&store, name, &containers) {
            failures.push(conflict);
            continue;
        }
        match stored::remove(&store, name, args.force) {
            Ok(removed) => {
                deleted |= removed.iter().any(|removed| matches!(removed, Removed::Deleted(_)));
                print(&removed.iter().map(line).collect::<String>());
            }
            Err(_) if args.force && stored::find(&store, name).is_err() => {}
            Err(error) => failures.push(error),
        }
    }
    drop(store);
    if deleted && !args.no_prune {
        collect(global, place)?;
    }
    failed(failures)
}

fn running(store: &Store) -> Result<Vec<Container>, CliError> {
    let mut running = Vec::new();
    for container in Containers::of(store)?.list()? {
        if container.is_minded()? {
            running.push(container);
        }
    }
    Ok(running)
}

/// An image that a container runs keeps its last name: no `--force` helps, as in Docker.
fn conflict(store: &Store, name: &str, running: &[Container]) -> Option<BuildError> {
    let image = stored::find(store, name).ok()?;
    let by_tag = Reference::parse(name).is_ok_and(|name| image.tags.contains(&name));
    if by_tag && image.tags.len() > 1 {
        return None;
    }
    let user = running.iter().find(|container| container.settings.image_id == image.id)?;
    let container = &user.settings.name;
    let message = format!("could not remove `{name}`: the container `{container}` is running it");
    let failure = Failure::new(FailureKind::Build, message);
    Some(failure.help(format!("stop that first: `rbuild stop {container}`")).into())
}

/// One error for all that could not be removed.
fn failed(mut failures: Vec<BuildError>) -> Result<(), CliError> {
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(()), |error| Err(error.into()));
    }
    let said: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let failure = Failure::new(FailureKind::Build, format!("could not remove {} images", failures.len()));
    Err(failure.caused_by(said.join("; ")).into())
}

fn line(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(name) => format!("Untagged: {name}\n"),
        Removed::Deleted(id) => format!("Deleted: {id}\n"),
    }
}

/// Takes away what nothing refers to any more. A store opened anew: the one that looked at the image still holds it.
fn collect(global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let options =
        PruneOptions { max_age: None, max_bytes: None, mounts: false, now: std::time::SystemTime::now() };
    let collected = store.prune(&options);
    collected.map(drop).map_err(|error| {
        CliError::environment("could not free the space of removed images".to_owned(), error)
    })
}
