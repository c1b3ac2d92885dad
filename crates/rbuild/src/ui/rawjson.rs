//! `--progress=rawjson`: BuildKit's `SolveStatus` (client/graph.go), one document a line.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_engine::{Event, StepNumber, Stream};
use rbuild_image::Digest;
use serde_json::{Map, Value, json};

use super::View;

/// The view. A vertex is named by the SHA-256 of the text `step N`: an opaque name that is stable within a build and
/// says nothing of the step's content (in BuildKit it is the digest of the step's definition).
#[derive(Debug)]
pub(super) struct RawJson {
    /// When the build's clock showed zero.
    epoch: SystemTime,
    steps: BTreeMap<StepNumber, Step>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Duration,
    items: BTreeMap<String, Duration>,
}

impl RawJson {
    pub(super) fn new(epoch: SystemTime) -> RawJson {
        RawJson { epoch, steps: BTreeMap::new() }
    }

    /// RFC 3339, as Go marshals a time.
    fn time(&self, at: Duration) -> String {
        let time = self.epoch.checked_add(at).unwrap_or(self.epoch);
        jiff::Timestamp::try_from(time).unwrap_or_default().to_string()
    }

    fn vertex(&self, number: StepNumber) -> Map<String, Value> {
        let mut vertex = Map::new();
        vertex.insert("digest".into(), name_of(number).into());
        if let Some(step) = self.steps.get(&number) {
            vertex.insert("name".into(), step.name.as_str().into());
            vertex.insert("started".into(), self.time(step.started).into());
        }
        vertex
    }

    fn ended(&mut self, number: StepNumber, now: Duration, more: Option<(&str, Value)>) -> Value {
        let mut vertex = self.vertex(number);
        vertex.insert("completed".into(), self.time(now).into());
        vertex.extend(more.map(|(key, value)| (key.to_owned(), value)));
        self.steps.remove(&number);
        json!({ "vertexes": [vertex] })
    }

    fn progress(&mut self, number: StepNumber, item: &str, current: u64, total: u64, now: Duration) -> Value {
        let items = &mut self.steps.entry(number).or_default().items;
        let started = *items.entry(item.to_owned()).or_insert(now);
        let mut status = json!({
            "id": item,
            "vertex": name_of(number),
            "current": current,
            "timestamp": self.time(now),
            "started": self.time(started),
        });
        if total != 0 {
            status["total"] = total.into();
            if current >= total {
                status["completed"] = self.time(now).into();
            }
        }
        json!({ "statuses": [status] })
    }

    fn note(&self, number: StepNumber, text: &str, now: Duration) -> Value {
        let time = self.time(now);
        json!({ "statuses": [{
            "id": text, "vertex": name_of(number), "current": 0,
            "timestamp": time, "started": time, "completed": time,
        }] })
    }

    fn log(&self, number: StepNumber, stream: Stream, bytes: &[u8], now: Duration) -> Value {
        let descriptor = match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        json!({ "logs": [{
            "vertex": name_of(number), "stream": descriptor,
            "data": STANDARD.encode(bytes), "timestamp": self.time(now),
        }] })
    }
}

fn name_of(number: StepNumber) -> String {
    Digest::sha256_of(format!("step {number}")).to_string()
}

impl View for RawJson {
    fn event(&mut self, event: &Event<'_>, now: Duration, out: &mut String) {
        let document = match *event {
            Event::Started { step, name } => {
                self.steps.insert(step, Step { name: name.to_owned(), started: now, ..Step::default() });
                json!({ "vertexes": [self.vertex(step)] })
            }
            Event::Output { step, stream, bytes } => self.log(step, stream, bytes, now),
            Event::Note { step, text } => self.note(step, text, now),
            Event::Progress { step, item, current, total } => self.progress(step, item, current, total, now),
            Event::Cached { step } => self.ended(step, now, Some(("cached", true.into()))),
            Event::Done { step, .. } => self.ended(step, now, None),
            // By these words BuildKit's readers tell a cancelled step from a failed one.
            Event::Cancelled { step } => self.ended(step, now, Some(("error", "context canceled".into()))),
            Event::Failed { step, message } => self.ended(step, now, Some(("error", message.into()))),
            // Go marshals bytes as base64, and `short` is bytes there.
            Event::Warning { text } => {
                json!({ "warnings": [{ "level": 1, "short": STANDARD.encode(text) }] })
            }
            _ => return,
        };
        out.push_str(&document.to_string());
        out.push('\n');
    }
}
