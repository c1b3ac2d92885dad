//! The canonical form of a Dockerfile.

use crate::lex::{Escape, Line, Lines, cut_continuation};
use crate::{Command, Dockerfile, Instruction};

impl Dockerfile {
    /// The text in canonical form: keywords in upper case, one blank behind them, no blanks at line ends or before
    /// instructions, at most one blank line in a row and none inside an instruction, `\n` line ends, no byte order
    /// mark. Comments and the arguments' own layout are kept; heredoc bodies are not touched.
    ///
    /// It means the same, and its own canonical form is itself.
    pub fn format(&self) -> String {
        let source = self.with_upper_case_keywords();
        let mut writer = Writer { text: String::new(), escape: self.escape, blank: false };
        let mut instructions = self.instructions().peekable();
        let mut lines = Lines::of(&source).peekable();
        while let Some(line) = lines.next() {
            match instructions.next_if(|instruction| instruction.span.start < line.start + line.raw.len()) {
                Some(instruction) => {
                    let mut own = vec![line];
                    while let Some(line) = lines.next_if(|line| line.start < instruction.span.end) {
                        own.push(line);
                    }
                    writer.instruction(instruction, &own);
                }
                None => writer.between(&line),
            }
        }
        writer.text
    }

    /// The source with `from` and `as` as `FROM` and `AS`; no byte moves.
    fn with_upper_case_keywords(&self) -> String {
        let mut pieces = String::new();
        let mut at = 0;
        for instruction in self.instructions() {
            let as_text = match &instruction.command {
                Command::From(from) => from.as_text.as_ref(),
                _ => None,
            };
            for word in std::iter::once(&instruction.keyword_text).chain(as_text) {
                pieces.push_str(self.source().get(at..word.span.start).unwrap_or_default());
                pieces.push_str(&word.span.of(self.source()).to_ascii_uppercase());
                at = word.span.end;
            }
        }
        pieces.push_str(self.source().get(at..).unwrap_or_default());
        pieces
    }
}

struct Writer {
    text: String,
    escape: Escape,
    /// Whether a blank line is due before the next line.
    blank: bool,
}

impl Writer {
    fn line(&mut self, text: &str) {
        if std::mem::take(&mut self.blank) {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A line between instructions: blank, or a comment.
    fn between(&mut self, line: &Line<'_>) {
        let text = line.text.trim();
        let Some(words) = text.strip_prefix('#') else {
            // Also before the first line: without the blank one a comment could become a directive.
            self.blank = true;
            return;
        };
        match words.starts_with([' ', '\t', '#', '!']) || words.is_empty() {
            true => self.line(text),
            false => self.line(&format!("# {words}")),
        }
    }

    fn instruction(&mut self, instruction: &Instruction, lines: &[Line<'_>]) {
        let heredocs = instruction_heredocs(instruction);
        let end = heredocs.unwrap_or(usize::MAX);
        let own: Vec<&Line<'_>> = lines.iter().filter(|line| line.start < end && !line.is_blank()).collect();
        let has_text = |line: &&Line<'_>| {
            !line.is_comment() && !cut_continuation(line.text, self.escape).0.trim().is_empty()
        };
        // Behind the last text there may be lines of nothing but a continuation, which continue nothing, and comments.
        let (own, behind) =
            own.split_at(own.iter().skip(1).rposition(has_text).map_or(1, |at| at + 2).min(own.len()));
        if self.text.is_empty() && !lines.first().is_some_and(|line| line.is_comment()) {
            // Nothing before the first instruction needs to be kept apart from it.
            self.blank = false;
        }
        for (at, line) in own.iter().enumerate() {
            let is_last = at + 1 == own.len();
            let text = if at == 0 { first_line(instruction, line.text) } else { line.text.to_owned() };
            if at > 0 && line.is_comment() {
                self.line(text.trim_end());
                continue;
            }
            let (body, continues) = cut_continuation(&text, self.escape);
            match (continues, is_last) {
                (true, false) => self.line(&format!("{body}{}", self.escape.as_char())),
                (true, true) | (false, _) => self.line(last_text(body, self.escape)),
            }
        }
        behind.iter().filter(|line| line.is_comment()).for_each(|line| self.between(line));
        for line in lines.iter().filter(|line| line.start >= end) {
            self.text.push_str(line.raw);
        }
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }
}

/// Where the first heredoc body of an instruction begins.
fn instruction_heredocs(instruction: &Instruction) -> Option<usize> {
    match &instruction.command {
        Command::Run(run) => run.heredocs.first().map(|heredoc| heredoc.body.start),
        Command::Copy(copy) | Command::Add(copy) => copy.heredocs.first().map(|heredoc| heredoc.body.start),
        Command::Onbuild(onbuild) => onbuild.body,
        _ => None,
    }
}

/// A line's text without blanks at its end. A carriage return before them would become part of the line's end, and what
/// stands before that a continuation: neither stays.
fn last_text(body: &str, escape: Escape) -> &str {
    let text = body.trim_end_matches([' ', '\t']);
    let Some(before) = text.strip_suffix('\r') else { return text };
    match cut_continuation(before, escape) {
        (cut, true) => last_text(cut, escape),
        (whole, false) => last_text(whole, escape),
    }
}

/// The first line with one blank behind the keyword.
fn first_line(instruction: &Instruction, line: &str) -> String {
    let text = line.trim_start();
    let keyword = instruction.keyword.as_str();
    match text.strip_prefix(keyword) {
        Some(rest) if !rest.trim().is_empty() => format!("{keyword} {}", rest.trim_start()),
        // The keyword alone, or broken by a continuation.
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        for (source, expected) in [
            ("from   a  as b \r\n\r\n\r\n\trun x  \\ \r\n\r\n  y\r\n", "FROM a  AS b\n\nRUN x  \\\n  y\n"),
            ("\u{feff}#syntax=x\n#c\n\n\n#d\nFROM a", "# syntax=x\n# c\n\n# d\nFROM a\n"),
            ("\n# escape=`\nFROM a\n", "\n# escape=`\nFROM a\n"),
            ("\n\nFROM a\nRUN x \\\n", "FROM a\nRUN x\n"),
            ("FROM a\nRUN x \\\n\\\n \\\n", "FROM a\nRUN x\n"),
            ("FROM a\nRUN \\\n\\\n", "FROM a\nRUN\n"),
            ("FROM a\nRUN x \\\n# y\n\\\n  #z\n\\", "FROM a\nRUN x\n# y\n# z\n"),
            ("FROM a\r\nRUN x\\\r \\\r\n", "FROM a\nRUN x\n"),
            ("FROM a\nrun <<E\n  x \r\n\n\nE\n\n\nCMD y", "FROM a\nRUN <<E\n  x \r\n\n\nE\n\nCMD y\n"),
            ("FROM a\nRUN a \\\n  # why \n  b\n#  kept\n", "FROM a\nRUN a \\\n  # why\n  b\n#  kept\n"),
            ("FROM a\nonbuild  copy <<E /a\n x \nE\n", "FROM a\nONBUILD copy <<E /a\n x \nE\n"),
        ] {
            let formatted = Dockerfile::parse(source).unwrap().format();
            assert_eq!(formatted, expected, "{source:?}");
            assert_eq!(Dockerfile::parse(&formatted).unwrap().format(), formatted, "{source:?}");
        }
    }
}
