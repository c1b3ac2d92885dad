//! From a logical line to a typed instruction.

use std::ops::Range;

use super::flags::{Flags, Kind};
use super::healthcheck::go_duration;
use super::json::{Json, read_json};
use super::pairs::{quoted_words, read_pairs, split_pair, word};
use super::{
    Arg, Command, CommandLine, Copy, CopyKind, Expose, From, Healthcheck, Instruction, Keyword, Mount,
    Network, Onbuild, Run, Security, Word, parse_port, parse_signal,
};
use crate::lex::{Escape, Heredoc, Statement, Text, split_flags, split_keyword};
use crate::{Diagnostic, Flag, Span};

/// What reading one instruction needs.
pub(crate) struct Parsing<'a> {
    pub(crate) escape: Escape,
    /// Refuse variables in `--from=`.
    pub(crate) strict: bool,
    pub(crate) errors: &'a mut Vec<Diagnostic>,
    /// Wrong values, which matter only where the instruction is carried out.
    pub(crate) faults: &'a mut Vec<Diagnostic>,
}

/// An instruction's arguments.
struct Arguments<'a> {
    keyword: Keyword,
    text: &'a Text,
    range: Range<usize>,
    flags: Vec<Flag>,
    heredocs: Vec<Heredoc>,
    /// The instruction without its heredocs.
    span: Span,
}

/// Reads a logical line; `None`, with errors noted, when it is no instruction.
pub(crate) fn parse_instruction(statement: &Statement, parsing: &mut Parsing<'_>) -> Option<Instruction> {
    let text = &statement.text;
    let before = parsing.errors.len();
    let mut arguments = read_keyword(text, 0..text.value.len(), parsing.errors)?;
    arguments.heredocs = statement.heredocs.clone();
    let keyword = arguments.keyword;
    let line = text.trim(0..text.value.len());
    let keyword_end = line.start + keyword.as_str().len();
    let command = parsing.command(&arguments)?;
    (parsing.errors.len() == before).then(|| Instruction {
        keyword,
        keyword_text: word(text, line.start..keyword_end),
        span: statement.span,
        original: text.slice(line).to_owned(),
        flags: arguments.flags,
        comments: statement.comments.clone(),
        command,
    })
}

fn read_keyword<'a>(
    text: &'a Text,
    range: Range<usize>,
    errors: &mut Vec<Diagnostic>,
) -> Option<Arguments<'a>> {
    let (keyword, rest) = split_keyword(text, range.clone());
    let line = text.trim(range);
    let Some(keyword) = keyword else {
        let written = text.slice(line.start..rest.start);
        errors.push(
            Diagnostic::error(format!("unknown instruction: {written}"), text.span(line.start..rest.start))
                .suggest(&written.to_uppercase(), Keyword::ALL.map(Keyword::as_str)),
        );
        return None;
    };
    let (flags, rest) = split_flags(text, rest);
    let range = text.trim(rest);
    Some(Arguments { keyword, text, range, flags, heredocs: Vec::new(), span: text.span(line) })
}

const COPY_FLAGS: [(&str, Kind); 6] = [
    ("chmod", Kind::Text),
    ("chown", Kind::Text),
    ("exclude", Kind::List),
    ("from", Kind::Text),
    ("link", Kind::Boolean),
    ("parents", Kind::Boolean),
];

const ADD_FLAGS: [(&str, Kind); 7] = [
    ("checksum", Kind::Text),
    ("chmod", Kind::Text),
    ("chown", Kind::Text),
    ("exclude", Kind::List),
    ("keep-git-dir", Kind::Boolean),
    ("link", Kind::Boolean),
    ("unpack", Kind::Boolean),
];

