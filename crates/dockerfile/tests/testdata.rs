//! The Dockerfiles in `testdata/dockerfile` and what is to be read in them.
//!
//! `accepted/x.Dockerfile` has its instructions in `x.json`, `refused/x.Dockerfile` its diagnostics in `x.txt`. After
//! a change that is meant, run the tests with `RBUILD_BLESS=1` and read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::{Dockerfile, GraphArguments, StageGraph};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dockerfile").join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "Dockerfile")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn compare(path: &Path, found: &str) {
    if std::env::var_os("RBUILD_BLESS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == found, "{} differs; found:\n{found}", path.display());
}

#[test]
fn accepted() {
    for path in files("accepted") {
        let source = fs::read_to_string(&path).unwrap();
        let dockerfile = Dockerfile::parse(&source).unwrap();
        let json = serde_json::to_string_pretty(&dockerfile.to_json()).unwrap();
        compare(&path.with_extension("json"), &format!("{json}\n"));
    }
}

#[test]
fn refused() {
    for path in files("refused") {
        let source = fs::read_to_string(&path).unwrap();
        let errors = match Dockerfile::parse(&source) {
            Err(errors) => errors,
            Ok(dockerfile) => match StageGraph::of(&dockerfile, &GraphArguments::default()) {
                Err(errors) => errors,
                Ok(graph) => graph.faults(&graph.plan_for(None).unwrap()),
            },
        };
        let lines = rbuild_dockerfile::LineIndex::new(&source);
        let mut text = String::new();
        for error in errors {
            let at = lines.position(&source, error.span.start);
            text.push_str(&format!(
                "{}:{}: {}\n    {}\n",
                at.line,
                at.column,
                error.message,
                error.span.of(&source)
            ));
            for (span, label) in &error.labels {
                text.push_str(&format!("    {}: {label}\n", lines.line(span.start)));
            }
            text.extend(error.help.map(|help| format!("    help: {help}\n")));
        }
        compare(&path.with_extension("txt"), &text);
    }
}
