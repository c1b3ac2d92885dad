//! `cargo xtask lint`: formatting, clippy and documentation; a warning is an error.

use crate::process::{self, Result, tool};
use crate::report::heading;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let cargo = |arguments: &[&str]| {
        let mut command = tool("cargo");
        command.args(arguments).current_dir(&workspace.root);
        command
    };
    heading("Formatting");
    process::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    heading("Clippy");
    process::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    heading("Documentation");
    process::run(cargo(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
}
