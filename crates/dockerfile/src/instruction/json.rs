//! The exec form: a JSON array of strings.

use std::ops::Range;

use crate::Word;
use crate::lex::Text;

/// What text that could be in exec form is.
pub(crate) enum Json {
    /// A JSON array of strings.
    Strings(Vec<Word>),
    /// A JSON array with something else in it.
    NotStrings,
    /// Anything else: shell form.
    Other,
}

/// Whether `text` is a JSON array of strings.
pub(crate) fn is_json_array(text: &str) -> bool {
    let whole = Text::at(text, 0);
    matches!(read_json(&whole, 0..text.len()), Json::Strings(_))
}

/// Reads `range` of `text` as an exec form.
pub(crate) fn read_json(text: &Text, range: Range<usize>) -> Json {
    let range = text.trim(range);
    let body = text.slice(range.clone());
    if !body.starts_with('[') {
        return Json::Other;
    }
    match read_strings(body) {
        Some(strings) => {
            let word = |(value, part): (String, Range<usize>)| {
                Word::new(value, text.span(range.start + part.start..range.start + part.end))
            };
            Json::Strings(strings.into_iter().map(word).collect())
        }
        None => match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(body) {
            Ok(_) => Json::NotStrings,
            Err(_) => Json::Other,
        },
    }
}

/// The strings of a JSON array and where each stands, quotes included; `None` when `body` is not such an array.
fn read_strings(body: &str) -> Option<Vec<(String, Range<usize>)>> {
    let mut reader = Reader { body, at: 1 };
    let mut strings = Vec::new();
    reader.skip_blanks();
    if !reader.eat(b']') {
        loop {
            reader.skip_blanks();
            let start = reader.at;
            let value = reader.string()?;
            strings.push((value, start..reader.at));
            reader.skip_blanks();
            if reader.eat(b']') {
                break;
            }
            if !reader.eat(b',') {
                return None;
            }
        }
    }
    reader.skip_blanks();
    (reader.at == body.len()).then_some(strings)
}

struct Reader<'a> {
    body: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Option<String> {
        if !self.eat(b'"') {
            return None;
        }
        let mut value = String::new();
        loop {
            let letter = self.body.get(self.at..)?.chars().next()?;
            self.at += letter.len_utf8();
            match letter {
                '"' => return Some(value),
                '\\' => value.push(self.escape()?),
                letter if letter < ' ' => return None,
                letter => value.push(letter),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// The letter of `\uHHHH`, or of a pair of surrogates; a lone surrogate becomes U+FFFD, as in Go.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hex()?;
        if let Some(letter) = char::from_u32(high) {
            return Some(letter);
        }
        let behind = self.at;
        if high < 0xdc00 && self.eat(b'\\') && self.eat(b'u') {
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                return char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
        }
        self.at = behind;
        Some('\u{fffd}')
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.body.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_forms() {
        for (body, expected) in [
            (r#"[]"#, Some(&[][..])),
            (r#"[ "a" ,"b c" ] "#, Some(&["a", "b c"])),
            (r#"["\u0041\n\"\\\/"]"#, Some(&["A\n\"\\/"])),
            (r#"["\ud83d\ude00\ud800x"]"#, Some(&["😀\u{fffd}x"])),
            (r#"['a']"#, None),
            (r#"["a",]"#, None),
            (r#"["a"] b"#, None),
            (r#"["a" "b"]"#, None),
            (r#"["a"#, None),
            (r#"["\x"]"#, None),
            ("[\"a\tb\"]", None),
        ] {
            let text = Text::at(body, 0);
            let found = match read_json(&text, 0..body.len()) {
                Json::Strings(words) => Some(words.into_iter().map(|w| w.text).collect::<Vec<_>>()),
                Json::NotStrings => panic!("{body} is taken for an array of other things"),
                Json::Other => None,
            };
            assert_eq!(found, expected.map(|e| e.iter().map(|s| s.to_string()).collect()), "{body}");
        }
    }

    #[test]
    fn arrays_of_other_things_are_told_apart() {
        for body in ["[1]", r#"["a", null]"#, r#"[["a"]]"#, r#"["a", {"b": [1]}]"#] {
            let text = Text::at(body, 0);
            assert!(matches!(read_json(&text, 0..body.len()), Json::NotStrings), "{body}");
        }
    }
}
