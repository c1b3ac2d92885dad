//! What media types mean: OCI's own and Docker's older names for the same things.

use crate::MediaType;

/// How a layer blob is compressed, as its media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Questions one asks of a [`MediaType`], answered alike for OCI's and Docker's.
pub trait MediaTypeExt {
    /// Docker's `manifest.v2+json`.
    fn docker_manifest() -> MediaType;
    /// Docker's `manifest.list.v2+json`.
    fn docker_manifest_list() -> MediaType;
    /// Docker's `container.image.v1+json`.
    fn docker_config() -> MediaType;
    /// Docker's `rootfs.diff.tar.gzip`.
    fn docker_layer_gzip() -> MediaType;
    /// Docker's `rootfs.diff.tar`, written for uncompressed layers.
    fn docker_layer() -> MediaType;
    /// Is it one image's manifest?
    fn is_manifest(&self) -> bool;
    /// Is it an index (Docker: manifest list)?
    fn is_index(&self) -> bool;
    /// Is it Docker's retired schema 1?
    fn is_schema1(&self) -> bool;
    /// Is it an image config?
    fn is_config(&self) -> bool;
    /// The compression of a layer; none for what is not a layer of a file system.
    fn layer_compression(&self) -> Option<LayerCompression>;
    /// Is it a layer that registries do not hold (Windows base layers, "foreign" ones)?
    fn is_foreign_layer(&self) -> bool;
    /// Is it one of Docker's types?
    fn is_docker(&self) -> bool;
}

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

impl MediaTypeExt for MediaType {
    fn docker_manifest() -> MediaType {
        MediaType::Other(DOCKER_MANIFEST.to_owned())
    }

    fn docker_manifest_list() -> MediaType {
        MediaType::Other(DOCKER_LIST.to_owned())
    }

    fn docker_config() -> MediaType {
        MediaType::Other(DOCKER_CONFIG.to_owned())
    }

    fn docker_layer_gzip() -> MediaType {
        MediaType::Other(DOCKER_LAYER_GZIP.to_owned())
    }

    fn docker_layer() -> MediaType {
        MediaType::Other(DOCKER_LAYER.to_owned())
    }

    fn is_manifest(&self) -> bool {
        *self == MediaType::ImageManifest || self.as_ref() == DOCKER_MANIFEST
    }

    fn is_index(&self) -> bool {
        *self == MediaType::ImageIndex || self.as_ref() == DOCKER_LIST
    }

    fn is_schema1(&self) -> bool {
        self.as_ref().starts_with("application/vnd.docker.distribution.manifest.v1+")
    }

    fn is_config(&self) -> bool {
        *self == MediaType::ImageConfig || self.as_ref() == DOCKER_CONFIG
    }

    fn layer_compression(&self) -> Option<LayerCompression> {
        let name = self.as_ref();
        let rest = name
            .strip_prefix("application/vnd.oci.image.layer.v1.tar")
            .or_else(|| name.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"))
            .or_else(|| name.strip_prefix(DOCKER_LAYER))
            .or_else(|| name.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"))?;
        match rest {
            "" => Some(LayerCompression::None),
            "+gzip" | ".gzip" => Some(LayerCompression::Gzip),
            "+zstd" | ".zstd" => Some(LayerCompression::Zstd),
            _ => None,
        }
    }

    fn is_foreign_layer(&self) -> bool {
        let name = self.as_ref();
        name.contains(".image.layer.nondistributable.") || name.contains(".rootfs.foreign.")
    }

    fn is_docker(&self) -> bool {
        self.as_ref().starts_with("application/vnd.docker.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_and_oci_are_understood_alike() {
        assert!(MediaType::ImageManifest.is_manifest() && MediaType::docker_manifest().is_manifest());
        assert!(MediaType::ImageIndex.is_index() && MediaType::docker_manifest_list().is_index());
        assert!(!MediaType::ImageIndex.is_manifest() && !MediaType::docker_manifest().is_index());
        assert!(MediaType::from("application/vnd.docker.distribution.manifest.v1+prettyjws").is_schema1());
        let gzip = Some(LayerCompression::Gzip);
        assert_eq!(MediaType::docker_layer_gzip().layer_compression(), gzip);
        assert_eq!(MediaType::ImageLayerGzip.layer_compression(), gzip);
        assert_eq!(MediaType::ImageLayerZstd.layer_compression(), Some(LayerCompression::Zstd));
        assert_eq!(MediaType::ImageLayer.layer_compression(), Some(LayerCompression::None));
        assert_eq!(MediaType::from("application/vnd.in-toto+json").layer_compression(), None);
        assert!(MediaType::ImageLayerNonDistributableGzip.is_foreign_layer());
    }
}
