//! How the tasks speak: headings, sizes, times.

use std::time::Duration;

/// A heading between the parts of a task.
pub(crate) fn heading(text: &str) {
    println!("\n== {text} ==");
}

/// A number of bytes in units of a thousand: `31.2 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A duration in seconds, finer where it is short: `0.042 s`, `12.3 s`.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{seconds:.3} s") } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_000), "1.0 kB");
        assert_eq!(size(31_219_200), "31.2 MB");
        assert_eq!(size(5_000_000_000_000), "5000.0 GB");
        assert_eq!(seconds(Duration::from_millis(42)), "0.042 s");
        assert_eq!(seconds(Duration::from_millis(12_345)), "12.3 s");
    }
}
