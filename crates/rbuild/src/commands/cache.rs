//! `rbuild cache`: the records of steps, looked at and taken away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rbuild_engine::{Failure, FailureKind};
use rbuild_executor::Place;
use rbuild_store::{CacheRecord, CacheResult, KeyPart, PartValue, PruneOptions, Store, VerifyOptions};
use serde_json::{Value, json};

use super::args::{CacheCommand, CachePruneArgs};
use super::template::Format;
use super::{print, prune, show};
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::{size, surroundings};

/// A record and when it was used last, in seconds since 1970.
type Used = (CacheRecord, i64);

pub(crate) fn run(
    command: &CacheCommand,
    global: &GlobalArgs,
    place: &'static Place,
) -> Result<(), CliError> {
    let store = surroundings::open_store(global.root.as_deref(), place)?;
    match command {
        CacheCommand::Ls { format, no_trunc } => ls(&store, format.as_deref(), *no_trunc),
        CacheCommand::Inspect { keys, format } => inspect(&store, keys, format.as_deref()),
        CacheCommand::Rm { keys } => rm(&store, keys),
        CacheCommand::Prune(args) => prune(&store, args),
        CacheCommand::Verify { read_blobs } => verify(&store, *read_blobs),
    }
}

fn fault(error: rbuild_store::StoreError) -> CliError {
    CliError::environment("could not read the build cache".to_owned(), error)
}

/// All records, last used first.
fn records(store: &Store) -> Result<Vec<Used>, CliError> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let mut records: Vec<Used> = store
        .cache_records()
        .map_err(fault)?
        .into_iter()
        .map(|(record, used)| (record, seconds(used)))
        .collect();
    records.sort_by(|(one, one_used), (other, other_used)| {
        other_used
            .cmp(one_used)
            .then_with(|| other.created.cmp(&one.created))
            .then_with(|| one.key.cmp(&other.key))
    });
    Ok(records)
}

fn ls(store: &Store, format: Option<&str>, no_trunc: bool) -> Result<(), CliError> {
    let format = Format::parse(format)?;
    let records = records(store)?;
    let documents =
        records.iter().map(|used| summary(store, used)).collect::<Result<Vec<Value>, CliError>>()?;
    let text = match format.show(&documents) {
        Some(text) => text,
        None => table(&documents, no_trunc),
    };
    print(&text);
    Ok(())
}

fn table(documents: &[Value], no_trunc: bool) -> String {
    let now = show::now();
    let text = |document: &Value, name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let number = |document: &Value, name: &str| document[name].as_i64().unwrap_or_default();
    let row = |document: &Value| {
        let key = text(document, "Key");
        let step: String = text(document, "CreatedBy").split_whitespace().collect::<Vec<_>>().join(" ");
        vec![
            if no_trunc { key } else { show::short(&key).to_owned() },
            text(document, "Stage"),
            show::ago(number(document, "UsedAt"), now),
            size::human(document["Size"].as_u64().unwrap_or_default()),
            if no_trunc || step.chars().count() <= 60 {
                step
            } else {
                step.chars().take(59).chain(['…']).collect()
            },
        ]
    };
    show::table(&["KEY", "STAGE", "USED", "SIZE", "STEP"], &documents.iter().map(row).collect::<Vec<_>>())
}

/// What `ls` says of a record.
fn summary(store: &Store, (record, used): &Used) -> Result<Value, CliError> {
    let (kind, bytes) = match &record.result {
        CacheResult::Snapshot(id) => ("snapshot", store.snapshot_bytes(id).map_err(fault)?),
        CacheResult::Layer(layer) => ("elsewhere", layer.descriptor.size),
        CacheResult::Metadata(_) => ("metadata", 0),
    };
    Ok(json!({
        "Key": record.key,
        "Stage": record.lineage.stage,
        "Instruction": record.lineage.instruction,
        "CreatedBy": record.created_by,
        "CreatedAt": record.created,
        "UsedAt": used,
        "Kind": kind,
        "Size": bytes,
    }))
}

