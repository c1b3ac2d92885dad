//! One build: its stages, each a fold over its instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rbuild_dockerfile::{
    CacheWishes, Command, Copy, Dockerfile, Escape, HistoryContext, Instruction, Plan, Source, Span,
    StageGraph, StageId, StepCounter, parse_onbuild,
};
use rbuild_executor::{Cancel, Place};
use rbuild_image::Platform;
use rbuild_store::{KeyParts, Lineage, Parent, Store};

use crate::Tools;
use crate::enter::Stops;
use crate::error::{AtSpan, BuildError, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, Phase, StepNumber, Steps};
use crate::files::Files;
use crate::images::Images;
use crate::misspelt::as_stage;
use crate::packing::{Packed, Packing};
use crate::platforms::Variant;
use crate::request::{BuildRequest, NamedContext};
use crate::schedule::{Stages, run_stages};
use crate::shared_cache::SharedCache;
use crate::state::{Rootfs, StageState};
use crate::steps::{Done, Step};

/// What the builds for all platforms share.
pub(crate) struct Shared<'a> {
    /// Results of other machines, and ours for them.
    pub(crate) cache: SharedCache<'a>,
    pub(crate) steps: Steps,
    done: Done,
    /// Folders that were opened, by path.
    pub(crate) folders: Mutex<BTreeMap<String, Files>>,
    /// In place one command works at a time.
    pub(crate) root_turn: Mutex<()>,
    /// The RUN that failed first, and the one step that is to be entered.
    pub(crate) stops: Mutex<Stops>,
    /// Whether a step was told of that is carried out for a reason of its own.
    pub(crate) told: AtomicBool,
    /// Contexts that were fetched or unpacked, by name; the build context has none.
    pub(crate) fetched: Mutex<BTreeMap<String, Files>>,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(cache: SharedCache<'a>) -> Self {
        Shared {
            cache,
            steps: Steps::default(),
            done: Done::default(),
            folders: Mutex::default(),
            root_turn: Mutex::default(),
            stops: Mutex::default(),
            told: AtomicBool::new(false),
            fetched: Mutex::default(),
        }
    }
}

/// Everything that the stages of one build share.
pub(crate) struct Builder<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) graph: &'a StageGraph,
    plan: &'a Plan,
    pub(crate) store: &'a Store,
    pub(crate) images: Images<'a>,
    pub(crate) events: &'a dyn EventSink,
    pub(crate) steps: &'a Steps,
    pub(crate) cancel: &'a Cancel,
    pub(crate) place: &'a Place,
    pub(crate) packing: Packing,
    pub(crate) done: &'a Done,
    /// Names the folder of this build's logs.
    pub(crate) name: String,
    pub(crate) shared: &'a Shared<'a>,
    /// Stages whose layers become part of the image: the target and what it is built from.
    kept: BTreeSet<usize>,
}

/// A stage at work.
pub(crate) struct StageRun<'a> {
    pub(crate) index: usize,
    pub(crate) label: String,
    /// For the names of steps, where several platforms are built.
    platform: Option<String>,
    pub(crate) stages: &'a Stages<'a, StageState>,
    /// The instruction at hand, counted from 0; `None` for a trigger of the base.
    instruction: Option<usize>,
    counter: StepCounter,
    /// How many instructions of each kind came before, to find the earlier run of a step.
    kinds: BTreeMap<&'static str, u32>,
}

impl<'a> Builder<'a> {
    /// A builder for each platform.
    pub(crate) fn for_each(
        variants: &'a [Variant],
        dockerfile: &'a Dockerfile,
        tools: Tools<'a>,
        events: &'a dyn EventSink,
        shared: &'a Shared<'a>,
    ) -> Vec<Self> {
        let mut builders: Vec<Self> = Vec::new();
        for variant in variants {
            let images = Images::new(&variant.request, tools, events, &shared.steps);
            let images = match builders.first() {
                Some(first) => images.sharing(&first.images),
                None => images.trusting(&shared.cache.distant),
            };
            builders.push(Builder::new(variant, dockerfile, images, tools, shared));
        }
        builders
    }

