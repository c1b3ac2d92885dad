//! Builds the stage graph.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::contexts::Contexts;
use super::{Dependency, GraphArguments, Source, StageGraph, StageId, StageNode};
use crate::expand::{Lookup, Mode};
use crate::instruction::expand_at;
use crate::{Command, Diagnostic, Dockerfile, Escape, Instruction, Span, Stage, Word, parse_onbuild};

impl StageGraph {
    /// Finds what each stage of `dockerfile` needs. The errors are all that were found in the `FROM`s and before them, in
    /// the order of the text; of those in instructions see [`StageGraph::faults`].
    pub fn of(dockerfile: &Dockerfile, arguments: &GraphArguments) -> Result<StageGraph, Vec<Diagnostic>> {
        let (graph, errors) = StageGraph::draft(dockerfile, arguments);
        if errors.is_empty() { Ok(graph) } else { Err(errors) }
    }

    /// The graph with what is wrong in it: bases that cannot be had are images without a name.
    pub(crate) fn draft(
        dockerfile: &Dockerfile,
        arguments: &GraphArguments,
    ) -> (StageGraph, Vec<Diagnostic>) {
        let mut builder = Builder::new(dockerfile, arguments);
        let predefined: Vec<(String, String)> = builder.globals.clone().into_iter().collect();
        let declared = builder.global_args();
        let follow = has_variable_sources(dockerfile);
        for stage in &dockerfile.stages {
            builder.stage(stage, follow);
        }
        builder.errors.sort_by_key(|error| error.span.start);
        builder.faults.sort_by_key(|(_, fault)| fault.span.start);
        let graph = StageGraph {
            stages: builder.stages,
            global_args: in_order(predefined, declared),
            contexts: builder.contexts,
            faults: builder.faults,
        };
        (graph, builder.errors)
    }

    /// What `--from=name` means in stage `stage`; for triggers of a base image, whose text is known only when the
    /// image is there. `span` is where an error is shown.
    pub fn resolve_from(
        &self,
        dockerfile: &Dockerfile,
        stage: StageId,
        name: &str,
        span: Span,
    ) -> Result<Source, Diagnostic> {
        let from = Word::new(name, span);
        let named = dockerfile.stage_named(name);
        resolve(dockerfile, named, &self.contexts, stage.0, &from)
    }
}

/// The global scope: the predefined args and the ARGs before the first FROM; those that cannot be had are left out.
pub(crate) fn global_args(dockerfile: &Dockerfile, arguments: &GraphArguments) -> BTreeMap<String, String> {
    let mut builder = Builder::new(dockerfile, arguments);
    builder.global_args();
    builder.globals
}

/// The predefined args, then those that the Dockerfile declares; a name stands once.
fn in_order(predefined: Vec<(String, String)>, declared: Vec<(String, String)>) -> Vec<(String, String)> {
    let names: HashSet<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
    let predefined = predefined.into_iter().filter(|(name, _)| !names.contains(name.as_str()));
    predefined.chain(declared.iter().cloned()).collect()
}

/// The predefined args and the build args that overrule them.
fn global_scope(dockerfile: &Dockerfile, arguments: &GraphArguments) -> BTreeMap<String, String> {
    let mut scope = arguments.platform_args.clone();
    let last = dockerfile.stages.last().and_then(Stage::name);
    let target = arguments.target.as_deref().or(last).unwrap_or("default");
    scope.insert("TARGETSTAGE".to_owned(), target.to_owned());
    for (name, value) in &mut scope {
        if let Some(given) = arguments.build_args.get(name) {
            value.clone_from(given);
        }
    }
    scope
}

/// Whether some `from=` holds a variable, so that the stages' variables must be followed.
fn has_variable_sources(dockerfile: &Dockerfile) -> bool {
    dockerfile.instructions().any(|instruction| match &instruction.command {
        Command::Copy(copy) => copy.from.as_ref().is_some_and(|from| from.text.contains('$')),
        Command::Run(run) => run.mounts.iter().any(|mount| mount.has_variable_source()),
        _ => false,
    })
}

