//! `rbuild inspect`.

use std::io::Write;

use rbuild_engine::stored::{self, StoredImage};
use rbuild_executor::Place;
use rbuild_image::Reference;
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::template::Format;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

pub(crate) fn run(args: &InspectArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let images: Vec<StoredImage> =
        args.images.iter().map(|name| stored::find(&store, name)).collect::<Result<_, _>>()?;
    if args.raw {
        for image in &images {
            // A reader that went away has what it wanted.
            let _ = std::io::stdout().write_all(image.config_bytes());
        }
        return Ok(());
    }
    let documents: Vec<Value> = images.iter().map(document).collect();
    let text = match format {
        Format::Table | Format::Json => pretty(&Value::Array(documents)),
        template => template.show(&documents).unwrap_or_default(),
    };
    print(&text);
    Ok(())
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
fn document(image: &StoredImage) -> Value {
    let config = image.config();
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
        "Size": image.size(),
        "RootFS": { "Type": config.rootfs.kind, "Layers": layers },
        "Metadata": { "LastTagTime": show::date(image.named) },
    });
    let optional = [("Variant", &config.variant), ("OsVersion", &config.os_version)];
    for (key, value) in optional {
        if let Some(value) = value {
            document[key] = json!(value);
        }
    }
    document
}
