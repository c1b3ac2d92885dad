//! What a Dockerfile offers to its users: its targets, and what one of them can be given (`--call=targets`, `--call=outline`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::expand::{Lookup, Mode, expand};
use crate::lex::Comment;
use crate::{
    Command, Dockerfile, GraphArguments, Instruction, MountKind, Source, Span, Stage, StageGraph, StageId,
};

/// A stage as something to build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    /// Its name, in lower case.
    pub name: Option<&'a str>,
    /// The comment `# NAME text` above it.
    pub description: Option<&'a str>,
    /// Whether it is built when none is asked for.
    pub is_default: bool,
    /// What it is built from, as written.
    pub base: &'a str,
    /// `--platform`, as written.
    pub platform: Option<&'a str>,
    /// Its `FROM`.
    pub span: Span,
}

/// The stages in order.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target<'_>> {
    let target = |stage| target_of(dockerfile, stage);
    dockerfile.stages.iter().map(target).collect()
}

fn target_of<'a>(dockerfile: &'a Dockerfile, stage: &'a Stage) -> Target<'a> {
    Target {
        name: stage.name(),
        description: stage.name().and_then(|name| doc_comment(&stage.instruction.comments, name)),
        is_default: stage.index + 1 == dockerfile.stages.len(),
        base: &stage.from.base.text,
        platform: stage.from.platform.as_ref().map(|word| word.text.as_str()),
        span: stage.instruction.span,
    }
}

/// `# NAME text`.
fn doc_comment<'a>(comments: &'a [Comment], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|comment| comment.text.strip_prefix(name)?.strip_prefix(' '))
}

/// What a target can be given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline<'a> {
    /// The target.
    pub target: Target<'a>,
    /// The build args that it, or what it needs, uses; in the order of the text.
    pub args: Vec<OutlineArg>,
    /// Secrets, SSH agents and cache mounts of RUN.
    pub secrets: Vec<OutlineMount>,
    /// See [`Outline::secrets`].
    pub ssh: Vec<OutlineMount>,
    /// See [`Outline::secrets`].
    pub caches: Vec<OutlineMount>,
}

/// A build arg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The value it would have; empty without one.
    pub value: String,
    /// The comment `# NAME text` above it.
    pub description: Option<String>,
    /// The instruction that declares it.
    pub span: Span,
}

/// A mount that a build gives something to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The RUN.
    pub span: Span,
}

/// What `target` can be given: the args that take part in it, with what it asks for by mounts. Values are those of
/// `arguments`, else the defaults; what only a base image sets is not known.
pub fn outline<'a>(
    dockerfile: &'a Dockerfile,
    graph: &StageGraph,
    target: StageId,
    arguments: &GraphArguments,
) -> Option<Outline<'a>> {
    let stage = dockerfile.stages.get(target.0)?;
    let captures = captures(dockerfile, graph, arguments);
    let mut found = Outline {
        target: target_of(dockerfile, stage),
        args: Vec::new(),
        secrets: Vec::new(),
        ssh: Vec::new(),
        caches: Vec::new(),
    };
    let mut seen = Seen::default();
    let mut stages = vec![target];
    let mut visited = BTreeSet::new();
    while let Some(id) = stages.pop() {
        let (Some(capture), Some(node), Some(stage)) =
            (captures.get(id.0), graph.stages.get(id.0), dockerfile.stages.get(id.0))
        else {
            continue;
        };
        if !visited.insert(id) {
            continue;
        }
        found.args.extend(capture.used_args().filter(|arg| seen.args.insert(arg.name.clone())).cloned());
        if !node.replaced {
            stage.instructions.iter().for_each(|instruction| mounts(instruction, &mut found, &mut seen));
        }
        stages.extend(node.needs().into_iter().rev());
    }
    found.args.sort_by_key(|arg| arg.span.start);
    for list in [&mut found.secrets, &mut found.ssh, &mut found.caches] {
        list.sort_by_key(|mount| mount.span.start);
    }
    Some(found)
}

