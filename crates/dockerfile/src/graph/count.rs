//! The numbers in progress lines: `[build 3/6] RUN npm install`.

use super::{Source, StageGraph, StageId};
use crate::{Command, Dockerfile, Instruction};

/// Counts the steps of a stage as BuildKit does: FROM of an image is one, then each RUN, COPY, ADD and WORKDIR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepCounter {
    label: Option<String>,
    total: usize,
    done: usize,
}

impl StepCounter {
    /// The counter of a stage. `triggers` are the instructions that ONBUILD of its base adds.
    pub fn of(
        dockerfile: &Dockerfile,
        graph: &StageGraph,
        stage: StageId,
        triggers: &[Instruction],
    ) -> StepCounter {
        let node = graph.stages.get(stage.0);
        let instructions = dockerfile.stages.get(stage.0).map(|stage| stage.instructions.as_slice());
        let from = usize::from(node.is_some_and(|node| counts_base(&node.base)));
        let steps = triggers.iter().chain(instructions.unwrap_or_default());
        let alone = dockerfile.stages.len() == 1 && !dockerfile.instructions().any(adds_a_stage);
        StepCounter {
            label: node.map(super::StageNode::label).filter(|_| !alone),
            total: from + steps.filter(|step| StepCounter::counts(step)).count(),
            done: 0,
        }
    }

    /// Whether an instruction is a step of its own; the others only change the config.
    pub fn counts(instruction: &Instruction) -> bool {
        matches!(
            instruction.command,
            Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_)
        )
    }

    /// How many steps there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The prefix of the next step, with the platform first where several are built: `[linux/arm64 build 3/6]`.
    pub fn next_prefix(&mut self, platform: Option<&str>) -> String {
        self.done += 1;
        let width = self.total.to_string().len();
        let mut words: Vec<String> = platform.map(str::to_owned).into_iter().collect();
        words.extend(self.label.clone());
        words.push(format!("{:>width$}/{}", self.done, self.total));
        format!("[{}]", words.join(" "))
    }
}

fn counts_base(base: &Source) -> bool {
    matches!(base, Source::Image { .. } | Source::Context(_))
}

/// BuildKit keeps a stage of its own for what COPY and mounts read, and names stages as soon as there are two.
fn adds_a_stage(instruction: &Instruction) -> bool {
    match &instruction.command {
        Command::Copy(copy) => copy.from.is_some(),
        Command::Run(run) => !run.mounts.is_empty(),
        _ => false,
    }
}
