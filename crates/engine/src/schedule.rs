//! Stages side by side: each on a thread of its own, waiting only where it needs another's result.
//!
//! A stage is started when the plan wants it or when another one asks for it, whichever is first (an `ONBUILD` trigger
//! of a base image may name a stage that the text of the Dockerfile does not).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rbuild_executor::Cancel;

use crate::error::{BuildError, Failure, FailureKind, Result};

/// A stage's place in the Dockerfile, from 0.
pub(crate) type StageIndex = usize;

/// The results of stages, for those who wait for them.
pub(crate) struct Stages<'a, T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    cancel: &'a Cancel,
    requests: Sender<Message>,
}

struct State<T> {
    finished: BTreeMap<StageIndex, Arc<T>>,
    /// Who waits for whom; a stage waits for one other at a time.
    waits: BTreeMap<StageIndex, StageIndex>,
    failure: Option<BuildError>,
}

enum Message {
    Wanted(StageIndex),
    Ended,
}

/// Runs the `wanted` stages and whatever they ask for; returns the results of all that ran.
///
/// # Errors
/// The first failure; the other stages are cancelled then.
pub(crate) fn run_stages<T: Send + Sync>(
    wanted: &[StageIndex],
    cancel: &Cancel,
    work: &(dyn Fn(&Stages<'_, T>, StageIndex) -> Result<T> + Sync),
) -> Result<BTreeMap<StageIndex, Arc<T>>> {
    let (requests, messages) = mpsc::channel();
    let stages = Stages {
        state: Mutex::new(State { finished: BTreeMap::new(), waits: BTreeMap::new(), failure: None }),
        changed: Condvar::new(),
        cancel,
        requests,
    };
    wanted.iter().for_each(|&stage| stages.request(stage));
    thread::scope(|scope| {
        let mut started = std::collections::BTreeSet::new();
        let mut running = 0;
        let stages = &stages;
        // Every message that is still to come belongs to a running stage, so none running and none queued is the end.
        while let Some(message) =
            messages.try_recv().ok().or_else(|| (running > 0).then(|| messages.recv().ok())?)
        {
            match message {
                Message::Wanted(stage) if started.insert(stage) => {
                    running += 1;
                    scope.spawn(move || stages.run(stage, work));
                }
                Message::Wanted(_) => {}
                Message::Ended => running -= 1,
            }
        }
    });
    let mut state = stages.lock();
    match state.failure.take() {
        Some(error) => Err(error),
        None if cancel.is_cancelled() => Err(BuildError::Cancelled),
        None => Ok(std::mem::take(&mut state.finished)),
    }
}

impl<T: Send + Sync> Stages<'_, T> {
    /// The result of stage `on`, for stage `from`; starts it if nobody has, and waits until it is there.
    pub(crate) fn wait(&self, from: StageIndex, on: StageIndex) -> Result<Arc<T>> {
        self.request(on);
        let mut state = self.lock();
        state.waits.insert(from, on);
        if waits_in_a_circle(&state.waits, from) {
            let message = "circular dependency detected: the stages wait for each other".to_owned();
            return Err(Failure::new(FailureKind::Build, message).into());
        }
        loop {
            if let Some(result) = state.finished.get(&on).cloned() {
                state.waits.remove(&from);
                return Ok(result);
            }
            if state.failure.is_some() || self.cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, stage: StageIndex, work: &(dyn Fn(&Stages<'_, T>, StageIndex) -> Result<T> + Sync)) {
        let result = catch_unwind(AssertUnwindSafe(|| work(self, stage)));
        let mut state = self.lock();
        let panic = match result {
            Ok(Ok(finished)) => {
                state.finished.insert(stage, Arc::new(finished));
                None
            }
            Ok(Err(error)) => {
                self.fail(&mut state, error);
                None
            }
            Err(panic) => {
                self.fail(&mut state, BuildError::Cancelled);
                Some(panic)
            }
        };
        drop(state);
        self.changed.notify_all();
        // The receiver lives as long as the scope that this thread belongs to.
        let _ = self.requests.send(Message::Ended);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Keeps the first real failure and stops the others.
    fn fail(&self, state: &mut State<T>, error: BuildError) {
        if matches!(state.failure, None | Some(BuildError::Cancelled)) {
            state.failure = Some(error);
        }
        self.cancel.cancel();
    }

    fn request(&self, stage: StageIndex) {
        let _ = self.requests.send(Message::Wanted(stage));
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waits_in_a_circle(waits: &BTreeMap<StageIndex, StageIndex>, from: StageIndex) -> bool {
    let mut next = waits.get(&from);
    while let Some(stage) = next {
        if *stage == from {
            return true;
        }
        next = waits.get(stage);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_nobody_wanted_starts_when_asked_for() {
        let done = run_stages(&[2], &Cancel::new().unwrap(), &|stages, index| match index {
            2 => Ok(*stages.wait(2, 0)? + 1),
            _ => Ok(40),
        });
        assert_eq!(done.unwrap().into_iter().map(|(k, v)| (k, *v)).collect::<Vec<_>>(), [(0, 40), (2, 41)]);
    }

    #[test]
    fn a_circle_of_waits_fails_instead_of_hanging() {
        let result = run_stages(&[0], &Cancel::new().unwrap(), &|stages, index| {
            stages.wait(index, 1 - index).map(|_| ())
        });
        assert!(matches!(result, Err(BuildError::Failed(failure)) if failure.message.contains("circular")));
    }

    #[test]
    fn the_first_failure_ends_those_who_wait() {
        let result = run_stages(&[0, 1], &Cancel::new().unwrap(), &|stages, index| match index {
            0 => stages.wait(0, 1).map(|_: Arc<()>| ()),
            _ => Err(Failure::new(FailureKind::Build, "no").into()),
        });
        assert!(matches!(result, Err(BuildError::Failed(failure)) if failure.message == "no"));
    }
}
