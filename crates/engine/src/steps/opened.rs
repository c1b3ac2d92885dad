//! The mounts of a RUN, made when its command really runs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_context::SelectOptions;
use rbuild_executor::{Mount, MountKind, Source};
use rbuild_fs::{FinalSymlink, Meta, Root, RootfsPath};
use rbuild_layer::copy::{CopyOptions, Unpack};
use rbuild_store::CacheMount;

use super::folding;
use super::mounts::{FirstContent, Owner, Planned, Prepared, read_secret};
use super::ssh::AgentRelay;
use crate::build::Builder;
use crate::error::{AtSpan, Explain, FailureKind, Result};
use crate::event::StepNumber;
use crate::files::{Files, OpenFiles};
use crate::state::Rootfs;

/// The mounts of one RUN, made.
#[derive(Debug, Default)]
pub(super) struct Opened {
    mounts: Vec<Mount>,
    locks: Vec<Arc<OwnedFd>>,
    /// Cache mounts are in use while these live.
    caches: Vec<CacheMount>,
    relays: Vec<AgentRelay>,
}

impl Opened {
    pub(super) fn locks(&self) -> Vec<Arc<OwnedFd>> {
        self.locks.clone()
    }

    /// What leads to SSH agents, to be kept until the command has ended.
    pub(super) fn take_relays(&mut self) -> Vec<AgentRelay> {
        std::mem::take(&mut self.relays)
    }

    /// The mounts; the locks of cache mounts live on in [`Opened::locks`].
    pub(super) fn into_sandbox(self) -> Vec<Mount> {
        drop(self.caches);
        self.mounts
    }
}