fn inspect(store: &Store, keys: &[String], format: Option<&str>) -> Result<(), CliError> {
    let format = Format::parse(format.or(Some("json")))?;
    let records = records(store)?;
    let mut documents = Vec::new();
    for key in keys {
        let used = find(&records, key)?;
        let mut document = summary(store, used)?;
        document["DiffId"] = json!(used.0.diff_id);
        document["Parts"] = used.0.parts.parts().iter().map(part).collect();
        documents.push(document);
    }
    print(&format.show(&documents).unwrap_or_else(|| table(&documents, true)));
    Ok(())
}

/// A part of a key as a document; the value of a variable that looks like a secret is left out.
fn part(part: &KeyPart) -> Value {
    let is_secret = part.name.strip_prefix("environment ").is_some_and(rbuild_dockerfile::looks_secret);
    let value = match &part.value {
        PartValue::Text(_) if is_secret => "…".to_owned(),
        PartValue::Text(text) => text.clone(),
        PartValue::Content(digest) => digest.to_string(),
    };
    json!({ "Name": part.name, "Value": value })
}

/// The one record whose key begins so.
fn find<'r>(records: &'r [Used], key: &str) -> Result<&'r Used, CliError> {
    let fits: Vec<&Used> = records
        .iter()
        .filter(|(record, _)| !key.is_empty() && record.key.to_string().starts_with(key))
        .collect();
    match fits.as_slice() {
        [one] => Ok(one),
        [] => {
            let failure = Failure::new(FailureKind::Build, format!("no cache record has the key `{key}`"));
            Err(failure.help("`rbuild cache ls` lists them").into())
        }
        several => {
            let message = format!("{} cache records have keys that begin with `{key}`", several.len());
            Err(Failure::new(FailureKind::Build, message).help("give more digits").into())
        }
    }
}

fn rm(store: &Store, keys: &[String]) -> Result<(), CliError> {
    let records = records(store)?;
    let doomed = keys.iter().map(|key| find(&records, key)).collect::<Result<Vec<_>, _>>()?;
    for (record, _) in doomed {
        store.remove_cache_record(&record.key).map_err(fault)?;
        print(&format!("{}\n", record.key));
    }
    Ok(())
}

/// As `rbuild prune`, but images and cache mounts stay, and nobody is asked: the cache can be made again.
fn prune(store: &Store, args: &CachePruneArgs) -> Result<(), CliError> {
    let until = args.until.as_deref().map(size::parse_age).transpose().map_err(CliError::usage)?;
    let max_bytes =
        args.keep_storage.as_deref().map(size::parse_size).transpose().map_err(CliError::usage)?;
    let max_age = match (until, max_bytes) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, Some(_)) => None,
        (None, None) if args.all => Some(Duration::ZERO),
        (None, None) => Some(prune::CACHE_AGE),
    };
    let options = PruneOptions { max_age, max_bytes, mounts: false, now: SystemTime::now() };
    let report = store
        .prune(&options)
        .map_err(|error| CliError::environment("could not prune the build cache".to_owned(), error))?;
    print(&prune::told(&report));
    Ok(())
}

fn verify(store: &Store, read_blobs: bool) -> Result<(), CliError> {
    let violations = store
        .verify(&VerifyOptions { read_blobs })
        .map_err(|error| CliError::environment("could not verify the store".to_owned(), error))?;
    if violations.is_empty() {
        print("The store is as it should be.\n");
        return Ok(());
    }
    for violation in &violations {
        print(&format!("{violation}\n"));
    }
    let message = format!("{} things in the store are not as they should be", violations.len());
    let failure = Failure::new(FailureKind::Build, message);
    Err(failure.help("`rbuild cache prune --all` removes all that no image and no running build uses").into())
}
