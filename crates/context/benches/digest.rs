//! How long the content digest of `COPY . .` takes, which is part of its key: 2,000 files, read, and known by their stats.

use std::fs;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use rbuild_context::{SelectOptions, StatCache, Tree};

/// Twenty folders of a hundred files.
fn fill(folder: &Path) {
    for number in 0..2000 {
        let below = folder.join(format!("folder{}", number / 100));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("file{number}.js")), format!("// {number}\n").repeat(500)).unwrap();
    }
}

fn digest(criterion: &mut Criterion) {
    let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(folder.path());
    let tree = Tree::directory(folder.path(), None).unwrap();
    let selection = tree.select(".", &SelectOptions::default()).unwrap();
    let mut group = criterion.benchmark_group("digest of 2,000 files");
    group.sample_size(20);
    group.bench_function("select", |bencher| {
        bencher.iter(|| tree.select(".", &SelectOptions::default()).unwrap().matches.len());
    });
    group.bench_function("read", |bencher| bencher.iter(|| tree.digest(&selection, None).unwrap().digest));
    let cache = StatCache::load(beside.path().join("cache"));
    tree.digest(&selection, Some(&cache)).unwrap();
    group.bench_function("known", |bencher| {
        bencher.iter(|| tree.digest(&selection, Some(&cache)).unwrap().digest)
    });
}

criterion_group!(context, digest);
criterion_main!(context);
