//! The command lines of containers, by clap.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::resources::LimitArgs;

/// Whether `run` asks the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    Always,
    Missing,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Leave the container to itself and print its ID
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Port of this machine that leads into the container, `[[ADDRESS:]HOST:]CONTAINER[/udp]`; may be repeated
    #[arg(short, long = "publish", value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// A free port of this machine for each port that the image exposes
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Variable `NAME=VALUE`, or `NAME` to take the value from the environment; may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// File with a variable on each line
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,
    /// Folder or file of this machine to show in the container, `SOURCE:TARGET[:ro]`; may be repeated
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
    /// Empty folder in memory; may be repeated
    #[arg(long, value_name = "TARGET")]
    pub(crate) tmpfs: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, `NAME|ID[:GROUP|ID]`
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Program to run instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Host name in the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Network: host, none or private [default: private with `--publish`, else host]
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Line of /etc/hosts, `HOST:IP`
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,
    /// Refuse writes to the image's files
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Add a capability to Docker's
    #[arg(long = "cap-add", value_name = "CAP", value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability from Docker's
    #[arg(long = "cap-drop", value_name = "CAP", value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,
    /// Size of /dev/shm, such as 128m [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Limits of the container
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Signal that asks the command to end [default: the image's, else SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u64>,
    /// Do not run the image's health check
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Label for the container; may be repeated
    #[arg(short, long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Write the container's ID to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Whether to ask the registry for the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: Pull,
    /// Platform of an image that is pulled
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Accepted for Docker's sake: init is always there
    #[arg(long, hide = true)]
    pub(crate) init: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Variable `NAME=VALUE`, or `NAME` to take the value from the environment; may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, `NAME|ID[:GROUP|ID]`
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print IDs only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print whole IDs and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// `json`, or a template such as `{{.Names}}`
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with the last so many lines
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    pub(crate) tail: String,
    /// Print the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Name or ID
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before the container is killed [default: the container's]
    #[arg(short, long = "time", visible_alias = "timeout", value_name = "SECONDS")]
    pub(crate) time: Option<u64>,
    /// Signal to send [default: the container's]
    #[arg(short, long, value_name = "SIGNAL")]
    pub(crate) signal: Option<String>,
    /// Names or IDs
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(crate) signal: String,
    /// Names or IDs
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Names or IDs
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or IDs
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}
