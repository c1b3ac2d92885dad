//! What RUN's `--mount` flags mean, in two halves: what belongs in the key, worked out before the cache is asked; and the
//! mounts themselves, made only when the command really runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_context::SelectOptions;
use rbuild_dockerfile as dockerfile;
use rbuild_dockerfile::{MountSpec, Run, Span};
use rbuild_executor::{Mount, MountKind, Source};
use rbuild_fs::{FinalSymlink, Meta, Root, RootfsPath};
use rbuild_image::Digest;
use rbuild_layer::copy::{CopyOptions, Unpack};
use rbuild_store::{CacheMount, Sharing};

use super::folding;
use super::ssh::AgentRelay;
use crate::build::{Builder, StageRun};
use crate::error::{AtSpan, Explain, Failure, FailureKind, Result};
use crate::event::StepNumber;
use crate::files::{Files, OpenFiles};
use crate::request::{Secret, SecretSource};
use crate::state::{Rootfs, StageState};

/// The largest secret, in bytes, as in the reference.
const MOST_SECRET: usize = 500 << 10;

/// The mounts of one RUN, before they are made.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Texts and digests for the key.
    pub(super) parts: Vec<(String, String)>,
    pub(super) contents: Vec<(String, Digest)>,
    mounts: Vec<Planned>,
}

#[derive(Debug)]
enum Planned {
    Bind {
        files: Files,
        source: String,
        target: PathBuf,
        read_only: bool,
        span: Span,
    },
    Cache {
        identity: String,
        sharing: Sharing,
        target: PathBuf,
        read_only: bool,
        first: FirstContent,
        span: Span,
    },
    Tmpfs {
        target: PathBuf,
        size: Option<u64>,
    },
    Secret {
        secret: Option<Secret>,
        target: Option<PathBuf>,
        variable: Option<String>,
        owner: Owner,
        span: Span,
    },
    Ssh {
        agent: Option<PathBuf>,
        target: PathBuf,
        owner: Owner,
        span: Span,
    },
    File {
        target: PathBuf,
        content: Vec<u8>,
        mode: u32,
    },
}

