//! What BuildKit's own frontend says of a Dockerfile, and what we say: whether it is read, its targets, the findings of
//! the checks, the outline of its last stage.
//!
//! `testdata/dockerfile/reference.jsonl` holds what BuildKit said (its version is in the first line), one Dockerfile
//! of `testdata` a line; every base image had no more than a `PATH` and the platform asked for. Differences that are
//! meant are listed with their reasons in `reference.known`. `RBUILD_REFERENCE=FILE` names more records of the same
//! form, whose paths are taken as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::{
    BaseImage, BuildPlatform, CheckInput, Dockerfile, GraphArguments, Inspection, LineIndex, Outline,
    OutlineMount, Span, StageGraph, check_settings, inspect, outline, targets,
};
use serde_json::{Value, json};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The records of a file; the first line of one may say where they come from.
fn records(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record.get("path").is_some()).collect()
}

/// `PATH ASPECT: reason`, by path and aspect.
fn known() -> BTreeMap<String, String> {
    let text = fs::read_to_string(testdata().join("dockerfile/reference.known")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(": ").expect("a reason"))
        .map(|(key, why)| (key.into(), why.into()))
        .collect()
}

#[test]
fn ours_is_what_the_reference_says() {
    let mut said = records(&testdata().join("dockerfile/reference.jsonl"));
    assert!(said.len() > 300, "only {} records", said.len());
    for record in &mut said {
        record["file"] = json!(testdata().join(record["path"].as_str().unwrap()));
    }
    if let Some(more) = std::env::var_os("RBUILD_REFERENCE") {
        said.extend(records(Path::new(&more)));
    }
    let known = known();
    let mut unused: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    let mut wrong = String::new();
    for record in &said {
        let path = record["path"].as_str().unwrap();
        let file = record["file"].as_str().unwrap_or(path);
        let source = fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        for (aspect, difference) in differences(&String::from_utf8_lossy(&source), record) {
            let key = format!("{path} {aspect}");
            if !unused.remove(key.as_str()) && !known.contains_key(&key) {
                wrong.push_str(&format!("{key}\n{difference}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}{} records compared", said.len());
    assert!(unused.is_empty(), "no longer different: {unused:#?}");
}

/// What differs, by aspect.
fn differences(source: &str, record: &Value) -> Vec<(&'static str, String)> {
    let arguments = arguments();
    let lines = LineIndex::new(source);
    let mut found = Vec::new();
    let mut compare = |aspect, ours: Value, theirs: &Value| {
        if ours != *theirs {
            found.push((aspect, format!("  ours:   {ours}\n  theirs: {theirs}")));
        }
    };
    let dockerfile = match Dockerfile::parse(source) {
        Ok(dockerfile) => dockerfile,
        Err(_) => {
            compare("outcome", outcome(true), &refusal(record));
            return found;
        }
    };
    let graph = match StageGraph::of(&dockerfile, &arguments) {
        Ok(graph) => graph,
        Err(_) => {
            compare("outcome", outcome(true), &refusal(record));
            return found;
        }
    };
    let plan = graph.plan_for(None).unwrap();
    let inspection = inspection(&dockerfile, &arguments);
    let faults = [graph.faults(&plan), inspection.faults_of(&plan)].concat();
    let settings = check_settings(&dockerfile, &arguments).unwrap();
    let is_refused = !faults.is_empty() || (settings.error && !inspection.findings.is_empty());
    compare("outcome", outcome(is_refused), &refusal(record));
    if record.get("targets").is_some() {
        compare("targets", targets_said(&dockerfile, &lines), &record["targets"]);
    }
    if record["check_error"].is_null() {
        compare("check", findings(&inspection, &lines), &in_order(&record["check"]));
    }
    if record.get("outline").is_some() {
        let target = graph.target(None).unwrap();
        let outline = outline(&dockerfile, &graph, target, &arguments).unwrap();
        compare("outline", outline_said(&outline, &lines), &outline_of(&record["outline"]));
    }
    found
}

fn arguments() -> GraphArguments {
    let platform =
        BuildPlatform { os: "linux".into(), architecture: "amd64".into(), ..BuildPlatform::default() };
    GraphArguments::default().with_platforms(&platform, &platform)
}

fn outcome(is_refused: bool) -> Value {
    if is_refused { "refused" } else { "accepted" }.into()
}

fn refusal(record: &Value) -> Value {
    outcome(["parse_error", "build_error"].iter().any(|error| record.get(error).is_some()))
}

fn targets_said(dockerfile: &Dockerfile, lines: &LineIndex) -> Value {
    let said = targets(dockerfile).into_iter().map(|target| {
        json!({
            "name": target.name.unwrap_or_default(),
            "default": target.is_default,
            "description": target.description.unwrap_or_default(),
            "base": target.base,
            "platform": target.platform.unwrap_or_default(),
            "lines": range(target.span, lines),
        })
    });
    said.collect()
}

fn inspection(dockerfile: &Dockerfile, arguments: &GraphArguments) -> Inspection {
    let base = |_: &str, platform: Option<&str>| {
        let platform = Some(platform.unwrap_or("linux/amd64").to_owned());
        Some(BaseImage { env: vec![PATH.into()], platform, ..BaseImage::default() })
    };
    let input = CheckInput { arguments, ignored: None, base_images: &base, verify: None };
    let settings = check_settings(dockerfile, arguments).unwrap();
    inspect(dockerfile, &input, &settings)
}

fn findings(inspection: &Inspection, lines: &LineIndex) -> Value {
    let said = inspection.findings.iter().map(|f| json!([f.rule.name(), range(f.span, lines), f.message]));
    in_order(&said.collect())
}

fn outline_said(outline: &Outline<'_>, lines: &LineIndex) -> Value {
    let args = outline.args.iter().map(|arg| {
        json!([arg.name, arg.value, arg.description.as_deref().unwrap_or_default(), range(arg.span, lines)])
    });
    let mounts = |mounts: &[OutlineMount]| -> Value {
        let said = mounts.iter().map(|mount| json!([mount.id, mount.required, range(mount.span, lines)]));
        in_order(&said.collect())
    };
    json!({
        "name": outline.target.name.unwrap_or_default(),
        "description": outline.target.description.unwrap_or_default(),
        "args": in_order(&args.collect()),
        "secrets": mounts(&outline.secrets),
        "ssh": mounts(&outline.ssh),
    })
}

/// Each line of a place, as a range of its own.
fn range(span: Span, lines: &LineIndex) -> Value {
    let last = lines.line(span.end.saturating_sub(1).max(span.start));
    (lines.line(span.start)..=last).flat_map(|line| [line, line]).collect()
}

/// The same entries in an order that does not matter.
fn in_order(list: &Value) -> Value {
    let mut entries = list.as_array().cloned().unwrap_or_default();
    entries.sort_by_key(Value::to_string);
    entries.into()
}

/// BuildKit's outline. Its lists are in no order within a line, and `null` when empty; that of cache mounts it never fills.
fn outline_of(outline: &Value) -> Value {
    let fields = outline.as_object().unwrap().iter().filter(|(name, _)| *name != "caches");
    let list = |field: &Value| if field.is_string() { field.clone() } else { in_order(field) };
    fields.map(|(name, field)| (name.clone(), list(field))).collect()
}
