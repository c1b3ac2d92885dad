//! A daemonless, rootless builder of container images.

fn main() {}
