//! Rules about FROM.

use std::sync::LazyLock;

use regex::Regex;

use super::{CheckInput, Report, Rule};
use crate::expand::{Lookup, Mode, expand};
use crate::graph::global_args;
use crate::suggest::reference_suggestion;
use crate::{Dockerfile, Stage, Word};

pub(super) fn check(dockerfile: &Dockerfile, input: &CheckInput<'_>, report: &mut Report<'_>) {
    let given = global_args(dockerfile, input.arguments);
    let mut without = input.arguments.clone();
    without.build_args.clear();
    let defaults = global_args(dockerfile, &without);
    let declared = declared_names(dockerfile);
    for stage in &dockerfile.stages {
        for word in std::iter::once(&stage.from.base).chain(&stage.from.platform) {
            undefined_args(stage, word, &given, &declared, dockerfile, report);
        }
        if let Some(platform) = &stage.from.platform {
            platform_flag(stage, platform, &given, dockerfile, report);
        }
        let base = expand(&stage.from.base.text, &defaults, dockerfile.escape, Mode::Word);
        let valid = base.is_ok_and(|base| is_reference(&base.value));
        if !valid {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.from.base.text
            );
            report.add(Rule::InvalidDefaultArgInFrom, &stage.instruction, stage.from.base.span, message);
        }
    }
}

/// The names of the global ARGs, also of those that have no value.
fn declared_names(dockerfile: &Dockerfile) -> Vec<&str> {
    let args = dockerfile.global_args.iter().filter_map(|instruction| match &instruction.command {
        crate::Command::Arg(args) => Some(args),
        _ => None,
    });
    args.flatten().map(|arg| arg.name.text.as_str()).collect()
}

fn undefined_args(
    stage: &Stage,
    word: &Word,
    globals: &dyn Lookup,
    declared: &[&str],
    dockerfile: &Dockerfile,
    report: &mut Report<'_>,
) {
    let Ok(expansion) = expand(&word.text, globals, dockerfile.escape, Mode::Word) else { return };
    for missing in expansion.undefined.iter().filter(|missing| !declared.contains(&missing.name.as_str())) {
        let known = globals.names().into_iter().chain(declared.iter().copied());
        let near = reference_suggestion(&missing.name, known);
        let hint = near.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        let message = format!("FROM argument '{}' is not declared{hint}", missing.name);
        report.add(Rule::UndefinedArgInFrom, &stage.instruction, word.span, message);
    }
}

fn platform_flag(
    stage: &Stage,
    platform: &Word,
    globals: &dyn Lookup,
    dockerfile: &Dockerfile,
    report: &mut Report<'_>,
) {
    let text = platform.text.as_str();
    let target = "TARGETPLATFORM";
    let is_target = expand(text, globals, dockerfile.escape, Mode::Word).is_ok_and(|found| {
        found.undefined.is_empty()
            && found.defined.iter().eq([target])
            && globals.get(target) == Some(found.value.as_str())
    });
    if is_target {
        let message = format!(
            "Setting platform to predefined {text} in FROM is redundant as this is the default behavior"
        );
        report.add(Rule::RedundantTargetPlatform, &stage.instruction, platform.span, message);
    }
    let name = stage.name().unwrap_or_default();
    let named_after = text.split('/').take(2).any(|part| !part.is_empty() && name.contains(part));
    if !text.contains('$') && !named_after {
        let message = format!("FROM --platform flag should not use constant value \"{text}\"");
        report.add(Rule::FromPlatformFlagConstDisallowed, &stage.instruction, platform.span, message);
    }
}

/// An image reference by the grammar of the distribution project.
static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let part = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*";
    let label = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!("(?:{label}(?:[.]{label})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?");
    let tag = "(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?";
    let digest = "(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?";
    Regex::new(&format!("^(?:{domain}/)?{part}(?:/{part})*{tag}{digest}$")).ok()
});

fn is_reference(name: &str) -> bool {
    REFERENCE.as_ref().is_none_or(|regex| regex.is_match(name))
}
