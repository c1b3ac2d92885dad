//! Shows what a build does while it runs: the engine's events in, text on standard error out.
//!
//! Each form of progress is a [`View`]: events and the time go in, text comes out. [`Ui`] owns the view, the clock, the
//! output and the thread that redraws.

mod explained;
mod frame;
mod lines;
mod plain;
mod rawjson;
pub(crate) mod text;
mod tty;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rbuild_engine::{Event, EventSink};

use crate::args::Progress;
use crate::diagnostics::{Style, render_warnings};
use explained::Explained;
use text::Keep;

/// How often a view may redraw.
const TICK: Duration = Duration::from_millis(100);

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

impl Size {
    /// What a terminal is taken for that does not say.
    pub(crate) const DEFAULT: Size = Size { columns: 80, rows: 24 };
}

/// What [`Ui`] has to know of the request and of the output.
pub(crate) struct UiOptions {
    /// The form asked for. `auto` is `tty` on a terminal; `tty` without a terminal is `plain`.
    pub(crate) progress: Progress,
    /// Whether the output is a terminal that can move its cursor (`TERM` is not `dumb`).
    pub(crate) terminal: bool,
    /// Whether colours may be used (`NO_COLOR` is not set).
    pub(crate) colour: bool,
    /// The terminal's size now; asked again before each redraw.
    pub(crate) size: Box<dyn Fn() -> Size + Send>,
    /// How many last lines of a running step `tty` shows; `BUILDKIT_TTY_LOG_LINES`, 6 by default.
    pub(crate) log_lines: usize,
    /// Whether the end says of each step what the cache had for it.
    pub(crate) explain: bool,
}

/// A form of progress. `now` is the time since the build began; text that is to be written is added to `out`.
trait View: Send {
    /// Takes an event.
    fn event(&mut self, event: &Event<'_>, now: Duration, out: &mut String);

    /// Time has passed; called about every [`TICK`].
    fn tick(&mut self, _now: Duration, _out: &mut String) {}

    /// Nothing more will come.
    fn finish(&mut self, _now: Duration, _out: &mut String) {}
}

/// Takes a build's events and shows them. Ends by [`Ui::finish`] or when dropped.
pub(crate) struct Ui {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    finished: Condvar,
    clock: Clock,
}

/// The time since the build began.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

struct State {
    /// `None`: nothing is shown.
    view: Option<Box<dyn View>>,
    out: Box<dyn Write + Send>,
    /// Where warnings are told at the end, and how; `None` where the view tells them itself or nobody does.
    warnings: Option<(Vec<String>, Style)>,
    /// What is told of the cache at the end; `None` where nobody asked, or nothing is shown.
    explained: Option<Explained>,
    finished: bool,
}

impl Ui {
    /// Shows a build on standard error; the build's clock starts now.
    pub(crate) fn stderr(options: UiOptions) -> Ui {
        let begin = Instant::now();
        Ui::new(options, Box::new(std::io::stderr()), Box::new(move || begin.elapsed()), SystemTime::now())
    }

    /// Shows a build on `out`; `clock` gives the time since `epoch`, when the build began.
    fn new(options: UiOptions, out: Box<dyn Write + Send>, clock: Clock, epoch: SystemTime) -> Ui {
        let style = Style { colour: options.colour && options.terminal };
        let progress = options.progress;
        let explain = options.explain;
        let view = view_of(options, epoch);
        let redraws = view.is_some() && progress != Progress::Rawjson;
        let warnings = redraws.then(|| (Vec::new(), style));
        let explained = (explain && redraws).then(Explained::default);
        let state = State { view, out, warnings, explained, finished: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), finished: Condvar::new(), clock });
        let ticker = redraws.then(|| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("progress".into()).spawn(move || shared.tick_until_finished())
        });
        // Without the thread the last state is still shown at the end.
        Ui { shared, ticker: ticker.and_then(Result::ok) }
    }

    /// Writes the final state and the warnings. Call it before anything else is written; what comes later is dropped.
    pub(crate) fn finish(&self) {
        self.shared.finish();
    }
}

fn view_of(options: UiOptions, epoch: SystemTime) -> Option<Box<dyn View>> {
    let keep = match (options.terminal, options.colour) {
        (false, _) => Keep::All,
        (true, true) => Keep::Colours,
        (true, false) => Keep::Nothing,
    };
    match options.progress {
        Progress::Auto | Progress::Tty if options.terminal => {
            Some(Box::new(tty::Tty::new(options.size, options.log_lines, options.colour)))
        }
        Progress::Auto | Progress::Tty | Progress::Plain => Some(Box::new(plain::Plain::new(keep))),
        Progress::Rawjson => Some(Box::new(rawjson::RawJson::new(epoch))),
        Progress::Quiet | Progress::None => None,
    }
}

impl EventSink for Ui {
    fn event(&self, event: Event<'_>) {
        let now = (self.shared.clock)();
        let mut state = self.shared.lock();
        if state.finished {
            return;
        }
        if let (Event::Warning { text }, Some((warnings, _))) = (&event, &mut state.warnings) {
            warnings.push((*text).to_owned());
        }
        if let Some(explained) = &mut state.explained {
            explained.event(&event);
        }
        let told = state.explained.is_some();
        match event {
            // One line of the build's own course: why the first step that ran had to.
            Event::Missed { step, why, first } if first || told => {
                let text = format!("not cached: {}", why.join(", "));
                state.show(|view, out| view.event(&Event::Note { step, text: &text }, now, out));
            }
            event => state.show(|view, out| view.event(&event, now, out)),
        }
    }
}

impl Shared {
    /// A panic of another thread leaves at worst a half-told event; progress goes on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick_until_finished(&self) {
        let mut state = self.lock();
        while !state.finished {
            let now = (self.clock)();
            state.show(|view, out| view.tick(now, out));
            state = self.finished.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finish(&self) {
        let now = (self.clock)();
        let mut state = self.lock();
        if std::mem::replace(&mut state.finished, true) {
            return;
        }
        state.show(|view, out| view.finish(now, out));
        if let Some(explained) = state.explained.take() {
            state.write(&explained.show());
        }
        if let Some((warnings, style)) = state.warnings.take() {
            state.write(&render_warnings(&warnings, style));
        }
        self.finished.notify_all();
    }
}

impl State {
    fn show(&mut self, act: impl FnOnce(&mut dyn View, &mut String)) {
        let mut text = String::new();
        if let Some(view) = &mut self.view {
            act(&mut **view, &mut text);
        }
        self.write(&text);
    }

    /// One write a change, so that a frame does not tear. A closed standard error does not stop a build.
    fn write(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.shared.finish();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui").finish_non_exhaustive()
    }
}

impl fmt::Debug for UiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UiOptions").field("progress", &self.progress).finish_non_exhaustive()
    }
}
