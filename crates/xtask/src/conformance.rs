//! `cargo xtask conformance SUITE`: a black-box suite of another folder with the release binary.

use std::path::Path;

use crate::process::{Result, run as run_command, tool};
use crate::report::heading;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let Some((suite, rest)) = arguments.split_first() else {
        return Err("usage: cargo xtask conformance SUITE [ARGUMENTS]".into());
    };
    let script = Path::new(suite).join("conform.py");
    if !script.is_file() {
        return Err(format!("no suite at `{suite}`: it lacks `conform.py`").into());
    }
    heading("rbuild, in release");
    let rbuild = workspace.release_binary()?;
    heading("The suite");
    let mut command = tool("python3");
    command.arg("-B").arg(&script).args(["run", "--rbuild"]).arg(&rbuild);
    let known = Path::new(suite).join("known");
    if known.is_file() {
        command.arg("--known").arg(known);
    }
    run_command(command.args(rest))
}
