//! Cuts what a command writes into lines, for each of its two streams.

use rbuild_engine::Stream;

/// A line longer than this is broken, so that a command that never ends one cannot fill the memory.
const LONGEST: usize = 64 * 1024;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The text; bytes that are not UTF-8 are replaced by U+FFFD.
    pub(super) text: String,
    /// It ended in a carriage return: on a terminal the next line would have been written over it.
    pub(super) replaced: bool,
}

/// The lines that are not complete yet.
#[derive(Debug, Default)]
pub(super) struct LineCutter {
    stdout: Partial,
    stderr: Partial,
}

#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// A carriage return came; only the next byte tells whether it was the first half of CRLF.
    returned: bool,
}

impl LineCutter {
    /// Takes the next bytes of a stream and gives the lines that they complete.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        match stream {
            Stream::Stdout => self.stdout.push(bytes, &mut lines),
            Stream::Stderr => self.stderr.push(bytes, &mut lines),
        }
        lines
    }

    /// The incomplete last lines, once nothing more will come.
    pub(super) fn flush(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        for partial in [&mut self.stdout, &mut self.stderr] {
            if !partial.bytes.is_empty() {
                partial.end_line(false, &mut lines);
            }
            partial.returned = false;
        }
        lines
    }
}

impl Partial {
    fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<Line>) {
        while let Some(&first) = bytes.first() {
            match first {
                b'\n' => self.end_line(false, lines),
                b'\r' => self.returned = true,
                _ => {
                    let end =
                        bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
                    self.extend(&bytes[..end], lines);
                    bytes = &bytes[end..];
                    continue;
                }
            }
            bytes = &bytes[1..];
        }
    }

    fn extend(&mut self, text: &[u8], lines: &mut Vec<Line>) {
        if self.returned {
            self.end_line(true, lines);
        }
        for piece in text.chunks(LONGEST) {
            if self.bytes.len() + piece.len() > LONGEST {
                self.end_line(false, lines);
            }
            self.bytes.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self, replaced: bool, lines: &mut Vec<Line>) {
        self.returned = false;
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        self.bytes.clear();
        // A return at the beginning of a line, or after nothing but "erase line", replaces nothing.
        let invisible = || super::text::clean(&text, super::text::Keep::Nothing).trim().is_empty();
        if !(replaced && invisible()) {
            lines.push(Line { text, replaced });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as text, `<` behind those that the next one replaces.
    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let mut cutter = LineCutter::default();
        let mut lines: Vec<Line> =
            chunks.iter().flat_map(|chunk| cutter.push(Stream::Stdout, chunk)).collect();
        lines.extend(cutter.flush());
        lines.into_iter().map(|line| line.text + if line.replaced { "<" } else { "" }).collect()
    }

    #[test]
    fn lines_end_at_newlines_and_returns() {
        let cases: [(&[&[u8]], &[&str]); 10] = [
            (&[b"a\nb\n"], &["a", "b"]),
            (&[b"a", b"b\n\nc"], &["ab", "", "c"]),
            (&[b"10%\r20%\r", b"30%\r\nend\n"], &["10%<", "20%<", "30%", "end"]),
            (&[b"a\r", b"\nb\r\r\n"], &["a", "b"]),
            (&[b"\r 1\r 2\n"], &[" 1<", " 2"]),
            (&[b"\x1b[2K\rx\n"], &["x"]),
            (&[b"x\r"], &["x"]),
            (&[b"\xff\xfe ok\n\0"], &["\u{fffd}\u{fffd} ok", "\0"]),
            (&["é".as_bytes(), &"é\n".as_bytes()[..1], &"é\n".as_bytes()[1..]], &["éé"]),
            (&[], &[]),
        ];
        for (chunks, expected) in cases {
            assert_eq!(cut(chunks), expected, "{chunks:?}");
        }
    }

    #[test]
    fn streams_are_kept_apart() {
        let mut cutter = LineCutter::default();
        assert!(cutter.push(Stream::Stdout, b"out").is_empty());
        assert_eq!(cutter.push(Stream::Stderr, b"err\n")[0].text, "err");
        assert_eq!(cutter.push(Stream::Stdout, b"put\n")[0].text, "output");
    }

    #[test]
    fn endless_lines_are_broken() {
        let lengths: Vec<usize> = cut(&[&[b'x'; 100_000], &[b'y'; 50_000]]).iter().map(String::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 150_000);
        assert!(lengths.iter().all(|length| *length <= LONGEST), "{lengths:?}");
    }
}
