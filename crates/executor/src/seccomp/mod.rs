//! Docker's default seccomp profile as a filter of our own making, and the calls among it that a supervisor answers.

mod bpf;
mod rules;

pub(crate) use rules::{Told, calls, docker_filter, no_network_filter, supervised_filter};
