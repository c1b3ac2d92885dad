//! HEALTHCHECK.

use serde::Serialize;

use super::CommandLine;

/// `HEALTHCHECK`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Healthcheck {
    /// The command; `None` for `HEALTHCHECK NONE`.
    pub command: Option<CommandLine>,
    /// `--interval` in nanoseconds; 0: not given. So are the next three.
    pub interval: i64,
    /// `--timeout`
    pub timeout: i64,
    /// `--start-period`
    pub start_period: i64,
    /// `--start-interval`
    pub start_interval: i64,
    /// `--retries`; 0: not given.
    pub retries: i32,
}

impl Healthcheck {
    /// The `Test` of the image config: `NONE`, `CMD` and the arguments, or `CMD-SHELL` and the text.
    pub fn test(&self) -> Vec<String> {
        match &self.command {
            None => vec!["NONE".to_owned()],
            Some(command @ CommandLine::Exec(_)) => {
                std::iter::once("CMD".to_owned()).chain(command.arguments(&[])).collect()
            }
            Some(CommandLine::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.text.clone()],
        }
    }
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of a Go duration such as `1m30s`, `1.5h`, `-3ms`; `None` when it is none.
pub(crate) fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, left) = behind.split_at(unit_end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(amount(number, *nanos)?)?;
        rest = left;
    }
    Some(if negative { -total } else { total })
}

/// `number` (digits with at most one point) times `unit`, fractions of a nanosecond dropped.
fn amount(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
    // Eighteen digits keep the product below inside an i128; more could not change a nanosecond.
    let digits = fraction.get(..fraction.len().min(18))?;
    let part = if digits.is_empty() { 0 } else { digits.parse::<i128>().ok()? };
    let scale = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let part = i64::try_from(part * i128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Writes nanoseconds as Go writes a duration: `1h0m0s`, `1.5s`, `200ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let small = [(1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms")];
    if nanos == 0 {
        return "0s".to_owned();
    }
    if let Some((_, unit, name)) = small.iter().find(|(limit, _, _)| nanos < *limit) {
        return format!("{sign}{}{name}", decimal(nanos, *unit));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with as many decimals as needed; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    match value % unit {
        0 => (value / unit).to_string(),
        rest => format!("{}.{}", value / unit, format!("{rest:0width$}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_and_writes_them() {
        for (text, nanos, written) in [
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("1500ms", 1_500_000_000, "1.5s"),
            ("200ms", 200_000_000, "200ms"),
            ("1.5us", 1_500, "1.5µs"),
            ("0", 0, "0s"),
            ("-3ms", -3_000_000, "-3ms"),
            (".5s", 500_000_000, "500ms"),
        ] {
            assert_eq!(go_duration(text), Some(nanos), "{text}");
            assert_eq!(format_duration(nanos), written, "{text}");
        }
        for text in ["", "30", "s", "1x", "1..2s", "99999999999h", "1s ", "."] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
