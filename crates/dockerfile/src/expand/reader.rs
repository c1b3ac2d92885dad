//! Reads a text once, from left to right, and writes its value.

use std::collections::BTreeSet;

use super::pattern;
use super::{ExpandError, Expansion, Lookup, Mode, Undefined};
use crate::lex::Escape;

/// How deep `${a:-${b:-…}}` may nest: far more than anyone writes, far less than a thread's stack holds.
const DEEPEST: usize = 200;

/// What may follow a name in `${…}`.
const FORMS: &str =
    "known are ${v:-word}, ${v:+word}, ${v:?message}, ${v#pattern}, ${v%pattern} and ${v/pattern/text}";

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    env: &'a dyn Lookup,
    escape: char,
    mode: Mode,
    depth: usize,
    undefined: Vec<Undefined>,
    defined: BTreeSet<String>,
}

/// Text being written, with its words.
#[derive(Default)]
struct Output {
    value: String,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Output {
    /// Adds text that no blank splits.
    fn solid(&mut self, text: &str) {
        self.value.push_str(text);
        self.word.push_str(text);
        self.in_word = true;
    }

    /// Adds text whose blanks split words.
    fn loose(&mut self, text: &str) {
        self.value.push_str(text);
        for letter in text.chars() {
            match letter.is_whitespace() {
                true => self.end_word(),
                false => {
                    self.word.push(letter);
                    self.in_word = true;
                }
            }
        }
    }

    fn end_word(&mut self) {
        // A word of nothing but empty quotes is none, as in the reference.
        if self.in_word && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
        self.in_word = false;
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, env: &'a dyn Lookup, escape: Escape, mode: Mode) -> Reader<'a> {
        // In heredocs the escape character is a backslash, whatever the directive says.
        let escape = if mode == Mode::Heredoc { '\\' } else { escape.as_char() };
        Reader { text, at: 0, env, escape, mode, depth: 0, undefined: Vec::new(), defined: BTreeSet::new() }
    }

    pub(super) fn read_all(mut self) -> Result<Expansion, ExpandError> {
        let mut output = self.read_until(None, false)?;
        output.end_word();
        Ok(Expansion {
            value: output.value,
            words: output.words,
            undefined: self.undefined,
            defined: self.defined,
        })
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += letter.len_utf8();
        Some(letter)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    /// An error in the `${…}`, or the quoted text, that begins at `offset`.
    fn error<T>(
        &self,
        message: impl Into<String>,
        offset: usize,
        help: impl Into<String>,
    ) -> Result<T, ExpandError> {
        let rest = self.text.get(offset..).unwrap_or_default();
        let closed = rest.starts_with('$').then(|| rest.find('}')).flatten();
        let end = closed.map_or(self.text.len(), |at| offset + at + 1);
        Err(ExpandError { message: message.into(), offset, end, help: help.into() })
    }

    fn unclosed<T>(&self, stop: char, offset: usize) -> Result<T, ExpandError> {
        let escape = self.escape;
        let help = format!("close it with `}}`; for a `$` that is meant literally write `{escape}$`");
        self.error(format!("syntax error: missing '{stop}'"), offset, help)
    }

    /// Reads up to `stop`, which is taken too, or to the end. With `keep_escapes` (patterns) escape characters stay.
    fn read_until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Output, ExpandError> {
        let keep_quotes = self.mode != Mode::Word;
        let mut output = Output::default();
        while let Some(letter) = self.peek() {
            if Some(letter) == stop {
                self.at += letter.len_utf8();
                return Ok(output);
            }
            match letter {
                '\'' | '"' if keep_quotes && self.mode == Mode::Heredoc => {
                    self.at += 1;
                    output.solid(letter.encode_utf8(&mut [0; 4]));
                }
                '\'' => output.solid(&self.single_quoted()?),
                '"' => output.solid(&self.double_quoted()?),
                '$' => output.loose(&self.dollar()?),
                letter if letter == self.escape => self.escaped(keep_escapes, &mut output),
                letter => {
                    self.at += letter.len_utf8();
                    output.loose(letter.encode_utf8(&mut [0; 4]));
                }
            }
        }
        match stop {
            Some(stop) => self.unclosed(stop, self.text.len()),
            None => Ok(output),
        }
    }

    /// An escape character outside quotes and what follows it; at the very end it is dropped.
    fn escaped(&mut self, keep: bool, output: &mut Output) {
        let escape = self.escape;
        self.at += escape.len_utf8();
        if keep || self.mode == Mode::Display {
            output.solid(escape.encode_utf8(&mut [0; 4]));
        }
        if let Some(letter) = self.next() {
            output.solid(letter.encode_utf8(&mut [0; 4]));
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let body = self.text.get(start + 1..).unwrap_or_default();
        let Some(end) = body.find('\'') else {
            let message = "unexpected end of statement while looking for matching single-quote";
            return self.error(message, start, format!("close the quote, or write it as `{}'`", self.escape));
        };
        self.at = start + 1 + end + 1;
        let whole = self.text.get(start..self.at).unwrap_or_default();
        Ok(match self.mode {
            Mode::Display => whole.to_owned(),
            _ => body.get(..end).unwrap_or_default().to_owned(),
        })
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let keep = self.mode == Mode::Display;
        let mut value = String::new();
        self.at += 1;
        if keep {
            value.push('"');
        }
        while let Some(letter) = self.peek() {
            match letter {
                '"' => {
                    self.at += 1;
                    if keep {
                        value.push('"');
                    }
                    return Ok(value);
                }
                '$' => value.push_str(&self.dollar()?),
                letter if letter == self.escape => {
                    self.at += letter.len_utf8();
                    let Some(next) = self.peek() else { break };
                    let is_escaped = next == '"' || next == '$' || next == self.escape;
                    if keep || !is_escaped {
                        value.push(letter);
                    }
                    if is_escaped {
                        value.extend(self.next());
                    }
                }
                letter => {
                    self.at += letter.len_utf8();
                    value.push(letter);
                }
            }
        }
        let message = "unexpected end of statement while looking for matching double-quote";
        self.error(message, start, format!("close the quote, or write it as `{}\"`", self.escape))
    }

    /// `$name` or `${…}`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.at += 1;
        if self.eat('{') {
            if self.depth >= DEEPEST {
                return self.error(format!("variables nest more than {DEEPEST} deep"), start, "");
            }
            self.depth += 1;
            let value = self.braces(start);
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(self.plain(name, start))
    }

    /// The value of a variable without modifier.
    fn plain(&mut self, name: &str, start: usize) -> String {
        match self.look_up(name, start) {
            Some(value) => value.to_owned(),
            None if self.mode == Mode::Display => {
                self.text.get(start..self.at).unwrap_or_default().to_owned()
            }
            None => String::new(),
        }
    }

    /// The value of a variable; that it was asked for is noted.
    fn look_up(&mut self, name: &str, start: usize) -> Option<&'a str> {
        let env = self.env;
        let found = env.get(name);
        match found {
            Some(_) => drop(self.defined.insert(name.to_owned())),
            None => self.undefined.push(Undefined { name: name.to_owned(), offset: start }),
        }
        found
    }

    /// A name: letters, digits and `_`; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> &'a str {
        let start = self.at;
        let text = self.text;
        let rest = text.get(start..).unwrap_or_default();
        let is_part = |c: char| c == '_' || c.is_alphabetic() || c.is_numeric();
        let end = match rest.chars().next() {
            Some(first) if first.is_numeric() => rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '!' | '$') => Some(1),
            _ => rest.find(|c: char| !is_part(c)),
        };
        self.at = start + end.unwrap_or(rest.len());
        text.get(start..self.at).unwrap_or_default()
    }

    /// What follows `${`.
    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        match self.peek() {
            None => return self.unclosed('}', start),
            Some('{' | '}' | ':') => {
                let help = "a name must follow `${`: letters, digits and `_`";
                return self.error("syntax error: bad substitution", start, help);
            }
            _ => {}
        }
        let name = self.name();
        let colon = self.eat(':');
        match self.next() {
            None => self.unclosed('}', start),
            Some('}') if !colon => Ok(self.plain(name, start)),
            Some(form @ ('-' | '+' | '?' | '#' | '%')) => self.modified(name, colon, form, start),
            Some('/') if !colon => self.replaced(name, start),
            Some(form) => {
                let colon = if colon { ":" } else { "" };
                let help = match (colon, form) {
                    (":", '=') | ("", '=') => {
                        format!("write ${{{name}:-…}}, or give it a default with ARG {name}=…")
                    }
                    _ => FORMS.to_owned(),
                };
                self.error(format!("unsupported modifier ({colon}{form}) in substitution"), start, help)
            }
        }
    }

