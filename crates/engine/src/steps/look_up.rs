//! What is known of a step: by the store, by another build that is at it just now, by a shared cache; and if nothing, why.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rbuild_fs::Timestamp;
use rbuild_store::{CacheKey, CacheRecord, CacheResult, DistantLayer, NewRecord, Parent, Snapshot, Turn};

use super::Step;
use crate::build::Builder;
use crate::error::{BuildError, Explain, FailureKind, Result};
use crate::event::{Event, StepNumber};
use crate::explain::{Miss, Reasons};
use crate::image::ImageLayer;
use crate::state::{Rootfs, StageState};

/// What the cache says of a step.
pub(super) enum LookUp {
    Hit(Box<Outcome>),
    Miss(Miss),
}

/// What became of waiting for one's turn.
pub(super) enum MyTurn {
    /// Another build has made it meanwhile.
    Done(Outcome),
    /// This build is to carry it out, and others wait as long as it holds this.
    Begins(Option<Turn>),
}

/// How long to wait before looking again whether another build is done with a step.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a step gave.
pub(super) enum Outcome {
    Snapshot(Snapshot),
    /// A layer that lies elsewhere.
    Layer {
        layer: ImageLayer,
        distant: DistantLayer,
        created: i64,
    },
}

fn is_too_old(created: i64, step: &Step) -> bool {
    let age = Timestamp::now().seconds.saturating_sub(created);
    step.wishes.max_age.is_some_and(|most| age > i64::try_from(most.as_secs()).unwrap_or(i64::MAX))
}

