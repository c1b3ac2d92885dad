//! Rules about what the instructions of a stage do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

use super::{CheckInput, Report, Rule};
use crate::expand::{Lookup, Mode, expand};
use crate::{
    Command, CommandLine, Copy, CopyKind, Dockerfile, Escape, Instruction, Source, Span, Stage, StageGraph,
};
use crate::{Keyword, StageNode, Word};

pub(super) fn check(
    dockerfile: &Dockerfile,
    graph: &StageGraph,
    input: &CheckInput<'_>,
    report: &mut Report<'_>,
) {
    let wanted = input.arguments.target.as_deref().and_then(|target| graph.plan_for(Some(target)).ok());
    let mut states: Vec<State> = Vec::new();
    for (stage, node) in dockerfile.stages.iter().zip(&graph.stages) {
        let is_wanted =
            wanted.as_ref().is_none_or(|plan| plan.stages.iter().any(|planned| planned.id == node.id));
        let state = match is_wanted && !node.replaced {
            true => {
                let state = State::at_base(node, &states, stage, input, report);
                Walk { state, stage, graph, input, escape: dockerfile.escape, report }.run()
            }
            false => State::default(),
        };
        states.push(state);
    }
}

/// What is known of a stage at some instruction.
#[derive(Clone, Default)]
struct State {
    env: BTreeMap<String, String>,
    /// The names of ARGs, also of those without a value.
    declared: BTreeSet<String>,
    /// Whether the environment of the base image is known.
    env_known: bool,
    has_shell: bool,
    workdir_set: bool,
}

impl State {
    fn at_base(
        node: &StageNode,
        states: &[State],
        stage: &Stage,
        input: &CheckInput<'_>,
        report: &mut Report<'_>,
    ) -> State {
        // The builder gives a PATH to every image that lacks one.
        let path = BTreeMap::from([("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin".to_owned())]);
        match &node.base {
            Source::Stage(id) => states.get(id.0).cloned().unwrap_or_default(),
            Source::Scratch => State { env: path, env_known: true, ..State::default() },
            Source::Context(_) => State { env: path, ..State::default() },
            Source::Image { name, platform } => {
                let Some(image) = (input.base_images)(name, platform.as_deref()) else {
                    return State { env: path, ..State::default() };
                };
                base_platform(stage, name, image.platform.as_deref(), platform.as_deref(), input, report);
                let mut env = path;
                let pairs = image.env.iter().filter_map(|line| line.split_once('='));
                env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                State { env, env_known: true, has_shell: image.has_shell, ..State::default() }
            }
        }
    }
}

fn base_platform(
    stage: &Stage,
    name: &str,
    found: Option<&str>,
    asked: Option<&str>,
    input: &CheckInput<'_>,
    report: &mut Report<'_>,
) {
    let target = input.arguments.platform_args.get("TARGETPLATFORM").map(String::as_str);
    let (Some(found), Some(wanted)) = (found, asked.or(target)) else { return };
    // An os or an architecture alone asks for that alone.
    let is_part = !wanted.contains('/') && found.split('/').any(|part| part == wanted);
    let same = |count: usize| found.split('/').take(count).eq(wanted.split('/').take(count));
    let variants = found.split('/').nth(2).zip(wanted.split('/').nth(2)).is_none_or(|(a, b)| a == b);
    if !(is_part || same(2) && variants) {
        let message = format!(
            "Base image {name} was pulled with platform \"{found}\", expected \"{wanted}\" for current build"
        );
        report.add(Rule::InvalidBaseImagePlatform, &stage.instruction, stage.from.base.span, message);
    }
}

struct Walk<'a, 'r, 's> {
    state: State,
    stage: &'a Stage,
    graph: &'a StageGraph,
    input: &'a CheckInput<'a>,
    escape: Escape,
    report: &'r mut Report<'s>,
}