struct Builder<'a> {
    dockerfile: &'a Dockerfile,
    arguments: &'a GraphArguments,
    contexts: Contexts,
    globals: BTreeMap<String, String>,
    stages: Vec<StageNode>,
    /// What is known of each stage's variables: its ARGs and ENVs, not those of its base image.
    variables: Vec<BTreeMap<String, String>>,
    errors: Vec<Diagnostic>,
    faults: Vec<(StageId, Diagnostic)>,
    /// The number of the last stage of each name, of all stages.
    last: HashMap<&'a str, usize>,
    /// The same of the stages so far.
    earlier: HashMap<&'a str, usize>,
}

impl<'a> Builder<'a> {
    fn new(dockerfile: &'a Dockerfile, arguments: &'a GraphArguments) -> Builder<'a> {
        Builder {
            dockerfile,
            arguments,
            contexts: Contexts::of(arguments),
            globals: global_scope(dockerfile, arguments),
            stages: Vec::new(),
            variables: Vec::new(),
            errors: Vec::new(),
            faults: Vec::new(),
            last: dockerfile.stages.iter().filter_map(|stage| Some((stage.name()?, stage.index))).collect(),
            earlier: HashMap::new(),
        }
    }
}

impl<'a> Builder<'a> {
    fn escape(&self) -> Escape {
        self.dockerfile.escape
    }

    /// Evaluates the ARGs before the first FROM.
    fn global_args(&mut self) -> Vec<(String, String)> {
        let mut declared: Vec<(String, String)> = Vec::new();
        let mut at: HashMap<&str, usize> = HashMap::new();
        for instruction in &self.dockerfile.global_args {
            let Command::Arg(args) = &instruction.command else { continue };
            for arg in args {
                let name = &arg.name.text;
                let value = match self.arguments.build_args.get(name) {
                    Some(given) => Ok(Some(given.clone())),
                    None => arg.expanded_default(&self.globals, self.escape()),
                };
                match value {
                    Ok(Some(value)) => {
                        self.globals.insert(name.clone(), value.clone());
                        match at.get(name.as_str()).and_then(|at| declared.get_mut(*at)) {
                            Some(known) => known.1 = value,
                            None => {
                                at.insert(name, declared.len());
                                declared.push((name.clone(), value));
                            }
                        }
                    }
                    Ok(None) => {}
                    Err(error) => self.errors.push(error),
                }
            }
        }
        declared
    }

    fn stage(&mut self, stage: &'a Stage, follow: bool) {
        let base_name = self.global(&stage.from.base, "base name");
        let platform = stage.from.platform.as_ref().map(|platform| self.platform(platform));
        let base = self.base(&base_name, platform.clone());
        let id = StageId(stage.index);
        let (mut dependencies, mut variables) = (Vec::new(), BTreeMap::new());
        if let Source::Stage(parent) = base {
            self.triggers(stage, parent, &mut dependencies);
            variables = self.variables.get(parent.0).cloned().unwrap_or_default();
        }
        let replacement = stage.name().and_then(|name| self.contexts.for_stage(name, platform.as_deref()));
        let replaced = replacement.is_some();
        if !replaced {
            self.faults.extend(written_faults(self.dockerfile, stage).map(|fault| (id, fault.clone())));
            for (at, instruction) in stage.instructions.iter().enumerate() {
                self.instruction(stage, at, instruction, &variables, &mut dependencies);
                if follow {
                    self.follow(instruction, &mut variables);
                }
            }
        }
        self.variables.push(variables);
        self.earlier.extend(stage.name().map(|name| (name, stage.index)));
        let base = replacement.map_or(base, Source::Context);
        self.stages.push(StageNode {
            id,
            name: stage.name().map(str::to_owned),
            base,
            base_name,
            platform,
            replaced,
            dependencies,
            span: stage.from.base.span,
        });
    }

    /// Expands a word of FROM.
    fn global(&mut self, word: &Word, what: &str) -> String {
        let expansion = match expand_at(&word.text, word.span, &self.globals, self.escape(), Mode::Word) {
            Ok(expansion) => expansion,
            Err(error) => {
                self.errors.push(error);
                return String::new();
            }
        };
        let broken = expansion.value.is_empty() || expansion.value.ends_with([':', '@', '/']);
        if !broken {
            return expansion.value;
        }
        let blank = Diagnostic::error(format!("{what} ({}) should not be blank", word.text), word.span);
        let error = match (expansion.undefined.first(), expansion.value.is_empty()) {
            (None, true) => blank,
            (None, false) => return expansion.value,
            (Some(missing), is_blank) => {
                let names = Lookup::names(&self.globals);
                let help = declare_help(&missing.name, names);
                let error = if is_blank {
                    blank
                } else {
                    let text = format!("{what} ({}) is incomplete: \"{}\"", word.text, expansion.value);
                    Diagnostic::error(text, word.span)
                };
                error.label(word.span, format!("`{}` is not set here", missing.name)).help(help)
            }
        };
        self.errors.push(error);
        expansion.value
    }

