//! `cargo xtask bench`.
use crate::process::Result;
use crate::workspace::Workspace;
pub(crate) fn run(_: &Workspace, _: &[String]) -> Result<()> {
    Err("soon".into())
}
