//! Reads Dockerfiles named on the command line and tells what was found in them.
#![allow(clippy::print_stdout, reason = "an example prints")]

use rbuild_dockerfile::{
    BaseImage, BuildPlatform, CheckInput, Dockerfile, GraphArguments, StageGraph, check, check_settings,
};

fn main() {
    for path in std::env::args().skip(1) {
        let source = match std::fs::read_to_string(&path) {
            Ok(source) => source,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        match Dockerfile::parse(&source) {
            Ok(dockerfile) => report(&path, &dockerfile),
            Err(errors) => errors.iter().for_each(|error| println!("{path}: error: {error}")),
        }
    }
}

fn report(path: &str, dockerfile: &Dockerfile) {
    let host = BuildPlatform { os: "linux".into(), architecture: "amd64".into(), ..BuildPlatform::default() };
    let arguments = GraphArguments::default().with_platforms(&host, &host);
    match StageGraph::of(dockerfile, &arguments) {
        Ok(graph) => println!("{path}: {} stages\n{}", graph.stages.len(), graph.to_text().trim_end()),
        Err(errors) => errors.iter().for_each(|error| println!("{path}: error: {error}")),
    }
    let base_images = |_: &str, _: Option<&str>| Some(BaseImage::default());
    let input = CheckInput { arguments: &arguments, ignored: None, base_images: &base_images, verify: None };
    let Ok(settings) = check_settings(dockerfile, &arguments) else { return };
    for finding in check(dockerfile, &input, &settings) {
        let line = dockerfile.lines().line(finding.span.start);
        println!("{}: {} ({path}:{line})", finding.rule, finding.message);
    }
}