    fn platform(&mut self, word: &Word) -> String {
        let value = match expand_at(&word.text, word.span, &self.globals, self.escape(), Mode::Word) {
            Ok(expansion) => expansion.value,
            Err(error) => {
                self.errors.push(error);
                return String::new();
            }
        };
        if value.is_empty() {
            let message = format!("empty platform value from expression {}", word.text);
            let name = word.text.trim_start_matches('$').trim_matches(['{', '}']);
            let help = declare_help(name, Lookup::names(&self.globals));
            self.errors.push(Diagnostic::error(message, word.span).help(help));
        }
        value
    }

    /// What FROM means: an earlier stage (by its name as written), a named context, scratch, or an image.
    fn base(&self, name: &str, platform: Option<String>) -> Source {
        let earlier = self.earlier.get(name).and_then(|at| self.dockerfile.stages.get(*at));
        if let Some(found) = earlier {
            return stage_or_context(found, &self.contexts);
        }
        match self.contexts.for_image(name, platform.as_deref()) {
            Some(context) => Source::Context(context),
            None if name == "scratch" => Source::Scratch,
            None => Source::Image { name: name.to_owned(), platform },
        }
    }

    /// What the ONBUILDs of the parent stage need.
    fn triggers(&mut self, stage: &Stage, parent: StageId, dependencies: &mut Vec<Dependency>) {
        let Some(parent) = self.dockerfile.stages.get(parent.0) else { return };
        for (at, instruction) in parent.instructions.iter().enumerate() {
            let Command::Onbuild(onbuild) = &instruction.command else { continue };
            let span = stage.from.base.span;
            match parse_onbuild(&onbuild.text, self.escape()) {
                Ok(trigger) => {
                    for (from, mount) in sources(&trigger) {
                        let from = Word::new(from.text, span);
                        self.depend(stage, at, mount, &from, true, dependencies);
                    }
                }
                Err(error) => {
                    let fault = Diagnostic::error(error.message, span)
                        .label(onbuild.span, "in this trigger of the base stage");
                    let fault = Diagnostic { help: error.help, ..fault };
                    self.faults.push((StageId(stage.index), fault));
                }
            }
        }
    }

    fn instruction(
        &mut self,
        stage: &Stage,
        at: usize,
        instruction: &Instruction,
        variables: &BTreeMap<String, String>,
        dependencies: &mut Vec<Dependency>,
    ) {
        for (mut from, mount) in sources(instruction) {
            if from.text.contains('$') && !self.arguments.strict_docker {
                match expand_at(&from.text, from.span, variables, self.escape(), Mode::Word) {
                    Ok(expansion) => from.text = expansion.value,
                    Err(fault) => self.faults.push((StageId(stage.index), fault)),
                }
            }
            self.depend(stage, at, mount, &from, false, dependencies);
        }
    }

    fn depend(
        &mut self,
        stage: &Stage,
        instruction: usize,
        mount: Option<usize>,
        from: &Word,
        onbuild: bool,
        dependencies: &mut Vec<Dependency>,
    ) {
        let named =
            self.last.get(from.text.to_lowercase().as_str()).and_then(|at| self.dockerfile.stages.get(*at));
        match resolve(self.dockerfile, named, &self.contexts, stage.index, from) {
            Ok(source) => {
                dependencies.push(Dependency { source, instruction, mount, onbuild, span: from.span })
            }
            Err(fault) => self.faults.push((StageId(stage.index), fault)),
        }
    }