    fn modified(&mut self, name: &str, colon: bool, form: char, start: usize) -> Result<String, ExpandError> {
        let word = self.operand('}', matches!(form, '#' | '%'), start)?;
        let found = self.look_up(name, start);
        let missing = found.is_none() || (colon && found == Some(""));
        let value = found.unwrap_or_default();
        if found.is_none() && self.mode == Mode::Display {
            return Ok(self.text.get(start..self.at).unwrap_or_default().to_owned());
        }
        Ok(match form {
            '-' if missing => word,
            '+' if missing => String::new(),
            '+' => word,
            '?' if missing => {
                let default =
                    if found.is_none() { "not allowed to be unset" } else { "not allowed to be empty" };
                let reason = if word.is_empty() { default } else { &word };
                let help = format!("set it with --build-arg {name}=… (and ARG {name} above), or with ENV");
                return self.error(format!("{name}: {reason}"), start, help);
            }
            '#' | '%' => {
                let (word, greedy) = match word.strip_prefix(form) {
                    Some(word) => (word, true),
                    None => (word.as_str(), false),
                };
                let trim = if form == '#' { pattern::trim_prefix } else { pattern::trim_suffix };
                trim(value, word, greedy).or_else(|message| self.error(message, start, ""))?
            }
            _ => value.to_owned(),
        })
    }

    fn replaced(&mut self, name: &str, start: usize) -> Result<String, ExpandError> {
        let all = self.eat('/');
        let wanted = self.operand('/', true, start)?;
        let replacement = self.operand('}', true, start)?;
        match self.look_up(name, start) {
            Some(value) => pattern::replace(value, &wanted, &replacement, all)
                .or_else(|message| self.error(message, start, "")),
            None if self.mode == Mode::Display => {
                Ok(self.text.get(start..self.at).unwrap_or_default().to_owned())
            }
            None => Ok(String::new()),
        }
    }

    /// The part of a `${…}` up to `stop`.
    fn operand(&mut self, stop: char, keep_escapes: bool, start: usize) -> Result<String, ExpandError> {
        match self.read_until(Some(stop), keep_escapes) {
            Ok(output) => Ok(output.value),
            Err(error) if error.offset == self.text.len() => self.unclosed(stop, start),
            Err(error) => Err(error),
        }
    }
}
