//! Logical lines: continuations joined, comments taken out, heredoc bodies read.

use super::heredoc::{Heredoc, heredoc_starts};
use super::physical::{LONGEST_LINE, Line, Lines};
use super::{Comment, Escape, Text, split_flags, trim_start};
use crate::instruction::Keyword;
use crate::{Diagnostic, Span};

/// A logical line.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Its text, leading blanks dropped.
    pub(crate) text: Text,
    /// From its first letter to its end, heredocs included.
    pub(crate) span: Span,
    /// The comments since the statement before.
    pub(crate) comments: Vec<Comment>,
    /// Its heredocs, bodies filled in.
    pub(crate) heredocs: Vec<Heredoc>,
    /// The first blank line inside a continuation, and the last line that was read for it.
    pub(crate) blank_continuation: Option<(Span, Span)>,
}

/// Reads all logical lines, and the comments behind the last one. Comments before offset `from` (the directives) are
/// not among them.
pub(crate) fn read_statements(
    source: &str,
    from: usize,
    escape: Escape,
    errors: &mut Vec<Diagnostic>,
) -> (Vec<Statement>, Vec<Comment>) {
    let mut statements = Vec::new();
    let mut comments = Vec::new();
    let mut lines = Lines::of(source);
    while let Some(line) = lines.next() {
        check_length(&line, errors);
        let (text, cut) = trim_start(line.text);
        if line.is_comment() {
            if line.start >= from {
                comments.push(comment(&line));
            }
            continue;
        }
        let (first, continues) = cut_continuation(text, escape);
        if first.is_empty() && !continues {
            continue;
        }
        let start = line.start + cut;
        let mut statement = Statement {
            text: Text::at(first, start),
            span: Span::new(start, line.end()),
            comments: std::mem::take(&mut comments),
            heredocs: Vec::new(),
            blank_continuation: None,
        };
        if continues {
            join_lines(&mut lines, escape, &mut statement, errors);
        }
        read_heredocs(&mut lines, &mut statement, errors);
        statements.push(statement);
    }
    (statements, comments)
}

fn comment(line: &Line<'_>) -> Comment {
    let (text, cut) = trim_start(line.text);
    let start = line.start + cut;
    let words = text.strip_prefix('#').unwrap_or(text).trim();
    Comment { text: words.to_owned(), span: Span::new(start, start + text.trim_end().len()) }
}

fn check_length(line: &Line<'_>, errors: &mut Vec<Diagnostic>) {
    if line.text.len() > LONGEST_LINE {
        errors.push(
            Diagnostic::error(
                format!("dockerfile line greater than max allowed size of {LONGEST_LINE}"),
                Span::new(line.start, line.start),
            )
            .label(Span::new(line.start, line.start), format!("this line has {} bytes", line.text.len())),
        );
    }
}

/// Cuts the escape character (and blanks after it) off the end of a line; whether there was one. An escape character
/// that is itself escaped does not continue the line.
pub(crate) fn cut_continuation(line: &str, escape: Escape) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape.as_char()) {
        Some(body) if !body.ends_with(escape.as_char()) => (body, true),
        _ => (line, false),
    }
}

fn join_lines(
    lines: &mut Lines<'_>,
    escape: Escape,
    statement: &mut Statement,
    errors: &mut Vec<Diagnostic>,
) {
    let mut blank = None;
    let mut last = statement.span.end;
    for line in lines.by_ref() {
        check_length(&line, errors);
        last = line.end();
        if line.is_comment() {
            continue;
        }
        if line.is_blank() {
            blank.get_or_insert(Span::new(line.start, line.end()));
            continue;
        }
        let (text, continues) = cut_continuation(line.text, escape);
        statement.text.push(text, line.start);
        statement.span.end = line.end();
        if !continues {
            break;
        }
    }
    statement.blank_continuation = blank.map(|blank| (blank, Span::new(last, last)));
}

/// Reads the bodies of the heredocs that the statement begins.
fn read_heredocs(lines: &mut Lines<'_>, statement: &mut Statement, errors: &mut Vec<Diagnostic>) {
    if !statement.text.value.contains("<<") || !can_contain_heredocs(&statement.text) {
        return;
    }
    for (mut heredoc, range) in heredoc_starts(&statement.text.value) {
        heredoc.word = statement.text.span(range);
        let start = lines.clone().next().map_or(statement.span.end, |line| line.start);
        heredoc.body = Span::new(start, start);
        let mut ended = false;
        for line in lines.by_ref() {
            check_length(&line, errors);
            statement.span.end = line.end();
            if heredoc.ends_at(line.text) {
                ended = true;
                break;
            }
            heredoc.content.push_str(line.raw);
            heredoc.body.end = line.start + line.raw.len();
        }
        if !ended {
            errors.push(
                Diagnostic::error("unterminated heredoc", heredoc.word)
                    .label(heredoc.word, format!("no line `{}` follows", heredoc.name)),
            );
        }
        statement.heredocs.push(heredoc);
    }
}

/// Heredocs are words of RUN, COPY and ADD, also as triggers, but not of their JSON forms.
fn can_contain_heredocs(text: &Text) -> bool {
    let (mut keyword, mut rest) = split_keyword(text, 0..text.value.len());
    if keyword == Some(Keyword::Onbuild) {
        let (_, behind_flags) = split_flags(text, rest);
        (keyword, rest) = split_keyword(text, behind_flags);
    }
    let (_, arguments) = split_flags(text, rest);
    keyword.is_some_and(Keyword::takes_heredocs) && !crate::instruction::is_json_array(text.slice(arguments))
}

/// The keyword at the start of `range`, and the range behind it.
pub(crate) fn split_keyword(
    text: &Text,
    range: std::ops::Range<usize>,
) -> (Option<Keyword>, std::ops::Range<usize>) {
    let range = text.trim(range);
    let body = text.slice(range.clone());
    let end = body.find(['\t', '\x0b', '\x0c', '\r', ' ']).unwrap_or(body.len());
    (body.get(..end).and_then(Keyword::parse), range.start + end..range.end)
}
