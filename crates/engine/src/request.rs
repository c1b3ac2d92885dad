//! What a build is asked for. Everything that comes from outside (environment, home, time, user) enters here, so that
//! the same request always means the same build.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use rbuild_context::GitReference;
use rbuild_executor::{Cgroups, Limits};
use rbuild_image::{Digest, Platform, Reference};
use rbuild_layer::Compression;

use crate::contexts::UnpackedContext;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// The name under which diagnostics show it.
    pub dockerfile_name: String,
    /// What COPY and ADD read.
    pub context: Context,
    /// Text of the ignore file that applies to `context`, and the name to show for it.
    pub ignore: Option<(String, String)>,
    /// `--build-context`, by name in lower case.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`; the last stage without it.
    pub target: Option<String>,
    /// Platform of the image; of several, the one at hand, which is the first at the start.
    pub platform: Platform,
    /// All that are asked for, in order, where there are several: the result is an index over an image for each.
    pub platforms: Vec<Platform>,
    /// Whether a platform was asked for: then the image says it is of that platform, whatever its base is of.
    pub platform_given: bool,
    /// Platform that this program runs on.
    pub build_platform: Platform,
    /// `--label`: set last, and win.
    pub labels: BTreeMap<String, String>,
    /// For the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Which cached results may be used.
    pub cache: CacheUse,
    /// What holds for every RUN.
    pub run: RunOptions,
    /// Names for the image in the store.
    pub tags: Vec<Reference>,
    /// Where the result goes besides.
    pub outputs: Vec<Output>,
    /// Seconds since 1970: what an output asks for with `source-date-epoch=`. Without it what `SOURCE_DATE_EPOCH` of
    /// the build args means, else of the Dockerfile.
    pub epoch: Option<i64>,
    /// Times of files in new layers are clamped to the epoch as well.
    pub rewrite_timestamp: bool,
    /// Refuse what the reference implementation refuses.
    pub strict_docker: bool,
    /// What becomes of a RUN that fails.
    pub on_failure: OnFailure,
    /// Carry out no more than this step, which is to be entered.
    pub enter: Option<StepName>,
    /// Environment of `git`, which fetches for ADD: the caller's, so that its configuration and agents are found.
    pub git_environment: BTreeMap<OsString, OsString>,
}

impl BuildRequest {
    /// The form in which new layers leave, by an output or else to a shared cache; nothing where they stay here.
    pub(crate) fn compression(&self) -> Option<Compression> {
        let exports = self.cache.to.iter().filter(|export| matches!(export.to, CacheTarget::Place(_)));
        let mut to_caches = exports.map(|export| export.compression.compression);
        self.outputs.iter().find_map(Output::compression).or_else(|| to_caches.next())
    }

    /// Whether there is an image for each of several platforms to build.
    #[must_use]
    pub fn is_for_several(&self) -> bool {
        self.platforms.len() > 1
    }
}

/// What becomes of a RUN that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing of it stays.
    #[default]
    Drop,
    /// Its files are kept, to be entered later.
    Keep,
    /// A shell opens in its place.
    Shell,
}

/// A step as progress shows it: `[build 3/6] RUN …` is step 3 of the stage `build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName {
    /// The stage; any where none is given.
    pub stage: Option<String>,
    /// From 1.
    pub number: u32,
}

/// Where the files of `COPY` and `ADD` come from.
#[derive(Debug, Clone)]
pub enum Context {
    /// A folder of this machine.
    Directory(PathBuf),
    /// What [`crate::Fetcher`] brought here: an unpacked archive, a checkout.
    Unpacked(UnpackedContext),
    /// No files at all: a Dockerfile from standard input.
    Empty,
}

/// `--build-context NAME=…`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each variant tells of its fields")]
pub enum NamedContext {
    /// A folder, with its own ignore file's text.
    Directory { path: PathBuf, ignore: Option<String> },
    /// A commit of a git repository, fetched when it is needed; whether `.git` stays where the address does not say.
    Git { reference: Box<GitReference>, keep: Option<bool> },
    /// What is behind a URL, fetched when it is needed: an archive's files, or the file as `context`.
    Url(String),
    /// A folder with what one of the last two has given.
    Unpacked(PathBuf),
    /// `docker-image://REFERENCE`.
    Image(Reference),
    /// `docker-image://scratch`.
    Scratch,
    /// `oci-layout://PATH[:TAG|@DIGEST]`.
    OciLayout { path: PathBuf, tag: Option<String>, digest: Option<Digest> },
}

/// Which cached results may be used.
#[derive(Debug, Clone, Default)]
pub struct CacheUse {
    /// Run every step again.
    pub none: bool,
    /// Run the steps of these stages again (lower case).
    pub except_stages: Vec<String>,
    /// Ask the registry for base images even if they are in the store.
    pub pull: bool,
    /// Say of every step that is carried out why; else of the first alone.
    pub explain: bool,
    /// `--cache-from`: shared caches to look in, in order.
    pub from: Vec<CachePlace>,
    /// `--cache-to`: shared caches to give results to.
    pub to: Vec<CacheExport>,
    /// `--cache-mounts-from`: where a cache mount that is new here may begin.
    pub mounts_from: Vec<CachePlace>,
    /// `--cache-mounts-to`: where cache mounts that the build used go at its end.
    pub mounts_to: Vec<CachePlace>,
}

