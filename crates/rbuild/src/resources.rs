//! `--memory`, `--cpus` and their like: what RUN and containers may use.

use clap::Args;
use rbuild_executor::{CgroupTree, Cgroups, Limits};

use crate::failure::CliError;
use crate::{csv, size};

/// Options of `build` and of `run`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LimitArgs {
    /// Memory, such as 2g
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Memory and swap together; `-1` is as much swap as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// Weight against others where processors are short; 1024 is usual
    #[arg(short, long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<String>,
    /// Microseconds of a period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<String>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_quota: Option<String>,
    /// Processors to run on, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<String>,
    /// Control group below which the limited ones are made, as `/PATH` or `NAME.slice`
    #[arg(long, value_name = "GROUP")]
    pub(crate) cgroup_parent: Option<String>,
}

impl LimitArgs {
    /// The limits, those of `--resource KEY=VALUE[,KEY=VALUE]` among them.
    pub(crate) fn limits(&self, resources: &[String]) -> Result<Limits, CliError> {
        let mut limits = Limits::default();
        let options = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpus", &self.cpus),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("pids-limit", &self.pids_limit),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                set(&mut limits, name, value).map_err(|why| bad(&format!("--{name} {value}"), &why))?;
            }
        }
        for text in resources {
            let refused = |why: String| bad(&format!("--resource {text}"), &why);
            for (name, value) in csv::pairs(text).map_err(refused)? {
                let value = value.ok_or_else(|| refused(format!("`{name}` wants a value")))?;
                set(&mut limits, &name, &value).map_err(refused)?;
            }
        }
        match (limits.memory, limits.memory_and_swap) {
            (None, Some(_)) => Err(CliError::usage("a limit of swap wants one of memory: add `--memory`")),
            (Some(memory), Some(both)) if both < memory => {
                Err(CliError::usage("`--memory-swap` is memory and swap together, so at least `--memory`"))
            }
            _ => Ok(limits),
        }
    }

    /// Where groups with these limits can be made; `None` when nothing is to be limited. The error is a sentence to warn with.
    pub(crate) fn groups(&self, limits: &Limits) -> Option<Result<Cgroups, String>> {
        if limits.is_empty() && self.cgroup_parent.is_none() {
            return None;
        }
        let prepared = CgroupTree::of_this_process()
            .and_then(|tree| Cgroups::prepare(&tree, self.cgroup_parent.as_deref(), limits));
        Some(prepared.map_err(|error| format!("limits have no effect here: {error}; {}", error.remedy())))
    }
}

fn bad(option: &str, why: &str) -> CliError {
    CliError::usage(format!("could not understand `{option}`: {why}"))
}

fn set(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    match name {
        "memory" => limits.memory = Some(positive(size::parse_size(value)?)?),
        "memory-swap" => limits.memory_and_swap = Some(swap(value)?),
        "cpus" => {
            limits.cpu_quota = Some(cpus(value)?);
            limits.cpu_period = None;
        }
        "cpu-shares" => limits.cpu_shares = Some(number(value)?),
        "cpu-period" => limits.cpu_period = Some(number(value)?),
        "cpu-quota" => limits.cpu_quota = Some(number(value)?),
        "cpuset-cpus" => limits.cpuset_cpus = Some(list(value)?),
        "cpuset-mems" => limits.cpuset_mems = Some(list(value)?),
        // Docker's word for no limit.
        "pids-limit" if value == "-1" => limits.pids = None,
        "pids-limit" => limits.pids = Some(number(value)?),
        _ => {
            return Err(format!(
                "unknown key `{name}`; there are memory, memory-swap, cpus, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, \
                 cpuset-mems and pids-limit"
            ));
        }
    }
    Ok(())
}

fn swap(value: &str) -> Result<u64, String> {
    if value == "-1" { Ok(u64::MAX) } else { positive(size::parse_size(value)?) }
}

fn positive(value: u64) -> Result<u64, String> {
    if value > 0 { Ok(value) } else { Err("it has to be more than 0".to_owned()) }
}

fn number(value: &str) -> Result<u64, String> {
    positive(value.parse().map_err(|_| format!("`{value}` is no whole number"))?)
}

/// Microseconds of the usual period.
fn cpus(value: &str) -> Result<u64, String> {
    let number: f64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
    if number >= 0.01 {
        Ok((number * 100_000.0) as u64)
    } else {
        Err("it has to be at least 0.01".to_owned())
    }
}

/// As the kernel takes it: numbers and ranges that go upward.
fn list(value: &str) -> Result<String, String> {
    let part = |part: &str| -> Option<bool> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<u16>().ok()? <= to.parse::<u16>().ok()?)
    };
    match value.split(',').all(|text| part(text) == Some(true)) {
        true => Ok(value.to_owned()),
        false => Err(format!("`{value}` is no list; write it as `0-3,7`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Limits, String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.into()).collect();
        LimitArgs::default().limits(&texts).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn resources_are_read_as_options_are() {
        let args = LimitArgs { memory: Some("64m".into()), cpus: Some("1.5".into()), ..LimitArgs::default() };
        let expected = Limits { memory: Some(64 << 20), cpu_quota: Some(150_000), ..Limits::default() };
        assert_eq!(args.limits(&[]).unwrap(), expected);
        assert_eq!(read(&["memory=64m,cpus=1.5"]).unwrap(), expected);
        let all = read(&[
            "memory=1g,memory-swap=-1",
            "cpu-shares=512,cpu-period=50000,cpu-quota=25000",
            "\"cpuset-cpus=0-1,3\",cpuset-mems=0,pids-limit=9",
        ]);
        let expected = Limits {
            memory: Some(1 << 30),
            memory_and_swap: Some(u64::MAX),
            cpu_shares: Some(512),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpuset_cpus: Some("0-1,3".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(9),
        };
        assert_eq!(all.unwrap(), expected);
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            "memory=0",
            "memory=many",
            "memory",
            "memory-swap=1g",
            "memory=2g,memory-swap=1g",
            "cpus=0",
            "cpus=x",
            "cpu-shares=0",
            "cpu-quota=-1",
            "cpuset-cpus=3-1",
            "cpuset-cpus=a",
            "cpuset-mems=",
            "colour=red",
        ] {
            assert!(read(&[text]).is_err(), "{text}");
        }
    }
}
