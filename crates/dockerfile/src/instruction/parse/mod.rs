//! From a logical line to a typed instruction.

mod copy;
mod from;
mod healthcheck;
mod run;
mod words;

use std::ops::Range;

use super::flags::{Flags, Kind};
use super::json::{Json, read_json};
use super::pairs::{read_pairs, word};
use super::{Command, CommandLine, CopyKind, Instruction, Keyword, Word};
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
        errors.push(unknown(text.slice(line.start..rest.start), text.span(line.start..rest.start)));
        return None;
    };
    let (flags, rest) = split_flags(text, rest);
    let range = text.trim(rest);
    Some(Arguments { keyword, text, range, flags, heredocs: Vec::new(), span: text.span(line) })
}

fn unknown(written: &str, span: Span) -> Diagnostic {
    let error = Diagnostic::error(format!("unknown instruction: {written}"), span);
    let near = crate::suggestion(&written.to_uppercase(), Keyword::ALL.map(Keyword::as_str));
    let is_marker = ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].contains(&written);
    error.help(match near {
        Some(name) => format!("did you mean `{name}`?"),
        None if is_marker => "a conflict of a merge was left in the file".to_owned(),
        None => "to go on with the line above, end that one with the escape character; only RUN, COPY and ADD take heredocs".to_owned(),
    })
}

impl Parsing<'_> {
    fn error(&mut self, message: impl Into<String>, span: Span, help: impl Into<String>) {
        self.errors.push(Diagnostic::error(message, span).help(help));
    }

    /// Arguments are missing.
    fn too_few(&mut self, at: &Arguments<'_>, message: &str) {
        let help = format!("for example {}", at.keyword.example());
        self.error(format!("{} {message}", at.keyword), at.span, help);
    }

    fn command(&mut self, at: &Arguments<'_>) -> Option<Command> {
        let known: &[(&str, Kind)] = match at.keyword {
            Keyword::Add => &copy::ADD_FLAGS,
            Keyword::Copy => &copy::COPY_FLAGS,
            Keyword::From => &[("platform", Kind::Text)],
            Keyword::Run => &run::RUN_FLAGS,
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
                let help = "put the others in double quotes too: [\"sleep\", \"5\"]";
                self.error(message, at.text.span(range), help);
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

    fn pairs(&mut self, at: &Arguments<'_>) -> Option<super::Env> {
        read_pairs(at.text, at.range.clone(), self.escape, at.keyword, at.span, self.errors)
    }
}
