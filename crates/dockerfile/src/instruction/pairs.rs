//! The words of ENV, LABEL and ARG: `name=value` with quotes, and the old form `name rest of the line`.

use std::ops::Range;

use crate::lex::{Escape, Text};
use crate::{Diagnostic, Env, KeyValue, Keyword, Span, Word};

/// The words of `range`, split at white space outside quotes; quotes and escapes are kept for the expansion. An
/// escape character at the very end is dropped.
pub(crate) fn quoted_words(text: &Text, range: Range<usize>, escape: Escape) -> Vec<Range<usize>> {
    let escape = escape.as_char();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = range.end;
    let mut letters = text.slice(range.clone()).char_indices();
    while let Some((at, letter)) = letters.next() {
        let at = range.start + at;
        if quote.is_none() && letter.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, None | Some('"')) if letter == escape => {
                end = if letters.next().is_none() { at } else { end };
            }
            _ => {}
        }
    }
    words.extend(start.filter(|start| *start < end).map(|start| start..end));
    words
}

/// The word at `range`.
pub(crate) fn word(text: &Text, range: Range<usize>) -> Word {
    Word::new(text.slice(range.clone()), text.span(range))
}

/// Splits `range` at its first `=`.
pub(crate) fn split_pair(text: &Text, range: Range<usize>) -> Option<(Word, Word)> {
    let at = range.start + text.slice(range.clone()).find('=')?;
    Some((word(text, range.start..at), word(text, at + 1..range.end)))
}

/// The pairs of ENV or LABEL.
pub(crate) fn read_pairs(
    text: &Text,
    range: Range<usize>,
    escape: Escape,
    keyword: Keyword,
    span: Span,
    errors: &mut Vec<Diagnostic>,
) -> Option<Env> {
    let range = text.trim(range);
    let words = quoted_words(text, range.clone(), escape);
    let Some(first) = words.first() else {
        let help = format!("for example {}", keyword.example());
        errors.push(Diagnostic::error(format!("{keyword} requires at least one argument"), span).help(help));
        return None;
    };
    if !text.slice(first.clone()).contains('=') {
        return read_legacy(text, range, keyword, errors);
    }
    let mut pairs: Vec<KeyValue> = Vec::new();
    for range in words {
        match split_pair(text, range.clone()) {
            Some((key, value)) => pairs.push(KeyValue { key, value }),
            None => {
                errors.push(missing_equals(text, range, pairs.last()));
                break;
            }
        }
    }
    for pair in pairs.iter().filter(|pair| pair.key.text.is_empty()) {
        let span = pair.key.span.to(pair.value.span);
        let error = Diagnostic::error(format!("{keyword} names can not be blank"), span);
        errors.push(error.help(format!("write {}", keyword.example())));
    }
    Some(Env { pairs, legacy: false })
}

/// `before` is the pair that the word, probably, was to be a part of.
fn missing_equals(text: &Text, range: Range<usize>, before: Option<&KeyValue>) -> Diagnostic {
    let word = word(text, range);
    let message = format!("syntax error: can't find = in \"{}\". Must be of the form: name=value", word.text);
    let help = match before.map(|pair| (pair.key.text.as_str(), pair.value.text.as_str())) {
        Some((key, value)) if value.contains("${") && !value.contains('}') => {
            format!("a `${{…}}` with blanks in it needs quotes: {key}=\"{value} …}}\"")
        }
        Some((key, value)) if !value.contains(['"', '\'']) => {
            format!("a value with blanks needs quotes: {key}=\"{value} {}\"", word.text)
        }
        _ => "a value with blanks needs quotes: name=\"two words\"".to_owned(),
    };
    Diagnostic::error(message, word.span).help(help)
}

fn read_legacy(
    text: &Text,
    range: Range<usize>,
    keyword: Keyword,
    errors: &mut Vec<Diagnostic>,
) -> Option<Env> {
    let body = text.slice(range.clone());
    let Some(at) = body.find(['\t', '\x0b', '\x0c', '\r', ' ']) else {
        let span = text.span(range);
        errors.push(
            Diagnostic::error(format!("{keyword} must have two arguments"), span)
                .help(format!("write {keyword} {body}=value")),
        );
        return None;
    };
    let key = word(text, range.start..range.start + at);
    let value = word(text, text.trim(range.start + at..range.end));
    Some(Env { pairs: vec![KeyValue { key, value }], legacy: true })
}
