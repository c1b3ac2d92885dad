//! Where documents and blobs of a copy come from.

use std::io::Read;
use std::sync::Arc;

use rbuild_image::layout::LayoutReader;
use rbuild_image::{Descriptor, Digest, Index, Reference};
use rbuild_registry::Client;

use super::{Location, stream};
use crate::error::{Explain, FailureKind, Result};
use crate::images::registry_failure;

/// A registry's repository, or an open layout.
pub(super) enum Source {
    Registry { client: Arc<Client>, reference: Reference },
    Layout { layout: Box<LayoutReader>, root: Box<Descriptor>, shown: String },
}

/// An image of an index in the layout.
fn inner(layout: &LayoutReader, digest: &Digest) -> Option<Descriptor> {
    let indexes = layout.index().manifests.iter().filter_map(|entry| layout.document(entry).ok());
    let mut entries = indexes.filter_map(|bytes| Index::parse(&bytes).ok()).flat_map(|index| index.manifests);
    entries.find(|entry| entry.digest == *digest)
}

impl Source {
    pub(super) fn open(client: &Arc<Client>, location: &Location) -> Result<Source> {
        if let Location::Registry(reference) = location {
            return Ok(Source::Registry { client: client.clone(), reference: reference.clone() });
        }
        let shown = location.to_string();
        let fault = || format!("could not read `{shown}`");
        let (path, name) = location.archive().unwrap_or((std::path::Path::new(""), None));
        let layout = LayoutReader::open(path).explain(FailureKind::Build, fault)?;
        let mut root = match layout.find(name) {
            Ok(entry) => entry.clone(),
            Err(error) => {
                let inner =
                    name.and_then(|name| name.parse().ok()).and_then(|digest| inner(&layout, &digest));
                inner.ok_or(error).explain(FailureKind::Build, fault)?
            }
        };
        // The names it has there are not part of what is copied.
        root.annotations.clear();
        Ok(Source::Layout { layout: Box::new(layout), root: Box::new(root), shown })
    }

    /// The repository, for mounts.
    pub(super) fn reference(&self) -> Option<&Reference> {
        match self {
            Source::Registry { reference, .. } => Some(reference),
            Source::Layout { .. } => None,
        }
    }

    /// The manifest or index that is to be copied.
    pub(super) fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        match self {
            Source::Registry { client, reference } => {
                let fetched =
                    client.manifest(reference).map_err(|error| registry_failure(reference, error))?;
                Ok((fetched.descriptor, fetched.bytes))
            }
            Source::Layout { root, .. } => Ok((Descriptor::clone(root), self.document(root)?)),
        }
    }

    /// A manifest that an index points to.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self {
            Source::Registry { client, reference } => {
                let reference = reference.repository_digest(&descriptor.digest);
                let fetched =
                    client.manifest(&reference).map_err(|error| registry_failure(&reference, error))?;
                Ok(fetched.bytes)
            }
            Source::Layout { layout, shown, .. } => layout
                .document(descriptor)
                .explain(FailureKind::Build, || format!("could not read `{shown}`")),
        }
    }

    /// A blob from its start; what reads it checks its digest.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self {
            Source::Registry { client, reference } => {
                Ok(stream::blob(client.clone(), reference.clone(), descriptor.clone()))
            }
            Source::Layout { layout, shown, .. } => layout
                .blob(&descriptor.digest)
                .explain(FailureKind::Build, || format!("could not read `{shown}`")),
        }
    }
}
