//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the very top.

use serde::Serialize;

use super::Escape;
use super::physical::Lines;
use crate::{Diagnostic, Span, Word};

/// A directive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Directive {
    /// Its name in lower case.
    pub name: String,
    /// Its value.
    pub value: Word,
    /// The whole line.
    pub span: Span,
}

/// The directives of a Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Directives {
    /// In order, each name at most once.
    pub all: Vec<Directive>,
}

impl Directives {
    fn get(&self, name: &str) -> Option<&Directive> {
        self.all.iter().find(|directive| directive.name == name)
    }

    /// `# syntax=`: the image of the frontend to use.
    pub fn syntax(&self) -> Option<&Directive> {
        self.get("syntax")
    }

    /// `# check=`: settings of the build checks.
    pub fn check(&self) -> Option<&Directive> {
        self.get("check")
    }

    /// `# escape=`
    pub fn escape(&self) -> Option<&Directive> {
        self.get("escape")
    }

    /// Offset behind the last directive.
    pub(crate) fn end(&self) -> usize {
        self.all.last().map_or(0, |directive| directive.span.end)
    }
}

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Reads the directives. They end at the first line that is not one; a `#!` line before them is skipped, and takes
/// `escape` its effect (the reference looks for `syntax` and `check` apart from its parser, which stops there).
pub(crate) fn read_directives(source: &str, errors: &mut Vec<Diagnostic>) -> (Directives, Escape) {
    let mut found = Directives::default();
    let mut escape = Escape::default();
    let mut lines = Lines::of(source).peekable();
    let shebang = lines.next_if(|line| line.text.starts_with("#!")).is_some();
    for line in lines {
        let Some(directive) = parse_line(line.text, line.start) else { break };
        if let Some(first) = found.get(&directive.name) {
            errors.push(
                Diagnostic::error(
                    format!("only one {} parser directive can be used", directive.name),
                    directive.span,
                )
                .label(first.span, "first used here"),
            );
            continue;
        }
        if directive.name == "escape" && !shebang {
            match directive.value.text.as_str() {
                "\\" => escape = Escape::Backslash,
                "`" => escape = Escape::Backtick,
                other => errors.push(
                    Diagnostic::error(
                        format!("invalid escape token `{other}`: must be a backslash or a backtick"),
                        directive.value.span,
                    )
                    .help("write # escape=\\ or # escape=`"),
                ),
            }
        }
        found.all.push(directive);
    }
    (found, escape)
}

/// `# name = value`, with a known name.
fn parse_line(line: &str, start: usize) -> Option<Directive> {
    let trimmed = line.trim_start();
    let body = trimmed.strip_prefix('#')?;
    let (name, value) = body.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    if !KNOWN.contains(&name.as_str()) || value.trim().is_empty() {
        return None;
    }
    let end = start + line.trim_end().len();
    let value_start = end - value.trim().len();
    let span = Span::new(start + (line.len() - trimmed.len()), end);
    Some(Directive { name, value: Word::new(value.trim(), Span::new(value_start, end)), span })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> (Vec<(String, String)>, Escape, Vec<String>) {
        let mut errors = Vec::new();
        let (found, escape) = read_directives(source, &mut errors);
        let all = found.all.into_iter().map(|d| (d.name, d.value.text)).collect();
        (all, escape, errors.into_iter().map(|e| e.message).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn directives_are_read_until_the_first_other_line() {
        for (source, expected, escape) in [
            ("# escape=`\nFROM a", &[("escape", "`")][..], Escape::Backtick),
            ("#ESCAPE = `  \r\nFROM a", &[("escape", "`")], Escape::Backtick),
            ("\u{feff}# syntax=x\n# escape=`\n", &[("syntax", "x"), ("escape", "`")], Escape::Backtick),
            ("\n# escape=`\n", &[], Escape::Backslash),
            ("# a comment\n# escape=`\n", &[], Escape::Backslash),
            ("# other=x\n# escape=`\n", &[], Escape::Backslash),
            (
                "#!/bin/x\n# check=skip=all\n# escape=`\n",
                &[("check", "skip=all"), ("escape", "`")],
                Escape::Backslash,
            ),
            ("# escape=\nFROM a", &[], Escape::Backslash),
        ] {
            assert_eq!(read(source), (pairs(expected), escape, vec![]), "{source:?}");
        }
    }

    #[test]
    fn wrong_directives_are_errors() {
        assert_eq!(read("# escape=x\n").2, ["invalid escape token `x`: must be a backslash or a backtick"]);
        assert_eq!(read("# escape=`\n#escape=\\\n").2, ["only one escape parser directive can be used"]);
    }
}
