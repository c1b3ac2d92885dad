//! Memos: small things worked out once, that can be worked out again.

use rbuild_image::{DiffId, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout::is_plain_name;
use crate::{Resource, SnapshotId, Store, StoreError, record};

/// Memo kinds of the helpers below.
const COMPRESSED: &str = "compressed";
const CONTENT: &str = "content";

/// How a memo stands to collection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoLinks {
    /// What it keeps while it is within the limits of age and size. If one of them is gone, so is the memo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<Resource>,
    /// What it speaks of but does not keep. If one of them is collected, so is the memo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<Resource>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Memo<T> {
    pub(crate) key: String,
    pub(crate) value: T,
    #[serde(flatten)]
    pub(crate) links: MemoLinks,
    pub(crate) session: String,
}

/// A compressed blob of a layer: what push and export need of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CompressedBlob {
    digest: Digest,
    size: u64,
}

impl Store {
    /// The memo of this kind with this key. What it keeps is held from now on; if that is gone, so is the memo.
    pub fn memo<T: DeserializeOwned>(&self, kind: &'static str, key: &str) -> Result<Option<T>> {
        let path = self.inner.layout.memo(kind, key);
        let Some(memo) = record::read_or_drop::<Memo<T>>(&path)? else { return Ok(None) };
        if memo.key != key {
            return Ok(None);
        }
        for resource in &memo.links.keeps {
            if !self.lease(resource)? {
                return Ok(None);
            }
        }
        record::touch(&path)?;
        Ok(Some(memo.value))
    }

    /// Notes `value`. `kind` is a plain file name; `key` any text.
    pub fn put_memo<T: Serialize>(
        &self,
        kind: &'static str,
        key: &str,
        value: &T,
        links: &MemoLinks,
    ) -> Result<()> {
        if !is_plain_name(kind) {
            return Err(StoreError::BadName { what: "a kind of memo", name: kind.to_owned() });
        }
        for resource in &links.keeps {
            self.require_resource(resource)?;
        }
        let session = self.inner.session.name.clone();
        let memo = Memo { key: key.to_owned(), value, links: links.clone(), session };
        self.publish_record(&self.inner.layout.memo(kind, key), &memo)
    }

    /// The blob that the layer `diff_id` compresses to, by the compressor called `compression` (its name, level and
    /// version: bytes depend on all three).
    pub fn compressed_blob(&self, diff_id: &DiffId, compression: &str) -> Result<Option<crate::Blob>> {
        match self.memo::<CompressedBlob>(COMPRESSED, &format!("{} {compression}", diff_id.0))? {
            Some(found) => self.blob(&found.digest),
            None => Ok(None),
        }
    }

    /// Notes that the layer `diff_id` compresses to `blob`, and keeps the blob for the next time.
    pub fn put_compressed_blob(&self, diff_id: &DiffId, compression: &str, blob: &crate::Blob) -> Result<()> {
        let links = MemoLinks { keeps: vec![Resource::Blob(blob.digest.clone())], about: Vec::new() };
        let value = CompressedBlob { digest: blob.digest.clone(), size: blob.size };
        self.put_memo(COMPRESSED, &format!("{} {compression}", diff_id.0), &value, &links)
    }

    /// The content digest of what `selection` (any text that says it all) selects in a snapshot.
    pub fn content_digest(&self, snapshot: &SnapshotId, selection: &str) -> Result<Option<Digest>> {
        self.memo(CONTENT, &format!("{snapshot} {selection}"))
    }

    /// Notes the content digest of a selection in a snapshot, for as long as there is the snapshot.
    pub fn put_content_digest(&self, snapshot: &SnapshotId, selection: &str, digest: &Digest) -> Result<()> {
        let links = MemoLinks { keeps: Vec::new(), about: vec![Resource::Snapshot(*snapshot)] };
        self.put_memo(CONTENT, &format!("{snapshot} {selection}"), digest, &links)
    }
}
