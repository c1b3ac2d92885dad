//! What RUN's `--mount` flags mean, and what of it belongs in the key: worked out before the cache is asked. The mounts themselves are
//! made by `opened.rs`, only when the command really runs.

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_context::SelectOptions;
use rbuild_dockerfile as dockerfile;
use rbuild_dockerfile::{MountSpec, Run, Span};
use rbuild_fs::RootfsPath;
use rbuild_image::Digest;
use rbuild_store::Sharing;

use crate::build::{Builder, StageRun};
use crate::error::{AtSpan, Explain, Failure, FailureKind, Result};
use crate::files::Files;
use crate::request::{Secret, SecretSource};
use crate::shared_cache::TreeContent;
use crate::state::StageState;

/// The largest secret, in bytes, as in the reference.
const MOST_SECRET: usize = 500 << 10;

/// The mounts of one RUN, before they are made.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Texts and digests for the key.
    pub(super) parts: Vec<(String, String)>,
    pub(super) contents: Vec<(String, Digest)>,
    /// What was asked about trees for it.
    pub(super) said: Vec<TreeContent>,
    pub(super) mounts: Vec<Planned>,
}

#[derive(Debug)]
pub(super) enum Planned {
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
pub(super) struct FirstContent {
    pub(super) from: Option<(Files, String)>,
    pub(super) owner: Owner,
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
        let digest =
            self.content_digest(&files, &source, &SelectOptions::default(), &mut prepared.said).at(span)?;
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
                let digest = self
                    .content_digest(&files, &source, &SelectOptions::default(), &mut prepared.said)
                    .at(span)?;
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

/// What stands for a secret in a key. With its name in front, so that it is not in anybody's table of digests.
fn secret_digest(id: &str, secret: &Secret) -> Result<Digest> {
    let content = read_secret(&secret.source)?;
    Ok(Digest::sha256_of([b"rbuild secret ", id.as_bytes(), b"\n", &content].concat()))
}

pub(super) fn read_secret(secret: &SecretSource) -> Result<Vec<u8>> {
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
