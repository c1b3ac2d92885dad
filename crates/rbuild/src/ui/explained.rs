//! `--explain`: at the end, of each step whether it came from the cache, and if not, why.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rbuild_engine::{Event, StepNumber};

/// What the cache had for each step, in the order of the steps.
#[derive(Debug, Default)]
pub(super) struct Explained {
    names: BTreeMap<StepNumber, String>,
    /// Why a step was carried out; nothing for one that came from the cache.
    steps: BTreeMap<StepNumber, Option<String>>,
}

impl Explained {
    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { step, name } => drop(self.names.insert(*step, (*name).to_owned())),
            Event::Cached { step } => drop(self.steps.insert(*step, None)),
            Event::Missed { step, why, .. } => drop(self.steps.insert(*step, Some(why.join(", ")))),
            _ => {}
        }
    }

    pub(super) fn show(&self) -> String {
        let mut out = String::from("\nCache:\n");
        for (number, why) in &self.steps {
            let name = self.names.get(number).map_or("", |name| name.lines().next().unwrap_or_default());
            let _ = match why {
                None => writeln!(out, "  hit   {name}"),
                Some(why) => writeln!(out, "  miss  {name} → {why}"),
            };
        }
        out
    }
}
