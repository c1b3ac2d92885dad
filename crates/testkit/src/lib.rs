//! Helpers of the tests: a registry with faults, Debian's real one, a proxy, certificates, tiny base images, image assertions.

mod authority;
mod image;
mod proxy;
mod real_registry;
pub mod registry;

pub use authority::Authority;
pub use image::{TarEntry, TinyImage, layer_tar, tiny_image};
pub use proxy::TestProxy;
pub use real_registry::{Access, Gate, RealRegistry};
pub use registry::TestRegistry;
