//! The project's own tasks: `cargo xtask demo · test · lint · conformance · bench`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod bases;
mod bench;
mod conformance;
mod demo;
mod install;
mod lint;
mod oci;
mod page;
mod process;
mod registry;
mod report;
mod test;
mod user;
mod workspace;

use std::process::ExitCode;

use crate::process::Result;
use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask TASK

  demo                            build examples/node-nginx with everything around it, and show what comes out
  test [--only CRATE]             every test, as root and as an ordinary user
  lint                            formatting, clippy and documentation, warnings refused
  conformance SUITE [ARGUMENTS]   a black-box suite (SUITE/conform.py) with the release binary
  bench [--only W1,W2] [--runs N] [--with rbuild,buildah,buildkit,daemonless,kaniko] [--output archive|store|registry] [--growth] [--plot FILE.svg]
                                  rbuild beside other builders on this machine
  bases                           make the base images of the demo and the tests, and say where they lie";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((task, rest)) = arguments.split_first() else {
        return Err(USAGE.into());
    };
    let workspace = Workspace::locate()?;
    match task.as_str() {
        "demo" => demo::run(&workspace),
        "test" => test::run(&workspace, rest),
        "lint" => lint::run(&workspace),
        "conformance" => conformance::run(&workspace, rest),
        "bench" => bench::run(&workspace, rest),
        "bases" => bases::show(&workspace),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        unknown => Err(format!("no task named `{unknown}`\n\n{USAGE}").into()),
    }
}
