//! A logical line: text put together from pieces of the source, which still knows where each byte came from.

use std::ops::Range;

use crate::Span;

/// Text made of pieces of the source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Where in `value` a piece begins, and where in the source; ascending in both.
    pieces: Vec<(usize, usize)>,
}

impl Text {
    /// Text that stands in the source at `at` in one piece.
    pub(crate) fn at(value: &str, at: usize) -> Text {
        Text { value: value.to_owned(), pieces: vec![(0, at)] }
    }

    /// Adds a piece that stands in the source at `at`.
    pub(crate) fn push(&mut self, piece: &str, at: usize) {
        if !piece.is_empty() || self.pieces.is_empty() {
            self.pieces.push((self.value.len(), at));
            self.value.push_str(piece);
        }
    }

    /// The source offset of byte `at` of the text.
    fn offset(&self, at: usize) -> usize {
        let after = self.pieces.partition_point(|(start, _)| *start <= at);
        match self.pieces.get(after.saturating_sub(1)) {
            Some((start, source)) => source + at.saturating_sub(*start),
            None => 0,
        }
    }

    /// Where a part of the text stands.
    pub(crate) fn span(&self, part: Range<usize>) -> Span {
        let start = self.offset(part.start);
        match part.end.checked_sub(1) {
            Some(last) if part.end > part.start => Span::new(start, self.offset(last) + 1),
            _ => Span::new(start, start),
        }
    }

    /// The part `range`, which must lie on character borders; empty otherwise.
    pub(crate) fn slice(&self, range: Range<usize>) -> &str {
        self.value.get(range).unwrap_or_default()
    }

    /// `range` without white space at both ends.
    pub(crate) fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = self.slice(range.clone());
        let start = range.start + (text.len() - text.trim_start().len());
        let end = start + text.trim().len();
        start..end
    }

    /// The parts of `range` between white space.
    pub(crate) fn fields(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let text = self.slice(range.clone());
        let base = text.as_ptr() as usize;
        text.split_whitespace()
            .map(|word| {
                let start = range.start + (word.as_ptr() as usize - base);
                start..start + word.len()
            })
            .collect()
    }
}

/// `text` without leading white space, and how much was cut off.
pub(crate) fn trim_start(text: &str) -> (&str, usize) {
    let rest = text.trim_start();
    (rest, text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lead_back_to_the_pieces() {
        let mut text = Text::at("RUN a ", 10);
        text.push("  b", 30);
        assert_eq!(text.value, "RUN a   b");
        assert_eq!(text.span(0..3), Span::new(10, 13));
        assert_eq!(text.span(8..9), Span::new(32, 33));
        assert_eq!(text.span(4..9), Span::new(14, 33));
        assert_eq!(text.span(9..9), Span::new(33, 33));
        assert_eq!(text.fields(3..9), [4..5, 8..9]);
        assert_eq!(text.trim(3..6), 4..5);
    }
}
