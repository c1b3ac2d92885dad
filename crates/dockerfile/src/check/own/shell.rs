//! As much of the shell's grammar as the rules need: which simple commands a script has, and what stands between them.

/// What stands behind a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// `|`
    Pipe,
    /// `&&` or `||`
    AndOr,
    /// `;`, a line's end, `&`, a bracket, the end of the text.
    End,
}

/// A simple command: its words without quotes, redirections included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Simple {
    pub(super) words: Vec<String>,
    pub(super) then: Then,
}

impl Simple {
    /// The program: the first word that is no assignment, keyword or wrapper.
    pub(super) fn program(&self) -> Option<(&str, &[String])> {
        const TRANSPARENT: [&str; 15] = [
            "if", "then", "else", "elif", "while", "until", "do", "!", "{", "time", "sudo", "exec",
            "command", "env", "nice",
        ];
        let skip = |word: &&String| {
            TRANSPARENT.contains(&word.as_str())
                || word.split_once('=').is_some_and(|(name, _)| is_name(name))
        };
        let at = self.words.iter().take_while(skip).count();
        let (program, arguments) = self.words.get(at..)?.split_first()?;
        Some((program.rsplit('/').next().unwrap_or(program), arguments))
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The simple commands of a script, in order. Substitutions stay part of their word.
pub(super) fn commands(script: &str) -> Vec<Simple> {
    let mut reader = Reader { found: Vec::new(), words: Vec::new(), word: String::new(), in_word: false };
    let mut chars = script.chars().peekable();
    let mut before = '\n';
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(other) => reader.push(other),
            },
            '\'' => {
                reader.in_word = true;
                reader.word.extend(chars.by_ref().take_while(|char| *char != '\''));
            }
            '"' => {
                reader.in_word = true;
                while let Some(char) = chars.next().filter(|char| *char != '"') {
                    match char {
                        '\\' => reader.word.extend(chars.next()),
                        other => reader.word.push(other),
                    }
                }
            }
            '`' => {
                reader.push('`');
                reader.word.extend(chars.by_ref().take_while(|char| *char != '`'));
                reader.word.push('`');
            }
            '$' if matches!(chars.peek(), Some('(' | '{')) => {
                reader.push('$');
                let (mut depth, mut quoted) = (0_usize, false);
                for char in chars.by_ref() {
                    reader.word.push(char);
                    match char {
                        '\'' => quoted = !quoted,
                        '(' | '{' if !quoted => depth += 1,
                        ')' | '}' if !quoted => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if !reader.in_word => {
                for char in chars.by_ref() {
                    if char == '\n' {
                        break;
                    }
                }
                reader.end(Then::End);
            }
            '|' if before == '>' => reader.push('|'),
            '|' => match chars.peek() {
                Some('|') => {
                    chars.next();
                    reader.end(Then::AndOr);
                }
                next => {
                    if next == Some(&'&') {
                        chars.next();
                    }
                    reader.end(Then::Pipe);
                }
            },
            '&' if before == '>' || before == '<' || chars.peek() == Some(&'>') => reader.push('&'),
            '&' if chars.peek() == Some(&'&') => {
                chars.next();
                reader.end(Then::AndOr);
            }
            '&' | ';' | '\n' | '(' | ')' => reader.end(Then::End),
            char if char.is_whitespace() => reader.end_word(),
            other => reader.push(other),
        }
        before = char;
    }
    reader.end(Then::End);
    reader.found
}

struct Reader {
    found: Vec<Simple>,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Reader {
    fn push(&mut self, char: char) {
        self.in_word = true;
        self.word.push(char);
    }

    fn end_word(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn end(&mut self, then: Then) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        let closes = words.len() == 1 && ["}", "fi", "done", "esac"].contains(&words[0].as_str());
        if !words.is_empty() && !closes {
            self.found.push(Simple { words, then });
        } else if let (true, Some(last)) = (then != Then::End, self.found.last_mut()) {
            // `) | tee log`: what a bracket ends is piped as a whole; a line that begins with `&&` goes on.
            last.then = then;
        }
    }
}

/// Whether `set` (or the shell's own arguments) turn this option on: as a letter or by name.
pub(super) fn turns_on<'a>(
    words: impl IntoIterator<Item = &'a str>,
    letter: Option<char>,
    name: &str,
) -> bool {
    words.into_iter().any(|word| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        word == name || letters.zip(letter).is_some_and(|(letters, letter)| letters.contains(letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_fall_into_commands() {
        let read = |script: &str| -> Vec<String> {
            let shown = |then| match then {
                Then::Pipe => "|",
                Then::AndOr => "&",
                Then::End => ".",
            };
            commands(script)
                .iter()
                .map(|simple| format!("{}{}", simple.words.join(" "), shown(simple.then)))
                .collect()
        };
        for (script, expected) in [
            ("a b && c || d", &["a b&", "c&", "d."][..]),
            ("a | b |& c", &["a|", "b|", "c."]),
            ("a 2>&1 >| f &> g; b &", &["a 2>&1 >| f &> g.", "b."]),
            ("echo 'x | y' \"a; \\\"b\" z\\ z", &["echo x | y a; \"b z z."]),
            ("a $(b | c) ${d:-|} `e|f`", &["a $(b | c) ${d:-|} `e|f`."]),
            ("a # b | c\nd", &["a.", "d."]),
            ("(a; b) | c", &["a.", "b|", "c."]),
            ("a \\\n  b", &["a b."]),
            ("if a; then b; fi", &["if a.", "then b."]),
            ("a &&\n b", &["a&", "b."]),
            ("'", &["."]),
            ("$(", &["$(."]),
            ("", &[]),
        ] {
            assert_eq!(read(script), expected, "{script}");
        }
    }

    #[test]
    fn programs_are_found_behind_what_wraps_them() {
        for (script, program) in [
            ("A=1 B=2 /usr/bin/apt-get update", "apt-get"),
            ("if ! sudo apk add x", "apk"),
            ("env X=1 npm ci", "npm"),
        ] {
            assert_eq!(commands(script)[0].program().unwrap().0, program, "{script}");
        }
        assert_eq!(commands("A=1")[0].program(), None);
    }

    #[test]
    fn options_of_the_shell() {
        for (words, expected) in [
            (&["-eux"][..], true),
            (&["-o", "errexit"], true),
            (&["-x"], false),
            (&["--e"], false),
            (&["+e"], false),
        ] {
            assert_eq!(turns_on(words.iter().copied(), Some('e'), "errexit"), expected, "{words:?}");
        }
    }
}
