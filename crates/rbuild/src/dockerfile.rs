//! `rbuild dockerfile` and `rbuild plan`: Dockerfiles read, not built.

use std::io::Write;
use std::path::Path;
use std::{fs, io};

use rbuild_dockerfile::Dockerfile;
use rbuild_engine::BuildError;
use rbuild_executor::Place;

use crate::args::{DockerfileCommand, GlobalArgs, PlanArgs, PlanFormat};
use crate::failure::CliError;
use crate::request;
use crate::workshop::Workshop;

/// Carries out one of the commands.
pub(crate) fn run(command: &DockerfileCommand) -> Result<(), CliError> {
    match command {
        DockerfileCommand::Parse { file } => {
            let (dockerfile, _) = read(file)?;
            let text = serde_json::to_string_pretty(&dockerfile.to_json()).unwrap_or_default();
            print(&format!("{text}\n"))
        }
        DockerfileCommand::Format { file, check, write } => {
            let (dockerfile, source) = read(file)?;
            let formatted = dockerfile.format();
            match (check, write) {
                (true, _) if formatted == source => Ok(()),
                (true, _) => Err(CliError::Quiet(1)),
                (_, true) => fs::write(file, formatted).map_err(|error| {
                    CliError::environment(format!("could not write `{}`", file.display()), error)
                }),
                _ => print(&formatted),
            }
        }
    }
}

/// Prints the stage graph.
pub(crate) fn plan(args: &PlanArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let workshop = Workshop::new(global.clone(), place);
    let request = request::read(&args.build, &workshop)?;
    let shown = |error| CliError::Build {
        error,
        source: request.dockerfile.clone(),
        name: request.dockerfile_name.clone(),
    };
    let dockerfile =
        Dockerfile::parse(&request.dockerfile).map_err(|errors| shown(BuildError::Dockerfile(errors)))?;
    let (graph, _) = rbuild_engine::plan(&dockerfile, &request).map_err(shown)?;
    let text = match args.format {
        PlanFormat::Text => graph.to_text(),
        PlanFormat::Json => {
            format!("{}\n", serde_json::to_string_pretty(&graph.to_json()).unwrap_or_default())
        }
        PlanFormat::Dot => graph.to_dot(),
        PlanFormat::Mermaid => graph.to_mermaid(),
    };
    print(&text)
}

fn read(file: &Path) -> Result<(Dockerfile, String), CliError> {
    let fault = |error| CliError::environment(format!("could not read `{}`", file.display()), error);
    let source =
        if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) }
            .map_err(fault)?;
    let name = file.display().to_string();
    match Dockerfile::parse(&source) {
        Ok(dockerfile) => Ok((dockerfile, source)),
        Err(errors) => Err(CliError::Build { error: BuildError::Dockerfile(errors), source, name }),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that went away has what it wanted.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::environment("could not write to standard output".to_owned(), error))
        }
        _ => Ok(()),
    }
}
