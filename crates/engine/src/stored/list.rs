//! Which images there are, and which one a name means.

use std::collections::BTreeMap;

use rbuild_dockerfile::suggestion;
use rbuild_image::{Digest, Manifest, Reference};
use rbuild_store::{ImageRecord, Store};

use super::{StoredImage, StoredLayer};
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::image::{Image, Origin};
use crate::images::read_blob;

/// All images that have a name, the latest made first.
///
/// # Errors
/// What can't be read of the store.
pub fn list(store: &Store) -> Result<Vec<StoredImage>> {
    let mut images: Vec<StoredImage> =
        by_image(store)?.into_values().map(|records| read(store, &records)).collect::<Result<_>>()?;
    let made = |image: &StoredImage| {
        let created = image.config().created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        created.map_or(image.named, jiff::Timestamp::as_second)
    };
    images.sort_by(|one, other| made(other).cmp(&made(one)).then_with(|| one.tags.cmp(&other.tags)));
    Ok(images)
}

/// The image that a user means: by name, by `name@digest`, or by the beginning of its image ID.
///
/// # Errors
/// There is none, or several image IDs begin so.
pub fn find(store: &Store, name: &str) -> Result<StoredImage> {
    let groups = by_image(store)?;
    let id = match id_of_name(&groups, name) {
        Some(id) => id,
        None => id_of_prefix(&groups, name)?.ok_or_else(|| not_found(&groups, name))?,
    };
    let records = groups.get(&id).ok_or_else(|| not_found(&groups, name))?;
    // From here on a collection in another process leaves it alone.
    for record in records {
        let held = store.tag(&record.reference);
        held.explain(FailureKind::Environment, || "could not read the store".to_owned())?;
    }
    read(store, records)
}

type Groups = BTreeMap<Digest, Vec<ImageRecord>>;

fn by_image(store: &Store) -> Result<Groups> {
    let records = store.tags().explain(FailureKind::Environment, || "could not read the store".to_owned())?;
    let mut groups = Groups::new();
    for record in records.into_iter().filter(is_image) {
        groups.entry(record.image_id.clone()).or_default().push(record);
    }
    Ok(groups)
}

fn is_image(record: &ImageRecord) -> bool {
    record.manifest.is_some() && !record.reference.contains(' ')
}

fn read(store: &Store, records: &[ImageRecord]) -> Result<StoredImage> {
    // A name from a registry knows its manifest there; one given by a build does not.
    let with_digest = records.iter().find(|record| record.reference.contains('@'));
    let record = with_digest.or(records.first());
    let (record, manifest) = record
        .and_then(|record| Some((record, record.manifest.as_ref()?)))
        .ok_or_else(|| Failure::new(FailureKind::Environment, "an image of the store has no manifest"))?;
    let manifest_bytes = read_blob(store, manifest)?;
    let manifest = Manifest::parse(&manifest_bytes)
        .explain(FailureKind::Environment, || "could not read a manifest of the store".to_owned())?;
    let config = read_blob(store, &manifest.config.digest)?;
    let image = Image::of_documents(&manifest, config, &Origin::Store)?;
    let mut stored = StoredImage {
        id: record.image_id.clone(),
        tags: Vec::new(),
        digests: Vec::new(),
        named: records.iter().map(|record| record.created).max().unwrap_or_default(),
        manifest_bytes,
        layers: layers(store, &manifest, &image),
        manifest,
        image,
        record: record.clone(),
        names: records.iter().map(|record| record.reference.clone()).collect(),
    };
    for reference in records.iter().filter_map(|record| reference_of(&record.reference)) {
        let list = if reference.digest().is_some() { &mut stored.digests } else { &mut stored.tags };
        list.push(reference);
    }
    Ok(stored)
}

fn layers(store: &Store, manifest: &Manifest, image: &Image) -> Vec<StoredLayer> {
    let sizes = image.chain().into_iter().map(|chain_id| {
        // What was unpacked knows the length of its tar; a damaged record only costs the better number.
        store.layer(&chain_id).ok().flatten().map(|layer| layer.info.size)
    });
    let layer = |(descriptor, size): (&rbuild_image::Descriptor, Option<u64>)| StoredLayer {
        size: size.unwrap_or(descriptor.size),
        descriptor: descriptor.clone(),
    };
    manifest.layers.iter().zip(sizes).map(layer).collect()
}

/// The reference that a record's name is; none for an image that was loaded without a name.
fn reference_of(name: &str) -> Option<Reference> {
    let unnamed = name.parse::<Digest>().is_ok();
    Reference::parse(name).ok().filter(|_| !unnamed)
}

fn id_of_name(groups: &Groups, name: &str) -> Option<Digest> {
    let wanted = Reference::parse(name).ok()?;
    let named = |fits: &dyn Fn(&Reference) -> bool| {
        let mut found = groups.iter().filter(|(_, records)| {
            records
                .iter()
                .filter_map(|record| reference_of(&record.reference))
                .any(|reference| fits(&reference))
        });
        let first = found.next().map(|(id, _)| id.clone());
        first.filter(|_| found.next().is_none())
    };
    // With a digest the tag says nothing more.
    let same = |reference: &Reference| match wanted.digest() {
        Some(digest) => reference.digest() == Some(digest) && reference.repository() == wanted.repository(),
        None => *reference == wanted,
    };
    named(&same)
}

fn id_of_prefix(groups: &Groups, text: &str) -> Result<Option<Digest>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.is_empty() || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut found = groups.keys().filter(|id| id.hex().starts_with(hex));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(Some(id.clone())),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => {
            let message = format!("several images have an ID that begins with `{text}`");
            Err(Failure::new(FailureKind::Build, message).help("give more of its digits").into())
        }
    }
}

fn not_found(groups: &Groups, name: &str) -> Failure {
    let known: Vec<String> = groups
        .values()
        .flatten()
        .filter_map(|record| reference_of(&record.reference).filter(|reference| reference.digest().is_none()))
        .map(|reference| reference.familiar())
        .collect();
    let wanted = Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar());
    let message = format!("no image `{name}` in the store");
    let failure = Failure::new(FailureKind::Build, message);
    match suggestion(&wanted, known.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help(format!(
            "`rbuild images` lists what is there; `rbuild pull {name}` fetches an image from its registry"
        )),
    }
}
