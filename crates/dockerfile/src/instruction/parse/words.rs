//! Instructions of plain words.

use super::super::expose::PORT_HELP;
use super::super::pairs::{quoted_words, split_pair, word};
use super::super::signal::SIGNAL_HELP;
use super::super::{Arg, Expose, Keyword, Onbuild, Word, parse_port, parse_signal};
use super::{Arguments, Parsing};
use crate::Diagnostic;
use crate::lex::split_keyword;

impl Parsing<'_> {
    /// Instructions that take the rest of the line.
    pub(super) fn one_word(&mut self, at: &Arguments<'_>) -> Option<Word> {
        if at.range.is_empty() {
            self.too_few(at, "requires exactly one argument");
            return None;
        }
        Some(word(at.text, at.range.clone()))
    }

    pub(super) fn arg(&mut self, at: &Arguments<'_>) -> Option<Vec<Arg>> {
        let words = quoted_words(at.text, at.range.clone(), self.escape);
        if words.is_empty() {
            self.too_few(at, "requires at least one argument");
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
                self.error("ARG names can not be blank", span, "write ARG NAME=value");
            }
            args.push(Arg { name, default, span });
        }
        Some(args)
    }

    pub(super) fn expose(&mut self, at: &Arguments<'_>) -> Option<Expose> {
        let ports: Vec<Word> =
            at.text.fields(at.range.clone()).into_iter().map(|r| word(at.text, r)).collect();
        if ports.is_empty() {
            self.too_few(at, "requires at least one argument");
            return None;
        }
        for port in ports.iter().filter(|port| is_plain(&port.text)) {
            if let Err(message) = parse_port(&port.text) {
                self.faults.push(Diagnostic::error(message, port.span).help(PORT_HELP));
            }
        }
        Some(Expose { ports })
    }

    pub(super) fn onbuild(&mut self, at: &Arguments<'_>) -> Option<Onbuild> {
        if at.range.is_empty() {
            self.too_few(at, "requires at least one argument");
            return None;
        }
        let keyword = split_keyword(at.text, at.range.clone()).0;
        let span = at.text.span(at.text.trim(at.range.clone()));
        match keyword {
            Some(Keyword::Onbuild) => {
                let help = "a trigger fires once, in the build that starts from this image";
                self.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", span, help);
            }
            Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
                let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
                self.error(message, span, "any other instruction may be a trigger");
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

    pub(super) fn shell(&mut self, at: &Arguments<'_>) -> Option<Vec<Word>> {
        let before = self.errors.len();
        match self.json(at, at.range.clone()) {
            Some(words) if words.is_empty() => self.too_few(at, "requires at least one argument"),
            Some(words) => return Some(words),
            None if self.errors.len() > before => {}
            None if at.range.is_empty() => self.too_few(at, "requires at least one argument"),
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

    pub(super) fn stop_signal(&mut self, at: &Arguments<'_>) -> Option<Word> {
        let signal = self.one_word(at)?;
        if is_plain(&signal.text) && parse_signal(&signal.text).is_none() {
            let message = format!("invalid signal: {}", signal.text);
            self.faults.push(Diagnostic::error(message, signal.span).help(SIGNAL_HELP));
        }
        Some(signal)
    }

    pub(super) fn volume(&mut self, at: &Arguments<'_>) -> Option<Vec<Word>> {
        let before = self.errors.len();
        let mut volumes = self.words(at);
        if volumes.is_empty() && self.errors.len() == before {
            self.too_few(at, "requires at least one argument");
            return None;
        }
        for volume in &mut volumes {
            volume.text = volume.text.trim().to_owned();
            if volume.text.is_empty() {
                self.error(
                    "VOLUME specified can not be an empty string",
                    volume.span,
                    "for example VOLUME /data",
                );
            }
        }
        Some(volumes)
    }
}

/// Whether expansion would leave the text as it is.
fn is_plain(text: &str) -> bool {
    !text.contains(['$', '\\', '`', '"', '\''])
}
