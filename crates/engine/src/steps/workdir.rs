//! WORKDIR: a folder that belongs to the current user, and always a layer.

use rbuild_fs::{NewDir, RootfsPath, Timestamp};

use super::Step;
use crate::build::Builder;
use crate::error::{Explain, FailureKind, Result};
use crate::state::StageState;
use crate::users;

impl Builder<'_> {
    /// Sets the working directory of the config and makes its folders; `WORKDIR /` changes no files.
    pub(crate) fn workdir(&self, state: &mut StageState, path: &str, mut step: Step) -> Result<()> {
        let directory = RootfsPath::new(state.working_dir()).join(path);
        let shown = state.directory_after(path);
        state.config.config.working_dir.clone_from(&shown);
        if directory.is_root() {
            state.record(step.created_by, None);
            return Ok(());
        }
        let user = state.container().user.clone();
        users::can_be_found(&user, &state.rootfs)?;
        step.parts.text("instruction", "WORKDIR").text("parent", &*state.key);
        step.parts.text("directory", shown).text("user", &*user);
        if let Some(epoch) = self.request.epoch {
            step.parts.text("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        self.step(state, step, |workspace| {
            let (uid, gid) = users::for_chown(&workspace.root, &user)?;
            let new =
                NewDir { mode: 0o755, uid, gid, mtime: self.request.epoch.map(Timestamp::from_seconds) };
            workspace.root.create_dir_all(&directory, &new).explain(FailureKind::Build, || {
                format!("could not make the working directory `{directory}`")
            })?;
            Ok(())
        })
    }
}
