//! The words `--name[=value]` between an instruction's keyword and its arguments.

use std::ops::Range;

use super::Text;
use crate::{Flag, Word};

/// Splits leading flags off `range` of `text`: the flags, and what is left.
///
/// Quotes and backslashes (whatever the escape directive says) are taken off as the words are read, so a flag may
/// hold blanks. A bare `--` ends the flags.
pub(crate) fn split_flags(text: &Text, range: Range<usize>) -> (Vec<Flag>, Range<usize>) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = text.slice(at..range.end);
        at += rest.len() - rest.trim_start().len();
        if !text.slice(at..range.end).starts_with("--") {
            return (flags, at..range.end);
        }
        let (word, end) = read_word(text.slice(at..range.end));
        let whole = at..at + end;
        at += end;
        if word == "--" {
            return (flags, at..range.end);
        }
        flags.push(flag(text, &word, whole));
    }
}

/// The first word of `text` without quotes and escapes, and where it ends.
fn read_word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (letter, quote) {
            (letter, None) if letter.is_whitespace() => return (word, at),
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('\\', _) => word.extend(letters.next().map(|(_, next)| next)),
            _ => word.push(letter),
        }
    }
    (word, text.len())
}

fn flag(text: &Text, word: &str, whole: Range<usize>) -> Flag {
    let span = text.span(whole.clone());
    let body = word.strip_prefix("--").unwrap_or(word);
    match body.split_once('=') {
        None => Flag { name: body.to_owned(), value: None, span },
        Some((name, value)) => {
            let behind = text.slice(whole.clone()).find('=').map_or(whole.end, |at| whole.start + at + 1);
            let value = Word::new(value, text.span(behind..whole.end));
            Flag { name: name.to_owned(), value: Some(value), span }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_other_word() {
        for (line, flags, rest) in [
            ("--a --b=c d --e", &["a|-", "b|c"][..], "d --e"),
            ("  --a='x y' \"z\"", &["a|x y"], "\"z\""),
            ("--a=x\\ y z", &["a|x y"], "z"),
            ("--a -- --b", &["a|-"], " --b"),
            ("-a", &[], "-a"),
            ("--", &[], ""),
            ("--a=", &["a|"], ""),
            ("--a=\"b", &["a|b"], ""),
        ] {
            let text = Text::at(line, 0);
            let (found, left) = split_flags(&text, 0..line.len());
            let found: Vec<_> = found
                .iter()
                .map(|f| format!("{}|{}", f.name, f.value.as_ref().map_or("-", |v| &v.text)))
                .collect();
            assert_eq!(
                (found.as_slice(), text.slice(left)),
                (&flags.iter().map(|f| f.to_string()).collect::<Vec<_>>()[..], rest),
                "{line}"
            );
        }
    }
}
