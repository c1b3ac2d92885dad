//! How long a Dockerfile of 1,000 lines takes to be read and planned; the aim is less than 5 ms.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rbuild_dockerfile::{CheckInput, CheckSettings, Dockerfile, GraphArguments, StageGraph, check};

/// Twenty stages of fifty lines, with everything that a long Dockerfile has.
fn long() -> String {
    let mut text = "# syntax=docker/dockerfile:1\nARG VERSION=1\n".to_owned();
    for stage in 0..20 {
        let base = if stage % 2 == 0 { "alpine:${VERSION}".to_owned() } else { format!("s{}", stage - 1) };
        text += &format!(
            "FROM {base} AS s{stage}\nARG VERSION\nENV A=${{VERSION:-x}} B=\"y $A\"\nWORKDIR /app\n"
        );
        for step in 0..7 {
            text +=
                "RUN --mount=type=cache,target=/c apt-get update \\\n    && apt-get install -y a \\\n    b\n";
            text += &format!("COPY --chown=1000:1000 src/{step} ./{step}/\n# a comment\n");
        }
        if stage > 1 {
            text += &format!("COPY --from=s{} /app /other\n", stage - 2);
        }
        text += "RUN <<EOF\nset -e\nmake\nEOF\nEXPOSE 80\nLABEL a=b\nCMD [\"a\", \"b\"]\n";
    }
    text
}

fn benches(criterion: &mut Criterion) {
    let text = long();
    let arguments = GraphArguments::default();
    let lines = text.lines().count();
    criterion.bench_function(&format!("parse {lines} lines"), |bencher| {
        bencher.iter(|| Dockerfile::parse(black_box(&text)).map(|dockerfile| dockerfile.stages.len()));
    });
    criterion.bench_function(&format!("parse and plan {lines} lines"), |bencher| {
        bencher.iter(|| {
            let dockerfile = Dockerfile::parse(black_box(&text)).ok()?;
            let graph = StageGraph::of(&dockerfile, &arguments).ok()?;
            graph.plan_for(None).ok().map(|plan| plan.stages.len())
        });
    });
    let Ok(dockerfile) = Dockerfile::parse(&text) else { return };
    let settings = CheckSettings { experimental_all: true, ..CheckSettings::default() };
    let input = CheckInput { arguments: &arguments, ignored: None, base_images: &|_, _| None, verify: None };
    criterion.bench_function(&format!("all checks of {lines} lines"), |bencher| {
        bencher.iter(|| check(black_box(&dockerfile), &input, &settings).len());
    });
}

/// A mebibyte of one thing; the name, what begins the file, what is repeated, what ends it.
const NASTY: [(&str, &str, &str, &str); 6] = [
    ("continuations", "RUN ", "a \\\n", "a\n"),
    ("nested variables", "ENV a=", "${a:-${a:-b}}\\\n", "\n"),
    ("heredocs", "", "RUN <<E\nE\n", ""),
    ("args", "ARG ", "A=1 \\\n", "B\n"),
    ("one JSON array", "CMD [", "\"a\", \\\n", "\"b\"]\n"),
    ("stages", "", "FROM a AS b\n", ""),
];

fn nasty(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse and plan");
    group.sample_size(10);
    for (name, begin, piece, end) in NASTY {
        for size in [256 * 1024, 1024 * 1024] {
            let text = format!("FROM a\n{begin}{}{end}", piece.repeat(size / piece.len()));
            group.bench_function(format!("{name}, {} KiB", size / 1024), |bencher| {
                bencher.iter(|| {
                    let dockerfile = Dockerfile::parse(black_box(&text)).ok()?;
                    let graph = StageGraph::of(&dockerfile, &GraphArguments::default()).ok()?;
                    graph.plan_for(None).ok().map(|plan| plan.stages.len())
                });
            });
        }
    }
}

criterion_group!(dockerfile, benches, nasty);
criterion_main!(dockerfile);