    fn new(
        Variant { request, graph, plan }: &'a Variant,
        dockerfile: &'a Dockerfile,
        images: Images<'a>,
        tools: Tools<'a>,
        shared: &'a Shared<'a>,
    ) -> Self {
        let mut kept = BTreeSet::from([plan.target.0]);
        let mut stage = plan.target;
        while let Some(Source::Stage(parent)) = graph.stages.get(stage.0).map(|node| &node.base) {
            kept.insert(parent.0);
            stage = *parent;
        }
        Builder {
            request,
            dockerfile,
            graph,
            plan,
            store: tools.store,
            events: images.events,
            steps: images.steps,
            images,
            cancel: tools.cancel,
            place: tools.place,
            packing: Packing::new(request.compression()),
            done: &shared.done,
            name: format!("{}-{}", rbuild_fs::Timestamp::now().seconds, std::process::id()),
            shared,
            kept,
        }
    }

    /// The base images of the plan that are no stage, with who finds them.
    pub(crate) fn bases(&self) -> impl Iterator<Item = (&Images<'a>, &str, Option<&str>)> {
        let named = self.plan.images.iter();
        named.map(|(name, platform)| (&self.images, name.as_str(), platform.as_deref()))
    }

    /// Builds the stages of the plan and returns the target's state.
    pub(crate) fn run(&self) -> Result<StageState> {
        let wanted: Vec<usize> = self.plan.stages.iter().map(|stage| stage.id.0).collect();
        let finished = run_stages(&wanted, self.cancel, &|stages, index| self.stage(stages, index));
        // The last layer may still have to be compressed: the disk has time for the files meanwhile.
        self.store.begin_sync();
        for done in self.packing.settle() {
            let Packed { layer, began, took } = &done;
            let (phase, name) = (Phase::Pack, layer.as_str());
            self.events.event(Event::Spent { phase, name, began: *began, took: *took });
        }
        self.save_stat_caches();
        let finished = finished?;
        finished.values().for_each(|state| self.shared.cache.note_stage(state));
        let target = finished.get(&self.plan.target.0);
        target.map(|state| StageState::clone(state)).ok_or(BuildError::Cancelled)
    }

    pub(crate) fn announce(&self, name: &str) -> StepNumber {
        self.steps.announce(self.events, name)
    }

    /// Tells that time since `began` was spent.
    pub(crate) fn spent(&self, phase: Phase, name: &str, began: Instant) {
        self.events.event(Event::Spent { phase, name, began, took: began.elapsed() });
    }

    /// The result of stage `on`, for stage `from`, which waits until it is there.
    pub(crate) fn stage_of(
        &self,
        stages: &Stages<'_, StageState>,
        from: usize,
        on: usize,
    ) -> Result<Arc<StageState>> {
        let began = Instant::now();
        let state = stages.wait(from, on)?;
        let label = |stage: usize| self.dockerfile.stages[stage].label();
        self.spent(Phase::Wait, &format!("[{}] wait for {}", label(from), label(on)), began);
        Ok(state)
    }

    /// The store's name for the tree of a state.
    pub(crate) fn parent(&self, rootfs: &Rootfs) -> Result<Parent> {
        self.images.parent(rootfs)
    }

    /// One stage, from its base to its last instruction.
    fn stage(&self, stages: &Stages<'_, StageState>, index: usize) -> Result<StageState> {
        let stage = &self.dockerfile.stages[index];
        let based_on = &stage.from.base;
        let (mut state, triggers) = self
            .base(stages, index)
            .map_err(|error| as_stage(error, self.dockerfile, index, &based_on.text, based_on.span))
            .at(based_on.span)?;
        state.base.get_or_insert(stage.from.base.span);
        let triggers = self.parse_triggers(&triggers, stage.instruction.span)?;
        let counter = StepCounter::of(self.dockerfile, self.graph, StageId(index), &triggers);
        let mut run = StageRun {
            index,
            label: stage.label(),
            platform: self.request.is_for_several().then(|| self.platform_of(index)),
            stages,
            instruction: None,
            counter,
            kinds: BTreeMap::new(),
        };
        if let Some(name) = self.announce_base(index, &mut run) {
            self.stop_if_reached(&state, &run.label, &name)?;
        }
        for trigger in &triggers {
            // The trigger's own spans are offsets in its text: what fails is shown at the FROM line.
            let result = self.instruction(&mut state, trigger, &mut run);
            result.map_err(|error| relocate(error, stage.from.base.span))?;
        }
        for (position, instruction) in stage.instructions.iter().enumerate() {
            run.instruction = Some(position);
            self.instruction(&mut state, instruction, &mut run).at(instruction.span)?;
        }
        Ok(state)
    }

