//! Rules of our own, beyond the reference's: off until they are asked for. CHECKS.md has a word on each.

mod arguments;
mod run;
mod secrets;
mod shell;

use super::{BaseImage, CheckInput, Report, Rule};
use crate::{Command, Copy, Dockerfile, Instruction, Source, Stage, StageGraph, StageNode};

pub use arguments::unused_build_args;

pub(super) fn check(
    dockerfile: &Dockerfile,
    graph: &StageGraph,
    input: &CheckInput<'_>,
    report: &mut Report<'_>,
) {
    arguments::unused(dockerfile, input, report);
    let target = graph.target(input.arguments.target.as_deref()).ok();
    let kept = target.map(|target| chain(graph, target.0)).unwrap_or_default();
    let mut states: Vec<State> = Vec::new();
    for (stage, node) in dockerfile.stages.iter().zip(&graph.stages) {
        if node.replaced {
            states.push(State::default());
            continue;
        }
        unpinned(stage, node, report);
        let mut walk = Walk {
            state: State::at_base(node, &states, input),
            is_kept: kept.contains(&stage.index),
            copied: Vec::new(),
            report,
        };
        for instruction in &stage.instructions {
            walk.instruction(instruction);
        }
        let state = walk.state;
        arguments::too_early(stage, report);
        if target.is_some_and(|target| target.0 == stage.index) && state.user == Some(false) {
            let message = "The final stage has no USER: what the image runs is root".to_owned();
            report.add(Rule::NoUserInFinalStage, &stage.instruction, stage.from.base.span, message);
        }
        states.push(state);
    }
}

/// The stages whose layers are in the image of a target: itself and what it is built from.
fn chain(graph: &StageGraph, target: usize) -> Vec<usize> {
    let mut chain = vec![target];
    let mut at = target;
    while let Some(Source::Stage(parent)) = graph.stages.get(at).map(|node| &node.base) {
        // Bases are earlier stages, so this ends.
        at = parent.0;
        chain.push(at);
    }
    chain
}

fn unpinned(stage: &Stage, node: &StageNode, report: &mut Report<'_>) {
    let Source::Image { name, .. } = &node.base else { return };
    let last = name.rsplit('/').next().unwrap_or(name);
    let found = match last.split_once(':') {
        _ if name.contains('@') => return,
        None => "has no tag",
        Some((_, "latest")) => "has the tag `latest`",
        Some(_) => return,
    };
    let message = format!("Base image {name} {found}: each build may begin from another one");
    report.add(Rule::UnpinnedBaseImage, &stage.instruction, stage.from.base.span, message);
}

/// What is known at an instruction.
#[derive(Clone)]
struct State {
    /// The shell of RUN; `None` where the base's own is not known.
    shell: Option<Vec<String>>,
    workdir: String,
    /// Whether somebody chose a user; `None` where the base's choice is not known.
    user: Option<bool>,
    /// Whether the files so far can hold `/etc/passwd`.
    has_users: bool,
    /// Names of variables that are set.
    variables: Vec<String>,
}

impl Default for State {
    fn default() -> State {
        let (shell, workdir) = (Some(default_shell()), "/".to_owned());
        State { shell, workdir, user: None, has_users: true, variables: Vec::new() }
    }
}

fn default_shell() -> Vec<String> {
    ["/bin/sh", "-c"].map(str::to_owned).to_vec()
}

impl State {
    fn at_base(node: &StageNode, states: &[State], input: &CheckInput<'_>) -> State {
        match &node.base {
            Source::Stage(id) => states.get(id.0).cloned().unwrap_or_default(),
            Source::Scratch => State { user: Some(false), has_users: false, ..State::default() },
            Source::Context(_) => State::default(),
            Source::Image { name, platform } => match (input.base_images)(name, platform.as_deref()) {
                Some(BaseImage { has_shell, user, .. }) => State {
                    shell: (!has_shell).then(default_shell),
                    user: Some(!user.is_empty() && !is_root(&user)),
                    ..State::default()
                },
                None => State::default(),
            },
        }
    }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("root" | "0" | ""))
}

struct Walk<'r, 's> {
    state: State,
    /// Whether the stage's layers are in the image.
    is_kept: bool,
    /// Where COPY and ADD put files, cleaned and absolute.
    copied: Vec<String>,
    report: &'r mut Report<'s>,
}

impl Walk<'_, '_> {
    fn instruction(&mut self, instruction: &Instruction) {
        match &instruction.command {
            Command::Run(run) => {
                self.run(instruction, run);
                self.state.has_users = true;
            }
            Command::Copy(copy) | Command::Add(copy) => self.copy(instruction, copy),
            Command::Shell(words) => {
                self.state.shell = Some(words.iter().map(|word| word.text.clone()).collect());
            }
            Command::Workdir(path) => self.state.workdir = join(&self.state.workdir, &path.text),
            Command::User(_) => self.state.user = Some(true),
            Command::Env(env) => {
                self.state.variables.extend(env.pairs.iter().map(|pair| pair.key.text.clone()));
            }
            Command::Arg(args) => self.state.variables.extend(args.iter().map(|arg| arg.name.text.clone())),
            _ => {}
        }
    }

    fn copy(&mut self, instruction: &Instruction, copy: &Copy) {
        if instruction.keyword == crate::Keyword::Add && copy.checksum.is_none() {
            for source in copy.sources.iter().filter(|source| is_download(&source.text)) {
                let message = format!("ADD downloads {} without --checksum", source.text);
                self.report.add(Rule::AddWithoutChecksum, instruction, source.span, message);
            }
        }
        if let Some(owner) = &copy.chown {
            self.owner(instruction, owner);
        }
        let destination = join(&self.state.workdir, &copy.destination.text);
        let names = copy.sources.iter().map(|source| source.text.as_str());
        for name in names.chain(copy.heredocs.iter().map(|heredoc| heredoc.name.as_str())) {
            let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let is_folder = copy.destination.text.ends_with('/');
            let path = if is_folder && !name.contains(['*', '?', '[']) {
                join(&destination, name)
            } else {
                destination.clone()
            };
            self.copied.push(path);
        }
        if destination == "/" || destination.contains('$') || destination.starts_with("/etc") {
            self.state.has_users = true;
        }
    }

    /// Without `/etc/passwd` a name means nobody.
    fn owner(&mut self, instruction: &Instruction, owner: &crate::Word) {
        let mut parts = owner.text.split(':');
        let named =
            parts.find(|part| !part.is_empty() && part.parse::<u32>().is_err() && !part.contains('$'));
        if let Some(name) = named.filter(|_| !self.state.has_users) {
            let message =
                format!("--chown names \"{name}\", but the image has no /etc/passwd or /etc/group here");
            self.report.add(Rule::UnknownChownUser, instruction, owner.span, message);
        }
    }
}

/// A file by HTTP; git sources name a commit by their own means.
fn is_download(source: &str) -> bool {
    let path = source.split(['?', '#']).next().unwrap_or(source);
    ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme)) && !path.ends_with(".git")
}

/// A path joined to another and cleaned, as WORKDIR and destinations are.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
