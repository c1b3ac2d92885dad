//! Any text: no panic, spans in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::{CheckInput, CheckSettings, Dockerfile, GraphArguments, StageGraph, check, outline, targets};

fuzz_target!(|text: &str| {
    let dockerfile = match Dockerfile::parse(text) {
        Ok(dockerfile) => dockerfile,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(error.span.end <= text.len(), "{error:?}");
            }
            return;
        }
    };
    for instruction in dockerfile.instructions() {
        assert!(text.get(instruction.span.start..instruction.span.end).is_some(), "{instruction:?}");
    }
    let arguments = GraphArguments::default();
    let settings = CheckSettings { experimental_all: true, ..CheckSettings::default() };
    let input = CheckInput { arguments: &arguments, ignored: Some(&|path| path.len() % 2 == 0), base_images: &|_, _| None };
    for finding in check(&dockerfile, &input, &settings) {
        assert!(finding.span.end <= text.len() && finding.place.end <= text.len(), "{finding:?}");
    }
    targets(&dockerfile);
    if let Ok(graph) = StageGraph::of(&dockerfile, &arguments) {
        if let Ok(target) = graph.target(None) {
            outline(&dockerfile, &graph, target, &arguments);
        }
        graph.to_text();
    }
    dockerfile.to_json();
});
