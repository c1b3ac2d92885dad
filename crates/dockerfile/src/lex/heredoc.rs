//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"`, `3<<NAME`.

use serde::Serialize;

use crate::Span;

/// A heredoc.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Heredoc {
    /// The delimiter, without quotes.
    pub name: String,
    /// The body as written, every line with its line end; with `<<-` its leading tabs still there.
    pub content: String,
    /// Whether variables are expanded in it (no part of the delimiter is quoted).
    pub expand: bool,
    /// `<<-`: leading tabs are taken off.
    pub chomp: bool,
    /// The number before `<<`; 0 without one.
    pub file_descriptor: u32,
    /// The word `<<NAME`.
    pub word: Span,
    /// The body, without the line of the delimiter.
    pub body: Span,
}

impl Heredoc {
    /// The body as it counts: with `<<-`, without the tabs at the start of its lines.
    pub fn chomped(&self) -> String {
        match self.chomp {
            true => self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect(),
            false => self.content.clone(),
        }
    }

    /// Whether `line`, without its line end, ends the body.
    pub(crate) fn ends_at(&self, line: &str) -> bool {
        match self.chomp {
            true => line.trim_start_matches('\t') == self.name,
            false => line == self.name,
        }
    }
}

/// Whether the whole of `text` is one heredoc word.
pub(crate) fn is_heredoc_word(text: &str) -> bool {
    parse_word(text).is_some()
}

/// The heredocs that the words of `line` begin, in order, with the part of the line each stands in.
pub(crate) fn heredoc_starts(line: &str) -> Vec<(Heredoc, std::ops::Range<usize>)> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words = shell_words(line).into_iter();
    words.filter_map(|range| Some((parse_word(line.get(range.clone())?)?, range))).collect()
}

/// `\d*<<-?NAME`, where the name is one shell word without `<`.
fn parse_word(word: &str) -> Option<Heredoc> {
    let (number, rest) = word.split_once("<<")?;
    if !number.bytes().all(|b| b.is_ascii_digit()) || rest.contains('<') {
        return None;
    }
    let (chomp, name) = match rest.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, rest),
    };
    let name = name.trim_start();
    let words = shell_words(name);
    if words.len() != 1 || words.first() != Some(&(0..name.len())) {
        return None;
    }
    let plain = unquote(name);
    Some(Heredoc {
        expand: plain == name,
        name: plain,
        content: String::new(),
        chomp,
        file_descriptor: number.parse().unwrap_or(0),
        word: Span::default(),
        body: Span::default(),
    })
}

/// The words of `line` as a shell splits them; none when a quote is left open.
fn shell_words(line: &str) -> Vec<std::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut letters = line.char_indices();
    while let Some((at, letter)) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        match (letter, quote) {
            ('\\', None | Some('"')) => drop(letters.next()),
            // Blanks between `<<` and the name belong to the word.
            ('<', None) if letters.as_str().starts_with('<') => {
                letters.next();
                while letters.as_str().starts_with([' ', '\t']) {
                    letters.next();
                }
            }
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            _ => {}
        }
    }
    if quote.is_some() {
        return Vec::new();
    }
    words.extend(start.map(|start| start..line.len()));
    words
}

/// A word without its quotes and escapes.
fn unquote(word: &str) -> String {
    let mut plain = String::new();
    let mut quote = None;
    let mut letters = word.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('\\', None) => plain.extend(letters.next()),
            ('\\', Some('"')) => {
                plain.push(letters.next_if(|next| ['"', '$', '\\'].contains(next)).unwrap_or('\\'))
            }
            _ => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_a_heredoc() {
        for (word, expected) in [
            ("<<EOF", Some(("EOF", true, false, 0))),
            ("<<-EOF", Some(("EOF", true, true, 0))),
            ("<<'EOF'", Some(("EOF", false, false, 0))),
            ("<<\"EOF\"", Some(("EOF", false, false, 0))),
            ("<<E'O'F", Some(("EOF", false, false, 0))),
            ("<<\\EOF", Some(("EOF", false, false, 0))),
            ("3<<EOF", Some(("EOF", true, false, 3))),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("1<<2<<3", None),
        ] {
            let found = parse_word(word).map(|h| (h.name, h.expand, h.chomp, h.file_descriptor));
            assert_eq!(found, expected.map(|(n, e, c, f)| (n.to_string(), e, c, f)), "{word}");
        }
    }

    #[test]
    fn heredocs_of_a_line() {
        for (line, names) in [
            ("RUN cat <<A <<B", &["A", "B"][..]),
            ("RUN echo '<<A' \"<<B\" \\<<C", &[]),
            ("RUN cat << EOF >x", &["EOF"]),
            ("RUN echo $((1<<2)) $(( 1 << 2 ))", &["2"]),
            ("RUN cat <<- EOF", &[]),
            ("RUN cat <<< EOF", &[]),
            ("RUN echo it's <<A", &[]),
            ("RUN cat <<A>x", &["A>x"]),
        ] {
            let found: Vec<_> = heredoc_starts(line).into_iter().map(|(h, _)| h.name).collect();
            assert_eq!(found, names, "{line}");
        }
    }
}
