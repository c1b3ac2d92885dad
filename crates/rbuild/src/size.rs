//! Sizes and ages as Docker's options write them.

/// Bytes of `64m`, `10GB`, `1.5gib`, `4096`; the units are powers of 1024, as in Docker's options.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size; write it as `64m` or `1.5GB`");
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| bad())?;
    let power = match lower[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(bad()),
    };
    Ok((number * 1024f64.powi(power)) as u64)
}

/// Seconds of `24h`, `90m`, `30s`, `7d`, `1h30m`.
pub(crate) fn parse_age(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no age; write it as `24h` or `90m`");
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return Err(bad()),
        };
        seconds = number.checked_mul(unit).and_then(|more| more.checked_add(seconds)).ok_or_else(bad)?;
        rest = &rest[digits + 1..];
    }
    if text.trim().is_empty() { Err(bad()) } else { Ok(seconds) }
}

/// Bytes for people, in powers of 1000 as `docker images` prints them: `187MB`, `1.24GB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if value >= 99.95 => format!("{value:.0}{}", UNITS[unit]),
        _ if value >= 9.995 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.2}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("64m", 64 << 20), ("1.5kb", 1536), ("2 GiB", 2 << 30), ("7b", 7)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert!(["", "m", "1x", "-1", "1.2.3"].iter().all(|text| parse_size(text).is_err()));
    }

    #[test]
    fn ages() {
        for (text, seconds) in [("30s", 30), ("1h30m", 5400), ("7d", 604_800)] {
            assert_eq!(parse_age(text), Ok(seconds), "{text}");
        }
        assert!(
            ["", "5", "h", "1w", "é", "5é", "99999999999999999999h"]
                .iter()
                .all(|text| parse_age(text).is_err())
        );
    }

    #[test]
    fn for_people() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (187_400_000, "187MB"), (1_240_000_000, "1.24GB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
