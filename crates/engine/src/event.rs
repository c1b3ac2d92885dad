//! What a build tells while it runs. The engine never prints: whoever starts a build gives an [`EventSink`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use rbuild_executor::Stream;

use crate::error::Result;

/// The number of a step within one build, in the order in which steps were announced; BuildKit's `#7`.
pub type StepNumber = usize;

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant tells of its fields")]
pub enum Event<'a> {
    /// A step begins; `name` is as BuildKit writes it (`[build 3/6] RUN npm install`).
    Started { step: StepNumber, name: &'a str },
    /// A RUN step wrote these bytes; lines are not yet told apart.
    Output { step: StepNumber, stream: Stream, bytes: &'a [u8] },
    /// A line of rbuild's own about a step (`sha256:… 12.3 MB`).
    Note { step: StepNumber, text: &'a str },
    /// So many bytes of one part of a step are done; `total` is 0 where it is unknown.
    Progress { step: StepNumber, item: &'a str, current: u64, total: u64 },
    /// The step was not run: its result was in the cache.
    Cached { step: StepNumber },
    /// The cache has no result for the step that may be used, so it is carried out: why. `first`: of those that have a
    /// reason of their own, and not only that a step before them changed, it is the build's first.
    Missed { step: StepNumber, why: &'a [String], first: bool },
    /// The step ended well.
    Done { step: StepNumber, took: Duration },
    /// The step was given up because another one failed, or the user asked for it.
    Cancelled { step: StepNumber },
    /// The step failed; the build's error says why at length.
    Failed { step: StepNumber, message: &'a str },
    /// Time that went by outside a step, told when it is over; `name` says for what.
    Spent { phase: Phase, name: &'a str, began: Instant, took: Duration },
    /// Something that the user should know and that does not stop the build.
    Warning { text: &'a str },
}

/// What time was spent on that no step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before a step: reading what its cache key depends on.
    Key,
    /// A stage waited for another one.
    Wait,
    /// Beside the steps: a layer was digested, and compressed where an output wants it so.
    Pack,
    /// Within the export: blobs and manifests were sent.
    Push,
}

/// Takes a build's events, from several threads at once.
pub trait EventSink: Sync {
    /// Takes one; never waits long, and never fails.
    fn event(&self, event: Event<'_>);
}

/// Drops every event; for tests and for callers that only want the result.
#[derive(Debug, Default)]
pub struct Silent;

impl EventSink for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// Numbers the steps of one build.
#[derive(Debug, Default)]
pub(crate) struct Steps(AtomicUsize);

impl Steps {
    /// Says that a step begins, and gives it the next number.
    pub(crate) fn announce(&self, events: &dyn EventSink, name: &str) -> StepNumber {
        let step = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        events.event(Event::Started { step, name });
        step
    }

    /// Carries out work as a step of its own.
    pub(crate) fn carry_out<T>(
        &self,
        events: &dyn EventSink,
        name: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let (step, started) = (self.announce(events, name), Instant::now());
        let result = work();
        match &result {
            Ok(_) => events.event(Event::Done { step, took: started.elapsed() }),
            Err(error) => events.event(Event::Failed { step, message: &error.to_string() }),
        }
        result
    }
}
