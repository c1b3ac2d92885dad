//! `--progress=plain`: BuildKit's lines, one after the other. Other tools read them, so the form is an interface.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rbuild_engine::{Event, StepNumber};

use super::View;
use super::lines::LineCutter;
use super::text::{self, Keep};

/// Lines of another running step wait for this long, so that two talkative steps do not alternate line by line
/// (BuildKit waits for 5 to 10 s).
const HOLD: Duration = Duration::from_secs(2);
/// So many bytes of held lines are shown at once.
const HOLD_BYTES: usize = 1 << 20;
/// Bytes of a pull or push are told this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The view: which step is speaking, and what the others have to say.
#[derive(Debug)]
pub(super) struct Plain {
    keep: Keep,
    steps: BTreeMap<StepNumber, Step>,
    current: Option<StepNumber>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Duration,
    cutter: LineCutter,
    items: Vec<Item>,
    /// Lines that wait for their turn, and since when; a new step waits without lines.
    held: String,
    held_since: Option<Duration>,
}

/// One part of a step whose bytes are counted.
#[derive(Debug)]
struct Item {
    name: String,
    current: u64,
    total: u64,
    started: Duration,
    told: Duration,
    told_current: u64,
}

impl Plain {
    pub(super) fn new(keep: Keep) -> Plain {
        Plain { keep, steps: BTreeMap::new(), current: None }
    }

    /// Shows lines of a running step, now or when its turn comes.
    fn say(&mut self, number: StepNumber, lines: &str, now: Duration, out: &mut String) {
        let step = self.steps.entry(number).or_default();
        step.held.push_str(lines);
        step.held_since.get_or_insert(now);
        let turn = self.current.is_none_or(|current| current == number);
        if turn || step.held.len() > HOLD_BYTES {
            self.switch_to(number, out);
        }
        self.release(now, out);
    }

    /// Makes a step the speaking one and writes what it has waiting.
    fn switch_to(&mut self, number: StepNumber, out: &mut String) {
        let Some(step) = self.steps.get_mut(&number) else { return };
        if self.current != Some(number) {
            if let Some(old) = self.current {
                let _ = writeln!(out, "#{old} ...\n");
            }
            let _ = writeln!(out, "#{number} {}", step.name);
            self.current = Some(number);
        }
        out.push_str(&std::mem::take(&mut step.held));
        step.held_since = None;
    }

    /// Lets the step speak that waits longest, if nobody else speaks or it waited long enough.
    fn release(&mut self, now: Duration, out: &mut String) {
        let waiting = self.steps.iter().filter_map(|(number, step)| Some((step.held_since?, *number))).min();
        if let Some((since, number)) = waiting
            && (self.current.is_none() || now >= since + HOLD)
        {
            self.switch_to(number, out);
        }
    }

    /// Ends a step: all that it has to say, its last word and an empty line.
    fn end(&mut self, number: StepNumber, word: &str, now: Duration, out: &mut String) {
        let rest = self.steps.entry(number).or_default().last_lines(number, now, self.keep);
        self.steps.entry(number).or_default().held.push_str(&rest);
        self.switch_to(number, out);
        let _ = writeln!(out, "#{number} {word}\n");
        self.steps.remove(&number);
        self.current = None;
        self.release(now, out);
    }
}

