//! `rbuild du`.

use rbuild_executor::Place;
use rbuild_store::{Holder, Holding, Share};
use serde_json::{Value, json};

use super::args::DuArgs;
use super::template::Format;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

/// One line: who holds how much.
struct Line {
    kind: &'static str,
    name: String,
    count: u64,
    bytes: u64,
    /// What would be free if this holder let go.
    alone: u64,
}

pub(crate) fn run(args: &DuArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let fault = |error| CliError::environment("could not measure the store".to_owned(), error);
    let usage = store.usage().map_err(fault)?;
    let mut lines: Vec<Line> = store.holdings().map_err(fault)?.iter().map(held).collect();
    lines.sort_by_key(|line| (line.kind != "image", std::cmp::Reverse(line.bytes)));
    let own = [("cache mounts", usage.mounts), ("broken-off downloads", usage.partial), ("logs", usage.logs)];
    lines.extend(own.map(|(kind, share)| apart(kind, share)));
    let documents: Vec<Value> = lines.iter().map(document).collect();
    let text = format
        .show(&documents)
        .unwrap_or_else(|| format!("{}\nTotal: {}\n", table(&lines), size::human(usage.bytes())));
    print(&text);
    Ok(())
}

fn held(holding: &Holding) -> Line {
    let (kind, name) = match &holding.holder {
        Holder::Image { id, references } => {
            ("image", name_of(references).unwrap_or_else(|| show::short(id.as_str()).to_owned()))
        }
        Holder::Cache => ("build cache", String::new()),
        Holder::Running => ("running builds", String::new()),
        Holder::Nobody => ("nobody", String::new()),
    };
    Line { kind, name, count: holding.count, bytes: holding.bytes, alone: holding.alone }
}

/// The tags as `images` shows them; what registries call the image where it has none.
fn name_of(references: &[String]) -> Option<String> {
    let parsed: Vec<_> =
        references.iter().filter_map(|text| rbuild_image::Reference::parse(text).ok()).collect();
    let tags: Vec<String> =
        parsed.iter().filter(|name| name.digest().is_none()).map(rbuild_image::Reference::familiar).collect();
    match tags.is_empty() {
        false => Some(tags.join(", ")),
        true => parsed.first().map(|name| format!("{}:<none>", name.familiar_name())),
    }
}

fn apart(kind: &'static str, share: Share) -> Line {
    Line { kind, name: String::new(), count: share.count, bytes: share.bytes, alone: share.bytes }
}

fn table(lines: &[Line]) -> String {
    let row = |line: &Line| {
        vec![
            line.kind.to_owned(),
            line.name.clone(),
            line.count.to_string(),
            size::human(line.bytes),
            size::human(line.alone),
        ]
    };
    show::table(&["HELD BY", "NAME", "COUNT", "SIZE", "ALONE"], &lines.iter().map(row).collect::<Vec<_>>())
}

fn document(line: &Line) -> Value {
    json!({ "HeldBy": line.kind, "Name": line.name, "Count": line.count, "Size": line.bytes, "Alone": line.alone })
}
