//! The OCI documents: references, digests, platforms, configs, manifests.