/// How a new cache mount begins.
#[derive(Debug)]
struct FirstContent {
    from: Option<(Files, String)>,
    owner: Owner,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Prepared {
    /// A file that exists during the command only.
    pub(super) fn add_file(&mut self, target: PathBuf, content: Vec<u8>, mode: u32) {
        self.mounts.push(Planned::File { target, content, mode });
    }
}

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
    /// Reads the flags and digests what is bound.
    pub(super) fn prepare_mounts(
        &self,
        state: &StageState,
        run: &Run,
        at: &StageRun<'_>,
    ) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let mut ssh_count = 0;
        for (index, mount) in run.mounts.iter().enumerate() {
            let spec = &mount.spec;
            let span = mount.text.span;
            let is_file = matches!(spec.kind, dockerfile::MountKind::Secret | dockerfile::MountKind::Ssh);
            if !is_file && mount_point(state, spec) == Path::new("/") {
                return Err(Failure::new(FailureKind::Build, "invalid mount target \"/\"").at(span).into());
            }
            let from = self.mount_source(at, index, spec, span)?;
            let planned = match spec.kind {
                dockerfile::MountKind::Bind => self.plan_bind(state, spec, from, span, &mut prepared)?,
                dockerfile::MountKind::Cache => self.plan_cache(state, spec, from, span, &mut prepared)?,
                dockerfile::MountKind::Tmpfs => {
                    let target = mount_point(state, spec);
                    prepared
                        .parts
                        .push(("mount tmpfs".to_owned(), format!("{} {:?}", target.display(), spec.size)));
                    Planned::Tmpfs { target, size: spec.size }
                }
                dockerfile::MountKind::Secret => self.plan_secret(state, spec, span, &mut prepared)?,
                dockerfile::MountKind::Ssh => {
                    ssh_count += 1;
                    self.plan_ssh(state, spec, ssh_count - 1, span, &mut prepared)?
                }
            };
            prepared.mounts.push(planned);
        }
        Ok(prepared)
    }

    /// Where a bind or the first content of a cache comes from; `None` without `from=`.
    fn mount_source(
        &self,
        at: &StageRun<'_>,
        index: usize,
        spec: &MountSpec,
        span: Span,
    ) -> Result<Option<Files>> {
        match &spec.from {
            Some(name) => at
                .source_of(self, name, Some(index))
                .and_then(|source| self.files_of(&source, at))
                .at(span)
                .map(Some),
            None => Ok(None),
        }
    }

    fn plan_bind(
        &self,
        state: &StageState,
        spec: &MountSpec,
        from: Option<Files>,
        span: Span,
        prepared: &mut Prepared,
    ) -> Result<Planned> {
        let files = match from {
            Some(files) => files,
            None => self.context()?,
        };
        let source = spec.source.clone().unwrap_or_else(|| "/".to_owned());
        let target = mount_point(state, spec);
        let digest = self.content_digest(&files, &source, &SelectOptions::default()).at(span)?;
        prepared.parts.push(("mount bind".to_owned(), format!("{} {}", target.display(), spec.read_only)));
        prepared.contents.push((format!("mount {source}"), digest));
        Ok(Planned::Bind { files, source, target, read_only: spec.read_only, span })
    }

    fn plan_cache(
        &self,
        state: &StageState,
        spec: &MountSpec,
        from: Option<Files>,
        span: Span,
        prepared: &mut Prepared,
    ) -> Result<Planned> {
        let target = mount_point(state, spec);
        // As written: of a relative one the working directory is no part.
        let given = spec.id.clone().filter(|id| !id.is_empty());
        let id = given.unwrap_or_else(|| cleaned(spec.target.as_deref().unwrap_or_default()));
        let namespace = self.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS").map_or("", String::as_str);
        let mut identity = format!("{namespace}/{id}");
        // A cache that begins in another way is another cache, as in the reference.
        let owner = Owner {
            mode: spec.mode.unwrap_or(0o755),
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
        };
        if spec.mode.is_some() || spec.uid.is_some() || spec.gid.is_some() {
            identity.push_str(&format!(" {:o} {}:{}", owner.mode, owner.uid, owner.gid));
        }
        let from = match from {
            Some(files) => {
                let source = spec.source.clone().unwrap_or_else(|| "/".to_owned());
                let digest = self.content_digest(&files, &source, &SelectOptions::default()).at(span)?;
                identity.push_str(&format!(" {digest}"));
                Some((files, source))
            }
            None => None,
        };
        prepared.parts.push(("mount cache".to_owned(), format!("{} {}", target.display(), spec.read_only)));
        let sharing = match spec.sharing.unwrap_or_default() {
            dockerfile::Sharing::Shared => Sharing::Shared,
            dockerfile::Sharing::Private => Sharing::Private,
            dockerfile::Sharing::Locked => Sharing::Locked,
        };
        let first = FirstContent { from, owner };
        Ok(Planned::Cache { identity, sharing, target, read_only: spec.read_only, first, span })
    }

    fn plan_secret(
        &self,
        state: &StageState,
        spec: &MountSpec,
        span: Span,
        prepared: &mut Prepared,
    ) -> Result<Planned> {
        let given = target(state, spec);
        let of_target =
            || given.as_ref().and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()));
        let id = spec.id.clone().or_else(|| spec.source.clone()).or_else(of_target).unwrap_or_default();
        let name = id.rsplit('/').next().unwrap_or_default();
        let target = given.or_else(|| spec.env.is_none().then(|| format!("/run/secrets/{name}").into()));
        let secret = self.request.run.secrets.get(&id).cloned();
        if secret.is_none() && spec.required {
            let failure = Failure::new(FailureKind::Build, format!("secret {id}: not found"));
            return Err(failure
                .help(format!("give it with `--secret id={id},src=FILE` or `--secret id={id},env=NAME`"))
                .at(span)
                .into());
        }
        let owner = Owner {
            mode: spec.mode.unwrap_or(0o400),
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
        };
        prepared.parts.push(("mount secret".to_owned(), format!("{id} {target:?} {:?} {owner:?}", spec.env)));
        if let Some(secret) = secret.as_ref().filter(|secret| secret.in_key) {
            prepared.contents.push((format!("secret {id}"), secret_digest(&id, secret).at(span)?));
        }
        Ok(Planned::Secret { secret, target, variable: spec.env.clone(), owner, span })
    }

    fn plan_ssh(
        &self,
        state: &StageState,
        spec: &MountSpec,
        index: usize,
        span: Span,
        prepared: &mut Prepared,
    ) -> Result<Planned> {
        let id = spec.id.clone().unwrap_or_else(|| "default".to_owned());
        let target = target(state, spec).unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{index}").into());
        let agent = self.request.run.ssh_agents.get(&id).cloned();
        if agent.is_none() && spec.required {
            let failure = Failure::new(FailureKind::Build, format!("SSH agent {id}: not found"));
            return Err(failure.help(format!("give it with `--ssh {id}`")).at(span).into());
        }
        let owner = Owner {
            mode: spec.mode.unwrap_or(0o600),
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
        };
        prepared.parts.push(("mount ssh".to_owned(), format!("{id} {} {owner:?}", target.display())));
        Ok(Planned::Ssh { agent, target, owner, span })
    }

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

/// A path without `.`, `..` and needless slashes, absolute only if it was.
fn cleaned(path: &str) -> String {
    let rooted = RootfsPath::new(path);
    if path.starts_with('/') { rooted.to_string() } else { rooted.relative().display().to_string() }
}

/// The mount point; a relative one lies in the working directory.
fn target(state: &StageState, spec: &MountSpec) -> Option<PathBuf> {
    let target = spec.target.as_ref().filter(|target| !target.is_empty())?;
    Some(RootfsPath::new(state.working_dir()).join(target).as_path().to_owned())
}

/// Where a folder is mounted: in the working directory, if nothing else is said.
fn mount_point(state: &StageState, spec: &MountSpec) -> PathBuf {
    target(state, spec).unwrap_or_else(|| RootfsPath::new(state.working_dir()).as_path().to_owned())
}

fn file(target: PathBuf, content: Vec<u8>, owner: Owner) -> Mount {
    let Owner { mode, uid, gid } = owner;
    Mount { target, kind: MountKind::File { content, mode, uid, gid, read_only: true } }
}

/// What stands for a secret in a key. With its name in front, so that it is not in anybody's table of digests.
fn secret_digest(id: &str, secret: &Secret) -> Result<Digest> {
    let content = read_secret(&secret.source)?;
    Ok(Digest::sha256_of([b"rbuild secret ", id.as_bytes(), b"\n", &content].concat()))
}

fn read_secret(secret: &SecretSource) -> Result<Vec<u8>> {
    let content = match secret {
        SecretSource::Value(value) => value.clone(),
        SecretSource::File(path) => fs::read(path)
            .explain(FailureKind::Build, || format!("could not read the secret `{}`", path.display()))?,
    };
    if content.len() > MOST_SECRET {
        return Err(Failure::new(FailureKind::Build, "a secret may have at most 500 KB").into());
    }
    Ok(content)
}