impl Builder<'_> {
    /// The cached result, if there is one that stands on just this state and may be used: the store's, else a shared cache's.
    pub(super) fn look_up(&self, state: &StageState, step: &Step, key: &CacheKey) -> Result<LookUp> {
        let is_done = self.done.contains(key);
        if let Some(miss) = self.refused(step).filter(|_| !is_done) {
            return Ok(LookUp::Miss(miss));
        }
        match self.look_up_here(state, step, key, is_done)? {
            LookUp::Miss(miss) => {
                let shared = self.look_up_elsewhere(state, step, key)?;
                Ok(shared.map_or(LookUp::Miss(miss), |result| LookUp::Hit(Box::new(result))))
            }
            hit => Ok(hit),
        }
    }

    /// What the store has for a step; of any age where this build has made it itself.
    fn look_up_here(&self, state: &StageState, step: &Step, key: &CacheKey, is_done: bool) -> Result<LookUp> {
        let fault = || "could not read the build cache".to_owned();
        Ok(match self.store.cache_record(key).explain(FailureKind::Environment, fault)? {
            None => LookUp::Miss(Miss::Unknown),
            Some(record) if is_too_old(record.created, step) && !is_done => LookUp::Miss(Miss::TooOld),
            Some(record) => match self.result_of(state, record)? {
                Some(result) => {
                    self.store.remember(&step.lineage, key).explain(FailureKind::Environment, fault)?;
                    LookUp::Hit(Box::new(result))
                }
                None => LookUp::Miss(Miss::StandsElsewhere),
            },
        })
    }

    /// Waits while another build on this store carries out the same step, and takes what it made.
    pub(super) fn in_turn(
        &self,
        state: &StageState,
        step: &Step,
        key: &CacheKey,
        number: StepNumber,
        miss: &Miss,
    ) -> Result<MyTurn> {
        // Who wants it carried out again wants it done by this build.
        if matches!(miss, Miss::Asked(_)) {
            return Ok(MyTurn::Begins(None));
        }
        let mut waited = false;
        let turn = loop {
            let turn = self
                .store
                .try_turn(key)
                .explain(FailureKind::Environment, || "could not use the build cache".to_owned())?;
            match turn {
                Some(turn) => break turn,
                None if self.cancel.is_cancelled() => return Err(BuildError::Cancelled),
                None => {
                    if !std::mem::replace(&mut waited, true) {
                        let text = "another build is at this step; waiting for what it makes";
                        self.events.event(Event::Note { step: number, text });
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        };
        // It may have been made between our look and our turn, too.
        match self.look_up_here(state, step, key, false)? {
            LookUp::Hit(result) => Ok(MyTurn::Done(*result)),
            LookUp::Miss(_) => Ok(MyTurn::Begins(Some(turn))),
        }
    }

    /// What a record of the store names, if it stands on this state.
    fn result_of(&self, state: &StageState, record: CacheRecord) -> Result<Option<Outcome>> {
        let fault = || "could not read the build cache".to_owned();
        let id = match record.result {
            CacheResult::Snapshot(id) => id,
            CacheResult::Layer(distant) if state.chain.as_deref() == Some(&distant.below) => {
                let layer = self.shared.cache.layer(&distant);
                return Ok(layer.map(|layer| Outcome::Layer {
                    layer,
                    distant: *distant,
                    created: record.created,
                }));
            }
            CacheResult::Layer(_) | CacheResult::Metadata(_) => return Ok(None),
        };
        let Some(snapshot) = self.store.snapshot(&id).explain(FailureKind::Environment, fault)? else {
            return Ok(None);
        };
        // The key says how the parents were made. If they were made again since, the result no longer stands on them.
        let same_parent = match (&state.rootfs, snapshot.parent()) {
            (Rootfs::Empty, Parent::None) => true,
            (Rootfs::Layers(stack), Parent::Layers(chain)) => stack.chain == *chain,
            (Rootfs::Snapshot(id), Parent::Snapshot(parent)) => id == parent,
            _ => false,
        };
        Ok(same_parent.then_some(Outcome::Snapshot(snapshot)))
    }

    /// Asks the shared caches. Only where the chain of layers is known without waiting: what was just carried out here has
    /// times of its own, and nobody else's result stands on it.
    fn look_up_elsewhere(&self, state: &StageState, step: &Step, key: &CacheKey) -> Result<Option<Outcome>> {
        let Some(below) = &state.chain else { return Ok(None) };
        let cache = &self.shared.cache;
        let Some(hit) = cache.find(key, below).filter(|hit| !is_too_old(hit.created, step)) else {
            return Ok(None);
        };
        let Some(layer) = cache.layer(&hit.layer) else { return Ok(None) };
        let record = NewRecord {
            parts: step.parts.clone(),
            lineage: step.lineage.clone(),
            result: CacheResult::Layer(Box::new(hit.layer.clone())),
            diff_id: Some(hit.layer.diff_id.clone()),
            created: hit.created,
            created_by: step.written().to_owned(),
            log: None,
        };
        self.store
            .put_cache_record(record)
            .explain(FailureKind::Environment, || "could not write to the build cache".to_owned())?;
        Ok(Some(Outcome::Layer { layer, distant: hit.layer, created: hit.created }))
    }

    /// Whether the user wants the step carried out whatever is known.
    fn refused(&self, step: &Step) -> Option<Miss> {
        let cache = &self.request.cache;
        let by = if cache.none {
            "--no-cache"
        } else if cache.except_stages.contains(&step.lineage.stage) {
            "--no-cache-filter"
        } else if step.wishes.no_cache {
            "# rbuild: no-cache"
        } else {
            return None;
        };
        Some(Miss::Asked(by.to_owned()))
    }

    /// Says why a step is carried out: of each where that was asked for, else of the first with a reason of its own.
    pub(super) fn tell_why(&self, state: &StageState, step: &Step, miss: &Miss, number: StepNumber) {
        let told = &self.shared.told;
        if told.load(Ordering::Relaxed) && !self.request.cache.explain {
            return;
        }
        // What cannot be explained is carried out all the same.
        let difference = match miss {
            Miss::Unknown => self.store.explain(&step.lineage, &step.parts).ok().flatten(),
            _ => None,
        };
        let reasons = Reasons::of(miss, state, difference.as_ref());
        let first = reasons.own && !told.swap(true, Ordering::Relaxed);
        self.events.event(Event::Missed { step: number, why: &reasons.lines, first });
    }
}
