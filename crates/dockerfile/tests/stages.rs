//! The stage graph.

use rbuild_dockerfile::{
    BuildPlatform, Dockerfile, GraphArguments, Source, StageGraph, StageId, StepCounter,
};

fn arguments(build_args: &[(&str, &str)], contexts: &[&str]) -> GraphArguments {
    let host = BuildPlatform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        ..BuildPlatform::default()
    };
    GraphArguments {
        build_args: build_args.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        contexts: contexts.iter().map(|name| name.to_string()).collect(),
        ..GraphArguments::default()
    }
    .with_platforms(&host, &host)
}

fn graph(source: &str) -> StageGraph {
    StageGraph::of(&Dockerfile::parse(source).unwrap(), &arguments(&[], &[])).unwrap()
}

fn errors(source: &str) -> Vec<String> {
    let dockerfile = Dockerfile::parse(source).unwrap();
    let errors = match StageGraph::of(&dockerfile, &arguments(&[], &[])) {
        Ok(graph) => graph.faults(&graph.plan_for(None).unwrap()),
        Err(errors) => errors,
    };
    errors.into_iter().map(|error| error.message).collect()
}

fn image(name: &str) -> Source {
    Source::Image { name: name.to_owned(), platform: None }
}

#[test]
fn bases() {
    let source = "ARG V=1\nFROM a:$V AS One\nFROM one\nFROM One AS one\nFROM one\nFROM scratch\nFROM busybox AS busybox\nFROM busybox";
    let bases: Vec<_> = graph(source).stages.into_iter().map(|stage| stage.base).collect();
    let stage = |n| Source::Stage(StageId(n));
    assert_eq!(
        bases,
        [image("a:1"), stage(0), image("One"), stage(2), Source::Scratch, image("busybox"), stage(5)]
    );
}

#[test]
fn copies_and_mounts() {
    let source = "FROM a AS x\nFROM b AS X\nFROM c\nCOPY --from=X /a /b\nCOPY --from=0 /a /b\nCOPY --from=img:1 /a /b\n\
                  RUN --mount=from=x,target=/t --mount=target=/u y\nCOPY a b\n";
    let graph = graph(source);
    let node = &graph.stages[2];
    assert_eq!(node.source_of(0, None), Some(&Source::Stage(StageId(1))), "of two stages the last counts");
    assert_eq!(node.source_of(1, None), Some(&Source::Stage(StageId(0))));
    assert_eq!(node.source_of(2, None), Some(&image("img:1")));
    assert_eq!(node.source_of(3, Some(0)), Some(&Source::Stage(StageId(1))));
    assert_eq!(node.source_of(3, Some(1)), None);
    assert_eq!(node.source_of(4, None), None);
}

