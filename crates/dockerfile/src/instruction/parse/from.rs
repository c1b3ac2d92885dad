//! FROM.

use super::super::flags::Flags;
use super::super::pairs::word;
use super::super::{From, Word};
use super::{Arguments, Parsing};
use crate::Diagnostic;

impl Parsing<'_> {
    pub(super) fn from(&mut self, at: &Arguments<'_>, flags: &Flags<'_>) -> Option<From> {
        let mut words = at.text.fields(at.range.clone()).into_iter().map(|range| word(at.text, range));
        let (base, as_text, written, more) = (words.next(), words.next(), words.next(), words.next());
        let platform = flags.text("platform");
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
            (base, second, third, _) => {
                let mut words = [&base, &second, &third].into_iter().flatten();
                let split = words.find(|word| word.text.contains("${") && !word.text.contains('}'));
                let help = match (&base, &second, &third) {
                    _ if split.is_some() => "a `${…}` in FROM cannot have blanks in it".to_owned(),
                    (Some(base), Some(second), None) if !second.text.eq_ignore_ascii_case("as") => {
                        format!("to name the stage, write FROM {} AS {}", base.text, second.text)
                    }
                    (Some(base), Some(_), Some(third)) => {
                        format!("write FROM {} AS {}", base.text, third.text)
                    }
                    _ => format!("write {}", at.keyword.example()),
                };
                let wrong = "FROM requires either one or three arguments";
                self.error(wrong, split.map_or(at.span, |word| word.span), help);
                None
            }
        }
    }
}

/// `[a-z][a-z0-9-_.]*`
fn is_stage_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && name.bytes().all(allowed)
}
