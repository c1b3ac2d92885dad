//! An instruction as progress lines show it.

use super::Instruction;
use crate::expand::{Mode, expand};
use crate::{Escape, Lookup};

impl Instruction {
    /// The instruction as written, its keyword in upper case, variables that are set replaced by their values, quotes
    /// kept; `RUN echo hi`, `COPY a b`. Heredocs show the beginning of their body in parentheses.
    pub fn display(&self, env: &dyn Lookup, escape: Escape) -> String {
        let text = self.original.get(self.keyword_text.text.len()..).unwrap_or_default();
        let text = match expand(text, env, escape, Mode::Display) {
            Ok(expansion) => expansion.value,
            Err(_) => text.to_owned(),
        };
        let mut line = format!("{}{text}", self.keyword);
        if let super::Command::Run(run) = &self.command
            && let Some(first) = run.heredocs.first()
            && crate::lex::is_heredoc_word(command_text(run))
        {
            line.push_str(&format!(" ({})", summary(&first.content)));
        }
        line
    }
}

fn command_text(run: &super::Run) -> &str {
    match &run.command {
        super::CommandLine::Shell(text) => &text.text,
        super::CommandLine::Exec(_) => "",
    }
}

/// How many characters of a heredoc a progress line shows.
const SHOWN: usize = 20;

/// The first line of a heredoc's body, shortened.
fn summary(content: &str) -> String {
    let content = content.trim();
    let line = content.lines().next().unwrap_or_default();
    let start: String = line.chars().take(SHOWN).collect();
    match start.len() < content.len() {
        true => format!("{start}..."),
        false => start,
    }
}
