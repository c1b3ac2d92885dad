//! Tags: which image a reference means.

use rbuild_image::Digest;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lock::Hold;
use crate::session::names;
use crate::{Resource, Store, record};

/// The image of one reference, and what it keeps alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The whole reference: `docker.io/library/app:latest`.
    pub reference: String,
    /// Digest of its manifest or index, if one was written.
    pub manifest: Option<Digest>,
    /// Digest of its config: the image ID.
    pub image_id: Digest,
    /// When the tag was set, in seconds since 1970.
    pub created: i64,
    /// Every blob, base layer and snapshot that the image needs (the top snapshot is enough: it keeps its parents).
    pub keeps: Vec<Resource>,
    /// The session that wrote it, for the rules of power loss. Set by the store.
    #[serde(default)]
    pub session: String,
}

impl Store {
    /// Sets a tag, replacing what it meant before. What it keeps must be here.
    ///
    /// # Errors
    /// [`crate::StoreError::NoBlob`] and its like for something kept that is not here.
    pub fn set_tag(&self, image: ImageRecord) -> Result<()> {
        for resource in &image.keeps {
            self.require_resource(resource)?;
        }
        let image = ImageRecord { session: self.inner.session.name.clone(), ..image };
        self.publish_record(&self.inner.layout.tag(&image.reference), &image)
    }

    /// The image of a reference, written out in full as [`rbuild_image::Reference`] displays it.
    pub fn tag(&self, reference: &str) -> Result<Option<ImageRecord>> {
        let _gate = self.gate(Hold::Shared)?;
        let Some(image) = record::read_or_drop::<ImageRecord>(&self.inner.layout.tag(reference))? else {
            return Ok(None);
        };
        for resource in &image.keeps {
            self.inner.session.hold(resource)?;
        }
        Ok(Some(image))
    }

    /// All tags, sorted by reference.
    pub fn tags(&self) -> Result<Vec<ImageRecord>> {
        let folder = self.inner.layout.dir("tags");
        let mut images = Vec::new();
        for name in names(&folder)? {
            images.extend(record::read_or_drop::<ImageRecord>(&folder.join(name))?);
        }
        images.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(images)
    }

    /// Removes a tag and says whether there was one. What it kept goes at the next collection.
    pub fn remove_tag(&self, reference: &str) -> Result<bool> {
        Ok(record::remove(&self.inner.layout.tag(reference))?)
    }

    pub(crate) fn require_resource(&self, resource: &Resource) -> Result<()> {
        use crate::StoreError::{NoBlob, NoLayer, NoSnapshot};
        if self.lease(resource)? {
            return Ok(());
        }
        Err(match resource {
            Resource::Blob(digest) => NoBlob(digest.clone()),
            Resource::Layer(chain_id) => NoLayer(chain_id.clone()),
            Resource::Snapshot(id) => NoSnapshot(*id),
        })
    }
}
