//! Giving images names, and taking them away.

use rbuild_image::{Digest, Reference};
use rbuild_store::{ImageRecord, Store};

use super::lists::{forget_built, name_built};
use super::{StoredImage, find};
use crate::error::{Explain, Failure, FailureKind, Result};

/// What a removal did, in the order in which it did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone; as Docker prints it.
    Untagged(String),
    /// The image has no name any more: what it kept goes at the next collection.
    Deleted(Digest),
}

/// Gives the image that `source` means another name. The image that had the name before loses it.
///
/// # Errors
/// No such image, or a name with a digest.
pub fn tag(store: &Store, source: &str, target: &Reference) -> Result<()> {
    if target.digest().is_some() {
        let message = format!(
            "could not name an image `{}`: a digest is what it has, not what it is given",
            target.familiar()
        );
        return Err(Failure::new(FailureKind::Usage, message).into());
    }
    let image = find(store, source)?;
    let by_name = Reference::parse(source).ok().filter(|name| is_name_of(&image, name));
    if by_name.as_ref() == Some(target) {
        return Ok(());
    }
    name(store, &image, target.to_string())?;
    forget_built(store, &target.to_string())?;
    by_name.map_or(Ok(()), |source| name_built(store, &source.to_string(), target))
}

pub(super) fn name(store: &Store, image: &StoredImage, name: String) -> Result<()> {
    let created = rbuild_fs::Timestamp::now().seconds;
    let record = ImageRecord { reference: name, created, session: String::new(), ..image.record.clone() };
    store.set_tag(record).explain(FailureKind::Environment, || "could not write to the store".to_owned())
}

/// Takes the name `text` from its image; an image ID takes all names. With its last tag an image is gone.
///
/// # Errors
/// No such image; or an ID whose image has tags in several repositories, unless `force`.
pub fn remove(store: &Store, text: &str, force: bool) -> Result<Vec<Removed>> {
    let image = find(store, text)?;
    let by_name = Reference::parse(text).ok().filter(|name| is_name_of(&image, name));
    let doomed: Vec<String> = match by_name {
        Some(name) => names_to_remove(&image, &name),
        None => {
            refuse_several_repositories(&image, text, force)?;
            image.names.clone()
        }
    };
    let mut removed = Vec::new();
    for name in &doomed {
        let gone = store.remove_tag(name);
        gone.explain(FailureKind::Environment, || format!("could not remove the name `{name}`"))?;
        forget_built(store, name)?;
        if let Some(reference) =
            image.tags.iter().chain(&image.digests).find(|known| known.to_string() == *name)
        {
            removed.push(Removed::Untagged(reference.familiar()));
        }
    }
    if doomed.len() == image.names.len() {
        removed.push(Removed::Deleted(image.id));
    }
    Ok(removed)
}

fn is_name_of(image: &StoredImage, name: &Reference) -> bool {
    match name.digest() {
        // With a digest a tag says nothing more.
        Some(digest) => image.digests.contains(&name.repository_digest(digest)),
        None => image.tags.contains(name),
    }
}

/// The name itself; with the last tag also what registries call the image.
fn names_to_remove(image: &StoredImage, name: &Reference) -> Vec<String> {
    let name = name.digest().map_or_else(|| name.clone(), |digest| name.repository_digest(digest));
    let left: Vec<&Reference> = image.tags.iter().filter(|tag| **tag != name).collect();
    let mut doomed = vec![name.to_string()];
    if name.digest().is_none() {
        // A repository's digests go with its last tag here.
        let orphans = image.digests.iter().filter(|digest| {
            left.is_empty() || !left.iter().any(|tag| tag.repository() == digest.repository())
        });
        let orphans = orphans.filter(|digest| left.is_empty() || digest.repository() == name.repository());
        doomed.extend(orphans.map(Reference::to_string));
    }
    doomed
}

fn refuse_several_repositories(image: &StoredImage, text: &str, force: bool) -> Result<()> {
    let mut repositories: Vec<String> = image.tags.iter().map(Reference::familiar_name).collect();
    repositories.dedup();
    if force || repositories.len() < 2 {
        return Ok(());
    }
    let message = format!("could not remove `{text}`: the image has names in several repositories");
    let names = repositories.join(", ");
    let failure = Failure::new(FailureKind::Build, message);
    Err(failure.help(format!("remove the names one by one ({names}), or all with `--force`")).into())
}