const RUN_FLAGS: [(&str, Kind); 4] =
    [("device", Kind::List), ("mount", Kind::List), ("network", Kind::Text), ("security", Kind::Text)];

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
    fn error(&mut self, message: impl Into<String>, span: Span) {
        self.errors.push(Diagnostic::error(message, span));
    }

    fn command(&mut self, at: &Arguments<'_>) -> Option<Command> {
        let known: &[(&str, Kind)] = match at.keyword {
            Keyword::Add => &ADD_FLAGS,
            Keyword::Copy => &COPY_FLAGS,
            Keyword::From => &[("platform", Kind::Text)],
            Keyword::Run => &RUN_FLAGS,
            // Its flags are not looked at before NONE.
            Keyword::Healthcheck => return self.healthcheck(at).map(Command::Healthcheck),
            _ => &[],
        };
        let flags = Flags::check(&at.flags, known, self.errors);
        Some(match at.keyword {
            Keyword::Add => Command::Add(self.copy(at, &flags, CopyKind::Add)?),
            Keyword::Copy => Command::Copy(self.copy(at, &flags, CopyKind::Copy)?),
            Keyword::Arg => Command::Arg(self.arg(at)?),
            Keyword::Cmd => Command::Cmd(self.command_line(at)?),
            Keyword::Entrypoint => Command::Entrypoint(self.command_line(at)?),
            Keyword::Env => Command::Env(self.pairs(at)?),
            Keyword::Label => Command::Label(self.pairs(at)?),
            Keyword::Expose => Command::Expose(self.expose(at)?),
            Keyword::From => Command::From(self.from(at, &flags)?),
            Keyword::Healthcheck => return None,
            Keyword::Maintainer => Command::Maintainer(self.one_word(at)?),
            Keyword::Onbuild => Command::Onbuild(self.onbuild(at)?),
            Keyword::Run => Command::Run(self.run(at, &flags)?),
            Keyword::Shell => Command::Shell(self.shell(at)?),
            Keyword::StopSignal => Command::StopSignal(self.stop_signal(at)?),
            Keyword::User => Command::User(self.one_word(at)?),
            Keyword::Volume => Command::Volume(self.volume(at)?),
            Keyword::Workdir => Command::Workdir(self.one_word(at)?),
        })
    }

    /// The words of a JSON array, `None` when the text is not in exec form.
    fn json(&mut self, at: &Arguments<'_>, range: Range<usize>) -> Option<Vec<Word>> {
        match read_json(at.text, range.clone()) {
            Json::Strings(words) => Some(words),
            Json::Other => None,
            Json::NotStrings => {
                let message = "when using JSON array syntax, arrays must be comprised of strings only";
                self.error(message, at.text.span(range));
                None
            }
        }
    }

    fn words(&mut self, at: &Arguments<'_>) -> Vec<Word> {
        let json = self.json(at, at.range.clone());
        json.unwrap_or_else(|| {
            at.text.fields(at.range.clone()).into_iter().map(|r| word(at.text, r)).collect()
        })
    }

    fn command_line(&mut self, at: &Arguments<'_>) -> Option<CommandLine> {
        Some(match self.json(at, at.range.clone()) {
            Some(words) => CommandLine::Exec(words),
            None => CommandLine::Shell(word(at.text, at.range.clone())),
        })
    }

    /// Instructions that take the rest of the line.
    fn one_word(&mut self, at: &Arguments<'_>) -> Option<Word> {
        if at.range.is_empty() {
            self.error(format!("{} requires exactly one argument", at.keyword), at.span);
            return None;
        }
        Some(word(at.text, at.range.clone()))
    }

    fn pairs(&mut self, at: &Arguments<'_>) -> Option<super::Env> {
        read_pairs(at.text, at.range.clone(), self.escape, at.keyword, at.span, self.errors)
    }

    fn arg(&mut self, at: &Arguments<'_>) -> Option<Vec<Arg>> {
        let words = quoted_words(at.text, at.range.clone(), self.escape);
        if words.is_empty() {
            self.error("ARG requires at least one argument", at.span);
            return None;
        }
        let mut args = Vec::new();
        for range in words {
            let span = at.text.span(range.clone());
            let (name, default) = match split_pair(at.text, range.clone()) {
                Some((name, value)) => (name, Some(value)),
                None => (word(at.text, range), None),
            };
            if name.text.is_empty() {
                self.error("ARG names can not be blank", span);
            }
            args.push(Arg { name, default, span });
        }
        Some(args)
    }

    fn expose(&mut self, at: &Arguments<'_>) -> Option<Expose> {
        let ports: Vec<Word> =
            at.text.fields(at.range.clone()).into_iter().map(|r| word(at.text, r)).collect();
        if ports.is_empty() {
            self.error("EXPOSE requires at least one argument", at.span);
            return None;
        }
        for port in ports.iter().filter(|port| is_plain(&port.text)) {
            if let Err(message) = parse_port(&port.text) {
                self.faults.push(Diagnostic::error(message, port.span));
            }
        }
        Some(Expose { ports })
    }

    fn from(&mut self, at: &Arguments<'_>, flags: &Flags<'_>) -> Option<From> {
        let mut words = at.text.fields(at.range.clone()).into_iter().map(|range| word(at.text, range));
        let (base, as_text, written, more) = (words.next(), words.next(), words.next(), words.next());
        let platform = flags.text("platform");
        let wrong = "FROM requires either one or three arguments";
        match (base, as_text, written, more) {
            (Some(base), None, _, _) => {
                Some(From { base, name: None, name_text: None, as_text: None, platform })
            }
            (Some(base), Some(as_text), Some(written), None) if as_text.text.eq_ignore_ascii_case("as") => {
                let name = Word::new(written.text.to_lowercase(), written.span);
                if !is_stage_name(&name.text) {
                    self.errors.push(
                        Diagnostic::error(
                            format!("invalid name for build stage: \"{}\"", written.text),
                            written.span,
                        )
                        .label(written.span, "name can't start with a number or contain symbols")
                        .help("a name begins with a letter; letters, digits, `-`, `_` and `.` may follow"),
                    );
                }
                Some(From {
                    base,
                    name: Some(name),
                    name_text: Some(written.text),
                    as_text: Some(as_text),
                    platform,
                })
            }
            (Some(base), Some(second), None, _) if !second.text.eq_ignore_ascii_case("as") => {
                let help = format!("to name the stage, write FROM {} AS {}", base.text, second.text);
                self.errors.push(Diagnostic::error(wrong, at.span).help(help));
                None
            }
            _ => {
                self.error(wrong, at.span);
                None
            }
        }
    }

    fn onbuild(&mut self, at: &Arguments<'_>) -> Option<Onbuild> {
        if at.range.is_empty() {
            self.error("ONBUILD requires at least one argument", at.span);
            return None;
        }
        let keyword = split_keyword(at.text, at.range.clone()).0;
        let span = at.text.span(at.text.trim(at.range.clone()));
        match keyword {
            Some(Keyword::Onbuild) => {
                self.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", span);
            }
            Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
                self.error(format!("{keyword} isn't allowed as an ONBUILD trigger"), span);
            }
            _ => {}
        }
        let mut text = at.text.slice(at.range.clone()).to_owned();
        for heredoc in &at.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        let body = at.heredocs.first().map(|heredoc| heredoc.body.start);
        Some(Onbuild { text, span, keyword, body })
    }

    fn shell(&mut self, at: &Arguments<'_>) -> Option<Vec<Word>> {
        let before = self.errors.len();
        match self.json(at, at.range.clone()) {
            Some(words) if words.is_empty() => self.error("SHELL requires at least one argument", at.span),
            Some(words) => return Some(words),
            None if self.errors.len() > before => {}
            None if at.range.is_empty() => self.error("SHELL requires at least one argument", at.span),
            None => {
                let span = at.text.span(at.range.clone());
                self.errors.push(
                    Diagnostic::error("SHELL requires the arguments to be in JSON form", span)
                        .help("for example SHELL [\"/bin/bash\", \"-c\"]"),
                );
            }
        }
        None
    }

    fn stop_signal(&mut self, at: &Arguments<'_>) -> Option<Word> {
        let signal = self.one_word(at)?;
        if is_plain(&signal.text) && parse_signal(&signal.text).is_none() {
            self.faults.push(Diagnostic::error(format!("invalid signal: {}", signal.text), signal.span));
        }
        Some(signal)
    }

    fn volume(&mut self, at: &Arguments<'_>) -> Option<Vec<Word>> {
        let before = self.errors.len();
        let mut volumes = self.words(at);
        if volumes.is_empty() && self.errors.len() == before {
            self.error("VOLUME requires at least one argument", at.span);
            return None;
        }
        for volume in &mut volumes {
            volume.text = volume.text.trim().to_owned();
            if volume.text.is_empty() {
                self.error("VOLUME specified can not be an empty string", volume.span);
            }
        }
        Some(volumes)
    }

    fn run(&mut self, at: &Arguments<'_>, flags: &Flags<'_>) -> Option<Run> {
        let mut mounts = Vec::new();
        for text in flags.list("mount") {
            match Mount::parse(text) {
                Ok(mount) => {
                    if self.strict && mount.has_variable_source() {
                        let message = "'from' doesn't support variable expansion, define alias stage instead";
                        self.error(message, mount.text.span);
                    }
                    mounts.push(mount);
                }
                Err(error) => self.errors.push(error),
            }
        }
        let networks = [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];
        let securities = [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];
        Some(Run {
            command: self.command_line(at)?,
            heredocs: at.heredocs.clone(),
            mounts,
            network: self.choice(flags.text("network"), &networks, "network mode"),
            security: self.choice(flags.text("security"), &securities, "security mode"),
            devices: flags.list("device").collect(),
        })
    }

    fn choice<T: std::marker::Copy>(
        &mut self,
        value: Option<Word>,
        known: &[(&str, T)],
        what: &str,
    ) -> Option<T> {
        let value = value?;
        let found = known.iter().find(|(name, _)| *name == value.text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.errors.push(
                Diagnostic::error(format!("unsupported {what} \"{}\"", value.text), value.span)
                    .help(format!("known: {}", names.join(", "))),
            );
        }
        found
    }

    fn copy(&mut self, at: &Arguments<'_>, flags: &Flags<'_>, kind: CopyKind) -> Option<Copy> {
        let before = self.errors.len();
        let mut words = self.words(at);
        if words.len() < 2 {
            if self.errors.len() == before {
                let message = "requires at least two arguments, but only one was provided. Destination could not be determined";
                self.error(format!("{} {message}", at.keyword), at.span);
            }
            return None;
        }
        let destination = words.pop()?;
        // By place, not by text: a quoted delimiter may hold blanks, at which the words were split.
        let is_heredoc = |word: &Word| {
            at.heredocs.iter().any(|h| h.word.start <= word.span.start && word.span.end <= h.word.end)
        };
        if is_heredoc(&destination) {
            self.error(format!("{} cannot accept a heredoc as a destination", at.keyword), destination.span);
        }
        let from = flags.text("from");
        if self.strict
            && let Some(from) = from.as_ref().filter(|from| from.text.contains('$'))
        {
            self.errors.push(
                Diagnostic::error("variable expansion is not supported for --from", from.span)
                    .help("define a new stage with FROM using ARG from global scope as a workaround"),
            );
        }
        Some(Copy {
            kind,
            sources: words.into_iter().filter(|word| !is_heredoc(word)).collect(),
            heredocs: at.heredocs.clone(),
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            exclude: flags.list("exclude").collect(),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        })
    }

    fn healthcheck(&mut self, at: &Arguments<'_>) -> Option<Healthcheck> {
        let fields = at.text.fields(at.range.clone());
        let Some(first) = fields.first() else {
            self.error("HEALTHCHECK requires at least one argument", at.span);
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
                self.error("HEALTHCHECK NONE takes no arguments", at.text.span(rest));
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
            self.error("missing command after HEALTHCHECK CMD", at.span);
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
            self.error(format!("Interval \"{flag}\" cannot be less than 1ms"), value.span);
        }
        nanos
    }

    fn retries(&mut self, value: Option<Word>) -> i32 {
        let Some(value) = value else { return 0 };
        match value.text.parse::<i32>() {
            Ok(retries) if retries < 0 => {
                self.error(format!("--retries cannot be negative ({retries})"), value.span);
                0
            }
            Ok(retries) => retries,
            Err(_) => {
                self.error(format!("--retries must be a number, not \"{}\"", value.text), value.span);
                0
            }
        }
    }
}

/// Whether expansion would leave the text as it is.
fn is_plain(text: &str) -> bool {
    !text.contains(['$', '\\', '`', '"', '\''])
}

/// `[a-z][a-z0-9-_.]*`
fn is_stage_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && name.bytes().all(allowed)
}
