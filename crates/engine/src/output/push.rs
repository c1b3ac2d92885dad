//! To registries: blobs first, each repository once, manifests last.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use rbuild_image::Reference;

use crate::error::Result;
use crate::event::Event;
use crate::image::Image;
use crate::images::registry_failure;
use crate::side_by_side::side_by_side;

use super::pack::PackedBlob;
use super::{Bundle, Exporter, Packed, PackedLayer};

impl Exporter<'_> {
    /// The images by digest, then the index under each name; a single image under each name at once.
    pub(crate) fn push_bundle(&self, bundle: &Bundle<'_>, names: &[Reference]) -> Result<()> {
        let Some((descriptor, bytes)) = &bundle.index else {
            return bundle.images.iter().try_for_each(|(image, packed)| self.push(image, packed, names));
        };
        for (image, packed) in &bundle.images {
            let by_digest = names.iter().map(|name| name.repository_digest(&packed.descriptor.digest));
            let repositories: BTreeSet<Reference> = by_digest.collect();
            self.push(image, packed, &Vec::from_iter(repositories))?;
        }
        for name in names {
            let pushed = self.images.client.push_manifest(name, &descriptor.media_type, bytes);
            pushed.map_err(|error| push_failure(name, error))?;
            let text = format!("pushed {name} {}", descriptor.digest);
            self.images.events.event(Event::Note { step: self.number, text: &text });
        }
        Ok(())
    }

    /// Blobs that a repository lacks, once for all of its tags, then the manifest under each name.
    pub(crate) fn push(&self, image: &Image, packed: &Packed, names: &[Reference]) -> Result<()> {
        let mut served: Vec<Reference> = Vec::new();
        for name in names {
            if !served.iter().any(|known| known.repository() == name.repository()) {
                self.push_blobs(image, packed, name, &served)?;
                served.push(name.clone());
            }
            let (client, media_type) = (self.images.client, &packed.descriptor.media_type);
            client
                .push_manifest(name, media_type, &packed.manifest_bytes)
                .map_err(|error| push_failure(name, error))?;
            let text = format!("pushed {name} {}", packed.descriptor.digest);
            self.images.events.event(Event::Note { step: self.number, text: &text });
        }
        Ok(())
    }

    /// Blobs that the registry lacks, several at a time; `served` are repositories that have them all by now.
    fn push_blobs(
        &self,
        image: &Image,
        packed: &Packed,
        name: &Reference,
        served: &[Reference],
    ) -> Result<()> {
        let client = self.images.client;
        self.images.events.event(Event::Note { step: self.number, text: &format!("pushing {name}") });
        let config = image.config_bytes.clone();
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(config.clone()))) };
        let send_config = || {
            let pushed = client.push_blob(name, &packed.manifest.config, &open, &[], &|_| {});
            pushed.map(drop).map_err(|error| push_failure(name, error))
        };
        // The same layer twice in an image is sent once.
        let mut seen = BTreeSet::new();
        let layers = packed.sources.iter().filter(|layer| seen.insert(&layer.descriptor.digest));
        let blobs: Vec<Option<&PackedLayer>> = layers.map(Some).chain([None]).collect();
        let send = |blob: &Option<&PackedLayer>| match blob {
            Some(layer) => self.send_layer(layer, name, served),
            None => send_config(),
        };
        side_by_side(&blobs, send).map(drop)
    }

    /// A layer for the repository of `name`: what `served` or its own origin has is taken over from there by the registry.
    pub(crate) fn send_layer(
        &self,
        layer: &PackedLayer,
        name: &Reference,
        served: &[Reference],
    ) -> Result<()> {
        let (item, total) = (layer.descriptor.digest.short(), layer.descriptor.size);
        let progress = |current| {
            self.images.events.event(Event::Progress { step: self.number, item, current, total });
        };
        let mounts: Vec<Reference> = served.iter().cloned().chain(layer.origin.as_deref().cloned()).collect();
        self.images
            .client
            .push_blob(name, &layer.descriptor, &|| self.open_layer(layer), &mounts, &progress)
            .map(drop)
            .map_err(|error| push_failure(name, error))
    }

    /// The bytes of a layer, brought here where they are not.
    pub(crate) fn open_layer(&self, layer: &PackedLayer) -> io::Result<Box<dyn Read + Send>> {
        match &layer.blob {
            PackedBlob::Here(blob) => Ok(Box::new(File::open(&blob.path)?)),
            PackedBlob::Remote(origin) => {
                let blob = self.images.blob(&layer.descriptor, origin, self.number);
                Ok(Box::new(File::open(&blob.map_err(|error| io::Error::other(error.to_string()))?.path)?))
            }
        }
    }
}

fn push_failure(name: &Reference, error: rbuild_registry::RegistryError) -> crate::BuildError {
    match registry_failure(name, error) {
        crate::BuildError::Failed(mut failure) => {
            failure.message = format!("could not push `{}`", name.familiar());
            crate::BuildError::Failed(failure)
        }
        other => other,
    }
}
