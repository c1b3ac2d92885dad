//! What a container is to be: everything that its monitor has to know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use rbuild_executor::{Cgroups, Limits};
use rbuild_image::Digest;
use rbuild_store::Parent;
use serde::{Deserialize, Serialize};

use crate::{HealthCheck, Port};

/// One container as it was asked for. Written once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// 64 hexadecimal digits; set by [`crate::Containers::create`].
    pub id: String,
    /// Its name; made up by [`crate::Containers::create`] where it is empty.
    pub name: String,
    /// The image as the user named it.
    pub image: String,
    /// The image ID.
    pub image_id: Digest,
    /// The tree to run over.
    pub parent: Parent,
    /// The id map under which that tree is read.
    pub id_map: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment in order; `HOME` is added where it is missing.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// `USER`'s argument.
    pub user: String,
    /// Host name; the first digits of the id where it is empty.
    pub hostname: String,
    /// Folders and files of the host.
    pub volumes: Vec<Volume>,
    /// Empty folders in memory.
    pub tmpfs: Vec<PathBuf>,
    /// Which network.
    pub network: NetworkMode,
    /// Ports of the host that lead into it.
    pub ports: Vec<Port>,
    /// Lines of /etc/hosts.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Content of /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// Capabilities beyond Docker's.
    pub cap_add: Vec<String>,
    /// Capabilities of Docker's that it does not get.
    pub cap_drop: Vec<String>,
    /// Size of /dev/shm in bytes.
    pub shm_size: Option<u64>,
    /// Where it gets a control group of its own, and what it may use there.
    pub limits: Option<(Cgroups, Limits)>,
    /// The root refuses writes.
    pub read_only: bool,
    /// The command has a terminal, of this many columns and rows at first.
    pub terminal: Option<(u16, u16)>,
    /// Standard input is open.
    pub stdin: bool,
    /// The command waits until somebody looks on, so that none of its output is missed; its input ends with that one's.
    pub attached: bool,
    /// Number of the signal that asks it to end.
    pub stop_signal: i32,
    /// Seconds after that until it is killed.
    pub stop_timeout: u64,
    /// How to find out whether it is well.
    pub health: Option<HealthCheck>,
    /// Nothing of it stays when it has ended.
    pub remove: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Settings {
    /// The id as people see it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// A folder or file of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path here.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// It may not be written to.
    pub read_only: bool,
}

/// Which network a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The host's.
    Host,
    /// Loopback only, and no port leads into it.
    None,
    /// A network of its own: out through pasta or slirp4netns where these can be used, in through ports.
    Private,
}
