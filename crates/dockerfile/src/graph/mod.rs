//! Which stage needs what: the stage graph, and the plan for a target.

mod arguments;
mod build;
mod contexts;
mod count;
mod dump;
mod plan;

use serde::Serialize;

pub use arguments::{BuildPlatform, GraphArguments};
pub(crate) use build::global_args;
pub(crate) use contexts::Contexts;
pub use count::StepCounter;

use crate::{Diagnostic, Span};

/// The number of a stage in its Dockerfile, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct StageId(pub usize);

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An earlier stage.
    Stage(StageId),
    /// An image by its name as written and expanded; of the given platform, else of the target's.
    Image {
        /// The reference.
        name: String,
        /// What `FROM --platform` asks for.
        platform: Option<String>,
    },
    /// A named context of the build, under the key it was given by.
    Context(String),
    /// The empty root file system.
    Scratch,
}

/// A stage needs something for one of its instructions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dependency {
    /// What it needs.
    pub source: Source,
    /// The instruction, counted from 0 in [`crate::Stage::instructions`]. Of a trigger, the place of the `ONBUILD` in
    /// the stage that this one is built from.
    pub instruction: usize,
    /// The mount of a RUN, counted from 0; `None` for COPY.
    pub mount: Option<usize>,
    /// Whether a trigger of the base stage needs it.
    pub onbuild: bool,
    /// The name as written.
    pub span: Span,
}

/// A stage in the graph.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StageNode {
    /// Its number.
    pub id: StageId,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// What it starts from.
    pub base: Source,
    /// The base's name, expanded.
    pub base_name: String,
    /// `--platform`, expanded.
    pub platform: Option<String>,
    /// Whether a named context of the stage's name is taken in its place: [`StageNode::base`] is that context, and
    /// none of its instructions is carried out.
    pub replaced: bool,
    /// What its instructions read, in order.
    pub dependencies: Vec<Dependency>,
    /// The base as written.
    pub span: Span,
}

impl StageNode {
    /// The name, or `stage-N`.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.id.0))
    }

    /// What `COPY --from` of instruction `instruction` (or of its mount `mount`) means; `None` when it reads the
    /// build context.
    pub fn source_of(&self, instruction: usize, mount: Option<usize>) -> Option<&Source> {
        let here = |d: &&Dependency| d.instruction == instruction && d.mount == mount && !d.onbuild;
        self.dependencies.iter().find(here).map(|dependency| &dependency.source)
    }

    /// The stages it needs, base first, each once.
    pub fn needs(&self) -> Vec<StageId> {
        let mut needed = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for source in self.sources() {
            if let Source::Stage(id) = source
                && seen.insert(*id)
            {
                needed.push(*id);
            }
        }
        needed
    }
}

/// All stages of a Dockerfile and what each needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StageGraph {
    /// The stages in order.
    pub stages: Vec<StageNode>,
    /// The global build args with their values, the predefined ones first, then in order of definition: what a
    /// stage's `ARG name` without default takes.
    pub global_args: Vec<(String, String)>,
    #[serde(skip)]
    contexts: contexts::Contexts,
    /// What is wrong in the instructions of a stage.
    #[serde(skip)]
    faults: Vec<(StageId, Diagnostic)>,
}

/// What a target needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// The stage to build.
    pub target: StageId,
    /// The stages to build, dependencies before dependants; the target is the last.
    pub stages: Vec<PlannedStage>,
    /// The images needed, each once, in order of need: name and platform (`None`: the target's).
    pub images: Vec<(String, Option<String>)>,
    /// The named contexts needed, each once.
    pub contexts: Vec<String>,
}

/// A stage of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PlannedStage {
    /// Its number.
    pub id: StageId,
    /// The stages that must be there before it can be finished.
    pub needs: Vec<StageId>,
}
