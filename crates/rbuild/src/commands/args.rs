//! The options of these commands as typed: Docker's names.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// An image's name: `name[:tag]`, `docker://…`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Image to fetch: a name, or `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`
    pub(crate) image: String,
    /// All tags that the registry has of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Platform to choose from an index, such as linux/arm64 [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print the image's full name only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) accepted: AcceptedTransferArgs,
}

/// Docker's options of `pull` and `push` that change nothing here.
#[derive(Debug, Args)]
pub(crate) struct AcceptedTransferArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) disable_content_trust: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Images of the store to send, each under its own name; several names of one image are sent once. Or one image, and a layout or
    /// archive to write it to: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// All tags that the store has of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Print the digest only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Compression of layers made here
    #[arg(long, value_enum, default_value = "gzip")]
    pub(crate) compression: CompressionName,
    /// Also recompress layers that exist in another form (the image gets another digest)
    #[arg(long)]
    pub(crate) force_compression: bool,
    #[command(flatten)]
    pub(crate) accepted: AcceptedTransferArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionName {
    Gzip,
    Zstd,
    Uncompressed,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// An image of the store: a name or an image ID
    pub(crate) source: String,
    /// Its new name
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
    /// `json` (one document per line), `table`, or a template such as `{{.Repository}}:{{.Tag}}`
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print image IDs only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print image IDs in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also what registries call the images
    #[arg(long)]
    pub(crate) digests: bool,
    /// Only images that fit: dangling=true, reference=PATTERN, label=NAME[=VALUE], until=AGE
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Accepted for Docker's sake: the store has no images between
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Images of the store: names or image IDs; images elsewhere: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:…`, `docker-archive:…`
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// Platform to choose from an index elsewhere [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// `json`, or a template such as `{{.Config.Env}}`
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print the image config's bytes as they are
    #[arg(long, conflicts_with = "format")]
    pub(crate) raw: bool,
    #[arg(long, hide = true)]
    pub(crate) r#type: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// An image of the store: a name or an image ID
    pub(crate) image: String,
    /// `json` (one document per line), `table`, or a template such as `{{.CreatedBy}}`
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print image IDs only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print everything in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Sizes and times for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) human: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Images to remove: names or image IDs
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// Also an image ID with names in several repositories; a missing image is no error
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Take the names only; what the image held goes at the next `prune`
    #[arg(long)]
    pub(crate) no_prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Images to write: names or image IDs
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// File to write, or with `--format oci-dir` the folder [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Kind of archive
    #[arg(long, value_enum, default_value = "docker")]
    pub(crate) format: ArchiveFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// For `docker load`
    #[value(alias = "docker-archive")]
    Docker,
    /// An OCI layout in a tar
    #[value(alias = "oci-archive")]
    Oci,
    /// An OCI layout as a folder
    OciDir,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Archive to read, or the folder of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Platform to choose from an index [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Say only which images were loaded
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry [default: docker.io]
    pub(crate) registry: Option<String>,
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password (better: --password-stdin)
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry [default: docker.io]
    pub(crate) registry: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// `json` (one document per line), `table`, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the records of steps, last used first
    Ls {
        /// `json` (one document per line), `table`, or a template such as `{{.Key}}`
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        /// Print keys and steps in full
        #[arg(long)]
        no_trunc: bool,
    },
    /// Print what the results of steps depend on
    Inspect {
        /// Keys of records, or how they begin
        #[arg(required = true)]
        keys: Vec<String>,
        /// `json`, `table`, or a template
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Forget the results of steps; what they hold goes at the next `prune`
    Rm {
        /// Keys of records, or how they begin
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Remove records that were not used lately, with what only they hold; images and cache mounts stay
    Prune(CachePruneArgs),
    /// Check that everything in the store is what its name says, and refers to what is there
    Verify {
        /// Read every blob and check its digest
        #[arg(long)]
        read_blobs: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CachePruneArgs {
    /// All records that no running build holds
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only what was not used for this long, such as 24h [default: 7d]
    #[arg(long, value_name = "AGE")]
    pub(crate) until: Option<String>,
    /// Keep this much of the cache, such as 10GB
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep_storage: Option<String>,
    /// Accepted for Docker's sake: nobody is asked
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also all images, all of the cache and the cache mounts: everything that no running build holds
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what was not used for this long, such as 24h [default: 7d for the cache; with --all: 0s]
    #[arg(long, value_name = "AGE")]
    pub(crate) until: Option<String>,
    /// Keep this much of the cache, such as 10GB
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep_storage: Option<String>,
    /// Only images that fit: label=NAME[=VALUE], label!=NAME[=VALUE], until=AGE
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// From: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`; a bare name is a registry's
    pub(crate) source: String,
    /// To: the same forms
    pub(crate) destination: String,
    /// Only this platform's image of an index [default: all of it]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print the digest only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Accepted for skopeo's sake: all of an index is the default
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ManifestCommand {
    /// Begin an index, with images that are at a registry, in a layout or an archive
    Create {
        /// Name of the index
        list: String,
        /// Images: names at registries, or `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`
        images: Vec<String>,
        /// Add to an index that was begun already
        #[arg(short, long)]
        amend: bool,
    },
    /// Say which platform an image of an index is for
    Annotate {
        /// Name of the index
        list: String,
        /// The image, as `create` was given it
        image: String,
        /// Operating system
        #[arg(long)]
        os: Option<String>,
        /// Architecture
        #[arg(long)]
        arch: Option<String>,
        /// Variant of the architecture, such as v7
        #[arg(long)]
        variant: Option<String>,
        /// Version of the operating system
        #[arg(long)]
        os_version: Option<String>,
        /// Features of the operating system
        #[arg(long, value_delimiter = ',')]
        os_features: Vec<String>,
    },
    /// Print an index that was begun, or a manifest that is elsewhere
    Inspect {
        /// Name of the index, or of an image at a registry, in a layout or an archive
        name: String,
    },
    /// Send an index to its registry
    Push {
        /// Name of the index
        list: String,
        /// Send it under this name instead
        destination: Option<String>,
        /// Forget it afterwards
        #[arg(short, long)]
        purge: bool,
    },
    /// Forget indexes that were begun
    Rm {
        /// Names of the indexes
        #[arg(required = true)]
        lists: Vec<String>,
    },
}
