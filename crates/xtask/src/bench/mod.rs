//! `cargo xtask bench`: rbuild beside other builders, the same work in turn on the same machine.
//!
//! A machine is noisy: only figures of one run are compared, each round times every builder once, and the table gives
//! medians and their ratio. A cold run gets a store in a new folder; old stores are deleted when all is done, since on
//! ext4 making files right after a large delete is many times slower.

mod builder;
mod growth;
mod measure;
mod plot;
mod rivals;
mod table;
mod workload;

use std::path::{Path, PathBuf};

use crate::process::{Result, run_quietly, tool};
use crate::registry::Registry;
use crate::report::heading;
use crate::user::remove_tree;
use crate::workspace::Workspace;
use crate::{bases, install};

use builder::{Builder, Output};
use measure::Sample;
use table::Table;
use workload::Workload;

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    only: Option<Vec<String>>,
    with: Option<Vec<String>>,
    runs: usize,
    output: Output,
    /// Measure how rbuild grows with the work instead.
    growth: bool,
    /// Where to draw the result.
    plot: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options =
            Options { only: None, with: None, runs: 3, output: Output::Archive, growth: false, plot: None };
        let mut arguments = arguments.iter();
        while let Some(option) = arguments.next() {
            if option == "--growth" {
                options.growth = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("`{option}` wants a value"))?;
            let list = || Some(value.split(',').map(str::to_owned).collect());
            match option.as_str() {
                "--only" => options.only = list(),
                "--with" => options.with = list(),
                "--output" => options.output = Output::parse(value)?,
                "--plot" => options.plot = Some(value.into()),
                "--runs" => {
                    options.runs = value.parse().map_err(|_| format!("`{value}` is no number of runs"))?
                }
                unknown => return Err(format!("`bench` has no option `{unknown}`").into()),
            }
        }
        if options.runs == 0 { Err("nothing is measured in 0 runs".into()) } else { Ok(options) }
    }
}

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let only = options.only.as_deref();
    let series = if options.growth { growth::chosen(only)? } else { Vec::new() };
    let workloads = if options.growth { Vec::new() } else { workload::chosen(only)? };
    heading("Tools");
    install::ensure(&[install::REGISTRY, install::ROOTLESS, install::BENCH])?;
    heading("rbuild, in release");
    let rbuild = workspace.release_binary()?;

    heading("Base images and contexts");
    let folder = workspace.scratch("bench")?;
    let registry = Registry::start(&workspace.scratch("demo")?.join("registry"))?;
    bases::serve_stand_ins(workspace, &registry)?;
    let stores = folder.join(format!("stores-{}", std::process::id()));
    std::fs::create_dir_all(&stores)?;
    let place =
        builder::Place { registry: &registry, stores: &stores, conf: registry.registries_conf(true)? };
    if options.growth {
        let builders = builder::present(&rbuild, &place, Some(&["rbuild".to_owned()]))?;
        let result = growth::run(&series, &builders[0], &folder, options.plot.as_ref());
        remove_tree(&stores)?;
        return result;
    }
    let contexts = workloads
        .iter()
        .map(|workload| workload.prepare(workspace, &folder, &registry))
        .collect::<Result<Vec<PathBuf>>>()?;
    let result = compare(&options, &workloads, &contexts, &rbuild, &place);
    remove_tree(&stores)?;
    result
}

fn compare(
    options: &Options,
    workloads: &[&Workload],
    contexts: &[PathBuf],
    rbuild: &Path,
    place: &builder::Place<'_>,
) -> Result<()> {
    let builders = builder::present(rbuild, place, options.with.as_deref())?;
    let mut table = Table::new(builders.iter().map(|builder| builder.name).collect());
    for (workload, context) in workloads.iter().zip(contexts) {
        heading(&format!("{}: {}", workload.name, workload.about));
        for round in 0..options.runs {
            for builder in builders.iter().filter(|builder| builder.transfers() || !workload.is_transfer()) {
                let samples = match one_round(builder, workload, context, (round, options.output)) {
                    Ok(samples) => samples,
                    // Not everybody can do everything: its cells stay empty.
                    Err(error) if builder.name != "rbuild" => {
                        println!("round {} {:<10} failed: {error}", round + 1, builder.name);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for (state, sample) in samples {
                    println!("round {} {:<10} {state:<5} {sample}", round + 1, builder.name);
                    table.add(workload.name, state, builder.name, sample);
                }
            }
        }
    }
    heading("Medians");
    println!("{table}");
    if let Some(file) = &options.plot {
        std::fs::write(file, plot::svg(&table))?;
    }
    Ok(())
}

/// A build with an empty store, the same again, and once more with a line changed; a transfer and its way back; or a build
/// that pushes the image with its cache, and the same on another machine.
fn one_round(
    builder: &Builder<'_>,
    workload: &Workload,
    context: &Path,
    (round, output): (usize, Output),
) -> Result<Vec<(&'static str, Sample)>> {
    let store = builder.new_store(workload.name, round)?;
    if workload.is_transfer() {
        let pulled = builder.pull(&store, workload::TRANSFERRED, context)?;
        // Empty, so that nothing is mounted or there already; and gone with its blobs after the push.
        let target = Registry::start(&store.target())?;
        let pushed = builder.push(&store, workload::TRANSFERRED, context, &target)?;
        return Ok(vec![("pull", pulled), ("push", pushed)]);
    }
    // Whoever comes first would read from the disk what the others find in memory.
    run_quietly(tool("find").arg(context).args(["-type", "f", "-exec", "cksum", "{}", "+"]))?;
    if output == Output::Registry {
        let fleet = Registry::start(&store.target())?;
        let first = builder.build_in_fleet(&store, context, &fleet)?;
        let elsewhere = builder.new_store(&format!("{}-elsewhere", workload.name), round)?;
        return Ok(vec![("cold", first), ("fleet", builder.build_in_fleet(&elsewhere, context, &fleet)?)]);
    }
    let build = || builder.build(&store, context, output);
    let mut samples = vec![("cold", build()?), ("warm", build()?)];
    if workload.edit(context)? {
        samples.push(("edit", build()?));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parse =
            |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--only W1,W2 --runs 5").unwrap();
        assert_eq!(options.only, Some(vec!["W1".into(), "W2".into()]));
        assert_eq!((options.runs, options.with), (5, None));
        assert!(parse("--growth --plot x.svg").unwrap().growth);
        assert_eq!(parse("--output store").unwrap().output, Output::Store);
        for wrong in ["--runs", "--runs none", "--runs 0", "--quick yes", "--output x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
