use crate::{BaseImage, CheckInput, CheckSettings, Dockerfile, GraphArguments, check};

/// `Rule line` of each finding of the rules of our own.
fn findings_with(source: &str, build_args: &[&str], target: Option<&str>) -> Vec<String> {
    let dockerfile = Dockerfile::parse(source).unwrap();
    let arguments = GraphArguments {
        build_args: build_args.iter().map(|name| (name.to_string(), String::new())).collect(),
        target: target.map(str::to_owned),
        ..GraphArguments::default()
    };
    let base = |name: &str, _: Option<&str>| {
        let on_build = if name == "trigger:1" { vec!["ARG FROM_TRIGGER".to_owned()] } else { Vec::new() };
        let user = if name == "nonroot:1" { "nobody".to_owned() } else { String::new() };
        (name != "unknown:1").then(|| BaseImage {
            user,
            on_build,
            has_shell: name == "shell:1",
            ..BaseImage::default()
        })
    };
    let input = CheckInput { arguments: &arguments, ignored: None, base_images: &base, verify: None };
    let settings = CheckSettings { experimental_all: true, ..CheckSettings::default() };
    let findings = check(&dockerfile, &input, &settings);
    let own = findings.iter().filter(|finding| finding.rule.is_own());
    own.map(|finding| format!("{} {}", finding.rule, dockerfile.lines().line(finding.span.start))).collect()
}

/// The same for one rule only.
fn only(rule: &str, source: &str) -> Vec<String> {
    findings_with(source, &[], None)
        .into_iter()
        .filter(|finding| finding.starts_with(&format!("{rule} ")))
        .collect()
}

#[test]
fn rules_with_and_without_finding() {
    for (rule, source, lines) in [
        ("HeredocWithoutErrexit", "FROM b:1\nRUN <<E\na\nb\nE\n", &[2][..]),
        ("HeredocWithoutErrexit", "FROM b:1\nRUN <<E\nset -eu\na\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM b:1\nRUN <<E\na &&\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM b:1\nRUN <<E\n#!/bin/sh -e\na\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM b:1\nRUN <<E\n#!/usr/bin/env python3\na\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM b:1\nSHELL [\"bash\", \"-e\", \"-c\"]\nRUN <<E\na\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM shell:1\nRUN <<E\na\nb\nE\n", &[]),
        ("HeredocWithoutErrexit", "FROM b:1\nRUN a; b\n", &[]),
        ("PipeWithoutPipefail", "FROM b:1\nRUN curl x | sh\n", &[2]),
        ("PipeWithoutPipefail", "FROM b:1\nRUN set -o pipefail && curl x | sh\n", &[]),
        ("PipeWithoutPipefail", "FROM b:1\nRUN set -euxo pipefail; curl x | sh\n", &[]),
        (
            "PipeWithoutPipefail",
            "FROM b:1\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN curl x | sh\n",
            &[],
        ),
        ("PipeWithoutPipefail", "FROM b:1\nRUN echo y | sh && echo 'a | b' || c\n", &[]),
        ("PipeWithoutPipefail", "FROM b:1\nRUN [\"a\", \"|\", \"b\"]\n", &[]),
        ("AddWithoutChecksum", "FROM b:1\nADD https://x.test/a /\n", &[2]),
        (
            "AddWithoutChecksum",
            "FROM b:1\nADD --checksum=sha256:0000 https://x.test/a /\nADD a https://x.test/r.git /\n",
            &[],
        ),
        ("UnknownChownUser", "FROM scratch\nCOPY --chown=app a /b\n", &[2]),
        ("UnknownChownUser", "FROM scratch\nCOPY --chown=0:staff a /b\n", &[2]),
        ("UnknownChownUser", "FROM scratch\nCOPY passwd /etc/\nCOPY --chown=app a /b\n", &[]),
        ("UnknownChownUser", "FROM scratch\nCOPY --chown=1000:1000 a /b\n", &[]),
        ("UnknownChownUser", "FROM b:1\nCOPY --chown=app a /b\n", &[]),
        ("PackageCacheInLayer", "FROM b:1\nRUN apt-get update && apt-get install -y x\n", &[2]),
        (
            "PackageCacheInLayer",
            "FROM b:1\nRUN apt-get update && apt-get install -y x && rm -rf /var/lib/apt/lists/*\n",
            &[],
        ),
        ("PackageCacheInLayer", "FROM b:1\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\n", &[]),
        ("PackageCacheInLayer", "FROM b:1\nRUN apk add x\nRUN apk add --no-cache x\n", &[2]),
        ("PackageCacheInLayer", "FROM b:1\nRUN pip install x\nRUN pip3 install --no-cache-dir x\n", &[2]),
        ("PackageCacheInLayer", "FROM b:1\nENV PIP_NO_CACHE_DIR=1\nRUN python -m pip install x\n", &[]),
        (
            "PackageCacheInLayer",
            "FROM b:1\nRUN --mount=type=cache,target=/root/.npm npm ci\nRUN npm ci\n",
            &[3],
        ),
        (
            "PackageCacheInLayer",
            "FROM b:1\nRUN dnf install -y x\nRUN dnf install -y x && dnf clean all\n",
            &[2],
        ),
        ("PackageCacheInLayer", "FROM b:1 AS build\nRUN apk add x\nFROM b:1\nCOPY --from=build x /\n", &[]),
        ("CopiedThenChanged", "FROM b:1\nCOPY run.sh /bin/run\nRUN chmod +x /bin/run\n", &[3]),
        ("CopiedThenChanged", "FROM b:1\nWORKDIR /app\nCOPY . .\nRUN chown -R app:app /app\n", &[4]),
        ("CopiedThenChanged", "FROM b:1\nWORKDIR /app\nCOPY run.sh ./\nRUN true && chmod 755 run.sh\n", &[4]),
        ("CopiedThenChanged", "FROM b:1\nCOPY run.sh /bin/run\nRUN chmod +x /bin/other\n", &[]),
        ("CopiedThenChanged", "FROM b:1\nCOPY --chmod=755 run.sh /bin/run\nRUN /bin/run\n", &[]),
        ("ArgTooEarly", "FROM b:1\nARG V\nRUN a\nRUN b $V\n", &[2]),
        ("ArgTooEarly", "FROM b:1\nRUN a\nARG V\nRUN b ${V}\nRUN c\n", &[]),
        ("ArgTooEarly", "FROM b:1\nARG V\nRUN a\n", &[]),
        ("ArgTooEarly", "FROM b:1\nARG V\nCOPY a /\nENV W=$V\nRUN a\n", &[]),
        ("ArgTooEarly", "FROM b:1\nARG V\nRUN <<E\necho $V\nE\nRUN $V\n", &[]),
        ("NoUserInFinalStage", "FROM b:1\nRUN a\n", &[1]),
        ("NoUserInFinalStage", "FROM scratch\nCOPY a /\n", &[1]),
        ("NoUserInFinalStage", "FROM b:1\nUSER app\n", &[]),
        ("NoUserInFinalStage", "FROM b:1 AS x\nUSER app\nFROM x\nRUN a\n", &[]),
        ("NoUserInFinalStage", "FROM nonroot:1\nRUN a\n", &[]),
        ("NoUserInFinalStage", "FROM unknown:1\nRUN a\n", &[]),
        ("UnpinnedBaseImage", "FROM b\nFROM b:latest\nFROM x.test:5000/b\n", &[1, 2, 3]),
        ("UnpinnedBaseImage", "FROM b:1 AS s\nFROM s\nFROM scratch\nFROM x.test:5000/b:1\n", &[]),
        ("SecretInRun", "FROM b:1\nRUN mysql --password=hunter22\n", &[2]),
        ("SecretInRun", "FROM b:1\nRUN mysql --password=$PASSWORD\n", &[]),
        ("SecretInRun", "FROM b:1\nRUN [\"mysql\", \"--password=hunter22\"]\n", &[2]),
        ("SecretInRun", "FROM b:1\n# check=skip=SecretInRun\nRUN mysql --password=hunter22\n", &[]),
    ] {
        let expected: Vec<String> = lines.iter().map(|line| format!("{rule} {line}")).collect();
        assert_eq!(only(rule, source), expected, "{source}");
    }
}

