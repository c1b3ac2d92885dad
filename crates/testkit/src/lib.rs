//! Helpers of the tests: a registry with faults, tiny base images, image assertions.

mod image;
mod real_registry;
pub mod registry;

pub use image::{TarEntry, TinyImage, layer_tar, tiny_image};
pub use real_registry::RealRegistry;
pub use registry::TestRegistry;
