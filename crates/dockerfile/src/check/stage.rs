//! Rules about what the instructions of a stage do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

use super::variables::{Open, Variables};
use super::{CheckInput, Report, Rule};
use crate::expand::{Lookup, Mode, expand};
use crate::instruction::expand_at;
use crate::suggest::reference_suggestion;
use crate::{
    Command, CommandLine, Copy, CopyKind, Diagnostic, Dockerfile, Escape, Instruction, Source, Span, Stage,
    StageGraph,
};
use crate::{Keyword, StageId, StageNode, Word, parse_onbuild};

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
                let (mut state, mut triggers) = State::at_base(node, &states, stage, input, report);
                state.env_known &= report.is_whole;
                if let Source::Stage(parent) = &node.base {
                    triggers = triggers_of(dockerfile, *parent);
                }
                copied_images(stage, node, input, report);
                let parse = |text: &String| parse_onbuild(text, dockerfile.escape).ok();
                let triggers: Vec<_> = triggers.iter().filter_map(parse).collect();
                let walk =
                    Walk { state, stage, graph, input, escape: dockerfile.escape, trigger: false, report };
                walk.run(&triggers)
            }
            false => State::default(),
        };
        states.push(state);
    }
}

/// What is known of a stage at some instruction.
#[derive(Clone, Default)]
struct State {
    env: Variables,
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
    ) -> (State, Vec<String>) {
        // The builder gives a PATH to every image that lacks one.
        let mut path = Variables::default();
        path.set("PATH", "/usr/local/sbin:/usr/local/bin");
        match &node.base {
            Source::Stage(id) => (states.get(id.0).cloned().unwrap_or_default(), Vec::new()),
            Source::Scratch => (State { env: path, env_known: true, ..State::default() }, Vec::new()),
            Source::Context(_) => (State { env: path, ..State::default() }, Vec::new()),
            Source::Image { name, platform } => {
                let Some(image) = (input.base_images)(name, platform.as_deref()) else {
                    return (State { env: path, ..State::default() }, Vec::new());
                };
                let place = (&stage.instruction, stage.from.base.span);
                base_platform(place, name, image.platform.as_deref(), platform.as_deref(), input, report);
                let mut env = path;
                let pairs = image.env.iter().filter_map(|line| line.split_once('='));
                pairs.for_each(|(name, value)| env.set(name, value));
                let state = State { env, env_known: true, has_shell: image.has_shell, ..State::default() };
                (state, image.on_build)
            }
        }
    }
}

/// The ONBUILD triggers of a stage of this Dockerfile.
fn triggers_of(dockerfile: &Dockerfile, parent: StageId) -> Vec<String> {
    let instructions = dockerfile.stages.get(parent.0).map(|stage| stage.instructions.as_slice());
    let texts =
        instructions.unwrap_or_default().iter().filter_map(|instruction| match &instruction.command {
            Command::Onbuild(onbuild) => Some(onbuild.text.clone()),
            _ => None,
        });
    texts.collect()
}

/// The images that COPY and mounts read are pulled for the target too.
fn copied_images(stage: &Stage, node: &StageNode, input: &CheckInput<'_>, report: &mut Report<'_>) {
    for dependency in &node.dependencies {
        let Source::Image { name, platform } = &dependency.source else { continue };
        let own = stage.instructions.get(dependency.instruction).filter(|_| !dependency.onbuild);
        let instruction = own.unwrap_or(&stage.instruction);
        let Some(image) = (input.base_images)(name, platform.as_deref()) else { continue };
        let place = (instruction, dependency.span);
        base_platform(place, name, image.platform.as_deref(), platform.as_deref(), input, report);
    }
}

/// The variants may differ, as in the reference.
fn base_platform(
    (instruction, place): (&Instruction, Span),
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
    if !(is_part || found.split('/').take(2).eq(wanted.split('/').take(2))) {
        let message = format!(
            "Base image {name} was pulled with platform \"{found}\", expected \"{wanted}\" for current build"
        );
        report.add(Rule::InvalidBaseImagePlatform, instruction, place, message);
    }
}

