//! HEALTHCHECK: a command run inside at intervals, and what its exit codes mean.

use std::sync::mpsc;
use std::time::Duration;

use rbuild_executor::{Cancel, ExitReport, Stream};
use rbuild_image::Healthcheck;
use serde::{Deserialize, Serialize};

/// What of a check's output is kept.
const MOST_OUTPUT: usize = 4096;

/// How to find out whether a container is well. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Between two checks.
    pub interval: u64,
    /// After which a check has failed.
    pub timeout: u64,
    /// In which failures do not count, until the first success.
    pub start_period: u64,
    /// Between two checks in that time.
    pub start_interval: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl HealthCheck {
    /// What an image says, with Docker's defaults; `None` where it has no check. `shell` is for the shell form.
    pub fn of_image(check: &Healthcheck, shell: &[String]) -> Option<HealthCheck> {
        let (kind, words) = check.test.split_first()?;
        let argv = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => shell.iter().chain(words).cloned().collect(),
            // `NONE`, and what nobody knows.
            _ => return None,
        };
        let time = |nanoseconds: i64, default: u64| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => default,
            Ok(nanoseconds) => (nanoseconds / 1_000_000).max(1),
        };
        Some(HealthCheck {
            argv,
            interval: time(check.interval, 30_000),
            timeout: time(check.timeout, 30_000),
            start_period: time(check.start_period, 0),
            start_interval: time(check.start_interval, 5_000),
            retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(3),
        })
    }
}

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`, as Docker says.
    pub status: String,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last check's exit code; -1 where the time was up.
    pub exit_code: i32,
    /// The last check's output, its beginning.
    pub output: String,
}

impl Health {
    /// Before the first check.
    pub(crate) fn starting() -> Health {
        Health { status: "starting".to_owned(), failing_streak: 0, exit_code: 0, output: String::new() }
    }

    /// The same after one more check; `lenient`: failures do not count yet.
    pub(crate) fn after(&self, exit_code: i32, output: String, retries: u32, lenient: bool) -> Health {
        let starting = self.status == "starting";
        let failing_streak = match exit_code {
            0 => 0,
            _ if lenient && starting => self.failing_streak,
            _ => self.failing_streak + 1,
        };
        let status = match exit_code {
            0 => "healthy",
            _ if failing_streak >= retries => "unhealthy",
            _ => &self.status,
        };
        Health { status: status.to_owned(), failing_streak, exit_code, output }
    }
}

/// Runs one check; its exit code, and the beginning of its output.
pub(crate) fn check(
    timeout: Duration,
    run: impl FnOnce(&mut dyn FnMut(Stream, &[u8]), &Cancel) -> rbuild_engine::Result<ExitReport>,
) -> (i32, String) {
    let mut output = Vec::new();
    let mut keep = |_: Stream, bytes: &[u8]| {
        let room = MOST_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    };
    let report = Cancel::new().map_err(|error| error.to_string()).and_then(|cancel| {
        let (done, is_done) = mpsc::channel::<()>();
        let too_late = cancel.clone();
        let clock = std::thread::spawn(move || {
            if is_done.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
                too_late.cancel();
            }
        });
        let report = run(&mut keep, &cancel).map_err(|error| error.to_string());
        drop(done);
        // It ends at once now.
        let _ = clock.join();
        report
    });
    match report {
        Ok(ExitReport::Cancelled) => (-1, format!("the check took longer than {} s", timeout.as_secs_f32())),
        Ok(report) => (report.code(), String::from_utf8_lossy(&output).into_owned()),
        Err(error) => (-1, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules() {
        let health = Health::starting().after(1, String::new(), 2, true);
        assert_eq!((health.status.as_str(), health.failing_streak), ("starting", 0));
        let health = health.after(1, String::new(), 2, false);
        assert_eq!((health.status.as_str(), health.failing_streak), ("starting", 1));
        let health = health.after(7, "no".into(), 2, false);
        assert_eq!((health.status.as_str(), health.exit_code), ("unhealthy", 7));
        let health = health.after(0, String::new(), 2, false);
        assert_eq!((health.status.as_str(), health.failing_streak), ("healthy", 0));
        // Past the first success the start period is over.
        assert_eq!(health.after(1, String::new(), 1, true).status, "unhealthy");
    }

    #[test]
    fn checks_of_images() {
        let check = |test: &[&str]| Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 1_500_000_000,
            ..Healthcheck::default()
        };
        let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
        let read = HealthCheck::of_image(&check(&["CMD-SHELL", "exit 1"]), &shell).unwrap();
        assert_eq!(read.argv, ["/bin/sh", "-c", "exit 1"]);
        assert_eq!((read.interval, read.timeout, read.retries), (30_000, 1_500, 3));
        assert_eq!(HealthCheck::of_image(&check(&["CMD", "a"]), &shell).unwrap().argv, ["a"]);
        assert_eq!(HealthCheck::of_image(&check(&["NONE"]), &shell), None);
        assert_eq!(HealthCheck::of_image(&check(&[]), &shell), None);
    }
}
