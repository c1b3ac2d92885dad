//! What a build is asked for. Everything that comes from outside (environment, home, time, user) enters here, so that
//! the same request always means the same build.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use rbuild_image::{Digest, Platform, Reference};
use rbuild_layer::Compression;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The Dockerfile's text, and the name under which diagnostics show it.
    pub dockerfile: String,
    pub dockerfile_name: String,
    pub context: Context,
    /// Text of the ignore file that applies to `context`, and the name to show for it.
    pub ignore: Option<(String, String)>,
    pub named_contexts: BTreeMap<String, NamedContext>,
    pub build_args: BTreeMap<String, String>,
    pub target: Option<String>,
    /// Platform of the image, and the one that this program runs on.
    pub platform: Platform,
    pub build_platform: Platform,
    /// `--label`: set last, and win.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub cache: CacheUse,
    pub run: RunOptions,
    pub tags: Vec<Reference>,
    pub outputs: Vec<Output>,
    /// `SOURCE_DATE_EPOCH` in seconds; with `rewrite_timestamp` times of files in new layers are clamped to it as well.
    pub epoch: Option<i64>,
    pub rewrite_timestamp: bool,
    /// Refuse what the reference implementation refuses.
    pub strict_docker: bool,
    /// Environment of `git`, which fetches for ADD: the caller's, so that its configuration and agents are found.
    pub git_environment: BTreeMap<OsString, OsString>,
}

/// Where the files of `COPY` and `ADD` come from.
#[derive(Debug, Clone)]
pub enum Context {
    /// A folder of this machine.
    Directory(PathBuf),
    /// No files at all: a Dockerfile from standard input.
    Empty,
}

/// `--build-context NAME=…`.
#[derive(Debug, Clone)]
pub enum NamedContext {
    /// A folder, with its own ignore file's text.
    Directory { path: PathBuf, ignore: Option<String> },
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
}

/// What holds for every `RUN` of the build.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    pub network: Network,
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Contents of the host's `/etc/resolv.conf` and `/etc/hosts`.
    pub resolv_conf: Vec<u8>,
    pub hosts: Vec<u8>,
    pub secrets: BTreeMap<String, SecretSource>,
    /// SSH agents by id: the socket's path.
    pub ssh_agents: BTreeMap<String, PathBuf>,
    /// PEM bundle of certificate authorities that RUN trusts beside the image's own; never part of the image or of a cache key.
    pub host_certificates: Option<Vec<u8>>,
    /// Bytes; the kernel's default for `/dev/shm` in a container is 64 MiB.
    pub shm_size: Option<u64>,
    /// Resource name without `RLIMIT_`, lower case; soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
    pub capabilities_added: Vec<String>,
    pub capabilities_dropped: Vec<String>,
    /// `--allow security.insecure`, `--allow network.host`.
    pub allow_insecure: bool,
    pub allow_network_host: bool,
}

/// The network that RUN sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// The host's: the same in every place.
    #[default]
    Host,
    /// Loopback only.
    None,
}

/// Where a secret's bytes are; they are read when a step needs them and never written to disk.
#[derive(Debug, Clone)]
pub enum SecretSource {
    File(PathBuf),
    Value(Vec<u8>),
}

/// Where the result goes besides the store.
#[derive(Debug, Clone)]
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

/// A file, a folder or standard output.
#[derive(Debug, Clone)]
pub enum Destination {
    File(PathBuf),
    Folder(PathBuf),
    Stdout,
}

/// How layers are packed when they leave.
#[derive(Debug, Clone)]
pub struct CompressionChoice {
    pub compression: Compression,
    /// Recompress layers that exist in another form.
    pub force: bool,
}
