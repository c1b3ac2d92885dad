//! What a session uses, so that collection in another process leaves it alone.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rbuild_image::{ChainId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::session::Sessions;
use crate::{SnapshotId, Store};

/// Something that collection can take, or that something else keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// A blob.
    Blob(Digest),
    /// A base layer as applied, under every id map.
    Layer(ChainId),
    /// A snapshot, and with it its parents and base layers.
    Snapshot(SnapshotId),
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(out, "blob {digest}"),
            Self::Layer(chain_id) => write!(out, "layer {}", chain_id.0),
            Self::Snapshot(id) => write!(out, "snapshot {id}"),
        }
    }
}

/// The text is not a line of a lease.
#[derive(Debug, thiserror::Error)]
#[error("could not read `{0}` as a resource of the store")]
pub struct UnknownResource(pub String);

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(line: &str) -> Result<Self, UnknownResource> {
        let unknown = || UnknownResource(line.to_owned());
        let (kind, name) = line.split_once(' ').ok_or_else(unknown)?;
        match kind {
            "blob" => name.parse().map(Self::Blob).map_err(|_| unknown()),
            "layer" => name.parse().map(|digest| Self::Layer(ChainId(digest))).map_err(|_| unknown()),
            "snapshot" => name.parse().map(Self::Snapshot).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl Store {
    /// Holds `resource` until this store is closed, and says whether it is there. Everything that the store returns is
    /// held already; this is for names that came from elsewhere.
    pub fn lease(&self, resource: &Resource) -> Result<bool> {
        match resource {
            Resource::Blob(digest) => Ok(self.blob(digest)?.is_some()),
            Resource::Layer(chain_id) => Ok(self.layer(chain_id)?.is_some()),
            Resource::Snapshot(id) => Ok(self.snapshot(id)?.is_some()),
        }
    }

    /// Everything that living sessions hold, this one included.
    pub fn leased(&self) -> Result<BTreeSet<Resource>> {
        Ok(Sessions::read(&self.inner.layout)?.leased)
    }
}

/// The resources named by a lease. A last line cut short by a crash names nothing; so does one that a later version wrote.
pub(crate) fn read(path: &Path) -> std::io::Result<BTreeSet<Resource>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
