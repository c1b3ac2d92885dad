//! How long the key of a step takes: that of a RUN in a long environment.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rbuild_image::Digest;
use rbuild_store::KeyParts;

/// A RUN with this many variables and two mounts.
fn parts(variables: usize) -> KeyParts {
    let mut parts = KeyParts::new();
    parts.text("instruction", "RUN").text("parent", "0".repeat(64));
    parts.text("command", "[\"/bin/sh\", \"-c\", \"npm ci && npm run build\"]").text("directory", "/app");
    for number in 0..variables {
        parts.text(
            format!("environment VARIABLE_{number}"),
            "a value of some length, such as a search path has",
        );
    }
    for mount in ["/root/.npm", "/src"] {
        parts.content(format!("mount {mount}"), Digest::sha256_of(mount));
    }
    parts
}

fn key(criterion: &mut Criterion) {
    for variables in [10, 100] {
        criterion.bench_function(&format!("key, {variables} variables"), |bencher| {
            bencher.iter(|| black_box(parts(variables)).key());
        });
    }
}

criterion_group!(store, key);
criterion_main!(store);
