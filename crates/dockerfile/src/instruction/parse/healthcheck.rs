//! HEALTHCHECK.

use super::super::flags::{Flags, Kind};
use super::super::healthcheck::go_duration;
use super::super::pairs::word;
use super::super::{CommandLine, Healthcheck, Word};
use super::{Arguments, Parsing};
use crate::Diagnostic;

const HEALTHCHECK_FLAGS: [(&str, Kind); 5] = [
    ("interval", Kind::Text),
    ("retries", Kind::Text),
    ("start-interval", Kind::Text),
    ("start-period", Kind::Text),
    ("timeout", Kind::Text),
];

/// The shortest time that HEALTHCHECK takes, in nanoseconds.
const SHORTEST_INTERVAL: i64 = 1_000_000;

impl Parsing<'_> {
    pub(super) fn healthcheck(&mut self, at: &Arguments<'_>) -> Option<Healthcheck> {
        let fields = at.text.fields(at.range.clone());
        let Some(first) = fields.first() else {
            self.too_few(at, "requires at least one argument");
            return None;
        };
        let rest = at.text.trim(first.end..at.range.end);
        let mut check = Healthcheck {
            command: None,
            interval: 0,
            timeout: 0,
            start_period: 0,
            start_interval: 0,
            retries: 0,
        };
        let kind = at.text.slice(first.clone());
        if kind.eq_ignore_ascii_case("NONE") {
            if !rest.is_empty() {
                let help = "write HEALTHCHECK CMD command to have a check";
                self.error("HEALTHCHECK NONE takes no arguments", at.text.span(rest), help);
            }
            return Some(check);
        }
        let flags = Flags::check(&at.flags, &HEALTHCHECK_FLAGS, self.errors);
        check.interval = self.interval(flags.text("interval"), "interval");
        check.timeout = self.interval(flags.text("timeout"), "timeout");
        check.start_period = self.interval(flags.text("start-period"), "start-period");
        check.start_interval = self.interval(flags.text("start-interval"), "start-interval");
        check.retries = self.retries(flags.text("retries"));
        if !kind.eq_ignore_ascii_case("CMD") {
            let error = Diagnostic::error(
                format!("unknown type \"{kind}\" in HEALTHCHECK (try CMD)"),
                at.text.span(first.clone()),
            );
            self.errors.push(error.help("write HEALTHCHECK CMD command, or HEALTHCHECK NONE"));
            return None;
        }
        let command = match self.json(at, rest.clone()) {
            Some(words) => CommandLine::Exec(words),
            None => CommandLine::Shell(word(at.text, rest)),
        };
        let is_missing = match &command {
            CommandLine::Shell(text) => text.text.is_empty(),
            CommandLine::Exec(words) => words.is_empty(),
        };
        if is_missing {
            let help = "for example HEALTHCHECK CMD wget -q -O /dev/null http://localhost/";
            self.error("missing command after HEALTHCHECK CMD", at.span, help);
        }
        check.command = Some(command);
        Some(check)
    }

    fn interval(&mut self, value: Option<Word>, flag: &str) -> i64 {
        let Some(value) = value else { return 0 };
        let Some(nanos) = go_duration(&value.text) else {
            self.errors.push(
                Diagnostic::error(format!("invalid duration \"{}\" for --{flag}", value.text), value.span)
                    .help("a duration has a unit: 30s, 1m30s, 500ms"),
            );
            return 0;
        };
        if nanos != 0 && nanos < SHORTEST_INTERVAL {
            let message = format!("interval \"{flag}\" cannot be less than 1ms");
            self.error(message, value.span, "0 stands for the default");
        }
        nanos
    }

    fn retries(&mut self, value: Option<Word>) -> i32 {
        let Some(value) = value else { return 0 };
        match value.text.parse::<i32>() {
            Ok(retries) if retries < 0 => {
                let message = format!("--retries cannot be negative ({retries})");
                self.error(message, value.span, "0 stands for the default, which is 3");
                0
            }
            Ok(retries) => retries,
            Err(_) => {
                let message = format!("--retries must be a number, not \"{}\"", value.text);
                self.error(message, value.span, "for example --retries=3");
                0
            }
        }
    }
}