#[test]
fn only_what_the_target_needs_is_planned() {
    let graph = graph(
        "FROM a AS never\nFROM b AS base\nFROM base AS left\nFROM c AS right\nFROM d\nCOPY --from=left / /\nCOPY --from=right / /\n",
    );
    let plan = graph.plan_for(None).unwrap();
    assert_eq!(plan.stages.iter().map(|stage| stage.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(plan.images.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "c", "d"]);
    let plan = graph.plan_for(Some("LEFT")).unwrap();
    assert_eq!(plan.stages.iter().map(|stage| stage.id.0).collect::<Vec<_>>(), [1, 2]);
    let error = graph.plan_for(Some("lft")).unwrap_err();
    assert_eq!(error.message, "target stage \"lft\" could not be found");
    assert_eq!(error.help.as_deref(), Some("did you mean `left`?"));
    assert!(graph.plan_for(Some("0")).is_err());
}

#[test]
fn wrong_graphs() {
    for (source, message) in [
        ("FROM a AS me\nCOPY --from=me / /", "circular dependency detected on stage: me"),
        (
            "FROM a AS first\nCOPY --from=later / /\nFROM b AS later\nCOPY --from=first / /",
            "cannot copy from stage \"later\", it needs to be defined before current stage \"first\"",
        ),
        ("FROM a\nCOPY --from=7 / /", "invalid stage index 7"),
        ("FROM $NOPE", "base name ($NOPE) should not be blank"),
        ("FROM a:$NOPE", "base name (a:$NOPE) is incomplete: \"a:\""),
        ("FROM --platform=$BULIDPLATFORM a", "empty platform value from expression $BULIDPLATFORM"),
        ("FROM a${X", "failed to process `a${X`: syntax error: missing '}'"),
    ] {
        assert_eq!(errors(source), [message], "{source}");
    }
}

#[test]
fn faults_of_stages_that_are_not_needed_hinder_nobody() {
    for bad in [
        "COPY --from=later / /",
        "COPY --from=7 / /",
        "RUN --mount=from=later,target=/t x",
        "EXPOSE abc",
        "STOPSIGNAL nope",
        "COPY --from=${A:?} / /",
    ] {
        let source = format!("FROM a AS first\n{bad}\nFROM b AS later\nENV A=1");
        let graph = graph(&source);
        assert_eq!(graph.faults(&graph.plan_for(None).unwrap()), [], "{bad}");
        let faults = graph.faults(&graph.plan_for(Some("first")).unwrap());
        assert_eq!(faults.len(), 1, "{bad}: {faults:?}");
    }
}

#[test]
fn a_trigger_that_is_no_instruction_fails_where_it_fires() {
    let declared = graph("FROM a AS base\nONBUILD FOO bar");
    assert_eq!(declared.faults(&declared.plan_for(None).unwrap()), []);
    assert_eq!(errors("FROM a AS base\nONBUILD FOO bar\nFROM base"), ["unknown instruction: FOO"]);
}

#[test]
fn global_args() {
    let dockerfile =
        Dockerfile::parse("ARG A=1\nARG B=$A-$TARGETARCH C\nARG D=${X:?}\nFROM b:$B-$D-${C:-c}").unwrap();
    let graph = StageGraph::of(&dockerfile, &arguments(&[("A", "2"), ("D", "d")], &[])).unwrap();
    assert_eq!(graph.stages[0].base_name, "b:2-amd64-d-c", "an overridden default is not evaluated");
    let globals: Vec<_> = graph.global_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    // The predefined ones come first.
    let own = globals.iter().position(|global| global.starts_with("A=")).unwrap();
    assert!(globals[..own].contains(&"TARGETARCH=amd64".to_owned()));
    assert_eq!(globals[own..], ["A=2", "B=2-amd64", "D=d"]);
    let error = &StageGraph::of(
        &Dockerfile::parse("FROM --platform=$TARGETPLATFROM x").unwrap(),
        &arguments(&[], &[]),
    )
    .unwrap_err()[0];
    assert_eq!(error.help.as_deref(), Some("did you mean `TARGETPLATFORM`?"));
}

#[test]
fn named_contexts() {
    let dockerfile =
        Dockerfile::parse("FROM busybox AS one\nRUN x\nFROM docker.io/library/alpine:latest\nCOPY --from=one / /\nCOPY --from=dir / /\nCOPY --from=other / /").unwrap();
    let graph = StageGraph::of(&dockerfile, &arguments(&[], &["one", "alpine", "dir"])).unwrap();
    let context = |name: &str| Source::Context(name.to_owned());
    assert!(graph.stages[0].replaced);
    assert_eq!(graph.stages[1].base, context("alpine"));
    let sources: Vec<_> = graph.stages[1].dependencies.iter().map(|d| d.source.clone()).collect();
    assert_eq!(sources, [context("one"), context("dir"), image("other")]);
    assert_eq!(graph.plan_for(None).unwrap().contexts, ["alpine", "one", "dir"]);
}

#[test]
fn variables_in_from() {
    let source = "ARG G=a\nFROM x AS a\nFROM y AS b\nFROM z AS p\nARG W=b\nFROM p\nARG G\nENV E=$G\nCOPY --from=$E / /\nCOPY --from=${W} / /";
    let needs = graph(source).stages[3].needs();
    assert_eq!(needs, [StageId(2), StageId(0), StageId(1)]);
}

#[test]
fn triggers_of_a_base_stage() {
    let source = "FROM x AS tool\nFROM y AS base\nONBUILD COPY --from=tool / /\nFROM base\nRUN z";
    let graph = graph(source);
    assert_eq!(graph.stages[2].needs(), [StageId(1), StageId(0)]);
    assert!(graph.stages[2].dependencies[0].onbuild);
    let bad = errors("FROM busybox AS p\nONBUILD COPY onlyone\nFROM p\nRUN true");
    assert!(bad[0].starts_with("COPY requires at least two arguments"), "{bad:?}");
}

#[test]
fn step_numbers() {
    for (source, stage, prefixes) in [
        ("FROM a\nENV x=1\nCOPY a b\nWORKDIR /x", 0, &["[1/3]", "[2/3]", "[3/3]"][..]),
        ("FROM scratch\nCOPY a b", 0, &["[1/1]"]),
        ("FROM a\nRUN --mount=target=/x true", 0, &["[stage-0 1/2]", "[stage-0 2/2]"]),
        ("FROM a AS b\nFROM b\nRUN x", 1, &["[stage-1 1/1]"]),
        ("FROM a AS build\nRUN x\nFROM b", 0, &["[build 1/2]", "[build 2/2]"]),
    ] {
        let dockerfile = Dockerfile::parse(source).unwrap();
        let graph = StageGraph::of(&dockerfile, &arguments(&[], &[])).unwrap();
        let mut counter = StepCounter::of(&dockerfile, &graph, StageId(stage), &[]);
        let found: Vec<_> = (0..counter.total()).map(|_| counter.next_prefix(None)).collect();
        assert_eq!(found, prefixes, "{source}");
    }
}

#[test]
fn drawings() {
    let graph = graph("FROM a AS b\nFROM scratch\nCOPY --from=b / /\nCOPY --from=b /x /x");
    assert_eq!(graph.to_text(), "0 b\n  from image a\n1 stage-1\n  from scratch\n  reads stage 0 b\n");
    assert!(graph.to_dot().contains("s1 -> s0 [style=dashed];"));
    assert!(graph.to_mermaid().contains("  s1 -.-> s0\n"));
    assert_eq!(graph.to_json()["stages"][1]["dependencies"][0]["source"]["stage"], 0);
}