#[derive(Default)]
struct Seen {
    args: BTreeSet<String>,
    mounts: BTreeSet<(&'static str, String)>,
}

fn mounts(instruction: &Instruction, found: &mut Outline<'_>, seen: &mut Seen) {
    let Command::Run(run) = &instruction.command else { return };
    for mount in &run.mounts {
        let spec = &mount.spec;
        let base_name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
        let id = spec.id.clone().or_else(|| match spec.kind {
            MountKind::Secret => spec.source.clone().or_else(|| spec.target.as_ref().map(base_name)),
            MountKind::Ssh => Some("default".to_owned()),
            _ => spec.target.clone(),
        });
        let Some(id) = id else { continue };
        let list = match spec.kind {
            MountKind::Secret => &mut found.secrets,
            MountKind::Ssh => &mut found.ssh,
            MountKind::Cache => &mut found.caches,
            MountKind::Bind | MountKind::Tmpfs => continue,
        };
        if seen.mounts.insert((spec.kind.as_str(), id.clone())) {
            list.push(OutlineMount { id, required: spec.required, span: instruction.span });
        }
    }
}

/// The args that a stage knows, and those that it uses.
#[derive(Clone, Default)]
struct Capture {
    known: BTreeMap<String, (OutlineArg, BTreeSet<String>)>,
    used: BTreeSet<String>,
    variables: BTreeMap<String, String>,
}

impl Capture {
    fn used_args(&self) -> impl Iterator<Item = &OutlineArg> {
        self.used.iter().filter_map(|name| Some(&self.known.get(name)?.0))
    }

    /// Marks an arg, and those that its default is made of.
    fn mark(&mut self, name: &str) {
        let mut names = vec![name.to_owned()];
        while let Some(name) = names.pop() {
            let needed = self.known.get(&name).map(|(_, needed)| needed.iter().cloned().collect::<Vec<_>>());
            if self.used.insert(name) {
                names.extend(needed.unwrap_or_default());
            }
        }
    }
}

/// Notes which names are looked up.
struct Recording<'a> {
    variables: &'a BTreeMap<String, String>,
    names: RefCell<BTreeSet<String>>,
}

impl Lookup for Recording<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?;
        self.names.borrow_mut().insert(name.to_owned());
        Some(value)
    }
}

/// The value of a text, and the variables that it is made of; `None` where it cannot be had.
fn evaluate(
    text: &str,
    variables: &BTreeMap<String, String>,
    dockerfile: &Dockerfile,
) -> Option<(String, BTreeSet<String>)> {
    let recording = Recording { variables, names: RefCell::default() };
    let expansion = expand(text, &recording, dockerfile.escape, Mode::Word).ok()?;
    Some((expansion.value, recording.names.into_inner()))
}

fn captures(dockerfile: &Dockerfile, graph: &StageGraph, arguments: &GraphArguments) -> Vec<Capture> {
    let mut global = Capture { variables: arguments.platform_args.clone(), ..Capture::default() };
    global.variables.extend(graph.global_args.iter().find(|(name, _)| name == "TARGETSTAGE").cloned());
    for instruction in &dockerfile.global_args {
        global.declare(instruction, dockerfile, arguments, None);
    }
    let mut captures: Vec<Capture> = Vec::new();
    for (stage, node) in dockerfile.stages.iter().zip(&graph.stages) {
        let mut capture = match &node.base {
            Source::Stage(parent) => captures.get(parent.0).cloned().unwrap_or_default(),
            _ => Capture { variables: BTreeMap::new(), ..global.clone() },
        };
        for word in std::iter::once(&stage.from.base).chain(&stage.from.platform) {
            let names = evaluate(&word.text, &global.variables, dockerfile).map(|(_, names)| names);
            names.into_iter().flatten().for_each(|name| capture.mark(&name));
        }
        let instructions = if node.replaced { &[] } else { stage.instructions.as_slice() };
        for instruction in instructions {
            capture.declare(instruction, dockerfile, arguments, Some(&global.variables));
        }
        captures.push(capture);
    }
    captures
}

