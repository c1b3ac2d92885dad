//! Helpers of the tests: a registry with faults, tiny base images, image assertions.
