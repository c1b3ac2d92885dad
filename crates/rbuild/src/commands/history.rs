//! `rbuild history`.

use rbuild_engine::stored::{self, StoredImage};
use rbuild_executor::Place;
use rbuild_image::HistoryEntry;
use serde_json::{Value, json};

use super::args::HistoryArgs;
use super::template::Format;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

/// Characters of an instruction that Docker's table shows.
const CREATED_BY: usize = 45;

/// One line: what an instruction did.
struct Line {
    id: String,
    created: Option<i64>,
    created_by: String,
    size: u64,
    comment: String,
}

pub(crate) fn run(args: &HistoryArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let image = stored::find(&store, &args.image)?;
    let lines = lines_of(&image, args.no_trunc);
    let now = show::now();
    let text = match (args.quiet, format) {
        (true, _) => lines.iter().map(|line| format!("{}\n", line.id)).collect(),
        (false, Format::Table) => table(&lines, args, now),
        (false, format) => {
            let documents: Vec<Value> = lines.iter().map(|line| document(line, args, now)).collect();
            format.show(&documents).unwrap_or_default()
        }
    };
    print(&text);
    Ok(())
}

/// The newest first. Entries and layers are matched from the bottom up, as image configs mean it.
fn lines_of(image: &StoredImage, whole: bool) -> Vec<Line> {
    let mut sizes = image.layers.iter().map(|layer| layer.size);
    let mut line = |entry: &HistoryEntry| Line {
        id: "<missing>".to_owned(),
        created: entry.created.as_deref().and_then(show::seconds_of),
        created_by: entry.created_by.clone(),
        size: if entry.empty_layer { 0 } else { sizes.next().unwrap_or_default() },
        comment: entry.comment.clone(),
    };
    let mut lines: Vec<Line> = image.config().history.iter().map(&mut line).collect();
    // Some tools write no history at all: the layers are there all the same.
    lines.extend(sizes.map(|size| Line {
        id: "<missing>".to_owned(),
        created: None,
        created_by: String::new(),
        size,
        comment: String::new(),
    }));
    lines.reverse();
    if let Some(first) = lines.first_mut() {
        first.id = if whole { image.id.to_string() } else { show::short(image.id.as_str()).to_owned() };
    }
    lines
}

fn table(lines: &[Line], args: &HistoryArgs, now: i64) -> String {
    let row = |line: &Line| {
        vec![
            line.id.clone(),
            when(line, args.human, now),
            instruction(line, args.no_trunc),
            bytes(line, args.human),
            line.comment.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    show::table(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)
}

/// Docker's keys.
fn document(line: &Line, args: &HistoryArgs, now: i64) -> Value {
    json!({
        "Comment": line.comment,
        "CreatedAt": line.created.map_or_else(|| "N/A".to_owned(), rfc3339),
        "CreatedBy": instruction(line, args.no_trunc),
        "CreatedSince": when(line, true, now),
        "ID": line.id,
        "Size": bytes(line, args.human),
    })
}

fn when(line: &Line, human: bool, now: i64) -> String {
    match line.created {
        None => "N/A".to_owned(),
        Some(time) if human => show::ago(time, now),
        Some(time) => rfc3339(time),
    }
}

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn bytes(line: &Line, human: bool) -> String {
    if human { size::human(line.size) } else { line.size.to_string() }
}

/// In one line, and cut as Docker cuts it.
fn instruction(line: &Line, whole: bool) -> String {
    let text = line.created_by.replace(['\t', '\n'], " ");
    if whole || text.chars().count() <= CREATED_BY {
        return text;
    }
    let kept: String = text.chars().take(CREATED_BY - 1).collect();
    format!("{kept}…")
}
