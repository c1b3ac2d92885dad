//! The result: medians and ratios.

use std::collections::BTreeMap;
use std::fmt;

use super::measure::Sample;
use crate::report::{seconds, size};

/// All samples, by workload and state of the cache, then by builder.
#[derive(Debug)]
pub(super) struct Table {
    builders: Vec<&'static str>,
    rows: BTreeMap<(String, &'static str), BTreeMap<&'static str, Vec<Sample>>>,
}

impl Table {
    /// An empty table; the first builder is the one that the others are compared with.
    pub(super) fn new(builders: Vec<&'static str>) -> Table {
        Table { builders, rows: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, workload: &str, state: &'static str, builder: &'static str, sample: Sample) {
        self.rows.entry((workload.to_owned(), state)).or_default().entry(builder).or_default().push(sample);
    }
}

impl Table {
    pub(super) fn builders(&self) -> &[&'static str] {
        &self.builders
    }

    /// Each kind of work with its builders' summaries, in order; none where a builder did not do it.
    pub(super) fn medians(&self) -> impl Iterator<Item = (String, Vec<Option<Sample>>)> {
        self.rows.iter().map(|((workload, state), samples)| {
            let of = |builder: &&'static str| samples.get(builder).and_then(|samples| summary(samples));
            (format!("{workload} {state}"), self.builders.iter().map(of).collect())
        })
    }
}

/// The median time, the highest peaks, and the disk traffic of the run in the middle.
fn summary(samples: &[Sample]) -> Option<Sample> {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let middle = sorted.get(sorted.len() / 2)?;
    let wall = if sorted.len() % 2 == 1 {
        middle.wall
    } else {
        (sorted[sorted.len() / 2 - 1].wall + middle.wall) / 2
    };
    let peak = |of: fn(&Sample) -> u64| sorted.iter().map(of).max();
    Some(Sample {
        wall,
        own: peak(|sample| sample.own)?,
        tree: peak(|sample| sample.tree)?,
        disk: middle.disk,
    })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut headings = vec!["work".to_owned()];
        headings.extend(self.builders.iter().map(|builder| (*builder).to_owned()));
        headings
            .extend(self.builders.iter().skip(1).map(|builder| format!("{builder} / {}", self.builders[0])));
        writeln!(f, "| {} |", headings.join(" | "))?;
        writeln!(f, "| --- |{}", " ---: |".repeat(headings.len() - 1))?;
        for (work, medians) in self.medians() {
            let mut cells = vec![work];
            cells.extend(medians.iter().map(|median| {
                median
                    .map_or("–".into(), |sample| format!("{}, {}", seconds(sample.wall), size(sample.own)))
            }));
            cells.extend(medians.iter().skip(1).map(|theirs| match (medians[0], theirs) {
                (Some(ours), Some(theirs)) => {
                    format!("{:.2}", theirs.wall.as_secs_f64() / ours.wall.as_secs_f64())
                }
                _ => "–".into(),
            }));
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        self.fmt_resources(f)
    }
}

impl Table {
    /// What the first table has no room for.
    fn fmt_resources(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nMemory with what RUN starts; bytes read from disk and written to it:\n")?;
        writeln!(f, "| work | {} |", self.builders.join(" | "))?;
        writeln!(f, "| --- |{}", " ---: |".repeat(self.builders.len()))?;
        for (work, medians) in self.medians() {
            let cells = medians.iter().map(|median| {
                let of = |sample: &Sample| {
                    [sample.tree, sample.disk.read, sample.disk.written].map(size).join(", ")
                };
                median.as_ref().map_or("–".into(), of)
            });
            writeln!(f, "| {work} | {} |", cells.collect::<Vec<String>>().join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measure::Disk;
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut table = Table::new(vec!["rbuild", "other"]);
        for (builder, times) in [("rbuild", [1, 9, 2]), ("other", [8, 4, 5])] {
            for time in times {
                let (wall, own) = (Duration::from_secs(time), time * 1_000_000);
                let disk = Disk { read: time, written: 0 };
                table.add("W2", "cold", builder, Sample { wall, own, tree: 2 * own, disk });
            }
        }
        let text = table.to_string();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| W2")).collect();
        assert_eq!(rows[0], "| W2 cold | 2.0 s, 9.0 MB | 5.0 s, 8.0 MB | 2.50 |");
        assert_eq!(rows[1], "| W2 cold | 18.0 MB, 2 B, 0 B | 16.0 MB, 5 B, 0 B |");
    }
}
