//! The ways of bytes into a layer: copied, written as tar, compressed, and found by comparing.

use std::fs;
use std::hint::black_box;
use std::io::sink;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_context::{SelectOptions, Tree};
use rbuild_fs::{Root, RootfsPath};
use rbuild_layer::copy::{CopyOptions, copy};
use rbuild_layer::flat::{Baseline, write_changes};
use rbuild_layer::{Compression, WriteOptions, compress, digest_layer, write_layer};
use tempfile::{TempDir, tempdir};

const FILES: usize = 1000;

/// A thousand files of 8 KiB in ten folders.
fn tree() -> TempDir {
    let folder = tempdir().unwrap();
    for number in 0..FILES {
        let below = folder.path().join(format!("folder{}", number % 10));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("file{number}")), text(number, 8 << 10)).unwrap();
    }
    folder
}

/// Text that compresses about as programs' sources do.
fn text(seed: usize, length: usize) -> Vec<u8> {
    let words = [
        "function", "return", "const", "let", "value", "=>", "{\n", "}\n", "(", ")", "import", "from", "0",
        "1", "null",
    ];
    let mut random = seed as u64 + 1;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(words[(random >> 33) as usize % words.len()].as_bytes());
        text.extend_from_slice(format!(" {} ", random >> 56).as_bytes());
    }
    text.truncate(length);
    text
}

fn trees(criterion: &mut Criterion) {
    let from = tree();
    let root = Root::open(from.path()).unwrap();
    let context = Tree::directory(from.path(), None).unwrap();
    let selection = [context.select(".", &SelectOptions::default()).unwrap()];
    let mut group = criterion.benchmark_group("1,000 files of 8 KiB");
    group.sample_size(20).throughput(Throughput::Bytes((FILES * (8 << 10)) as u64));
    group.bench_function("copy", |bencher| {
        let one = |to: TempDir| {
            let root = Root::open(to.path()).unwrap();
            copy(&context, &selection, &root, &RootfsPath::new("/app"), true, &CopyOptions::default())
                .unwrap();
            to
        };
        bencher.iter_batched(|| tempdir().unwrap(), one, BatchSize::PerIteration);
    });
    let options = WriteOptions::default();
    group.bench_function("tar", |bencher| {
        bencher.iter(|| write_layer(&root, &options, &mut sink()).unwrap().bytes);
    });
    group
        .bench_function("tar and diff ID", |bencher| bencher.iter(|| digest_layer(&root, &options).unwrap()));
    group.bench_function("diff: look before", |bencher| bencher.iter(|| Baseline::of(&root).unwrap()));
    let before = Baseline::of(&root).unwrap();
    fs::write(from.path().join("folder1/new"), "new").unwrap();
    fs::remove_file(from.path().join("folder2/file2")).unwrap();
    group.bench_function("diff: compare", |bencher| {
        let one = |upper: TempDir| {
            write_changes(&before, &root, &Root::open(upper.path()).unwrap()).unwrap();
            upper
        };
        bencher.iter_batched(|| tempdir().unwrap(), one, BatchSize::PerIteration);
    });
}

fn gzip(criterion: &mut Criterion) {
    let text = text(7, 16 << 20);
    let mut group = criterion.benchmark_group("16 MiB of text");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    for (name, compression) in [("gzip", Compression::DEFAULT_GZIP), ("zstd", Compression::DEFAULT_ZSTD)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| compress(&mut black_box(&text[..]), &compression, &mut sink()).unwrap().size);
        });
    }
}

criterion_group!(layer, trees, gzip);
criterion_main!(layer);