struct Walk<'a, 'r, 's> {
    state: State,
    stage: &'a Stage,
    graph: &'a StageGraph,
    input: &'a CheckInput<'a>,
    escape: Escape,
    /// Triggers of the base are being looked at; what is found is found at FROM.
    trigger: bool,
    report: &'r mut Report<'s>,
}

impl Walk<'_, '_, '_> {
    fn run(mut self, triggers: &[Instruction]) -> State {
        let stage = self.stage;
        let mut last: BTreeMap<Keyword, (bool, &Instruction)> = BTreeMap::new();
        let own = stage.instructions.iter().map(|instruction| (false, instruction));
        for (trigger, instruction) in triggers.iter().map(|trigger| (true, trigger)).chain(own) {
            self.trigger = trigger;
            self.instruction(instruction);
            let once =
                [Keyword::Cmd, Keyword::Entrypoint, Keyword::Healthcheck].contains(&instruction.keyword);
            let earlier = once.then(|| last.insert(instruction.keyword, (trigger, instruction))).flatten();
            if let Some((trigger, earlier)) = earlier {
                let message = format!(
                    "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                    instruction.keyword
                );
                self.trigger = trigger;
                self.add(Rule::MultipleInstructionsDisallowed, earlier, earlier.keyword_text.span, message);
            }
        }
        self.state
    }

    fn add(&mut self, rule: Rule, instruction: &Instruction, place: Span, message: String) {
        match self.trigger {
            true => self.report.add(rule, &self.stage.instruction, self.stage.from.base.span, message),
            false => self.report.add(rule, instruction, place, message),
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        if let Command::Arg(_) = instruction.command {
            return self.arg(instruction);
        }
        for word in expanded_words(instruction) {
            self.undefined(instruction, word, Mode::Word);
        }
        if let Command::Add(copy) | Command::Copy(copy) = &instruction.command {
            for heredoc in copy.heredocs.iter().filter(|heredoc| heredoc.expand) {
                self.undefined(instruction, &Word::new(&*heredoc.content, heredoc.word), Mode::Heredoc);
            }
        }
        let Some(expanded) = self.expanded(instruction) else {
            // What it would have set is missing from now on.
            self.state.env_known &= !matches!(instruction.command, Command::Env(_));
            return;
        };
        match &expanded.command {
            Command::Env(env) => {
                for pair in &env.pairs {
                    self.secret(instruction, &pair.key.text, pair.key.span);
                    self.state.env.set(&pair.key.text, &pair.value.text);
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
                    self.undefined(instruction, default, Mode::Word);
                    self.default_value(default)
                }
                (None, None) => global().or_else(predefined),
            };
            self.state.declared.insert(name.clone());
            if let Some(value) = value {
                self.state.env.set(name, &value);
            }
        }
    }

    /// The instruction with its variables replaced; `None`, with the fault noted, where that cannot be done.
    fn expanded(&mut self, instruction: &Instruction) -> Option<Instruction> {
        let (env, escape) = (&self.state.env, self.escape);
        if self.state.env_known {
            let expanded = instruction.expanded(env, escape).map_err(|fault| self.fault(fault)).ok()?;
            if let Some(fault) = self.input.verify.and_then(|verify| verify(&expanded)) {
                self.fault(fault);
            }
            return Some(expanded);
        }
        // What the base sets is not known: only what cannot be read at all is a fault.
        let unreadable = RefCell::new(None);
        let expand = |text: &str, span, mode| {
            expand_at(text, span, &Open(env), escape, mode)
                .inspect_err(|fault| drop(unreadable.borrow_mut().replace(fault.clone())))
                .and_then(|_| expand_at(text, span, env, escape, mode))
        };
        let expanded = instruction.expanded_by(&expand).ok();
        if let Some(fault) = unreadable.into_inner() {
            self.fault(fault);
        }
        expanded
    }

    fn default_value(&mut self, default: &Word) -> Option<String> {
        let read = |env: &dyn Lookup| expand_at(&default.text, default.span, env, self.escape, Mode::Word);
        let env = &self.state.env;
        let fault = if self.state.env_known { read(env) } else { read(&Open(env)) }.err();
        let value = read(env).ok().map(|found| found.value);
        if let Some(fault) = fault {
            self.fault(fault);
            self.state.env_known = false;
        }
        value
    }

    fn fault(&mut self, mut fault: Diagnostic) {
        if self.trigger {
            fault = Diagnostic { span: self.stage.from.base.span, labels: Vec::new(), ..fault };
        }
        self.report.faults.push((StageId(self.stage.index), fault));
    }

    fn undefined(&mut self, instruction: &Instruction, word: &Word, mode: Mode) {
        if !self.state.env_known {
            return;
        }
        let Ok(expansion) = expand(&word.text, &self.state.env, self.escape, mode) else { return };
        let mut told = BTreeSet::new();
        for missing in expansion.undefined {
            let name = missing.name;
            // Special parameters such as `$1` are no variables of a Dockerfile, and ARGs may be without value.
            if self.state.declared.contains(&name) || !told.insert(name.clone()) {
                continue;
            }
            let near = reference_suggestion(&name, self.state.env.names());
            let hint = near.map(|near| format!(" (did you mean ${near}?)"));
            let message = format!("Usage of undefined variable '${name}'{}", hint.unwrap_or_default());
            self.add(Rule::UndefinedVar, instruction, word.span, message);
        }
    }

    fn secret(&mut self, instruction: &Instruction, name: &str, place: Span) {
        if !looks_secret(name) {
            return;
        }
        let keyword = instruction.keyword;
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        self.add(Rule::SecretsUsedInArgOrEnv, instruction, place, message);
    }

    fn shell_form(&mut self, instruction: &Instruction, line: &CommandLine) {
        if !line.is_shell() || self.state.has_shell {
            return;
        }
        let message = format!(
            "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
            instruction.keyword
        );
        self.add(Rule::JSONArgsRecommended, instruction, instruction.keyword_text.span, message);
    }

    fn workdir(&mut self, instruction: &Instruction, path: &Word) {
        if !path.text.starts_with('/') && !self.state.workdir_set {
            let message = format!(
                "Relative workdir {:?} can have unexpected results if the base image changes",
                path.text
            );
            self.add(Rule::WorkdirRelativePath, instruction, path.span, message);
        }
        self.state.workdir_set = true;
    }

    fn port(&mut self, instruction: &Instruction, port: &Word) {
        let (address, protocol) = port.text.split_once('/').unwrap_or((&port.text, ""));
        if protocol != protocol.to_lowercase() {
            let message =
                format!("Defined protocol '{}' in EXPOSE instruction should be lowercase", port.text);
            self.add(Rule::ExposeProtoCasing, instruction, port.span, message);
        }
        if address.contains(':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
                port.text
            );
            self.add(Rule::ExposeInvalidFormat, instruction, port.span, message);
        }
    }

    fn ignored(&mut self, instruction: &Instruction, copy: &Copy) {
        let Some(ignored) = self.input.ignored.filter(|_| copy.from.is_none()) else { return };
        let verb = if copy.kind == CopyKind::Add { "Add" } else { "Copy" };
        for source in copy.sources.iter().filter(|source| !is_remote(&source.text)) {
            let path = clean(&source.text);
            if ignored(&path) {
                let message =
                    format!("Attempting to {verb} file \"{path}\" that is excluded by .dockerignore");
                self.add(Rule::CopyIgnoredFile, instruction, source.span, message);
            }
        }
    }
}

/// A path without `.`, `..` and double slashes; an absolute one stays one.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if absolute => {}
            _ => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|prefix| source.starts_with(prefix))
}

/// The words of an instruction in which variables are looked for, heredocs aside; those of EXPOSE are not, as in the
/// reference.
fn expanded_words(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.command {
        Command::Add(copy) | Command::Copy(copy) => {
            let options = copy.chown.iter().chain(&copy.chmod).chain(&copy.checksum);
            copy.sources.iter().chain([&copy.destination]).chain(options).collect()
        }
        Command::Env(env) | Command::Label(env) => {
            env.pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect()
        }
        Command::Run(run) => run.mounts.iter().map(|mount| &mount.text).collect(),
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

/// Whether a variable of this name is likely to hold a secret, as the reference's build check judges it.
pub fn looks_secret(name: &str) -> bool {
    let matches = |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(name));
    matches(&SECRET) && !matches(&HARMLESS)
}
