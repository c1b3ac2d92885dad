//! How busy the machine was: cores by `/proc/stat`, disks by `/proc/diskstats` (proc(5)). Of the whole machine, not of this
//! build alone; what cannot be read is zero.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it is read at first; each time the samples have become many, half as often.
const INTERVAL: Duration = Duration::from_millis(50);
/// So many samples are enough for a picture.
const MANY: usize = 400;
/// Unit of `/proc/diskstats`, in bytes.
const SECTOR: u64 = 512;

/// The time since the sample before.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sample {
    /// When it was taken.
    pub(super) at: Duration,
    /// Cores in use on average.
    pub(super) cores: f64,
    /// Bytes a second read from and written to disks.
    pub(super) disk: f64,
}

/// Watches in the background until it is dropped.
pub(super) struct Usage {
    samples: Arc<Mutex<Vec<Sample>>>,
    /// Its end ends the thread.
    _stop: Sender<()>,
}

impl Usage {
    pub(super) fn watch() -> Usage {
        let (stop, stopped) = channel();
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let shared = samples.clone();
        std::thread::spawn(move || {
            let (begin, mut interval) = (Instant::now(), INTERVAL);
            let (mut last, mut last_at) = (Counters::read(), Duration::ZERO);
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let (now, at) = (Counters::read(), begin.elapsed());
                let mut samples = shared.lock().unwrap_or_else(PoisonError::into_inner);
                samples.push(now.since(&last, at, at - last_at));
                if samples.len() >= MANY {
                    *samples = samples.chunks_exact(2).map(|pair| joined(pair[0], pair[1])).collect();
                    interval *= 2;
                }
                (last, last_at) = (now, at);
            }
        });
        Usage { samples, _stop: stop }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn joined(one: Sample, two: Sample) -> Sample {
    Sample { at: two.at, cores: f64::midpoint(one.cores, two.cores), disk: f64::midpoint(one.disk, two.disk) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counters {
    /// Ticks of all cores: in use, and altogether.
    busy: u64,
    total: u64,
    cores: u64,
    bytes: u64,
}

impl Counters {
    fn read() -> Counters {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Counters::of(&read("/proc/stat"), &read("/proc/diskstats"))
    }

    fn of(stat: &str, disks: &str) -> Counters {
        let numbers = |line: &str, from: usize| -> Vec<u64> {
            line.split_whitespace().skip(from).map_while(|word| word.parse().ok()).collect()
        };
        let all = numbers(stat.lines().next().unwrap_or_default(), 1);
        // user nice system idle iowait irq softirq steal guest guest_nice; guests are within user and nice.
        let total = all.iter().take(8).sum();
        let idle: u64 = all.iter().skip(3).take(2).sum();
        let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count() as u64;
        Counters {
            busy: total - idle,
            total,
            cores,
            bytes: disks
                .lines()
                .filter(|line| is_disk(line))
                .map(|line| {
                    let fields = numbers(line, 3);
                    let sectors = fields.get(2).unwrap_or(&0) + fields.get(6).unwrap_or(&0);
                    sectors * SECTOR
                })
                .sum(),
        }
    }

    fn since(&self, before: &Counters, at: Duration, took: Duration) -> Sample {
        let (busy, total) = (self.busy.saturating_sub(before.busy), self.total.saturating_sub(before.total));
        let cores = if total == 0 { 0.0 } else { busy as f64 / total as f64 * self.cores as f64 };
        let bytes = self.bytes.saturating_sub(before.bytes);
        Sample { at, cores, disk: bytes as f64 / took.as_secs_f64().max(0.001) }
    }
}

/// A whole disk: partitions, loop devices and mapped ones would count its bytes again.
fn is_disk(line: &str) -> bool {
    let name = line.split_whitespace().nth(2).unwrap_or_default();
    let letters = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase()))
    };
    let whole =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('p'));
    letters("sd") || letters("vd") || letters("xvd") || whole("nvme") || whole("mmcblk")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 1\n";
    const DISKS: &str = " 254 0 vda 10 0 100 5 10 0 200 5 0 0 0\n 254 1 vda1 10 0 100 5 10 0 200 5 0 0 0\n   7 0 loop0 9 0 9 9 9 0 9 9 0 0 0\n";

    #[test]
    fn counters_are_of_the_whole_machine() {
        let counters = Counters::of(STAT, DISKS);
        assert_eq!(counters, Counters { busy: 150, total: 1000, cores: 2, bytes: 300 * 512 });
        assert_eq!(Counters::of("", ""), Counters::default());
    }

    #[test]
    fn samples_are_differences() {
        let before = Counters::of(STAT, DISKS);
        let after = Counters {
            busy: before.busy + 75,
            total: before.total + 100,
            bytes: before.bytes + 1000,
            ..before
        };
        let sample = after.since(&before, Duration::from_secs(2), Duration::from_millis(500));
        assert_eq!(sample, Sample { at: Duration::from_secs(2), cores: 1.5, disk: 2000.0 });
        assert_eq!(before.since(&before, Duration::ZERO, Duration::ZERO).cores, 0.0);
    }

    #[test]
    fn disks_count_once() {
        for (name, counts) in
            [("sda", true), ("sda1", false), ("nvme0n1", true), ("nvme0n1p1", false), ("dm-0", false)]
        {
            assert_eq!(is_disk(&format!("1 2 {name} 3")), counts, "{name}");
        }
    }
}