/// Where a shared cache lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A repository. A tag other than `latest` keeps several caches in it apart.
    Registry(Reference),
    /// A folder, which several machines may share.
    Folder(PathBuf),
}

/// One `--cache-to`.
#[derive(Debug, Clone)]
pub struct CacheExport {
    /// Where to.
    pub to: CacheTarget,
    /// `mode=max`: the results of all steps, not only of those whose layers are in the image.
    pub max: bool,
    /// How layers are packed.
    pub compression: CompressionChoice,
}

/// Where results are given.
#[derive(Debug, Clone)]
pub enum CacheTarget {
    /// A place.
    Place(CachePlace),
    /// The image itself: its config says which step made which layer.
    Inline,
}

/// What holds for every `RUN` of the build.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The network where a RUN says nothing of it.
    pub network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Content of the host's `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id: the socket's path.
    pub ssh_agents: BTreeMap<String, PathBuf>,
    /// PEM bundle of certificate authorities that RUN trusts beside the image's own; never part of the image or of a cache key.
    pub host_certificates: Option<Vec<u8>>,
    /// Bytes; the kernel's default for `/dev/shm` in a container is 64 MiB.
    pub shm_size: Option<u64>,
    /// Resource name without `RLIMIT_`, lower case; soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
    /// The control group in which each RUN gets one of its own, and what it may use there; never part of a key.
    pub limits: Option<(Cgroups, Limits)>,
    /// `--cgroup-parent`, which is part of the key as in the reference.
    pub cgroup_parent: Option<String>,
    /// `--cap-add`.
    pub capabilities_added: Vec<String>,
    /// `--cap-drop`.
    pub capabilities_dropped: Vec<String>,
    /// CDI devices that every RUN gets.
    pub devices: Vec<String>,
    /// Folders with specifications of CDI devices; a later one goes before an earlier.
    pub device_folders: Vec<PathBuf>,
    /// Devices that `RUN --device` may ask for.
    pub allowed_devices: AllowedDevices,
    /// `--allow security.insecure`.
    pub allow_insecure: bool,
    /// `--allow network.host`.
    pub allow_network_host: bool,
}

/// `--allow device`.
#[derive(Debug, Clone, Default)]
pub struct AllowedDevices {
    /// All there are.
    pub all: bool,
    /// By name, kind or class.
    pub names: Vec<String>,
    /// Names that stand for others in the Dockerfile: by alias, the device itself.
    pub aliases: BTreeMap<String, String>,
}

impl AllowedDevices {
    /// The device that is meant, where a name stands for another.
    pub(crate) fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.get(name).map(String::as_str)
    }
}

/// The network that RUN sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// The host's: the same in every place.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// One of its own, with a way out through pasta or slirp4netns.
    Private,
}

/// `--secret`.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Where its bytes are.
    pub source: SecretSource,
    /// `cache-key=digest`: a step that mounts it is carried out again when it changes. Its digest is then part of the key,
    /// and in the store's record of it.
    pub in_key: bool,
}

/// Where a secret's bytes are; they are read when a step needs them and never written to disk.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// A file of the caller's.
    File(PathBuf),
    /// The bytes themselves, from the environment.
    Value(Vec<u8>),
}

/// Where the result goes besides the store.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each variant tells of its fields")]
pub enum Output {
    /// `type=oci` as a tar archive or a folder.
    Oci { to: Destination, names: Vec<Reference>, compression: CompressionChoice },
    /// `type=docker`: an archive for `docker load`.
    Docker { to: Destination, names: Vec<Reference> },
    /// `type=local`: the files, owned by the caller.
    Local(PathBuf),
    /// `type=tar`: the files with their owners.
    Tar(Destination),
    /// `type=image,push=true` and `type=registry`.
    Registry { names: Vec<Reference>, compression: CompressionChoice },
}

impl Output {
    /// The form in which new layers leave, where they do.
    pub(crate) fn compression(&self) -> Option<Compression> {
        match self {
            Output::Oci { compression, .. } | Output::Registry { compression, .. } => {
                Some(compression.compression)
            }
            Output::Docker { .. } => Some(Compression::DEFAULT_GZIP),
            Output::Local(_) | Output::Tar(_) => None,
        }
    }
}

/// A file, a folder or standard output.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A file.
    File(PathBuf),
    /// A folder.
    Folder(PathBuf),
    /// Standard output.
    Stdout,
}

/// How layers are packed when they leave.
#[derive(Debug, Clone)]
pub struct CompressionChoice {
    /// How new layers are packed.
    pub compression: Compression,
    /// Recompress layers that exist in another form.
    pub force: bool,
}
