//! `--progress=tty`: one line a step, redrawn in place, as BuildKit shows a build on a terminal.
//!
//! A frame is one write: hide the cursor, go up over the last frame, write the rows, show the cursor. So the cursor is
//! hidden only within a write, and however the process ends, the terminal stays usable.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use rbuild_engine::{Event, StepNumber, Stream};

use super::frame::{Paint, Rank, Row, Screen};
use super::lines::{Line, LineCutter};
use super::text::{self, Keep};
use super::{Size, View};

/// The view: every step so far, and the screen it is drawn on.
pub(super) struct Tty {
    size: Box<dyn Fn() -> Size + Send>,
    log_lines: usize,
    steps: BTreeMap<StepNumber, Step>,
    screen: Screen,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Duration,
    state: State,
    took: Duration,
    details: Vec<Detail>,
    cutter: LineCutter,
    log: VecDeque<String>,
    /// The last line of the log ended in a carriage return, the next one takes its place.
    replace_last: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    Done,
    Cached,
    Cancelled,
    Failed,
}

/// What a step says of itself: a note (without an amount), or a part whose bytes are counted.
#[derive(Debug)]
struct Detail {
    text: String,
    amount: Option<(u64, u64)>,
    started: Duration,
    updated: Duration,
}

impl Tty {
    pub(super) fn new(size: Box<dyn Fn() -> Size + Send>, log_lines: usize, colour: bool) -> Tty {
        Tty { size, log_lines, steps: BTreeMap::new(), screen: Screen::new(colour) }
    }

    fn end(&mut self, number: StepNumber, state: State, took: Option<Duration>, now: Duration) {
        let step = self.steps.entry(number).or_default();
        step.state = state;
        step.took = took.unwrap_or_else(|| now.saturating_sub(step.started));
        step.log = VecDeque::new();
        step.cutter = LineCutter::default();
    }

    fn rows(&self, now: Duration, last: bool) -> Vec<Row> {
        let ended = self.steps.values().filter(|step| step.state != State::Running).count();
        let finished = if last && ended == self.steps.len() { " FINISHED" } else { "" };
        let mut header = format!("[+] Building {:.1}s ({ended}/{})", now.as_secs_f64(), self.steps.len());
        header.push_str(finished);
        let header = Row { left: header, right: String::new(), paint: Paint::None, rank: Rank::Header };
        std::iter::once(header).chain(self.steps.values().flat_map(|step| step.rows(now))).collect()
    }
}

impl View for Tty {
    fn event(&mut self, event: &Event<'_>, now: Duration, _out: &mut String) {
        match *event {
            Event::Started { step, name } => {
                let name = text::clean(name, Keep::Nothing);
                self.steps.insert(step, Step { name, started: now, ..Step::default() });
            }
            Event::Output { step, stream, bytes } => {
                let log_lines = self.log_lines;
                self.steps.entry(step).or_default().output(stream, bytes, log_lines);
            }
            Event::Note { step, text } => self.steps.entry(step).or_default().detail(text, None, now),
            Event::Progress { step, item, current, total } => {
                self.steps.entry(step).or_default().detail(item, Some((current, total)), now);
            }
            Event::Cached { step } => self.end(step, State::Cached, Some(Duration::ZERO), now),
            Event::Done { step, took } => self.end(step, State::Done, Some(took), now),
            Event::Cancelled { step } => self.end(step, State::Cancelled, None, now),
            Event::Failed { step, .. } => self.end(step, State::Failed, None, now),
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, out: &mut String) {
        if !self.steps.is_empty() {
            let rows = self.rows(now, false);
            self.screen.draw(rows, (self.size)(), out);
        }
    }

    fn finish(&mut self, now: Duration, out: &mut String) {
        if !self.steps.is_empty() {
            let rows = self.rows(now, true);
            self.screen.draw_last(rows, (self.size)(), out);
        }
    }
}

impl Step {
    fn output(&mut self, stream: Stream, bytes: &[u8], log_lines: usize) {
        for Line { text, replaced } in self.cutter.push(stream, bytes) {
            if std::mem::replace(&mut self.replace_last, replaced) {
                self.log.pop_back();
            }
            self.log.push_back(text::clean(&text, Keep::Nothing));
            if self.log.len() > log_lines {
                self.log.pop_front();
            }
        }
    }

    fn detail(&mut self, text: &str, amount: Option<(u64, u64)>, now: Duration) {
        let text = text::clean(text, Keep::Nothing);
        let known = self.details.iter_mut().find(|detail| amount.is_some() && detail.text == text);
        match known {
            Some(detail) => (detail.amount, detail.updated) = (amount, now),
            None => self.details.push(Detail { text, amount, started: now, updated: now }),
        }
    }

    fn rows(&self, now: Duration) -> Vec<Row> {
        let (word, paint) = match self.state {
            State::Running => ("", Paint::None),
            State::Done => ("", Paint::Finished),
            State::Cached => ("CACHED ", Paint::Finished),
            State::Cancelled => ("CANCELED ", Paint::Cancelled),
            State::Failed => ("ERROR ", Paint::Failed),
        };
        let running = self.state == State::Running;
        let (rank, detail_rank) =
            if running { (Rank::Running, Rank::Detail) } else { (Rank::Ended, Rank::EndedDetail) };
        let took = if running { now.saturating_sub(self.started) } else { self.took };
        let head = Row { left: format!(" => {word}{}", self.name), right: seconds(took), paint, rank };
        let details = self.details.iter().map(|detail| detail.row(paint, detail_rank));
        let log = self.log.iter().map(|line| Row {
            left: format!(" => => # {line}"),
            right: String::new(),
            paint: Paint::Dim,
            rank: Rank::Log,
        });
        std::iter::once(head).chain(details).chain(log).collect()
    }
}

impl Detail {
    fn row(&self, paint: Paint, rank: Rank) -> Row {
        let mut left = format!(" => => {}", self.text);
        let mut right = String::new();
        if let Some((current, total)) = self.amount {
            let _ = write!(left, "{}", text::amount(current, total));
            right = seconds(self.updated.saturating_sub(self.started));
        }
        Row { left, right, paint, rank }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
