//! The command line as typed: pure data, by clap. [`crate::request`] turns it into what the engine takes.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands::args::{
    CacheCommand, CopyArgs, DuArgs, HistoryArgs, ImagesArgs, InspectArgs, LoadArgs, LoginArgs, LogoutArgs,
    ManifestCommand, PruneArgs, PullArgs, PushArgs, RmiArgs, SaveArgs, TagArgs,
};
use crate::commands::run_args::{ExecArgs, KillArgs, LogsArgs, PsArgs, RmArgs, RunArgs, StopArgs, WaitArgs};
use crate::docker_words::translated;
use crate::resources::LimitArgs;

/// Builds container images from Dockerfiles, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    args_conflicts_with_subcommands = true,
    // As with Docker, the last of an option given twice counts: aliases and scripts put defaults before.
    args_override_self = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "`rbuild [OPTIONS] CONTEXT` builds; `rbuild build` is the same. A folder that is named like a command is written `./NAME`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Where images, snapshots and cache lie [default: $RBUILD_ROOT, else rbuild/ in the XDG data home]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Certificates for registries, beside the system's: authorities (*.crt), our own (*.cert with *.key)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// Say more about what is done and why
    #[arg(short = 'D', long, global = true)]
    pub(crate) debug: bool,
    /// How RUN is kept apart from this machine; `auto` is the best way that `rbuild doctor` finds
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WAY",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) isolation: IsolationWay,
}

/// [`rbuild_executor::Isolation`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationWay {
    /// The best way to be had here
    #[value(alias = "default")]
    Auto,
    /// Namespaces and many user ids: root, or subordinate ids
    Namespace,
    /// Namespaces and one user id, file owners in a journal
    SingleId,
    /// The root file system of a container that was made to be built in
    InPlace,
    /// No namespaces: RUN is refused
    None,
}

impl From<IsolationWay> for rbuild_executor::Isolation {
    fn from(way: IsolationWay) -> Self {
        match way {
            IsolationWay::Auto => Self::Auto,
            IsolationWay::Namespace => Self::Namespace,
            IsolationWay::SingleId => Self::SingleId,
            IsolationWay::InPlace => Self::InPlace,
            IsolationWay::None => Self::None,
        }
    }
}

