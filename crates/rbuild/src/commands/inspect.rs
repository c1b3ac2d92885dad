//! `rbuild inspect`.

use std::io::Write;
use std::sync::Arc;

use rbuild_engine::{Location, relay, stored};
use rbuild_executor::Place;
use rbuild_image::{ImageConfig, Platform, Reference};
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::template::Format;
use super::{platform, print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

/// What is known of an image, wherever it is.
struct Seen {
    id: String,
    tags: Vec<Reference>,
    digests: Vec<Reference>,
    config_bytes: Vec<u8>,
    size: u64,
    /// When it got its latest name here, in seconds since 1970.
    named: Option<i64>,
}

pub(crate) fn run(args: &InspectArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let platform = platform(args.platform.as_deref())?;
    let see = |name: &String| match Location::has_transport(name) {
        true => elsewhere(name, &platform, global, place),
        false => here(name, global, place),
    };
    let images: Vec<Seen> = args.images.iter().map(see).collect::<Result<_, _>>()?;
    if args.raw {
        for image in &images {
            // A reader that went away has what it wanted.
            let _ = std::io::stdout().write_all(&image.config_bytes);
        }
        return Ok(());
    }
    let documents: Vec<Value> = images.iter().map(document).collect::<Result<_, _>>()?;
    let text = match format {
        Format::Table | Format::Json => pretty(&Value::Array(documents)),
        template => template.show(&documents).unwrap_or_default(),
    };
    print(&text);
    Ok(())
}

fn here(name: &str, global: &GlobalArgs, place: &'static Place) -> Result<Seen, CliError> {
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let image = stored::find(&store, name)?;
    Ok(Seen {
        id: image.id.to_string(),
        config_bytes: image.config_bytes().to_vec(),
        size: image.size(),
        named: Some(image.named),
        tags: image.tags,
        digests: image.digests,
    })
}

/// At a registry, or in an archive.
fn elsewhere(
    name: &str,
    platform: &Platform,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<Seen, CliError> {
    let client = Arc::new(surroundings::client(global, place)?);
    let image = relay::inspect(&client, &Location::parse(name)?, platform)?;
    Ok(Seen {
        id: image.manifest.config.digest.to_string(),
        tags: Vec::new(),
        digests: image.name.into_iter().collect(),
        config_bytes: image.config_bytes,
        size: image.manifest.layers.iter().map(|layer| layer.size).sum(),
        named: None,
    })
}

/// Four spaces, as Docker prints it.
pub(super) fn pretty(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    // A value of strings and numbers is always JSON.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
}

/// Docker's keys.
fn document(image: &Seen) -> Result<Value, CliError> {
    let config = ImageConfig::parse(&image.config_bytes).map_err(|error| {
        CliError::environment("could not understand the image's config".to_owned(), error)
    })?;
    let names = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    let layers: Vec<String> = config.rootfs.diff_ids.iter().map(|diff_id| diff_id.0.to_string()).collect();
    let mut document = json!({
        "Id": image.id,
        "RepoTags": names(&image.tags),
        "RepoDigests": names(&image.digests),
        "Comment": config.history.last().map(|entry| entry.comment.as_str()).unwrap_or_default(),
        "Created": config.created,
        "Author": config.author,
        "Config": config.config,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size,
        "RootFS": { "Type": config.rootfs.kind, "Layers": layers },
    });
    if let Some(named) = image.named {
        document["Metadata"] = json!({ "LastTagTime": show::date(named) });
    }
    for (key, value) in [("Variant", &config.variant), ("OsVersion", &config.os_version)] {
        if let Some(value) = value {
            document[key] = json!(value);
        }
    }
    Ok(document)
}
