//! Noticing a transfer that has not stopped, but as good as that.

use std::io;
use std::time::{Duration, Instant};

use crate::RetryPolicy;

/// Counts the bytes of one transfer, window by window.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Duration,
    least: u64,
    since: Instant,
    moved: u64,
}

impl Pace {
    pub(crate) fn new(policy: &RetryPolicy) -> Pace {
        Pace { window: policy.stall_timeout, least: policy.least_bytes, since: Instant::now(), moved: 0 }
    }

    /// Bytes came or went at `now`; an error once a whole window has passed with too few of them.
    pub(crate) fn moved(&mut self, bytes: u64, now: Instant) -> io::Result<()> {
        self.moved = self.moved.saturating_add(bytes);
        if now.saturating_duration_since(self.since) < self.window {
            return Ok(());
        }
        if self.moved < self.least {
            let text = format!("only {} bytes in {} seconds", self.moved, self.window.as_secs_f32());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        (self.since, self.moved) = (now, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_must_bring_its_bytes() {
        let policy = RetryPolicy {
            stall_timeout: Duration::from_secs(60),
            least_bytes: 1000,
            ..RetryPolicy::default()
        };
        let mut pace = Pace::new(&policy);
        let start = pace.since;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for (seconds, bytes) in [(1, 0), (59, 10), (61, 1000), (100, 0), (121, 1000), (180, 1)] {
            assert!(pace.moved(bytes, at(seconds)).is_ok(), "{seconds}");
        }
        let error = pace.moved(998, at(182)).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::TimedOut, "only 999 bytes in 60 seconds")
        );
    }
}