    fn base(&self, stages: &Stages<'_, StageState>, index: usize) -> Result<(StageState, Vec<String>)> {
        let node = &self.graph.stages[index];
        let platform = self.request.platform.clone();
        match &node.base {
            Source::Scratch => Ok((StageState::scratch(&platform), Vec::new())),
            Source::Stage(parent) => Ok(StageState::of_stage(&*self.stage_of(stages, index, parent.0)?)),
            Source::Image { name, platform } => {
                let image = self.images.by_name(name, platform.as_deref().or(node.platform.as_deref()))?;
                Ok(StageState::of_image(&image))
            }
            Source::Context(name) => match self.request.named_contexts.get(name) {
                Some(
                    NamedContext::Directory { .. }
                    | NamedContext::Git { .. }
                    | NamedContext::Url(_)
                    | NamedContext::Unpacked(_),
                ) => Ok((self.of_files(index, name)?, Vec::new())),
                Some(context) => match self.images.of_context(context)? {
                    Some(image) => Ok(StageState::of_image(&image)),
                    None => Ok((StageState::scratch(&platform), Vec::new())),
                },
                None => {
                    Err(Failure::new(FailureKind::Build, format!("no build context named `{name}`")).into())
                }
            },
        }
    }

    /// `FROM` a context of files: they become the one layer of an empty root file system.
    fn of_files(&self, index: usize, name: &str) -> Result<StageState> {
        let mut state = StageState::scratch(&self.request.platform);
        let all = parse_onbuild("COPY / /", Escape::default())
            .map_err(|diagnostic| BuildError::Dockerfile(vec![diagnostic]))?;
        let Command::Copy(copy) = &all.command else { return Ok(state) };
        let files = self.context_files(name)?;
        let stage = self.dockerfile.stages[index].label();
        let step = Step {
            name: format!("[context {name}] load files"),
            created_by: format!("FROM {name}"),
            parts: KeyParts::new(),
            contents: Vec::new(),
            lineage: Lineage { stage, instruction: "FROM".to_owned(), index: 0 },
            leaves: self.kept.contains(&index),
            bare: false,
            runs: false,
            begun: Instant::now(),
            wishes: CacheWishes::default(),
        };
        self.copy(&mut state, copy, &files, step)?;
        Ok(state)
    }

    /// The line `[build 1/6] FROM node:18`, where there is one; its work is done where the files are needed.
    fn announce_base(&self, index: usize, run: &mut StageRun<'_>) -> Option<String> {
        let node = &self.graph.stages[index];
        if !matches!(node.base, Source::Image { .. } | Source::Context(_)) {
            return None;
        }
        let prefix = run.counter.next_prefix(run.platform.as_deref());
        let name = format!("{prefix} FROM {}", node.base_name);
        let number = self.announce(&name);
        self.events.event(Event::Done { step: number, took: std::time::Duration::ZERO });
        Some(name)
    }

    /// The platform of a stage: its own, else that of the stage it is built from, else the image's.
    fn platform_of(&self, index: usize) -> String {
        let node = &self.graph.stages[index];
        match (&node.platform, &node.base) {
            (Some(platform), _) => {
                platform.parse().map_or_else(|_| platform.clone(), |known: Platform| known.to_string())
            }
            (None, Source::Stage(parent)) => self.platform_of(parent.0),
            (None, _) => self.request.platform.to_string(),
        }
    }

    fn parse_triggers(&self, triggers: &[String], from: Span) -> Result<Vec<Instruction>> {
        let parse = |text: &String| {
            parse_onbuild(text, self.dockerfile.escape).map_err(|error| {
                let message =
                    format!("the base's ONBUILD trigger `{text}` cannot be carried out: {}", error.message);
                Failure::new(FailureKind::Build, message).at(from).into()
            })
        };
        triggers.iter().map(parse).collect()
    }

    /// Carries out one instruction.
    fn instruction(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
        run: &mut StageRun<'_>,
    ) -> Result<()> {
        let expanded = instruction
            .expanded(&*state, self.dockerfile.escape)
            .map_err(|diagnostic| BuildError::Dockerfile(vec![diagnostic]))?;
        let mut context = HistoryContext { shell: state.shell(), args: state.args.clone(), workdir: None };
        match &expanded.command {
            Command::Arg(_) => {
                context.args = self.declare_args(state, instruction)?;
                state.record(created_by(&expanded, &context), None);
            }
            Command::Run(command) => {
                let step = self.new_step(run, &expanded, created_by(&expanded, &context));
                self.run_command(state, command, run, step)?;
            }
            Command::Copy(copy) | Command::Add(copy) => {
                let files = self.copy_source(copy, run)?;
                let mut step = self.new_step(run, &expanded, created_by(&expanded, &context));
                step.bare = copy.link && copy.chmod.is_none();
                self.copy(state, copy, &files, step)?;
            }
            Command::Workdir(path) => {
                context.workdir = Some(state.directory_after(&path.text));
                let step = self.new_step(run, &expanded, created_by(&expanded, &context));
                self.workdir(state, &path.text, step)?;
            }
            other => {
                let text = expanded.created_by(&context);
                state.apply_metadata(other).map_err(|message| Failure::new(FailureKind::Build, message))?;
                if let Some(text) = text {
                    state.record(text, None);
                }
            }
        }
        Ok(())
    }

