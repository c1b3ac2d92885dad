//! `rbuild prune`.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};
use std::time::{Duration, SystemTime};

use rbuild_container::Containers;
use rbuild_engine::stored::{self, StoredImage};
use rbuild_executor::Place;
use rbuild_store::{PruneOptions, PruneReport, Share, Store};

use super::args::PruneArgs;
use super::filter::Filter;
use super::{print, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

/// How long the cache keeps what is not used.
pub(super) const CACHE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

pub(crate) fn run(args: &PruneArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let filter = Filter::parse(&args.filters)?;
    let until =
        args.until.as_deref().map(size::parse_age).transpose().map_err(CliError::usage)?.or(filter.until);
    let max_bytes =
        args.keep_storage.as_deref().map(size::parse_size).transpose().map_err(CliError::usage)?;
    if !args.force && !confirmed(args)? {
        return Ok(());
    }
    let fault = |error| CliError::environment("could not prune the store".to_owned(), error);
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let doomed: Vec<StoredImage> = stored::list(&store)?
        .into_iter()
        .filter(|image| (args.all || image.tags.is_empty()) && filter.fits(image, show::now()))
        .filter(|image| until.is_none_or(|age| image.named <= show::now().saturating_sub(age as i64)))
        .collect();
    if args.all {
        remove_stopped(&store)?;
    }
    for image in &doomed {
        for removed in stored::remove(&store, image.id.as_str(), true)? {
            if let stored::Removed::Untagged(name) = removed {
                print(&format!("Untagged: {name}\n"));
            }
        }
    }
    // Looked at, it is held by this session: the next one takes it.
    drop(store);
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    let report = store.prune(&limits(args, until, max_bytes)).map_err(fault)?;
    print(&told(&report));
    Ok(())
}

/// Containers that have ended: their records and logs.
fn remove_stopped(store: &Store) -> Result<(), CliError> {
    for container in Containers::of(store)?.list()? {
        if !container.is_minded()? {
            container.remove()?;
            print(&format!("Removed container: {}\n", container.settings.name));
        }
    }
    Ok(())
}

fn limits(args: &PruneArgs, until: Option<u64>, max_bytes: Option<u64>) -> PruneOptions {
    let now = SystemTime::now();
    let max_age = match (until, max_bytes) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        // A limit of size alone says that age does not matter.
        (None, Some(_)) => None,
        (None, None) if args.all => Some(Duration::ZERO),
        (None, None) => Some(CACHE_AGE),
    };
    let mounts = args.all || until.is_some();
    // Without a limit of age, cache mounts in use by nobody would all go.
    PruneOptions { max_age, max_bytes, mounts: mounts && max_age.is_some(), now }
}

/// Asks on the terminal; without one nobody can answer.
fn confirmed(args: &PruneArgs) -> Result<bool, CliError> {
    let what = match args.all {
        true => {
            "all containers that have ended, all images, all of the build cache and all cache mounts that nothing running holds"
        }
        false => {
            "images without a name, build cache that was not used lately, broken-off downloads and old logs"
        }
    };
    if !stdin().is_terminal() {
        let failure = CliError::usage("could not ask whether to prune: standard input is no terminal");
        return Err(failure.help("add `--force`"));
    }
    let question = format!("This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    // Nobody is left to ask if standard error is gone; then the answer is no.
    let _ = stderr().write_all(question.as_bytes());
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer);
    read.map_err(|error| CliError::environment("could not read the answer".to_owned(), error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

pub(super) fn told(report: &PruneReport) -> String {
    let parts = [
        ("blobs", report.blobs),
        ("snapshots", report.snapshots),
        ("base layers", report.layers),
        ("cache records", report.cache),
        ("cache mounts", report.mounts),
        ("broken-off downloads", report.partial),
        ("logs", report.logs),
    ];
    let removed = |(what, share): &(&str, Share)| {
        vec![(*what).to_owned(), share.count.to_string(), size::human(share.bytes)]
    };
    let rows: Vec<Vec<String>> = parts.iter().filter(|(_, share)| share.count > 0).map(removed).collect();
    let table = if rows.is_empty() {
        String::new()
    } else {
        format!("{}\n", show::table(&["REMOVED", "COUNT", "SIZE"], &rows))
    };
    format!("{table}Total reclaimed space: {}\n", size::human(report.bytes()))
}
