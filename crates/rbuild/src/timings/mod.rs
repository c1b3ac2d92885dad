//! `--timings`: where a build's time went, as one HTML page that needs nothing else.
//!
//! [`Recorder`] sits between the engine and the progress on the terminal and notes a [`Bar`] for each stretch of work.

mod page;
mod usage;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rbuild_engine::{Event, EventSink, Phase, StepNumber};

use crate::failure::CliError;
use usage::Usage;

/// What a stretch of time was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Pull,
    Key,
    Wait,
    Run,
    Copy,
    Pack,
    Export,
    Push,
    Cached,
    Other,
}

/// A stretch of work, in time since the build began.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bar {
    name: String,
    kind: Kind,
    start: Duration,
    end: Duration,
    /// It did not end well.
    failed: bool,
    /// Had it been shorter, so had the build.
    critical: bool,
}

/// Hands events on, and notes when work began and ended.
pub(crate) struct Recorder<'a> {
    next: &'a dyn EventSink,
    begin: Instant,
    usage: Usage,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: HashMap<StepNumber, (String, Duration)>,
    bars: Vec<Bar>,
}

impl<'a> Recorder<'a> {
    /// The build's time begins now.
    pub(crate) fn new(next: &'a dyn EventSink) -> Recorder<'a> {
        Recorder { next, begin: Instant::now(), usage: Usage::watch(), state: Mutex::default() }
    }

    /// Writes the page. `title` says what was built.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(self, title: &str, to: &Path) -> Result<(), CliError> {
        let took = self.begin.elapsed();
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut bars = state.bars;
        bars.sort_by_key(|bar| (bar.start, bar.end));
        mark_critical(&mut bars);
        let page = page::render(title, took, &bars, &self.usage.samples());
        std::fs::write(to, page)
            .map_err(|error| CliError::environment(format!("could not write `{}`", to.display()), error))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Recorder<'_> {
    fn event(&self, event: Event<'_>) {
        let now = self.begin.elapsed();
        match &event {
            Event::Started { step, name } => {
                self.lock().running.insert(*step, ((*name).to_owned(), now));
            }
            Event::Cached { step } => self.lock().end(*step, now, Some(Kind::Cached), false),
            Event::Done { step, .. } => self.lock().end(*step, now, None, false),
            Event::Cancelled { step } | Event::Failed { step, .. } => self.lock().end(*step, now, None, true),
            Event::Spent { phase, name, began, took } => {
                let start = began.saturating_duration_since(self.begin);
                self.lock().add((*name).to_owned(), kind_of_phase(*phase), start, start + *took, false);
            }
            _ => {}
        }
        self.next.event(event);
    }
}

impl State {
    fn end(&mut self, step: StepNumber, now: Duration, kind: Option<Kind>, failed: bool) {
        let Some((name, start)) = self.running.remove(&step) else { return };
        let kind = kind.unwrap_or_else(|| kind_of_step(&name));
        self.add(name, kind, start, now, failed);
    }

    /// What took no time is left out, unless it is a step.
    fn add(&mut self, name: String, kind: Kind, start: Duration, end: Duration, failed: bool) {
        let trifle =
            matches!(kind, Kind::Key | Kind::Wait | Kind::Pack) && end - start < Duration::from_millis(1);
        if !trifle {
            self.bars.push(Bar { name, kind, start, end, failed, critical: false });
        }
    }
}

fn kind_of_phase(phase: Phase) -> Kind {
    match phase {
        Phase::Key => Kind::Key,
        Phase::Wait => Kind::Wait,
        Phase::Pack => Kind::Pack,
        Phase::Push => Kind::Push,
    }
}

/// By the step's name as progress shows it: `[build 3/6] RUN npm install`.
fn kind_of_step(name: &str) -> Kind {
    let (stage, instruction) = name.split_once("] ").unwrap_or(("", name));
    match instruction.split(' ').next() {
        Some("exporting") => Kind::Export,
        _ if stage.ends_with("internal") => Kind::Pull,
        Some("RUN") => Kind::Run,
        Some("COPY" | "ADD" | "WORKDIR") => Kind::Copy,
        _ => Kind::Other,
    }
}

/// From the end backwards: before each piece of work comes the one whose end let it begin, the last to end before.
fn mark_critical(bars: &mut [Bar]) {
    /// Between the end of one and the beginning of the next.
    const GAP: Duration = Duration::from_millis(5);
    let works = |bar: &Bar| bar.kind != Kind::Wait && bar.end > bar.start;
    let last_before = |bars: &[Bar], limit: Duration| {
        let ended =
            bars.iter().enumerate().filter(|(_, bar)| works(bar) && bar.end <= limit && !bar.critical);
        ended.max_by_key(|(_, bar)| bar.end).map(|(index, _)| index)
    };
    let mut limit = Duration::MAX;
    while let Some(index) = last_before(bars, limit) {
        bars[index].critical = true;
        limit = bars[index].start + GAP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_engine::Silent;

    fn bar(name: &str, kind: Kind, start: u64, end: u64) -> Bar {
        let (start, end) = (Duration::from_millis(start), Duration::from_millis(end));
        Bar { name: name.to_owned(), kind, start, end, failed: false, critical: false }
    }

    #[test]
    fn steps_are_told_apart_by_name() {
        for (name, kind) in [
            ("[build 3/6] RUN npm install", Kind::Run),
            ("[linux/amd64 2/2] COPY . .", Kind::Copy),
            ("[internal] load metadata for docker.io/library/busybox:latest", Kind::Pull),
            ("[linux/arm64 internal] fetch and unpack busybox", Kind::Pull),
            ("exporting to image", Kind::Export),
            ("[1/2] FROM busybox", Kind::Other),
        ] {
            assert_eq!(kind_of_step(name), kind, "{name}");
        }
    }

    #[test]
    fn the_critical_path_goes_from_end_to_end() {
        let mut bars = [
            bar("pull", Kind::Pull, 0, 100),
            bar("short", Kind::Run, 100, 200),
            bar("long", Kind::Run, 101, 500),
            bar("wait", Kind::Wait, 200, 500),
            bar("copy", Kind::Copy, 501, 550),
            bar("export", Kind::Export, 551, 600),
        ];
        mark_critical(&mut bars);
        let critical: Vec<&str> =
            bars.iter().filter(|bar| bar.critical).map(|bar| bar.name.as_str()).collect();
        assert_eq!(critical, ["pull", "long", "copy", "export"]);
    }

    #[test]
    fn events_become_bars() {
        let recorder = Recorder::new(&Silent);
        recorder.event(Event::Started { step: 1, name: "[1/2] RUN make" });
        recorder.event(Event::Started { step: 2, name: "[2/2] COPY a b" });
        recorder.event(Event::Cached { step: 2 });
        recorder.event(Event::Failed { step: 1, message: "no" });
        let began = Instant::now();
        for took in [Duration::from_secs(1), Duration::ZERO] {
            recorder.event(Event::Spent { phase: Phase::Key, name: "[1/2] RUN make", began, took });
        }
        let state = recorder.lock();
        let seen: Vec<_> = state.bars.iter().map(|bar| (bar.kind, bar.failed)).collect();
        assert_eq!(seen, [(Kind::Cached, false), (Kind::Run, true), (Kind::Key, false)]);
    }
}
