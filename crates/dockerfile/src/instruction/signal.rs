//! STOPSIGNAL.

/// Linux' signals by number, from 1; 16 is SIGSTKFLT.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What a signal may be.
pub(crate) const SIGNAL_HELP: &str = "a signal is a name or a number: SIGTERM, QUIT, 15, RTMIN+3";

const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// The number of a signal written as `15`, `TERM`, `SIGTERM`, `rtmin+3`; `None` when there is no such signal.
pub fn parse_signal(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (number != 0).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return u32::try_from(at + 1).ok();
    }
    match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => realtime(name),
    }
}

/// `RTMIN+n` up to 15, `RTMAX-n` up to 14: what the reference's table holds.
fn realtime(name: &str) -> Option<u32> {
    let offset = |digits: &str, most: u32| {
        let plain = !digits.starts_with(['+', '0']);
        digits.parse::<u32>().ok().filter(|n| plain && (1..=most).contains(n))
    };
    if let Some(digits) = name.strip_prefix("RTMIN+") {
        return offset(digits, 15).map(|n| RTMIN + n);
    }
    offset(name.strip_prefix("RTMAX-")?, 14).map(|n| RTMAX - n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, expected) in [
            ("9", Some(9)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("RTMIN+16", None),
            ("0", None),
            ("-1", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), expected, "{text}");
        }
    }
}