impl Builder<'_> {
    /// Makes the mounts; secrets may add variables to the command's environment.
    pub(super) fn open_mounts(
        &self,
        prepared: &Prepared,
        environment: &mut Vec<(String, String)>,
        number: StepNumber,
    ) -> Result<Opened> {
        let mut opened = Opened::default();
        let caches = self.open_caches(prepared, &mut opened, number)?;
        let mut has_agent = false;
        for (index, planned) in prepared.mounts.iter().enumerate() {
            match planned {
                Planned::Bind { files, source, target, read_only, span } => {
                    let kind = self.open_bind(files, source, *read_only).at(*span)?;
                    opened.mounts.push(Mount { target: target.clone(), kind });
                }
                Planned::Cache { target, read_only, .. } => {
                    let source = Source::Path(caches[&index].clone());
                    opened.mounts.push(Mount {
                        target: target.clone(),
                        kind: MountKind::Bind { source, read_only: *read_only },
                    });
                }
                Planned::Tmpfs { target, size } => {
                    opened.mounts.push(Mount {
                        target: target.clone(),
                        kind: MountKind::Tmpfs { size: *size, mode: 0o1777 },
                    });
                }
                Planned::Secret { secret, target, variable, owner, span } => {
                    let content =
                        secret.as_ref().map(|secret| read_secret(&secret.source)).transpose().at(*span)?;
                    if let Some(variable) = variable {
                        let text =
                            String::from_utf8_lossy(content.as_deref().unwrap_or_default()).into_owned();
                        environment.retain(|(name, _)| name != variable);
                        environment.push((variable.clone(), text));
                    }
                    if let (Some(target), Some(content)) = (target, content) {
                        opened.mounts.push(file(target.clone(), content, *owner));
                    }
                }
                Planned::Ssh { agent, target, owner, span } => {
                    // Of several agents the first is the one that programs find.
                    if !std::mem::replace(&mut has_agent, true) {
                        environment.retain(|(name, _)| name != "SSH_AUTH_SOCK");
                        environment.push(("SSH_AUTH_SOCK".to_owned(), target.display().to_string()));
                    }
                    if let Some(socket) = agent {
                        let relay = AgentRelay::start(&self.made_folder()?, socket, *owner)
                            .explain(FailureKind::Environment, || {
                                "could not pass the SSH agent on".to_owned()
                            })
                            .at(*span)?;
                        let source = Source::Path(relay.path().to_owned());
                        opened.relays.push(relay);
                        opened.mounts.push(Mount {
                            target: target.clone(),
                            kind: MountKind::Bind { source, read_only: false },
                        });
                    }
                }
                Planned::File { target, content, mode } => {
                    opened.mounts.push(file(
                        target.clone(),
                        content.clone(),
                        Owner { mode: *mode, uid: 0, gid: 0 },
                    ));
                }
            }
        }
        Ok(opened)
    }

    /// Takes the caches in the order of their names, each once, so that two builds never wait for each other.
    fn open_caches(
        &self,
        prepared: &Prepared,
        opened: &mut Opened,
        number: StepNumber,
    ) -> Result<BTreeMap<usize, PathBuf>> {
        let mut wanted: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, planned) in prepared.mounts.iter().enumerate() {
            if let Planned::Cache { identity, .. } = planned {
                wanted.entry(identity).or_default().push(index);
            }
        }
        let mut paths = BTreeMap::new();
        for (identity, indexes) in wanted {
            let Some(Planned::Cache { sharing, first, span, .. }) = prepared.mounts.get(indexes[0]) else {
                continue;
            };
            let fault = || format!("could not take the cache mount `{identity}`");
            let mut cache = self
                .store
                .cache_mount(identity, *sharing)
                .explain(FailureKind::Environment, fault)
                .at(*span)?;
            if cache.is_new() {
                let cache_of_all = &self.shared.cache;
                if !cache_of_all.import_mount(&self.images, identity, cache.path(), number) {
                    self.fill_cache(&cache, first).at(*span)?;
                }
                cache.set_up().explain(FailureKind::Environment, fault).at(*span)?;
            }
            self.shared.cache.note_mount(identity);
            opened.locks.push(Arc::new(cache.try_clone_lock().explain(FailureKind::Environment, fault)?));
            indexes.iter().for_each(|index| drop(paths.insert(*index, cache.path().to_owned())));
            opened.caches.push(cache);
        }
        Ok(paths)
    }

    fn fill_cache(&self, cache: &CacheMount, first: &FirstContent) -> Result<()> {
        let fault = || "could not set up a cache mount".to_owned();
        if let Some((files, source)) = &first.from {
            self.copy_out(files, source, cache.path().to_owned())?;
        }
        // By way of a root, which keeps what the kernel refuses.
        let (root, slash) =
            (Root::open(cache.path()).explain(FailureKind::Environment, fault)?, RootfsPath::root());
        match root.meta(&slash).explain(FailureKind::Environment, fault)? {
            Some(meta) => {
                let Owner { mode, uid, gid } = first.owner;
                root.set_meta(&slash, &Meta { mode, uid, gid, ..meta })
                    .explain(FailureKind::Environment, fault)
            }
            None => Ok(()),
        }
    }

    /// A bind shows the tree itself where that never changes. Of a folder of this machine it shows a copy of what the
    /// ignore file lets through, so that writes are lost with it; and so where a writable bind can have no overlay.
    fn open_bind(&self, files: &Files, source: &str, read_only: bool) -> Result<MountKind> {
        let fault = || format!("could not mount `{source}`");
        let rootfs = match files {
            Files::Rootfs(rootfs @ (Rootfs::Layers(_) | Rootfs::Snapshot(_)))
                if read_only || folding::overlays(self.store) =>
            {
                rootfs
            }
            _ => {
                let folder = self.made_folder()?;
                let name = self.copy_out(files, source, folder.clone())?;
                let source = Source::Path(name.map_or(folder.clone(), |name| folder.join(name)));
                return Ok(MountKind::Bind { source, read_only });
            }
        };
        let path = super::mounted_root(&self.mount_read_only(rootfs)?)?
            .resolve(&RootfsPath::new(source), FinalSymlink::Follow)
            .explain(FailureKind::Build, fault)?
            .as_path()
            .to_owned();
        let source = Source::Tree { lowers: folding::lowers(self.store, &self.parent(rootfs)?)?, path };
        if read_only {
            return Ok(MountKind::Bind { source, read_only });
        }
        let (upper, work) = (self.made_folder()?, self.made_folder()?);
        Ok(MountKind::Overlay { source, upper, work })
    }

    /// Copies what `source` names into a folder; the name of the file, if it is one.
    fn copy_out(&self, files: &Files, source: &str, folder: PathBuf) -> Result<Option<std::ffi::OsString>> {
        let fault = || format!("could not copy `{source}`");
        let opened: OpenFiles = self.open(files)?;
        let selection = self.select(&opened, source, &SelectOptions::default())?.selection;
        let name = selection.matches.first().filter(|found| !found.is_dir()).map(|found| found.name.clone());
        let to = Root::open(&folder).explain(FailureKind::Environment, fault)?;
        let options = CopyOptions { unpack: Unpack::Never, ..CopyOptions::default() };
        rbuild_layer::copy::copy(opened.tree(), &[selection], &to, &RootfsPath::root(), true, &options)
            .explain(FailureKind::Build, fault)?;
        Ok(name)
    }
}

fn file(target: PathBuf, content: Vec<u8>, owner: Owner) -> Mount {
    let Owner { mode, uid, gid } = owner;
    Mount { target, kind: MountKind::File { content, mode, uid, gid, read_only: true } }
}