impl View for Plain {
    fn event(&mut self, event: &Event<'_>, now: Duration, out: &mut String) {
        match *event {
            Event::Started { step, name } => {
                let name = text::clean(name, Keep::Nothing);
                self.steps.insert(step, Step { name, started: now, ..Step::default() });
                self.say(step, "", now, out);
            }
            Event::Output { step: number, stream, bytes } => {
                let step = self.steps.entry(number).or_default();
                let lines = step.cutter.push(stream, bytes);
                let stamped: String =
                    lines.iter().map(|line| step.stamp(number, &line.text, now, self.keep)).collect();
                if !stamped.is_empty() {
                    self.say(number, &stamped, now, out);
                }
            }
            Event::Note { step, text } => {
                let line = format!("#{step} {}\n", text::clean(text, Keep::Nothing));
                self.say(step, &line, now, out);
            }
            Event::Progress { step: number, item, current, total } => {
                let step = self.steps.entry(number).or_default();
                if let Some(line) = step.progress(number, item, current, total, now) {
                    self.say(number, &line, now, out);
                }
            }
            Event::Cached { step } => self.end(step, "CACHED", now, out),
            Event::Done { step, took } => {
                self.end(step, &format!("DONE {:.1}s", took.as_secs_f64()), now, out)
            }
            Event::Cancelled { step } => self.end(step, "CANCELED", now, out),
            Event::Failed { step, message } => {
                let word = format!("ERROR: {}", text::clean(message, Keep::Nothing));
                self.end(step, &word, now, out);
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, out: &mut String) {
        self.release(now, out);
    }

    fn finish(&mut self, now: Duration, out: &mut String) {
        let numbers: Vec<StepNumber> = self.steps.keys().copied().collect();
        for number in numbers {
            let Some(step) = self.steps.get_mut(&number) else { continue };
            let rest = step.last_lines(number, now, self.keep);
            step.held.push_str(&rest);
            if !step.held.is_empty() || step.held_since.is_some() {
                self.switch_to(number, out);
            }
        }
        if self.current.take().is_some() {
            out.push('\n');
        }
        self.steps.clear();
    }
}

impl Step {
    /// A line of output with the seconds since the step began, as precise as BuildKit has them.
    fn stamp(&self, number: StepNumber, line: &str, now: Duration, keep: Keep) -> String {
        let seconds = now.saturating_sub(self.started).as_secs_f64();
        let places = match seconds {
            s if s < 10.0 => 3,
            s if s < 100.0 => 2,
            _ => 1,
        };
        format!("#{number} {seconds:.places$} {}\n", text::clean(line, keep))
    }

    /// Incomplete lines, and where each counted part stood.
    fn last_lines(&mut self, number: StepNumber, now: Duration, keep: Keep) -> String {
        let lines = self.cutter.flush();
        let output: String = lines.iter().map(|line| self.stamp(number, &line.text, now, keep)).collect();
        let items: String = self.items.iter().filter_map(|item| item.untold(number, now)).collect();
        output + &items
    }

    /// Counts bytes of a part; a line now and then, and one at its end.
    fn progress(
        &mut self,
        number: StepNumber,
        name: &str,
        current: u64,
        total: u64,
        now: Duration,
    ) -> Option<String> {
        let index = self.items.iter().position(|item| item.name == name).unwrap_or_else(|| {
            self.items.push(Item::new(name, now));
            self.items.len() - 1
        });
        let item = &mut self.items[index];
        let was_complete = item.is_complete();
        (item.current, item.total) = (current, total);
        let completed = item.is_complete() && !was_complete;
        if !completed && (was_complete || now < item.told + PROGRESS_INTERVAL) {
            return None;
        }
        (item.told, item.told_current) = (now, current);
        Some(item.line(number, now))
    }
}

impl Item {
    fn new(name: &str, now: Duration) -> Item {
        Item { name: name.to_owned(), current: 0, total: 0, started: now, told: now, told_current: 0 }
    }

    fn is_complete(&self) -> bool {
        self.total != 0 && self.current >= self.total
    }

    fn untold(&self, number: StepNumber, now: Duration) -> Option<String> {
        (self.current != self.told_current).then(|| self.line(number, now))
    }

    fn line(&self, number: StepNumber, now: Duration) -> String {
        let seconds = now.saturating_sub(self.started).as_secs_f64();
        let time = if seconds > 0.01 { format!(" {seconds:.1}s") } else { String::new() };
        let done = if self.is_complete() { " done" } else { "" };
        let name = text::clean(&self.name, Keep::Nothing);
        format!("#{number} {name}{}{time}{done}\n", text::amount(self.current, self.total))
    }
}
