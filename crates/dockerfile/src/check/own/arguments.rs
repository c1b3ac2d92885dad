//! Rules about build args.

use std::collections::BTreeSet;

use crate::check::{CheckInput, Report, Rule};
use crate::{Command, Dockerfile, Instruction, Span, Stage, parse_onbuild};

/// What builders take from `--build-arg` themselves (reference 1.5), beside those that begin with `BUILDKIT_`.
const TAKEN: [&str; 22] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SOURCE_DATE_EPOCH",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETOSVERSION",
    "TARGETSTAGE",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "BUILDOSVERSION",
];

/// The build args that no ARG of the Dockerfile, and of `triggers` (of base images), declares: each with a sentence that says
/// so, and what was probably meant.
pub fn unused_build_args<'a>(
    dockerfile: &Dockerfile,
    given: impl IntoIterator<Item = &'a str>,
    triggers: &[String],
) -> Vec<String> {
    let mut declared = BTreeSet::new();
    dockerfile.instructions().for_each(|instruction| declare(instruction, dockerfile, &mut declared));
    for trigger in triggers {
        if let Ok(instruction) = parse_onbuild(trigger, dockerfile.escape) {
            declare(&instruction, dockerfile, &mut declared);
        }
    }
    let is_unused =
        |name: &&str| !(declared.contains(*name) || TAKEN.contains(name) || name.starts_with("BUILDKIT_"));
    let tell = |name: &str| {
        let near = crate::suggestion(name, declared.iter().map(String::as_str));
        let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        format!("Build argument {name} is not declared by any ARG{hint}")
    };
    given.into_iter().filter(is_unused).map(tell).collect()
}

fn declare(instruction: &Instruction, dockerfile: &Dockerfile, declared: &mut BTreeSet<String>) {
    match &instruction.command {
        Command::Arg(args) => declared.extend(args.iter().map(|arg| arg.name.text.clone())),
        Command::Onbuild(onbuild) => {
            if let Ok(trigger) = parse_onbuild(&onbuild.text, dockerfile.escape) {
                declare(&trigger, dockerfile, declared);
            }
        }
        _ => {}
    }
}

pub(super) fn unused(dockerfile: &Dockerfile, input: &CheckInput<'_>, report: &mut Report<'_>) {
    let mut triggers = Vec::new();
    for stage in &dockerfile.stages {
        let platform = stage.from.platform.as_ref().map(|word| word.text.as_str());
        triggers.extend((input.base_images)(&stage.from.base.text, platform).map(|image| image.on_build));
    }
    let names = input.arguments.build_args.keys().map(String::as_str);
    for message in unused_build_args(dockerfile, names, &triggers.concat()) {
        report.add_at(Rule::UnusedBuildArg, None, Span::default(), Span::default(), message);
    }
}

/// An ARG changes the key of every RUN behind it, used or not: it should stand right above the first that uses it.
pub(super) fn too_early(stage: &Stage, report: &mut Report<'_>) {
    for (at, instruction) in stage.instructions.iter().enumerate() {
        let Command::Arg(args) = &instruction.command else { continue };
        let later = stage.instructions.get(at + 1..).unwrap_or_default();
        for arg in args {
            let name = arg.name.text.as_str();
            // What no text names may be read by a program from its environment: nothing is said about that.
            let Some(first) = later.iter().position(|instruction| names(instruction, name)) else { continue };
            let idle =
                later.iter().take(first).filter(|between| matches!(between.command, Command::Run(_))).count();
            if idle > 0 {
                let steps = if idle == 1 { "a RUN".to_owned() } else { format!("{idle} RUNs") };
                let message = format!(
                    "ARG {name} stands above {steps} that do not use it: another value runs them again"
                );
                report.add(Rule::ArgTooEarly, instruction, arg.span, message);
            }
        }
    }
}

/// Whether an instruction's text holds the word.
fn names(instruction: &Instruction, name: &str) -> bool {
    let holds = |text: &str| {
        let is_part = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
        text.match_indices(name).any(|(at, _)| {
            !is_part(text[..at].chars().next_back()) && !is_part(text[at + name.len()..].chars().next())
        })
    };
    let heredocs = match &instruction.command {
        Command::Run(run) => run.heredocs.as_slice(),
        Command::Copy(copy) | Command::Add(copy) => copy.heredocs.as_slice(),
        _ => &[],
    };
    !name.is_empty()
        && (holds(&instruction.original) || heredocs.iter().any(|heredoc| holds(&heredoc.content)))
}