/// The command line in rbuild's words, and with global options that stand before a command moved behind it, as Docker takes
/// them: clap would read what follows an option as a build.
pub(crate) fn arranged(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut at = 1;
    while let Some(option) = arguments.get(at).and_then(|option| option.to_str()) {
        match option {
            "-D" | "--debug" => at += 1,
            "--root" | "--cert-dir" | "--isolation" => at += 2,
            _ if ["--root=", "--cert-dir=", "--isolation="].iter().any(|name| option.starts_with(name)) => {
                at += 1
            }
            _ => break,
        }
    }
    translated(&mut arguments, at);
    let commands = Cli::command();
    let named = arguments.get(at).and_then(|name| name.to_str());
    if named.is_some_and(|name| commands.get_subcommands().any(|command| command.get_name() == name)) {
        arguments[1..=at].rotate_right(1);
    }
    arguments
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile (what `rbuild CONTEXT` does)
    #[command(args_override_self = true)]
    Build(Box<BuildArgs>),
    /// Read Dockerfiles: print the typed instructions, or the file in canonical form
    Dockerfile {
        #[command(subcommand)]
        command: DockerfileCommand,
    },
    /// Print the stage graph of a Dockerfile
    Plan(Box<PlanArgs>),
    /// Fetch an image from a registry into the store
    Pull(PullArgs),
    /// Send images of the store to their registries
    Push(PushArgs),
    /// Give an image of the store another name
    Tag(TagArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Print all that is known of images of the store
    Inspect(InspectArgs),
    /// Print the history of an image of the store, newest first
    History(HistoryArgs),
    /// Remove images from the store
    Rmi(RmiArgs),
    /// Write images of the store to an archive
    Save(SaveArgs),
    /// Read images from an archive into the store
    Load(LoadArgs),
    /// Log in to a registry and keep the credentials in Docker's config.json
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Print who holds what in the store, and how large it is
    Du(DuArgs),
    /// Remove what nothing uses any more from the store
    Prune(PruneArgs),
    /// Look at the cache of build steps, and take away from it
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Copy an image between registries, OCI layouts and archives, without the store
    Copy(CopyArgs),
    /// Join images of a registry into an index for several platforms
    Manifest {
        #[command(subcommand)]
        command: ManifestCommand,
    },
    /// Say what this machine allows and which way rbuild will take
    Doctor,
    /// Open a shell in a step: a failed one that was kept (`rbuild shell [NAME]`), or any (`rbuild shell --at STEP CONTEXT`)
    #[command(args_override_self = true, mut_arg("context", |context| context.required(false)))]
    Shell(Box<ShellArgs>),
    /// Run an image in a new container
    #[command(args_override_self = true, disable_help_flag = true)]
    Run(Box<RunArgs>),
    /// Run a command in a running container
    #[command(args_override_self = true)]
    Exec(ExecArgs),
    /// List containers
    Ps(PsArgs),
    /// Print what a container wrote
    Logs(LogsArgs),
    /// Ask containers to end, and end them where that does not help
    Stop(StopArgs),
    /// Send containers a signal
    Kill(KillArgs),
    /// Wait for the end of containers and print their exit codes
    Wait(WaitArgs),
    /// Remove containers
    Rm(RmArgs),
    /// What `run` starts beside a container
    #[command(hide = true)]
    ContainerMonitor { id: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DockerfileCommand {
    /// Print the typed instructions with their spans as JSON
    Parse {
        /// Dockerfile to read, `-` for standard input
        file: PathBuf,
    },
    /// Print the file in canonical form
    Format {
        /// Dockerfile to read, `-` for standard input
        file: PathBuf,
        /// Only say whether the file is in canonical form (exit code 1 if not)
        #[arg(long)]
        check: bool,
        /// Change the file in place
        #[arg(short, long, conflicts_with = "check")]
        write: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    /// How to print the graph
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: PlanFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PlanFormat {
    Text,
    Json,
    Dot,
    Mermaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    Auto,
    Plain,
    Tty,
    Quiet,
    Rawjson,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    Fail,
    Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The step to enter, `[STAGE:]STEP` as progress shows it: `[build 3/6]` is `build:3`; what it stands on is built if need be
    #[arg(long, value_name = "STEP")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// Docker's options of a build.
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildArgs {
    /// Build context: a folder, a git or HTTP address, or `-` for standard input
    #[arg(value_name = "CONTEXT", required = true)]
    pub(crate) context: Option<String>,
    /// Name of the Dockerfile [default: CONTEXT/Dockerfile], a URL, or `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name for the image, `name:tag`; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,
    /// Build argument `NAME=VALUE`, or `NAME` to take the value from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// Another build context, `NAME=WHERE`: a folder, a git or HTTP address, `docker-image://…`, `oci-layout://…`, or an image as
    /// `copy` takes it (`oci-archive:FILE`)
    #[arg(long = "build-context", value_name = "NAME=WHERE")]
    pub(crate) build_contexts: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Label for the image; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Annotation for the image's manifest; may be repeated
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub(crate) annotations: Vec<String>,
    /// Run every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Run the steps of these stages again
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Say of every step whether it came from the cache, and if not, what changed
    #[arg(long)]
    pub(crate) explain: bool,
    /// Shared cache to look in: `type=registry,ref=NAME`, `type=local,src=DIR`, or an image's name; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,
    /// Shared cache to give results to: `type=registry,ref=NAME[,mode=max]`, `type=local,dest=DIR`, `type=inline`
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,
    /// Where a cache mount that is new here may begin: `type=registry,ref=NAME`, `type=local,src=DIR`
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_mounts_from: Vec<String>,
    /// Where the cache mounts that the build used go at its end: `type=registry,ref=NAME`, `type=local,dest=DIR`
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_mounts_to: Vec<String>,
    /// Write a page that shows where the time went [default: rbuild-timings.html]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "rbuild-timings.html")]
    pub(crate) timings: Option<PathBuf>,
    /// Bytes that the store may keep beyond images, such as 20GB, or `none` [default: a tenth of the file system]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_max_size: Option<String>,
    /// What was not used for so long goes from the store, such as 7d, or `none` [default: 30d]
    #[arg(long, value_name = "AGE")]
    pub(crate) cache_max_age: Option<String>,
    /// Ask the registry for the base images even if the store has them
    #[arg(long)]
    pub(crate) pull: bool,
    /// Line of /etc/hosts during RUN, `HOST:IP`
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,
    /// Network during RUN: default, host, none or private
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Platform of the image, such as linux/arm64; several (`linux/amd64,linux/arm64`) make an index
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
    /// Where the result goes: `type=oci,dest=FILE`, `type=docker`, `type=local,dest=DIR`, `type=tar`, `type=image,push=true`, a folder, or `-`
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub(crate) outputs: Vec<String>,
    /// Short for `--output=type=registry`
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep the image in the store (it is kept anyway)
    #[arg(long)]
    pub(crate) load: bool,
    /// Write the image's ID to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write facts about the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Print the image's ID and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, env = "BUILDKIT_PROGRESS", default_value = "auto")]
    pub(crate) progress: Progress,
    /// Secret for RUN --mount=type=secret, `id=ID[,src=FILE|,env=NAME][,cache-key=digest]`
    #[arg(long = "secret", value_name = "SECRET")]
    pub(crate) secrets: Vec<String>,
    /// SSH agent socket or keys for RUN --mount=type=ssh, `default` or `ID=SOCKET|KEY`
    #[arg(long = "ssh", value_name = "SSH")]
    pub(crate) ssh: Vec<String>,
    /// What RUN may ask for beyond the sandbox: security.insecure, network.host, device or device=NAME
    #[arg(long = "allow", value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// CDI device for every RUN, `VENDOR/CLASS=NAME`; may be repeated
    #[arg(long = "device", value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Folder with specifications of CDI devices; may be repeated
    #[arg(long = "cdi-spec-dir", value_name = "DIR", default_values = ["/etc/cdi", "/var/run/cdi"])]
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    /// Size of /dev/shm during RUN, such as 128m [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Limit of a resource during RUN, `NAME=SOFT[:HARD]`
    #[arg(long = "ulimit", value_name = "LIMIT")]
    pub(crate) ulimits: Vec<String>,
    /// Limits of each RUN, `memory=2g,cpus=1.5`; the keys are the names of the options below
    #[arg(long = "resource", value_name = "LIMITS")]
    pub(crate) resources: Vec<String>,
    /// Limits of each RUN
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Add a capability to RUN's
    #[arg(long = "cap-add", value_name = "CAP", value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability from RUN's
    #[arg(long = "cap-drop", value_name = "CAP", value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,
    /// Let RUN trust what this machine trusts: its CA bundle is there during RUN only and leaves no trace in the image
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) host_certs: Option<String>,
    /// Report build checks instead of building; `all`, or names, for rules that are off by default
    #[arg(long, value_name = "RULES", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) check: Option<String>,
    /// What to do: build, check, outline or targets (`,format=json`)
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// What to do when a RUN fails: `shell` opens one in its place, with its files, mounts, environment and user
    #[arg(long, value_enum, value_name = "WHAT", default_value = "fail")]
    pub(crate) on_error: OnError,
    /// Keep what a RUN left that fails, and say how to enter it
    #[arg(long)]
    pub(crate) keep_failed: bool,
    /// Refuse what the reference implementation refuses
    #[arg(long)]
    pub(crate) strict_docker: bool,
    /// Accepted for Docker's sake, without effect here
    #[command(flatten)]
    pub(crate) ignored: IgnoredArgs,
}

/// Options that Docker's `build` has and that have no meaning here; each that is given is named in a warning.
#[derive(Debug, Clone, Args)]
pub(crate) struct IgnoredArgs {
    #[arg(long, hide = true)]
    pub(crate) builder: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) compress: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rm: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) force_rm: bool,
    #[arg(long, hide = true)]
    pub(crate) security_opt: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) squash: bool,
    #[arg(long, hide = true)]
    pub(crate) provenance: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) sbom: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) attest: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_options_may_come_first() {
        for (typed, meant) in [
            ("rbuild --root X images -q", "rbuild images --root X -q"),
            ("rbuild -D --root=X manifest create a", "rbuild manifest -D --root=X create a"),
            ("rbuild --root X -t a .", "rbuild --root X -t a ."),
            ("rbuild --root images .", "rbuild --root images ."),
            ("rbuild images", "rbuild images"),
            ("rbuild --root", "rbuild --root"),
            ("rbuild", "rbuild"),
        ] {
            let words: Vec<OsString> = typed.split(' ').map(OsString::from).collect();
            let arranged: Vec<String> =
                arranged(words).into_iter().map(|word| word.into_string().unwrap()).collect();
            assert_eq!(arranged.join(" "), meant);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
