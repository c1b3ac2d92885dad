//! Runs one command rootless: user namespace, mounts, network, seccomp.