    /// Notes the variables that an instruction sets. Errors are for the build to report, if it gets there.
    fn follow(&self, instruction: &Instruction, variables: &mut BTreeMap<String, String>) {
        match &instruction.command {
            Command::Arg(args) => {
                for arg in args {
                    let name = &arg.name.text;
                    let default = || arg.expanded_default(variables, self.escape()).ok().flatten();
                    let given = self.arguments.build_args.get(name).cloned();
                    let value = given.or_else(default).or_else(|| self.globals.get(name).cloned());
                    variables.extend(value.map(|value| (name.clone(), value)));
                }
            }
            Command::Env(_) => {
                if let Ok(Instruction { command: Command::Env(env), .. }) =
                    instruction.expanded(variables, self.escape())
                {
                    variables.extend(env.pairs.into_iter().map(|pair| (pair.key.text, pair.value.text)));
                }
            }
            _ => {}
        }
    }
}

/// The faults that reading the file noted in a stage.
fn written_faults<'a>(dockerfile: &'a Dockerfile, stage: &Stage) -> impl Iterator<Item = &'a Diagnostic> {
    let next = dockerfile.stages.get(stage.index + 1).map_or(usize::MAX, |next| next.instruction.span.start);
    let within = stage.instruction.span.start..next;
    dockerfile.faults.iter().filter(move |fault| within.contains(&fault.span.start))
}

/// The `from=`s of an instruction, with the number of the mount each belongs to.
fn sources(instruction: &Instruction) -> Vec<(Word, Option<usize>)> {
    match &instruction.command {
        Command::Copy(copy) => copy.from.iter().map(|from| (from.clone(), None)).collect(),
        Command::Run(run) => run
            .mounts
            .iter()
            .enumerate()
            .filter_map(|(at, mount)| {
                let (_, from) = mount.fields.iter().rev().find(|(key, _)| key == "from")?;
                let from = from.as_ref().filter(|from| !from.is_empty())?;
                Some((Word::new(from.clone(), mount.text.span), Some(at)))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What to do about a variable of FROM that is not set.
fn declare_help(name: &str, known: Vec<&str>) -> String {
    match crate::suggestion(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declare it before the first FROM: ARG {name}=…"),
    }
}

/// What `--from=` means in the stage numbered `current`: a stage by number, by name in any case, a named context, or
/// an image. `named` is the stage of that name.
fn resolve(
    dockerfile: &Dockerfile,
    named: Option<&Stage>,
    contexts: &Contexts,
    current: usize,
    from: &Word,
) -> Result<Source, Diagnostic> {
    let found = match from.text.parse::<usize>() {
        Ok(number) => {
            Some(dockerfile.stages.get(number).ok_or_else(|| no_such_number(dockerfile, number, from))?)
        }
        Err(_) => named,
    };
    let Some(found) = found else {
        return Ok(match contexts.for_image(&from.text, None) {
            Some(context) => Source::Context(context),
            None if from.text == "scratch" => Source::Scratch,
            None if from.text.is_empty() => {
                return Err(Diagnostic::error("the name of what to copy from is empty", from.span));
            }
            None => Source::Image { name: from.text.clone(), platform: None },
        });
    };
    let label = found.label();
    let defined = found.from.name.as_ref().map_or(found.from.base.span, |name| name.span);
    if found.index == current {
        let message = format!("circular dependency detected on stage: {label}");
        return Err(Diagnostic::error(message, from.span)
            .label(from.span, "a stage cannot copy from itself")
            .label(defined, "this stage"));
    }
    if found.index > current {
        let here = dockerfile.stages.get(current).map(Stage::label).unwrap_or_default();
        let message = format!(
            "cannot copy from stage \"{label}\", it needs to be defined before current stage \"{here}\""
        );
        return Err(Diagnostic::error(message, from.span)
            .label(from.span, "used here")
            .label(defined, "defined only here")
            .help(format!("move stage `{label}` above stage `{here}`")));
    }
    Ok(stage_or_context(found, contexts))
}

fn no_such_number(dockerfile: &Dockerfile, number: usize, from: &Word) -> Diagnostic {
    let last = dockerfile.stages.len().saturating_sub(1);
    Diagnostic::error(format!("invalid stage index {number}"), from.span)
        .help(format!("the stages are numbered 0 to {last}"))
}

/// A stage, or the named context that is given in its place.
fn stage_or_context(stage: &Stage, contexts: &Contexts) -> Source {
    match stage.name().and_then(|name| contexts.for_stage(name, None)) {
        Some(context) => Source::Context(context),
        None => Source::Stage(StageId(stage.index)),
    }
}
