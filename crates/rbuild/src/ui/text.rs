//! Text made fit for a screen: escape sequences out, tabs expanded, cut by display width.

use unicode_width::UnicodeWidthChar;

const ESCAPE: char = '\u{1b}';
const TAB: usize = 8;

/// What may stay of the control characters in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Everything: the reader is a file or a program.
    All,
    /// Tabs and the sequences that choose colours, reset at the end: the reader is a terminal.
    Colours,
    /// Printable characters only.
    Nothing,
}

/// One line of `text` without what could move a cursor, set a title or break the line.
pub(crate) fn clean(text: &str, keep: Keep) -> String {
    if keep == Keep::All {
        return text.to_owned();
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first == ESCAPE { sequence_length(rest) } else { first.len_utf8() };
        let (token, tail) = rest.split_at(length);
        rest = tail;
        match first {
            ESCAPE if keep == Keep::Colours && chooses_colour(token) => {
                cleaned.push_str(token);
                coloured = true;
            }
            ESCAPE => {}
            '\t' if keep == Keep::Colours => cleaned.push('\t'),
            '\t' => cleaned.extend(std::iter::repeat_n(' ', TAB - width(&cleaned) % TAB)),
            '\n' => cleaned.push(' '),
            control if control.is_control() => {}
            printable => cleaned.push(printable),
        }
    }
    if coloured {
        cleaned.push_str("\x1b[0m");
    }
    cleaned
}

/// Length in bytes of the escape sequence at the beginning of `text` (ECMA-48, 5.3 to 5.6); one that does not end
/// takes the whole text.
fn sequence_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let after = |position: Option<usize>| position.map_or(text.len(), |at| at + 1);
    match bytes.get(1) {
        None => 1,
        Some(b'[') => {
            after(bytes.iter().skip(2).position(|byte| (0x40..=0x7e).contains(byte)).map(|at| at + 2))
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let bell = text.find('\u{7}').map(|at| at + 1);
            let terminator = text.find("\u{1b}\\").map(|at| at + 2);
            bell.into_iter().chain(terminator).min().unwrap_or(text.len())
        }
        // Two-character sequences, possibly with intermediate bytes: `ESC ( B`.
        Some(0x20..=0x2f) => {
            after(bytes.iter().skip(1).position(|byte| (0x30..=0x7e).contains(byte)).map(|at| at + 1))
        }
        Some(0x30..=0x7e) => 2,
        Some(_) => 1,
    }
}

/// Whether an escape sequence is "select graphic rendition" and nothing private.
fn chooses_colour(sequence: &str) -> bool {
    sequence
        .strip_prefix("\x1b[")
        .and_then(|rest| rest.strip_suffix('m'))
        .is_some_and(|parameters| parameters.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':'))
}

/// Columns that a cleaned text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// The beginning of a cleaned text that fits into `columns`.
pub(super) fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += char_width(*c);
        used > columns
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// A number of bytes as BuildKit writes it: decimal units, two places.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// ` current / total`, ` current`, or nothing where neither is known.
pub(super) fn amount(current: u64, total: u64) -> String {
    match (current, total) {
        (0, 0) => String::new(),
        (current, 0) => format!(" {}", bytes(current)),
        (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_stays() {
        for (text, keep, expected) in [
            ("a\x1b[2Jb\x1b[31mc", Keep::All, "a\x1b[2Jb\x1b[31mc"),
            ("a\x1b[2Jb\x1b[31mc", Keep::Colours, "ab\x1b[31mc\x1b[0m"),
            ("a\x1b[2Jb\x1b[31mc", Keep::Nothing, "abc"),
            ("\x1b]0;title\x07x\x1b]8;;u\x1b\\y", Keep::Colours, "xy"),
            ("\x1b[?25lx\x1b[>4;1my", Keep::Colours, "xy"),
            ("\x1b(Bx\x1b7y\x1bé", Keep::Nothing, "xyé"),
            ("a\x08\u{9b}2Jb\x07\x00\x7f", Keep::Nothing, "a2Jb"),
            ("a\tb\nc", Keep::Nothing, "a       b c"),
            ("a\tb", Keep::Colours, "a\tb"),
            ("x\x1b[12", Keep::Nothing, "x"),
            ("x\x1b]0;never ends", Keep::Nothing, "x"),
            ("x\x1b", Keep::Nothing, "x"),
            ("x\x1b(", Keep::Nothing, "x"),
        ] {
            assert_eq!(clean(text, keep), expected, "{text:?} {keep:?}");
        }
    }

    #[test]
    fn cutting_counts_columns_not_characters() {
        for (text, columns, expected) in [
            ("abc", 5, "abc"),
            ("abc", 2, "ab"),
            ("日本語", 5, "日本"),
            ("e\u{301}x", 1, "e\u{301}"),
            ("x", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} {columns}");
        }
    }

    #[test]
    fn bytes_are_decimal() {
        for (count, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (999_999, "1.00MB"),
            (3_410_000, "3.41MB"),
            (12_345_678_900, "12.35GB"),
            (u64::MAX, "18446744.07TB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
