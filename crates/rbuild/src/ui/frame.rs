//! Rows drawn in place on a terminal.

use super::Size;
use super::text;

/// One row: text at the left, cut where it does not fit, and text at the right edge.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) left: String,
    pub(super) right: String,
    pub(super) paint: Paint,
    pub(super) rank: Rank,
}

/// What a row is about; on a screen that is too small, the first ones here are left out first, the oldest of each
/// before the newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    EndedDetail,
    Ended,
    Log,
    Detail,
    Running,
    Header,
}

const RANKS: [Rank; 6] =
    [Rank::EndedDetail, Rank::Ended, Rank::Log, Rank::Detail, Rank::Running, Rank::Header];

/// The colour of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    None,
    Finished,
    Cancelled,
    Failed,
    Dim,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Paint::None => None,
            Paint::Finished => Some("34"),
            Paint::Cancelled => Some("33"),
            Paint::Failed => Some("31"),
            Paint::Dim => Some("2"),
        }
    }
}

impl Row {
    /// The row as it is written, at most `columns` wide.
    fn line(&self, columns: usize, colour: bool) -> String {
        let line = if self.right.is_empty() {
            text::cut(&self.left, columns).to_owned()
        } else {
            let room = columns.saturating_sub(text::width(&self.right) + 1);
            let left = text::cut(&self.left, room);
            let gap = " ".repeat(room - text::width(left) + 1);
            text::cut(&format!("{left}{gap}{}", self.right), columns).to_owned()
        };
        match self.paint.code() {
            Some(code) if colour => format!("\x1b[{code}m{line}\x1b[0m"),
            _ => line,
        }
    }
}

/// What is on the terminal now.
#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
    lines: Vec<String>,
    columns: usize,
}

impl Screen {
    pub(super) fn new(colour: bool) -> Screen {
        Screen { colour, lines: Vec::new(), columns: 0 }
    }

    /// Draws the rows over the ones drawn before; those that the screen has no room for are left out.
    pub(super) fn draw(&mut self, rows: Vec<Row>, size: Size, out: &mut String) {
        // One row stays free for the cursor: a frame that scrolls cannot be drawn over.
        self.replace(fit(rows, size.rows.saturating_sub(1).max(1)), size, out);
    }

    /// Draws all rows; they stay, whatever scrolls.
    pub(super) fn draw_last(&mut self, rows: Vec<Row>, size: Size, out: &mut String) {
        self.replace(rows, size, out);
        self.lines.clear();
    }

    fn replace(&mut self, rows: Vec<Row>, size: Size, out: &mut String) {
        let lines: Vec<String> = rows.iter().map(|row| row.line(size.columns, self.colour)).collect();
        let resized = self.columns != size.columns;
        if lines == self.lines && !resized {
            return;
        }
        out.push_str("\x1b[?25l\r");
        let up = self.height(size);
        if up > 0 {
            out.push_str(&format!("\x1b[{up}A"));
        }
        if resized {
            out.push_str("\x1b[J");
        }
        for line in &lines {
            // Erased before it is written: after the last column has been written, "erase to the end" takes that too.
            out.push_str("\x1b[2K");
            out.push_str(line);
            out.push('\n');
        }
        out.push_str("\x1b[J\x1b[?25h");
        self.lines = lines;
        self.columns = size.columns;
    }

    /// Terminal rows that the lines on the screen take now; a terminal made narrower has wrapped them.
    fn height(&self, size: Size) -> usize {
        let columns = size.columns.max(1);
        let wrapped = |line: &String| {
            let visible = text::clean(line, text::Keep::Nothing);
            text::width(&visible).div_ceil(columns).max(1)
        };
        let height: usize = self.lines.iter().map(wrapped).sum();
        height.min(size.rows.saturating_sub(1))
    }
}

/// Leaves out the least important rows until at most `most` are left.
fn fit(mut rows: Vec<Row>, most: usize) -> Vec<Row> {
    let mut excess = rows.len().saturating_sub(most);
    for rank in RANKS {
        rows.retain(|row| {
            let leave_out = excess > 0 && row.rank == rank;
            excess -= usize::from(leave_out);
            !leave_out
        });
    }
    rows
}
