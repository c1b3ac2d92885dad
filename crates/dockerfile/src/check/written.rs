//! Rules about what is written, whatever it does.

use std::collections::BTreeSet;

use super::{Report, Rule};
use crate::{Command, Comment, Dockerfile, Instruction, Stage};

pub(super) fn check(dockerfile: &Dockerfile, report: &mut Report<'_>) {
    // Both are in the order of the text.
    let mut owners = dockerfile.instructions();
    for warning in &dockerfile.warnings {
        let place = warning.labels.first().map_or(warning.span, |(span, _)| *span);
        let owner = owners.find(|i| place.start < i.span.end);
        report.add_at(Rule::NoEmptyContinuation, owner, warning.span, place, warning.message.clone());
    }
    instruction_casing(dockerfile, report);
    let mut names = BTreeSet::new();
    for stage in &dockerfile.stages {
        let is_first = stage.name().is_none_or(|name| names.insert(name));
        stage_name(stage, is_first, report);
    }
    for instruction in dockerfile.instructions() {
        match &instruction.command {
            Command::Maintainer(_) => {
                let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                report.add(Rule::MaintainerDeprecated, instruction, instruction.keyword_text.span, message);
            }
            Command::Env(pairs) | Command::Label(pairs) if pairs.legacy => {
                let name = instruction.keyword;
                let message = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                report.add(Rule::LegacyKeyValueFormat, instruction, instruction.span, message);
            }
            Command::From(from) => {
                if let Some(name) = &from.name {
                    description(instruction, "FROM", &name.text, report);
                }
            }
            Command::Arg(args) => {
                if let [arg] = args.as_slice() {
                    description(instruction, "ARG", &arg.name.text, report);
                }
            }
            _ => {}
        }
    }
}

fn stage_name(stage: &Stage, is_first: bool, report: &mut Report<'_>) {
    let instruction = &stage.instruction;
    let (Some(name), Some(written), Some(as_text)) =
        (&stage.from.name, &stage.from.name_text, &stage.from.as_text)
    else {
        return;
    };
    let is_lower = |word: &str| word == word.to_lowercase();
    if !is_lower(written) {
        let message = format!("Stage name '{written}' should be lowercase");
        report.add(Rule::StageNameCasing, instruction, name.span, message);
    }
    let keyword = &instruction.keyword_text.text;
    if is_lower(keyword) != is_lower(&as_text.text) {
        let message = format!("'{}' and '{keyword}' keywords' casing do not match", as_text.text);
        report.add(Rule::FromAsCasing, instruction, as_text.span, message);
    }
    if ["context", "scratch"].contains(&name.text.as_str()) {
        let message = format!("Stage name should not use the same name as reserved stage \"{}\"", name.text);
        report.add(Rule::ReservedStageName, instruction, name.span, message);
    }
    if !is_first {
        let message = format!("Duplicate stage name \"{}\", stage names should be unique", name.text);
        report.add(Rule::DuplicateStageName, instruction, name.span, message);
    }
}

/// The majority decides; a tie counts as upper case, and keywords of mixed case do not vote.
fn instruction_casing(dockerfile: &Dockerfile, report: &mut Report<'_>) {
    let in_stages = || {
        dockerfile
            .stages
            .iter()
            .flat_map(|stage| std::iter::once(&stage.instruction).chain(&stage.instructions))
    };
    let word = |instruction: &Instruction| instruction.keyword_text.text.clone();
    let lower = in_stages().filter(|i| word(i) == word(i).to_lowercase()).count();
    let upper = in_stages().filter(|i| word(i) == word(i).to_uppercase()).count();
    let (wanted, name) = match lower > upper {
        true => (str::to_lowercase as fn(&str) -> String, "lowercase"),
        false => (str::to_uppercase as fn(&str) -> String, "uppercase"),
    };
    for instruction in in_stages().filter(|i| word(i) != wanted(&word(i))) {
        let message =
            format!("Command '{}' should match the case of the command majority ({name})", word(instruction));
        report.add(Rule::ConsistentInstructionCasing, instruction, instruction.keyword_text.span, message);
    }
}

fn description(instruction: &Instruction, kind: &str, name: &str, report: &mut Report<'_>) {
    let describes =
        |comment: &Comment| comment.text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    let comments = &instruction.comments;
    if let Some(last) = comments.last().filter(|_| !comments.iter().any(describes)) {
        let message = format!("Comment for {kind} should follow the format: `# {name} <description>`");
        report.add(Rule::InvalidDefinitionDescription, instruction, last.span, message);
    }
}
