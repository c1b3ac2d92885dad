//! Trying again: when, and after how long.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::Duration;

use crate::{RegistryError, Result, RetryPolicy};

impl RetryPolicy {
    /// Runs `request` until it succeeds, fails for good, or was tried often enough.
    pub(crate) fn run<T>(&self, mut request: impl FnMut() -> Result<T>) -> Result<T> {
        let mut attempts = 1;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(error) => match self.wait_before_next(attempts, &error) {
                    Some(wait) => thread::sleep(wait),
                    None => return Err(error.with_attempts(attempts)),
                },
            }
            attempts += 1;
        }
    }

    /// How long to wait after the `attempt`th try (from 1) failed with `error`; none if there should be no other.
    pub(crate) fn wait_before_next(&self, attempt: u32, error: &RegistryError) -> Option<Duration> {
        if !error.is_transient() || attempt >= self.attempts {
            return None;
        }
        match error.retry_after() {
            Some(asked) => (asked <= self.longest_retry_after).then_some(asked),
            None => Some(self.back_off(attempt)),
        }
    }

    /// Doubling, capped; the upper half by chance, so that many clients do not come back at once.
    fn back_off(&self, attempt: u32) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << (attempt - 1).min(16));
        let full = doubled.min(self.longest_wait);
        full / 2 + full.mul_f64(chance() / 2.0)
    }
}

/// A number from 0 to 1. `RandomState` is seeded anew by the standard library each time; good enough for jitter.
fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Reads a `Retry-After` header (RFC 9110, 10.2.3): seconds, or a date compared with `now` (seconds since 1970).
pub(crate) fn retry_after(value: &str, now: i64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(Duration::from_secs(u64::try_from(date.as_second() - now).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> RegistryError {
        failure(status, None, retry_after.map(Duration::from_secs))
    }

    fn failure(status: u16, code: Option<&str>, retry_after: Option<Duration>) -> RegistryError {
        let (method, url, message) = ("GET".to_owned(), "http://r/".to_owned(), String::new());
        let code = code.map(str::to_owned);
        RegistryError::Status { method, url, status, message, code, retry_after, attempts: 1 }
    }

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let policy = RetryPolicy { attempts: 20, ..RetryPolicy::default() };
        for (attempt, low, high) in [(1, 250, 500), (2, 500, 1000), (3, 1000, 2000), (12, 10_000, 20_000)] {
            for _ in 0..50 {
                let wait = policy.wait_before_next(attempt, &status(503, None)).unwrap().as_millis();
                assert!((low..=high).contains(&wait), "{attempt}: {wait}");
            }
        }
    }

    #[test]
    fn only_what_can_succeed_is_tried_again() {
        let policy = RetryPolicy::default();
        for code in [408, 429, 500, 502, 503, 504] {
            assert!(policy.wait_before_next(1, &status(code, None)).is_some(), "{code}");
        }
        for code in [400, 401, 403, 404, 405, 416, 501] {
            assert!(policy.wait_before_next(1, &status(code, None)).is_none(), "{code}");
        }
        assert!(policy.wait_before_next(1, &failure(400, Some("DIGEST_INVALID"), None)).is_some());
        assert!(policy.wait_before_next(1, &failure(400, Some("MANIFEST_INVALID"), None)).is_none());
        assert_eq!(policy.wait_before_next(1, &status(429, Some(7))), Some(Duration::from_secs(7)));
        assert_eq!(policy.wait_before_next(1, &status(429, Some(3600))), None);
        assert_eq!(policy.wait_before_next(policy.attempts, &status(503, None)), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(date, 1_445_412_470), Some(Duration::from_secs(10)));
        assert_eq!(retry_after(date, 1_545_412_470), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
    }
}
