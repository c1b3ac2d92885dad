//! Which flags an instruction takes, and their values.

use crate::{Diagnostic, Flag, Word};

/// How a flag is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false`
    Boolean,
    /// `--flag=value`, once
    Text,
    /// `--flag=value`, any number of times
    List,
}

/// The flags of an instruction after the check that it takes them.
pub(crate) struct Flags<'a> {
    flags: &'a [Flag],
}

impl<'a> Flags<'a> {
    /// Reports flags that `known` does not list, second ones, and values that do not fit.
    pub(crate) fn check(
        flags: &'a [Flag],
        known: &[(&str, Kind)],
        errors: &mut Vec<Diagnostic>,
    ) -> Flags<'a> {
        for (at, flag) in flags.iter().enumerate() {
            let Some((_, kind)) = known.iter().find(|(name, _)| *name == flag.name) else {
                errors.push(unknown(flag, known));
                continue;
            };
            let first = flags.iter().take(at).find(|other| other.name == flag.name);
            if let Some(first) = first.filter(|_| *kind != Kind::List) {
                let message = format!("duplicate flag specified: --{}", flag.name);
                let error = Diagnostic::error(message, flag.span).label(first.span, "first given here");
                errors.push(error.help("one of them is enough"));
            }
            errors.extend(wrong_value(flag, *kind));
        }
        Flags { flags }
    }

    /// The value of a text flag; an empty one (`--chown=`) counts as none.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.list(name).next().filter(|value| !value.text.is_empty())
    }

    /// The values of a list flag.
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = Word> {
        self.flags.iter().filter(move |flag| flag.name == name).filter_map(|flag| flag.value.clone())
    }

    /// The value of a boolean flag, `None` when it is not there.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        let flag = self.flags.iter().find(|flag| flag.name == name)?;
        Some(flag.value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }
}

fn unknown(flag: &Flag, known: &[(&str, Kind)]) -> Diagnostic {
    let error = Diagnostic::error(format!("unknown flag: --{}", flag.name), flag.span);
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    match crate::suggestion(&format!("--{}", flag.name), names.iter().map(String::as_str)) {
        Some(name) => {
            let help = format!("did you mean `{name}`?");
            error.help(help)
        }
        None if names.is_empty() => error.help("this instruction takes no flags"),
        None => error.help(format!("known flags: {}", names.join(", "))),
    }
}

fn wrong_value(flag: &Flag, kind: Kind) -> Option<Diagnostic> {
    let value = flag.value.as_ref().map(|value| value.text.as_str());
    match (kind, value) {
        (Kind::Boolean | Kind::List, Some("")) | (Kind::Text | Kind::List, None) => {
            let message = format!("missing a value on flag: --{}", flag.name);
            Some(Diagnostic::error(message, flag.span).help(format!("write --{}=value", flag.name)))
        }
        (Kind::Boolean, Some(text)) if !["true", "false"].iter().any(|b| text.eq_ignore_ascii_case(b)) => {
            let message = format!("expecting boolean value for flag --{}, not: {text}", flag.name);
            Some(
                Diagnostic::error(message, flag.span).help(format!("write --{0}, or --{0}=false", flag.name)),
            )
        }
        _ => None,
    }
}