    /// `ARG`: build arg, then its own default, then the value from before the first FROM. Returns what got a value.
    fn declare_args(
        &self,
        state: &mut StageState,
        instruction: &Instruction,
    ) -> Result<Vec<(String, String)>> {
        let Command::Arg(args) = &instruction.command else { return Ok(Vec::new()) };
        let fault = |diagnostic| BuildError::Dockerfile(vec![diagnostic]);
        let mut declared = Vec::new();
        for arg in args {
            let name = arg.expanded_name(&*state, self.dockerfile.escape).map_err(fault)?;
            let value = match self.request.build_args.get(&name) {
                Some(given) => Some(given.clone()),
                None => match arg.expanded_default(&*state, self.dockerfile.escape).map_err(fault)? {
                    Some(default) => Some(default),
                    None => self
                        .graph
                        .global_args
                        .iter()
                        .rev()
                        .find(|(known, _)| *known == name)
                        .map(|(_, value)| value.clone()),
                },
            };
            if let Some(value) = value {
                state.set_arg(&name, &value);
                declared.push((name, value));
            }
        }
        Ok(declared)
    }

    fn copy_source(&self, copy: &Copy, run: &StageRun<'_>) -> Result<Files> {
        match &copy.from {
            None => self.context(),
            Some(from) => run
                .source_of(self, &from.text, None)
                .and_then(|source| self.files_of(&source, run))
                .map_err(|error| as_stage(error, self.dockerfile, run.index, &from.text, from.span))
                .at(from.span),
        }
    }

    fn new_step(&self, run: &mut StageRun<'_>, instruction: &Instruction, created_by: String) -> Step {
        let keyword = instruction.keyword.as_str();
        let index = run.kinds.entry(keyword).or_default();
        let lineage = Lineage { stage: run.label.clone(), instruction: keyword.to_owned(), index: *index };
        *index += 1;
        let name = format!("{} {}", run.counter.next_prefix(run.platform.as_deref()), instruction.original);
        let leaves = self.kept.contains(&run.index);
        // With `--strict-docker` a comment is a comment.
        let wishes =
            if self.request.strict_docker { CacheWishes::default() } else { instruction.cache_wishes() };
        Step {
            name,
            created_by,
            parts: KeyParts::new(),
            contents: Vec::new(),
            lineage,
            leaves,
            bare: false,
            runs: false,
            begun: Instant::now(),
            wishes,
        }
    }
}

impl StageRun<'_> {
    /// What the name in a `from=` means here.
    pub(crate) fn source_of(
        &self,
        builder: &Builder<'_>,
        name: &str,
        mount: Option<usize>,
    ) -> Result<Source> {
        let node = &builder.graph.stages[self.index];
        if let Some(source) = self.instruction.and_then(|instruction| node.source_of(instruction, mount)) {
            return Ok(source.clone());
        }
        let place = builder.dockerfile.stages[self.index].from.base.span;
        builder
            .graph
            .resolve_from(builder.dockerfile, StageId(self.index), name, place)
            .map_err(|diagnostic| BuildError::Dockerfile(vec![diagnostic]))
    }
}

/// The history text of an instruction that has one.
fn created_by(instruction: &Instruction, context: &HistoryContext) -> String {
    instruction.created_by(context).unwrap_or_default()
}

/// Shows what a trigger did wrong at the line that brought it in.
fn relocate(error: BuildError, span: Span) -> BuildError {
    match error {
        BuildError::Failed(mut failure) => {
            failure.span = Some(span);
            BuildError::Failed(failure)
        }
        BuildError::Dockerfile(mut diagnostics) => {
            for diagnostic in &mut diagnostics {
                diagnostic.span = span;
                diagnostic.labels.clear();
            }
            BuildError::Dockerfile(diagnostics)
        }
        BuildError::Cancelled => BuildError::Cancelled,
    }
}
