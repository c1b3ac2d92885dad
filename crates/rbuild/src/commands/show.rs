//! Tables and words as Docker's users know them.

use unicode_width::UnicodeWidthStr;

/// Columns stand this far apart.
const GAP: usize = 3;

/// Rows under headings, each column as wide as its widest entry.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let entries = rows.iter().filter_map(|row| row.get(column)).map(|text| text.width());
        entries.chain([headings[column].width()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.width() + GAP));
        }
        format!("{}\n", line.trim_end())
    };
    let headings: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    std::iter::once(headings.as_slice()).chain(rows.iter().map(Vec::as_slice)).map(line).collect()
}

/// The first digits of an image ID or digest, as many as Docker shows.
pub(crate) fn short(hex: &str) -> &str {
    let hex = hex.split_once(':').map_or(hex, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// `3 weeks ago`, as `docker images` says it; what lies ahead was a moment ago.
pub(crate) fn ago(seconds: i64, now: i64) -> String {
    format!("{} ago", duration(now.saturating_sub(seconds)))
}

/// Docker's words for a time span (`units.HumanDuration`).
fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..46, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Seconds since 1970 of an RFC 3339 time.
pub(crate) fn seconds_of(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// `2024-05-01 12:00:00 +0000 UTC`, as Docker's JSON says `CreatedAt`.
pub(crate) fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string();
    format!("{} +0000 UTC", time.replace('T', " ").trim_end_matches('Z'))
}

/// Seconds since 1970, now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed() {
        let rows = vec![
            vec!["a".to_owned(), "größer".to_owned(), "x".to_owned()],
            vec!["longer".to_owned(), String::new(), String::new()],
        ];
        assert_eq!(table(&["ONE", "TWO", "T"], &rows), "ONE      TWO      T\na        größer   x\nlonger\n");
        assert_eq!(table(&["A", "B"], &[]), "A   B\n");
    }

    #[test]
    fn spans_in_dockers_words() {
        for (seconds, words) in [
            (-5, "Less than a second ago"),
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (119, "About a minute ago"),
            (120, "2 minutes ago"),
            (45 * 60, "45 minutes ago"),
            (46 * 60, "About an hour ago"),
            (7200, "2 hours ago"),
            (47 * 3600, "47 hours ago"),
            (48 * 3600, "2 days ago"),
            (13 * 86_400, "13 days ago"),
            (14 * 86_400, "2 weeks ago"),
            (60 * 86_400, "2 months ago"),
            (730 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(1_000_000_000 - seconds, 1_000_000_000), words, "{seconds}");
        }
    }

    #[test]
    fn dates_and_digits() {
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13:20 +0000 UTC");
        assert_eq!(seconds_of("2023-11-14T22:13:20.5Z"), Some(1_700_000_000));
        assert_eq!(seconds_of("yesterday"), None);
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("abc"), "abc");
    }
}
