//! Build checks: what is legal but unwise. The rules, names and messages are the reference's.

mod from;
mod own;
mod rules;
mod settings;
mod stage;
mod variables;
mod written;

use serde::Serialize;

pub use own::unused_build_args;
pub use rules::Rule;
pub use settings::CheckSettings;
pub use stage::looks_secret;

use crate::{Diagnostic, Dockerfile, GraphArguments, Instruction, Plan, Severity, Span, StageGraph, StageId};

/// What the checks want to know of a base image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseImage {
    /// `Env` of its config.
    pub env: Vec<String>,
    /// Whether its config has a `Shell`.
    pub has_shell: bool,
    /// Its platform, normalised: `linux/arm64`.
    pub platform: Option<String>,
    /// `User` of its config; empty where it has none.
    pub user: String,
    /// `OnBuild` of its config.
    pub on_build: Vec<String>,
}

/// A question about a base image: its name and, from `FROM --platform`, its platform. `None`: not known, and what
/// depends on it is not checked.
pub type BaseImages<'a> = dyn Fn(&str, Option<&str>) -> Option<BaseImage> + 'a;

/// What cannot be carried out in an expanded instruction.
pub type Verify<'a> = dyn Fn(&Instruction) -> Option<Diagnostic> + 'a;

/// What the checks look at beside the Dockerfile.
#[derive(Clone, Copy)]
pub struct CheckInput<'a> {
    /// Build args, platforms, named contexts and target. With a target, stages that it does not need are checked for
    /// what is written, not for what they would do.
    pub arguments: &'a GraphArguments,
    /// Whether a path of the build context is ignored; `None` where that is not to be checked (the ignore file has
    /// exceptions, or there is none).
    pub ignored: Option<&'a dyn Fn(&str) -> bool>,
    /// The base images.
    pub base_images: &'a BaseImages<'a>,
    /// What a builder has to say against an instruction whose variables are replaced, before it carries out any.
    pub verify: Option<&'a Verify<'a>>,
}

impl std::fmt::Debug for CheckInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckInput").field("arguments", self.arguments).finish_non_exhaustive()
    }
}

/// What a rule found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What it has to say.
    pub message: String,
    /// The instruction; its first line is the finding's line.
    pub span: Span,
    /// The very words.
    pub place: Span,
}

impl Finding {
    /// The finding as a warning.
    pub fn to_diagnostic(&self) -> Diagnostic {
        let warning = Diagnostic::warning(self.rule.name(), self.message.clone(), self.place);
        Diagnostic { severity: Severity::Warning, ..warning.help(self.rule.description()) }
    }
}

const SETTINGS_HELP: &str = "settings are skip=RULE,RULE, error=true and experimental=RULE, joined by `;`";

/// The settings that count: those of the build arg `BUILDKIT_DOCKERFILE_CHECK`, else those of the `check` directive.
pub fn check_settings(
    dockerfile: &Dockerfile,
    arguments: &GraphArguments,
) -> Result<CheckSettings, Diagnostic> {
    if let Some(text) = arguments.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
        let fault = |reason| Diagnostic::error(reason, Span::default()).help(SETTINGS_HELP);
        return CheckSettings::parse(text).map_err(fault);
    }
    match dockerfile.directives.check() {
        Some(directive) => CheckSettings::parse(first_word(&directive.value.text))
            .map_err(|reason| Diagnostic::error(reason, directive.value.span).help(SETTINGS_HELP)),
        None => Ok(CheckSettings::default()),
    }
}

/// Runs all rules, in the order of the text.
pub fn check(dockerfile: &Dockerfile, input: &CheckInput<'_>, settings: &CheckSettings) -> Vec<Finding> {
    inspect(dockerfile, input, settings).findings
}

/// What came out of looking at a Dockerfile with its variables followed from the base images on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inspection {
    /// What is legal but unwise.
    pub findings: Vec<Finding>,
    /// What no build of the stage can carry out: variables that must be set and are not, bad substitutions, values that
    /// are wrong once they are expanded. Of a stage whose base image is not known, only what is wrong whatever it
    /// sets.
    pub faults: Vec<(StageId, Diagnostic)>,
}

impl Inspection {
    /// The faults of the stages that a plan needs.
    pub fn faults_of(&self, plan: &Plan) -> Vec<Diagnostic> {
        let is_needed = |id: StageId| plan.stages.iter().any(|stage| stage.id == id);
        self.faults.iter().filter(|(id, _)| is_needed(*id)).map(|(_, fault)| fault.clone()).collect()
    }
}

/// Runs all rules, and finds the faults that a build would find instruction by instruction; both in the order of the text.
pub fn inspect(dockerfile: &Dockerfile, input: &CheckInput<'_>, settings: &CheckSettings) -> Inspection {
    let graph = StageGraph::of(dockerfile, input.arguments).ok();
    inspect_part(dockerfile, graph.as_ref(), input, settings, true)
}

/// The same, with the graph at hand, of a Dockerfile that may lack instructions: then what a variable holds is not known
/// anywhere.
pub(crate) fn inspect_part(
    dockerfile: &Dockerfile,
    graph: Option<&StageGraph>,
    input: &CheckInput<'_>,
    settings: &CheckSettings,
    is_whole: bool,
) -> Inspection {
    let mut report = Report { settings, is_whole, findings: Vec::new(), faults: Vec::new() };
    written::check(dockerfile, &mut report);
    from::check(dockerfile, input, &mut report);
    if let Some(graph) = graph {
        stage::check(dockerfile, graph, input, &mut report);
        if Rule::ALL.iter().any(|rule| rule.is_own() && settings.asks_for(rule.name())) {
            own::check(dockerfile, graph, input, &mut report);
        }
    }
    let Report { mut findings, mut faults, .. } = report;
    findings.sort_by_key(|finding| finding.span.start);
    faults.sort_by_key(|(_, fault)| fault.span.start);
    Inspection { findings, faults }
}

/// Collects findings that the settings let through.
struct Report<'a> {
    settings: &'a CheckSettings,
    /// Whether nothing was left out of the Dockerfile.
    is_whole: bool,
    findings: Vec<Finding>,
    faults: Vec<(StageId, Diagnostic)>,
}

impl Report<'_> {
    fn add(&mut self, rule: Rule, instruction: &Instruction, place: Span, message: String) {
        self.add_at(rule, Some(instruction), instruction.span, place, message);
    }

    fn add_at(
        &mut self,
        rule: Rule,
        instruction: Option<&Instruction>,
        span: Span,
        place: Span,
        message: String,
    ) {
        let name = rule.name();
        let unasked = rule.is_experimental() && !self.settings.asks_for(name);
        let skipped =
            self.settings.skips(name) || instruction.is_some_and(|found| skipped_by_comment(found, name));
        if !unasked && !skipped {
            self.findings.push(Finding { rule, message, span, place });
        }
    }
}

/// In the Dockerfile settings end at the first blank, as in the reference: a note may follow.
fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

/// Whether a comment right above the instruction says `check=skip=RULE`.
fn skipped_by_comment(instruction: &Instruction, rule: &str) -> bool {
    let settings = instruction.comments.iter().filter_map(|comment| {
        comment
            .text
            .strip_prefix("check=")
            .and_then(|text| CheckSettings::parse(first_word(text.trim())).ok())
    });
    settings.into_iter().any(|settings| settings.skips(rule))
}

#[cfg(test)]
mod tests;
