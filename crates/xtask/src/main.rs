//! the project's own tasks: demo, test, bench, conformance.

fn main() {}
