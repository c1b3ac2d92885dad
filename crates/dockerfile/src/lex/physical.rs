//! Physical lines.

/// The longest line the reference reads, in bytes, without its newline.
pub(crate) const LONGEST_LINE: usize = 65535;

/// A line of the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// Offset of its first byte.
    pub(crate) start: usize,
    /// The line without its line end (`\n`, `\r\n`, any run of them).
    pub(crate) text: &'a str,
    /// The line with its line end, as a heredoc keeps it.
    pub(crate) raw: &'a str,
}

impl Line<'_> {
    pub(crate) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub(crate) fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.text.trim_start().is_empty()
    }
}

/// The lines of a text; a byte order mark before the first one is skipped.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(source: &'a str) -> Lines<'a> {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lines { source, at }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = self.source.get(self.at..).filter(|rest| !rest.is_empty())?;
        let raw = rest.split_inclusive('\n').next()?;
        let line = Line { start: self.at, text: raw.trim_end_matches(['\r', '\n']), raw };
        self.at += raw.len();
        Some(line)
    }
}
