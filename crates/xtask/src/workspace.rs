//! Where the project and its build products lie.

use std::path::{Path, PathBuf};

use crate::process::{Result, run, tool};

/// The project's folder and its target folder.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder; everything the tasks make goes below it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// The workspace this tool was built from.
    pub(crate) fn locate() -> Result<Workspace> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .find(|folder| folder.join("Cargo.lock").is_file())
            .ok_or("no workspace around the sources of xtask")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder)?,
            None => root.join("target"),
        };
        Ok(Workspace { root, target })
    }

    /// A folder below the target folder, made if need be.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("could not create `{}`: {error}", folder.display()))?;
        Ok(folder)
    }

    /// Builds rbuild in release and gives the binary's path.
    pub(crate) fn release_binary(&self) -> Result<PathBuf> {
        run(tool("cargo").args(["build", "--release", "--package", "rbuild"]).current_dir(&self.root))?;
        Ok(self.target.join("release/rbuild"))
    }
}
