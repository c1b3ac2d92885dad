//! `rbuild images`.

use rbuild_engine::stored::{self, StoredImage};
use rbuild_executor::Place;
use rbuild_image::{Digest, Reference};
use serde_json::{Value, json};

use super::args::ImagesArgs;
use super::filter::{Filter, created};
use super::template::Format;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

const NONE: &str = "<none>";

/// One line: an image under one of its names.
struct Line<'a> {
    image: &'a StoredImage,
    repository: String,
    tag: String,
    digest: Option<&'a Digest>,
}

pub(crate) fn run(args: &ImagesArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let mut filter = Filter::parse(&args.filters)?;
    filter.references.extend(args.name.clone());
    let format = Format::parse(args.format.as_deref())?;
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let now = show::now();
    let images: Vec<StoredImage> =
        stored::list(&store)?.into_iter().filter(|image| filter.fits(image, now)).collect();
    let lines: Vec<Line<'_>> =
        images.iter().flat_map(|image| lines_of(image, &filter, args.digests)).collect();
    if args.quiet {
        let ids = lines.iter().map(|line| format!("{}\n", id(line.image, args.no_trunc)));
        print(&ids.collect::<String>());
        return Ok(());
    }
    let documents: Vec<Value> = lines.iter().map(|line| line.document(args.no_trunc, now)).collect();
    let text = format.show(&documents).unwrap_or_else(|| table(&lines, args, now));
    print(&text);
    Ok(())
}

/// A line for each tag; an image without one has a line for each repository that knows it, or a single one.
fn lines_of<'a>(image: &'a StoredImage, filter: &Filter, digests: bool) -> Vec<Line<'a>> {
    let digest_of = |name: &Reference| {
        image
            .digests
            .iter()
            .find(|digest| digest.repository() == name.repository())
            .and_then(Reference::digest)
    };
    let line =
        |repository: String, tag: &str, digest| Line { image, repository, tag: tag.to_owned(), digest };
    let tags = image.tags.iter().filter(|tag| filter.names(tag));
    let mut lines: Vec<Line<'a>> =
        tags.map(|tag| line(tag.familiar_name(), tag.tag().unwrap_or(NONE), digest_of(tag))).collect();
    if lines.is_empty() {
        let named =
            if digests { image.digests.as_slice() } else { image.digests.get(..1).unwrap_or_default() };
        lines = named.iter().map(|name| line(name.familiar_name(), NONE, name.digest())).collect();
    }
    if lines.is_empty() {
        lines.push(line(NONE.to_owned(), NONE, None));
    }
    lines
}

impl Line<'_> {
    fn created(&self, now: i64) -> String {
        created(self.image).map_or_else(|| "N/A".to_owned(), |time| show::ago(time, now))
    }

    fn digest(&self) -> String {
        self.digest.map_or_else(|| NONE.to_owned(), Digest::to_string)
    }

    /// Docker's keys.
    fn document(&self, no_trunc: bool, now: i64) -> Value {
        json!({
            "Containers": "N/A",
            "CreatedAt": created(self.image).map_or_else(|| "N/A".to_owned(), show::date),
            "CreatedSince": self.created(now),
            "Digest": self.digest(),
            "ID": id(self.image, no_trunc),
            "Repository": self.repository,
            "SharedSize": "N/A",
            "Size": size::human(self.image.size()),
            "Tag": self.tag,
            "UniqueSize": "N/A",
        })
    }
}

fn table(lines: &[Line<'_>], args: &ImagesArgs, now: i64) -> String {
    let mut headings = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        headings.insert(2, "DIGEST");
    }
    let row = |line: &Line<'_>| {
        let mut row = vec![
            line.repository.clone(),
            line.tag.clone(),
            id(line.image, args.no_trunc),
            line.created(now),
            size::human(line.image.size()),
        ];
        if args.digests {
            row.insert(2, line.digest());
        }
        row
    };
    show::table(&headings, &lines.iter().map(row).collect::<Vec<_>>())
}

fn id(image: &StoredImage, whole: bool) -> String {
    if whole { image.id.to_string() } else { show::short(image.id.as_str()).to_owned() }
}
