//! Any text: no panic, spans in the text.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::{
    CheckInput, CheckSettings, Diagnostic, Dockerfile, GraphArguments, ParseOptions, StageGraph, check, diagnose,
    outline, parse_onbuild, targets,
};

fuzz_target!(|text: &str| {
    lie_in(text, &diagnose(text, ParseOptions::default(), &GraphArguments::default()));
    let dockerfile = match Dockerfile::parse(text) {
        Ok(dockerfile) => dockerfile,
        Err(errors) => {
            assert!(!errors.is_empty());
            return lie_in(text, &errors);
        }
    };
    instructions(text, &dockerfile);
    let arguments = GraphArguments::default();
    let settings = CheckSettings { experimental_all: true, ..CheckSettings::default() };
    let input = CheckInput { arguments: &arguments, ignored: Some(&|path| path.len() % 2 == 0), base_images: &|_, _| None, verify: None };
    for finding in check(&dockerfile, &input, &settings) {
        assert!(finding.span.end <= text.len() && finding.place.end <= text.len(), "{finding:?}");
    }
    targets(&dockerfile);
    match StageGraph::of(&dockerfile, &arguments) {
        Ok(graph) => planned(text, &dockerfile, &graph, &arguments),
        Err(errors) => lie_in(text, &errors),
    }
    dockerfile.to_json();
});

fn instructions(text: &str, dockerfile: &Dockerfile) {
    let variables: BTreeMap<String, String> = [("A".to_owned(), "b c".to_owned())].into();
    for instruction in dockerfile.instructions() {
        assert!(text.get(instruction.span.start..instruction.span.end).is_some(), "{instruction:?}");
        if let Err(error) = instruction.expanded(&variables, dockerfile.escape) {
            lie_in(text, &[error]);
        }
        if let Some(trigger) = instruction.original.get(8..) {
            let _ = parse_onbuild(trigger, dockerfile.escape);
        }
    }
}

fn planned(text: &str, dockerfile: &Dockerfile, graph: &StageGraph, arguments: &GraphArguments) {
    for target in 0..dockerfile.stages.len() {
        match graph.plan_for(dockerfile.stages[target].name()) {
            Ok(plan) => lie_in(text, &graph.faults(&plan)),
            Err(error) => lie_in(text, &[error]),
        }
    }
    if let Ok(target) = graph.target(None) {
        outline(dockerfile, graph, target, arguments);
    }
    (graph.to_text(), graph.to_json(), graph.to_dot(), graph.to_mermaid());
}

fn lie_in(text: &str, errors: &[Diagnostic]) {
    for error in errors {
        assert!(text.get(error.span.start..error.span.end).is_some(), "{error:?}");
        for (span, _) in &error.labels {
            assert!(text.get(span.start..span.end).is_some(), "{error:?}");
        }
    }
}