impl Walk<'_, '_, '_> {
    fn run(mut self) -> State {
        let stage = self.stage;
        let mut last: BTreeMap<Keyword, &Instruction> = BTreeMap::new();
        for instruction in &stage.instructions {
            self.instruction(instruction);
            let once =
                [Keyword::Cmd, Keyword::Entrypoint, Keyword::Healthcheck].contains(&instruction.keyword);
            if let Some(earlier) = once.then(|| last.insert(instruction.keyword, instruction)).flatten() {
                let message = format!(
                    "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                    instruction.keyword
                );
                let place = earlier.keyword_text.span;
                self.report.add(Rule::MultipleInstructionsDisallowed, earlier, place, message);
            }
        }
        self.state
    }

    fn instruction(&mut self, instruction: &Instruction) {
        if let Command::Arg(_) = instruction.command {
            return self.arg(instruction);
        }
        for word in expanded_words(instruction) {
            self.undefined(instruction, word);
        }
        let expanded = instruction.expanded(&self.state.env, self.escape);
        let Ok(expanded) = expanded else { return };
        match &expanded.command {
            Command::Env(env) => {
                for pair in &env.pairs {
                    self.secret(instruction, &pair.key.text, pair.key.span);
                    self.state.env.insert(pair.key.text.clone(), pair.value.text.clone());
                }
            }
            Command::Shell(_) => self.state.has_shell = true,
            Command::Cmd(line) | Command::Entrypoint(line) => self.shell_form(instruction, line),
            Command::Workdir(path) => self.workdir(instruction, path),
            Command::Expose(expose) => {
                for port in &expose.ports {
                    self.port(instruction, port);
                }
            }
            Command::Copy(copy) | Command::Add(copy) => self.ignored(instruction, copy),
            _ => {}
        }
    }

    fn arg(&mut self, instruction: &Instruction) {
        let Command::Arg(args) = &instruction.command else { return };
        for arg in args {
            let name = &arg.name.text;
            self.secret(instruction, name, arg.name.span);
            let given = self.input.arguments.build_args.get(name).cloned();
            let global =
                || self.graph.global_args.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
            let predefined = || self.input.arguments.platform_args.get(name).cloned();
            let value = match (&arg.default, given) {
                (_, Some(given)) => Some(given),
                (Some(default), None) => {
                    self.undefined(instruction, default);
                    expand(&default.text, &self.state.env, self.escape, Mode::Word)
                        .ok()
                        .map(|found| found.value)
                }
                (None, None) => global().or_else(predefined),
            };
            self.state.declared.insert(name.clone());
            self.state.env.extend(value.map(|value| (name.clone(), value)));
        }
    }

    fn undefined(&mut self, instruction: &Instruction, word: &Word) {
        if !self.state.env_known {
            return;
        }
        let Ok(expansion) = expand(&word.text, &self.state.env, self.escape, Mode::Word) else { return };
        let mut told = BTreeSet::new();
        for missing in expansion.undefined {
            let name = missing.name;
            // Special parameters such as `$1` are no variables of a Dockerfile, and ARGs may be without value.
            if self.state.declared.contains(&name) || !told.insert(name.clone()) {
                continue;
            }
            let known = Lookup::names(&self.state.env)
                .into_iter()
                .chain(self.state.declared.iter().map(String::as_str));
            let hint = crate::suggestion(&name, known).map(|near| format!(" (did you mean ${near}?)"));
            let message = format!("Usage of undefined variable '${name}'{}", hint.unwrap_or_default());
            self.report.add(Rule::UndefinedVar, instruction, word.span, message);
        }
    }

    fn secret(&mut self, instruction: &Instruction, name: &str, place: Span) {
        if !looks_secret(name) {
            return;
        }
        let keyword = instruction.keyword;
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        self.report.add(Rule::SecretsUsedInArgOrEnv, instruction, place, message);
    }

    fn shell_form(&mut self, instruction: &Instruction, line: &CommandLine) {
        if !line.is_shell() || self.state.has_shell {
            return;
        }
        let message = format!(
            "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
            instruction.keyword
        );
        self.report.add(Rule::JSONArgsRecommended, instruction, instruction.keyword_text.span, message);
    }

    fn workdir(&mut self, instruction: &Instruction, path: &Word) {
        if !path.text.starts_with('/') && !self.state.workdir_set {
            let message = format!(
                "Relative workdir \"{}\" can have unexpected results if the base image changes",
                path.text
            );
            self.report.add(Rule::WorkdirRelativePath, instruction, path.span, message);
        }
        self.state.workdir_set = true;
    }

    fn port(&mut self, instruction: &Instruction, port: &Word) {
        let (address, protocol) = port.text.split_once('/').unwrap_or((&port.text, ""));
        if protocol != protocol.to_lowercase() {
            let message =
                format!("Defined protocol '{}' in EXPOSE instruction should be lowercase", port.text);
            self.report.add(Rule::ExposeProtoCasing, instruction, port.span, message);
        }
        if address.contains(':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
                port.text
            );
            self.report.add(Rule::ExposeInvalidFormat, instruction, port.span, message);
        }
    }

    fn ignored(&mut self, instruction: &Instruction, copy: &Copy) {
        let Some(ignored) = self.input.ignored.filter(|_| copy.from.is_none()) else { return };
        let verb = if copy.kind == CopyKind::Add { "Add" } else { "Copy" };
        for source in copy.sources.iter().filter(|source| !is_remote(&source.text)) {
            if ignored(&source.text) {
                let message = format!(
                    "Attempting to {verb} file \"{}\" that is excluded by .dockerignore",
                    source.text
                );
                self.report.add(Rule::CopyIgnoredFile, instruction, source.span, message);
            }
        }
    }
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|prefix| source.starts_with(prefix))
}

/// The words of an instruction that are expanded, heredocs aside.
fn expanded_words(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.command {
        Command::Add(copy) | Command::Copy(copy) => {
            let options = copy.chown.iter().chain(&copy.chmod).chain(&copy.checksum);
            copy.sources.iter().chain([&copy.destination]).chain(options).collect()
        }
        Command::Env(env) | Command::Label(env) => {
            env.pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect()
        }
        Command::Expose(expose) => expose.ports.iter().collect(),
        Command::Volume(words) => words.iter().collect(),
        Command::StopSignal(word) | Command::User(word) | Command::Workdir(word) => vec![word],
        _ => Vec::new(),
    }
}

static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = "apikey|auth|credential|credentials|key|password|pword|passwd|secret|token";
    Regex::new(&format!("(?i)(?:_|^)(?:{words})(?:_|$)")).ok()
});

static HARMLESS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("(?i)(?:_|^)(?:public|file|version)(?:_|$)").ok());

fn looks_secret(name: &str) -> bool {
    let matches = |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(name));
    matches(&SECRET) && !matches(&HARMLESS)
}