impl Capture {
    /// Follows an ARG or ENV; `globals` are the args before the first FROM, for an ARG in a stage.
    fn declare(
        &mut self,
        instruction: &Instruction,
        dockerfile: &Dockerfile,
        arguments: &GraphArguments,
        globals: Option<&BTreeMap<String, String>>,
    ) {
        match &instruction.command {
            Command::Env(env) => {
                for pair in &env.pairs {
                    if let Some((value, _)) = evaluate(&pair.value.text, &self.variables, dockerfile) {
                        self.variables.insert(pair.key.text.clone(), value);
                    }
                }
            }
            Command::Arg(args) => {
                for arg in args {
                    let name = &arg.name.text;
                    let given = arguments.build_args.get(name).cloned().map(|value| (value, BTreeSet::new()));
                    let default = || evaluate(&arg.default.as_ref()?.text, &self.variables, dockerfile);
                    let own = given.or_else(default);
                    let inherited =
                        globals.and_then(|globals| globals.get(name)).filter(|_| arg.default.is_none());
                    if let (None, Some(value)) = (&own, inherited) {
                        // The one before the first FROM is meant, and told of with its own description.
                        self.variables.insert(name.clone(), value.clone());
                    } else {
                        let (value, needed) = own.unwrap_or_default();
                        let description = doc_comment(&instruction.comments, name).map(str::to_owned);
                        if arg.default.is_some() || arguments.build_args.contains_key(name) {
                            self.variables.insert(name.clone(), value.clone());
                        }
                        let told =
                            OutlineArg { name: name.clone(), value, description, span: instruction.span };
                        // In a stage the parts of a default are variables of the stage, and stand for themselves.
                        let needed = if globals.is_none() { needed } else { BTreeSet::new() };
                        self.known.insert(name.clone(), (told, needed));
                    }
                    if globals.is_some() {
                        self.mark(name);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "ARG inherited=box\nARG inherited2=box2\nARG unused=abc${inherited2}\n# sfx is a suffix\n\
        ARG sfx=\"usy${inherited}\"\n\nFROM b${sfx} AS first\n# this is not assigned to anything\nARG FOO=123\n\
        # BAR is a number\nARG BAR=456\nRUN --mount=type=secret,id=s,required --mount=type=ssh true\n\n\
        FROM alpine${unused} AS second\nARG BAZ\nRUN true\n\nFROM scratch AS third\nARG ABC=a\nARG password\n\n\
        # target defines build target\nFROM third AS target\nCOPY --from=first /etc/passwd /\n\
        RUN --mount=type=cache,target=/c true\n\nFROM second\n";

    fn arguments() -> GraphArguments {
        GraphArguments {
            build_args: [("BAR".to_owned(), "678".to_owned())].into(),
            ..GraphArguments::default()
        }
    }

    #[test]
    fn an_outline_has_what_a_target_needs() {
        let dockerfile = Dockerfile::parse(SOURCE).unwrap();
        let graph = StageGraph::of(&dockerfile, &arguments()).unwrap();
        let of = |name| outline(&dockerfile, &graph, graph.target(name).unwrap(), &arguments()).unwrap();
        let found = of(Some("target"));
        assert_eq!(found.target.description, Some("defines build target"));
        let args: Vec<_> = found
            .args
            .iter()
            .map(|arg| (arg.name.as_str(), arg.value.as_str(), arg.description.as_deref()))
            .collect();
        assert_eq!(
            args,
            [
                ("inherited", "box", None),
                ("sfx", "usybox", Some("is a suffix")),
                ("FOO", "123", None),
                ("BAR", "678", Some("is a number")),
                ("ABC", "a", None),
                ("password", "", None),
            ]
        );
        let ids = |mounts: &[OutlineMount]| {
            mounts.iter().map(|mount| (mount.id.clone(), mount.required)).collect::<Vec<_>>()
        };
        assert_eq!(ids(&found.secrets), [("s".to_owned(), true)]);
        assert_eq!(ids(&found.ssh), [("default".to_owned(), false)]);
        assert_eq!(ids(&found.caches), [("/c".to_owned(), false)]);
        let names: Vec<_> = of(None).args.into_iter().map(|arg| arg.name).collect();
        assert_eq!(names, ["inherited2", "unused", "BAZ"]);
    }

    #[test]
    fn targets_are_the_stages() {
        let dockerfile = Dockerfile::parse(SOURCE).unwrap();
        let all: Vec<_> =
            targets(&dockerfile).into_iter().map(|t| (t.name, t.description, t.is_default, t.base)).collect();
        assert_eq!(all[0], (Some("first"), None, false, "b${sfx}"));
        assert_eq!(all[3], (Some("target"), Some("defines build target"), false, "third"));
        assert_eq!(all[4], (None, None, true, "second"));
    }
}
