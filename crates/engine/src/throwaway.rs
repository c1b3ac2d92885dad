//! A root file system to run something in and then throw away: an image's tree, or a step's, under an empty upper.

use std::sync::Arc;

use rbuild_executor::{Mounted, SandboxSpec, User};
use rbuild_fs::Root;
use rbuild_image::{Digest, ImageConfig, Platform};
use rbuild_store::{NewSnapshot, Parent, Store};

use crate::error::Result;
use crate::event::Steps;
use crate::images::Images;
use crate::steps;
use crate::stored::{self, Transfers};
use crate::users;

/// What a container is made of.
#[derive(Debug, Clone)]
pub struct ContainerImage {
    /// The image ID.
    pub id: Digest,
    /// How it is to be run.
    pub config: ImageConfig,
    /// Its tree, unpacked here.
    pub parent: Parent,
}

impl Transfers<'_> {
    /// An image of the store as a container needs it; layers that are not unpacked for this user are.
    ///
    /// # Errors
    /// No such image in the store; a layer that is gone from it and cannot be fetched again.
    pub fn container_image(&self, name: &str) -> Result<ContainerImage> {
        let stored = stored::find(self.store, name)?;
        let (id, config) = (stored.id.clone(), stored.config().clone());
        let steps = Steps::default();
        let platform = Platform::host();
        let images = Images::outside_a_build(self.client, self.store, self.events, &steps, platform);
        let parent = images.parent(&Arc::new(stored.image).rootfs())?;
        Ok(ContainerImage { id, config, parent })
    }
}

/// A writable tree. It goes with this value, and with the process however that ends.
#[derive(Debug)]
pub struct ThrowAway {
    // Unmounted before its upper is removed.
    mounted: Mounted,
    root: Root,
    _upper: NewSnapshot,
}

impl ThrowAway {
    /// Mounts an empty upper over the tree of `parent`, which is held against collection.
    ///
    /// # Errors
    /// A parent that is not here, or what the kernel refuses.
    pub fn over(store: &Store, parent: &Parent) -> Result<ThrowAway> {
        let (upper, lowers) = steps::begin(store, parent)?;
        let (mounted, _) = steps::mount_over(store, &upper, &lowers)?;
        let root = steps::mounted_root(&mounted)?;
        Ok(ThrowAway { mounted, root, _upper: upper })
    }

    /// The merged tree.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// File access to it.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Gives a sandbox over it the journal of owners, where this place needs one.
    ///
    /// # Errors
    /// What cannot be read of the store.
    pub fn give_journal(&self, spec: &mut SandboxSpec<'_>) -> Result<()> {
        if let Some(sidecar) = steps::sidecar(&self.mounted)? {
            spec.journaled = sidecar.is_marked();
            spec.sidecar = Some(sidecar);
        }
        Ok(())
    }

    /// The user that `USER`'s argument means in this tree; the primary group is among the groups.
    ///
    /// # Errors
    /// There is none.
    pub fn user(&self, text: &str) -> Result<User> {
        let mut user = users::of(&self.root, text)?;
        user.groups = steps::with_primary(user.gid, user.groups);
        Ok(user)
    }
}
