use serde::{Deserialize, Serialize};

/// What the processes of a sandbox may use together; what is `None` has no limit. In Docker's words and units; a
/// [`crate::Cgroup`] has them in the kernel's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; `u64::MAX` is as much swap as there is. Counts only with `memory`.
    pub memory_and_swap: Option<u64>,
    /// Weight against others where processors are short: 2 to 262144, 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<u64>,
    /// Length of that period in microseconds; 100000 when `None`.
    pub cpu_period: Option<u64>,
    /// Processors to run on: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from: `0,1`.
    pub cpuset_mems: Option<String>,
    /// How many processes and threads.
    pub pids: Option<u64>,
}

/// One line for one file of a control group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The controller that makes the file.
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
}

impl Limits {
    /// True where nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As the files of a control group (version 2) want it.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut add = |controller, file, value: Option<String>| {
            settings.extend(value.map(|value| Setting { controller, file, value }));
        };
        add("memory", "memory.max", self.memory.map(|bytes| bytes.to_string()));
        add("memory", "memory.swap.max", self.swap());
        add("cpu", "cpu.max", self.bandwidth());
        add("cpu", "cpu.weight", self.cpu_shares.map(|shares| weight(shares).to_string()));
        add("cpuset", "cpuset.cpus", self.cpuset_cpus.clone());
        add("cpuset", "cpuset.mems", self.cpuset_mems.clone());
        add("pids", "pids.max", self.pids.map(|most| most.to_string()));
        settings
    }

    /// The kernel counts swap by itself, Docker's option memory and swap together.
    fn swap(&self) -> Option<String> {
        match (self.memory_and_swap?, self.memory?) {
            (u64::MAX, _) => Some("max".into()),
            (both, memory) => Some(both.saturating_sub(memory).to_string()),
        }
    }

    fn bandwidth(&self) -> Option<String> {
        if self.cpu_quota.is_none() && self.cpu_period.is_none() {
            return None;
        }
        let quota = self.cpu_quota.map_or_else(|| "max".into(), |quota| quota.to_string());
        Some(format!("{quota} {}", self.cpu_period.unwrap_or(100_000)))
    }
}

/// Shares of version 1 as a weight of version 2, as runc and crun reckon since 2025: 2, 1024 and 262144 become the least, the
/// usual and the greatest weight.
fn weight(shares: u64) -> u64 {
    let power = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (power * power + 125.0 * power) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_meet_the_least_the_usual_and_the_greatest() {
        for (shares, expected) in
            [(0, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn limits_become_lines_of_files() {
        let limits = Limits {
            memory: Some(64 << 20),
            memory_and_swap: Some(96 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(150_000),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(50),
            ..Limits::default()
        };
        let lines: Vec<_> =
            limits.settings().into_iter().map(|s| format!("{} {}", s.file, s.value)).collect();
        assert_eq!(
            lines,
            [
                "memory.max 67108864",
                "memory.swap.max 33554432",
                "cpu.max 150000 100000",
                "cpu.weight 100",
                "cpuset.cpus 0-1",
                "cpuset.mems 0",
                "pids.max 50",
            ]
        );
        assert!(Limits::default().settings().is_empty() && Limits::default().is_empty());
    }

    #[test]
    fn swap_and_period_alone() {
        let value = |limits: Limits| limits.settings().pop().unwrap().value;
        let memory = Some(1);
        assert_eq!(value(Limits { memory, memory_and_swap: Some(u64::MAX), ..Limits::default() }), "max");
        assert_eq!(value(Limits { memory, memory_and_swap: memory, ..Limits::default() }), "0");
        assert_eq!(value(Limits { cpu_period: Some(5000), ..Limits::default() }), "max 5000");
        assert!(Limits { memory_and_swap: memory, ..Limits::default() }.settings().is_empty());
    }
}
