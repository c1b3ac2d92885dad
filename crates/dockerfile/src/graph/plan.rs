//! What a target needs.

use std::collections::BTreeSet;

use super::{Plan, PlannedStage, Source, StageGraph, StageId, StageNode};
use crate::{Diagnostic, Span};

impl StageGraph {
    /// The stage that `--target` names, in any case, the last of several; without a name the last stage.
    pub fn target(&self, name: Option<&str>) -> Result<StageId, Diagnostic> {
        let last = self.stages.last().map(|stage| stage.id);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return last
                .ok_or_else(|| Diagnostic::error("dockerfile contains no stages to build", Span::default()));
        };
        let lower = name.to_lowercase();
        let found = self.stages.iter().rev().find(|stage| stage.name.as_deref() == Some(&lower));
        found.map(|stage| stage.id).ok_or_else(|| self.unknown_target(name))
    }

    fn unknown_target(&self, name: &str) -> Diagnostic {
        let error = Diagnostic::error(format!("target stage \"{name}\" could not be found"), Span::default());
        let named: Vec<&StageNode> = self.stages.iter().filter(|stage| stage.name.is_some()).collect();
        let names: Vec<&str> = named.iter().filter_map(|stage| stage.name.as_deref()).collect();
        if let Some(near) = crate::suggestion(name, names.iter().copied()) {
            let span = named.iter().find(|stage| stage.name.as_deref() == Some(near)).map(|stage| stage.span);
            let error = Diagnostic { span: span.unwrap_or_default(), ..error };
            let labelled = error.label(span.unwrap_or_default(), "a stage with a similar name");
            return labelled.help(format!("did you mean `{near}`?"));
        }
        match names.is_empty() {
            true => error.help("no stage has a name; name one with FROM … AS name"),
            false => error.help(format!("stages: {}", names.join(", "))),
        }
    }

    /// What is wrong in the instructions of the stages that a plan needs, in the order of the text. The same in other
    /// stages hinders nobody.
    pub fn faults(&self, plan: &Plan) -> Vec<Diagnostic> {
        let is_needed = |id: StageId| plan.stages.iter().any(|stage| stage.id == id);
        self.faults.iter().filter(|(id, _)| is_needed(*id)).map(|(_, fault)| fault.clone()).collect()
    }

    /// The stages, images and contexts that a target needs; without a name the last stage's.
    pub fn plan_for(&self, target: Option<&str>) -> Result<Plan, Diagnostic> {
        let target = self.target(target)?;
        let mut needed = vec![false; self.stages.len()];
        // Every edge leads to an earlier stage, so one pass from the back reaches all.
        for stage in self.stages.iter().rev() {
            let reached = needed.get(stage.id.0).is_some_and(|is_needed| *is_needed) || stage.id == target;
            if reached {
                for id in std::iter::once(stage.id).chain(stage.needs()) {
                    if let Some(is_needed) = needed.get_mut(id.0) {
                        *is_needed = true;
                    }
                }
            }
        }
        let reached = || self.stages.iter().filter(|stage| needed.get(stage.id.0) == Some(&true));
        let sources = || reached().flat_map(StageNode::sources);
        let images = sources().filter_map(|source| match source {
            Source::Image { name, platform } => Some((name.clone(), platform.clone())),
            _ => None,
        });
        let contexts = sources().filter_map(|source| match source {
            Source::Context(name) => Some(name.clone()),
            _ => None,
        });
        Ok(Plan {
            target,
            stages: reached().map(|stage| PlannedStage { id: stage.id, needs: stage.needs() }).collect(),
            images: each_once(images),
            contexts: each_once(contexts),
        })
    }
}

impl StageNode {
    /// All it needs, base first.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.base).chain(self.dependencies.iter().map(|dependency| &dependency.source))
    }
}

/// The values in order, each once.
fn each_once<T: Ord + Clone>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(value.clone())).collect()
}