#[test]
fn build_args_that_nothing_takes() {
    let source = "ARG BASE\nFROM trigger:1\nARG VERSION\nONBUILD ARG CHILD\n";
    let used = [
        "BASE",
        "VERSION",
        "CHILD",
        "FROM_TRIGGER",
        "HTTP_PROXY",
        "BUILDKIT_INLINE_CACHE",
        "SOURCE_DATE_EPOCH",
    ];
    let unused =
        |findings: Vec<String>| findings.into_iter().filter(|f| f.starts_with("UnusedBuildArg")).count();
    assert_eq!(unused(findings_with(source, &used, None)), 0);
    assert_eq!(unused(findings_with(source, &["VERISON", "OTHER"], None)), 2);
    let dockerfile = Dockerfile::parse(source).unwrap();
    assert_eq!(
        super::unused_build_args(&dockerfile, ["VERISON", "ELSE"], &[]),
        [
            "Build argument VERISON is not declared by any ARG (did you mean VERSION?)",
            "Build argument ELSE is not declared by any ARG",
        ]
    );
}

#[test]
fn only_what_is_in_the_image_of_the_target_counts_for_its_size() {
    let source = "FROM b:1 AS one\nRUN apk add x\nFROM b:1 AS two\nUSER x\n";
    let of = |target| findings_with(source, &[], target);
    assert_eq!(of(Some("one")), ["NoUserInFinalStage 1", "PackageCacheInLayer 2"]);
    assert_eq!(of(None), [""; 0]);
}

#[test]
fn they_are_off_until_asked_for() {
    let dockerfile = Dockerfile::parse("FROM b\nRUN curl x | sh\n").unwrap();
    let arguments = GraphArguments::default();
    let input = CheckInput { arguments: &arguments, ignored: None, base_images: &|_, _| None, verify: None };
    let rules = |settings: &str| -> Vec<&str> {
        let settings = if settings.is_empty() {
            CheckSettings::default()
        } else {
            CheckSettings::parse(settings).unwrap()
        };
        check(&dockerfile, &input, &settings).iter().map(|finding| finding.rule.name()).collect()
    };
    assert_eq!(rules(""), [""; 0]);
    assert_eq!(rules("experimental=PipeWithoutPipefail"), ["PipeWithoutPipefail"]);
    // A Dockerfile that says so means the reference's rules, and gets what the reference gives.
    assert_eq!(rules("experimental=all"), [""; 0]);
}
