//! Docker's default seccomp profile as a filter of our own making.

mod bpf;
mod rules;

pub(crate) use rules::docker_filter;
