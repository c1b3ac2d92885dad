//! `--check` and `--call`: the Dockerfile is looked at, not built.

use std::process::Command;

use serde_json::Value;

use crate::common::{Run, Test};

/// The command line is at fault.
const USAGE: i32 = 2;

fn quiet(test: &Test, arguments: &[&str]) -> Run {
    let mut command: Command = test.command();
    Run::of(command.args(arguments).arg(test.context()))
}

const SOURCE: &str = "# name of the release\nARG VERSION=1\n# base has the tools\nFROM busybox AS base\n# NAME is yours\n\
    ARG NAME=you\nRUN --mount=type=secret,id=key,required true\nFROM base AS Final\nARG VERSION\nRUN true | cat\n";

#[test]
fn checks_say_what_the_reference_says_and_more_when_asked() {
    let test = Test::new(SOURCE);
    let plain = "StageNameCasing: Stage name 'Final' should be lowercase (Dockerfile:8)\n";
    let run = quiet(&test, &["--check"]);
    assert_eq!((run.code, String::from_utf8(run.stdout).unwrap().as_str()), (1, plain));
    let all = quiet(&test, &["--check=all"]);
    for rule in ["UnpinnedBaseImage", "NoUserInFinalStage", "StageNameCasing"] {
        assert!(all.said().contains(rule), "{}", all.said());
    }
    let one = quiet(&test, &["--check=NoUserInFinalStage"]);
    assert!(
        one.said().contains("NoUserInFinalStage") && !one.said().contains("UnpinnedBaseImage"),
        "{}",
        one.said()
    );
    quiet(&test, &["--check=NoUser"]).fails(USAGE, &["unknown rule `NoUser`"]);
    quiet(&test, &["--check=UnpinedBaseImage"]).fails(USAGE, &["did you mean `UnpinnedBaseImage`?"]);
    quiet(&test, &["--call=nonsense"]).fails(USAGE, &["outline", "targets"]);
}

#[test]
fn checks_as_json_have_the_shape_of_the_reference() {
    let test = Test::new(SOURCE);
    let document: Value =
        serde_json::from_slice(&quiet(&test, &["--call=check,format=json"]).stdout).unwrap();
    let warning = &document["warnings"][0];
    assert_eq!(warning["ruleName"], "StageNameCasing");
    assert_eq!(warning["detail"], "Stage name 'Final' should be lowercase");
    assert_eq!(warning["url"], "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/");
    let range = serde_json::json!([{ "start": { "line": 8 }, "end": { "line": 8 } }]);
    assert_eq!(warning["location"]["ranges"], range);
    assert_eq!(document["sources"][0]["filename"], "Dockerfile");
    test.dockerfile("FROM busybox\nRUNN x\n");
    let run = quiet(&test, &["--call=check,format=json"]);
    let document: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(run.code, 1);
    assert_eq!(document["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}

#[test]
fn outline_and_targets() {
    let test = Test::new(SOURCE);
    let run = quiet(&test, &["--call=outline"]);
    let expected = "TARGET: final\n\nBUILD ARG   VALUE   DESCRIPTION\nVERSION     1       \nNAME        you     is yours\n\n\
        SECRET   REQUIRED\nkey      true\n\n";
    assert_eq!(String::from_utf8(run.stdout).unwrap(), expected);
    let base = quiet(&test, &["--call=outline", "--target", "base"]);
    assert!(base.said().starts_with("TARGET:      base\nDESCRIPTION: has the tools\n"), "{}", base.said());
    let json: Value = serde_json::from_slice(&quiet(&test, &["--call=outline,format=json"]).stdout).unwrap();
    assert_eq!(json["args"][1]["name"], "NAME");
    assert_eq!(json["args"][1]["location"]["ranges"][0]["start"]["line"], 6);
    assert_eq!(json["secrets"][0]["required"], true);
    let run = quiet(&test, &["--call=targets"]);
    let expected = "TARGET          DESCRIPTION\nbase            has the tools\nfinal (default) \n";
    assert_eq!(String::from_utf8(run.stdout).unwrap(), expected);
    let json: Value = serde_json::from_slice(&quiet(&test, &["--call=targets,format=json"]).stdout).unwrap();
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(json["targets"][1]["base"], "base");
}

#[test]
fn a_build_warns_of_what_has_no_effect() {
    let test = Test::new("# syntax=example.test/frontend\nFROM busybox\nARG VERSION\n");
    let run = test.run(&["--build-arg", "VERISON=1", "--build-arg", "HTTP_PROXY=x"]);
    run.succeeds();
    assert!(
        run.stderr.contains("VERISON is not declared by any ARG (did you mean VERSION?)"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("HTTP_PROXY is not"), "{}", run.stderr);
    assert!(run.stderr.contains("# syntax=example.test/frontend"), "{}", run.stderr);
    test.dockerfile("# syntax=docker/dockerfile:1\nFROM busybox\n");
    assert!(!test.run(&[]).succeeds().stderr.contains("syntax"));
}

#[test]
fn all_faults_of_a_dockerfile_are_reported_in_order() {
    let test = Test::new(
        "FROM busybox AS build\nRUNN a\nCOPY --form=build a /\nRUN --mount=tpye=cache,target=/x true\nENV A\nCOPY x\n",
    );
    let run = test.run(&[]);
    run.fails(1, &["did you mean `RUN`?", "did you mean `--from`?", "did you mean `type`?"]);
    let lines: Vec<usize> =
        (2..=6).filter_map(|line| run.stderr.find(&format!("Dockerfile:{line}:"))).collect();
    assert_eq!(lines.len(), 5, "{}", run.stderr);
    assert!(lines.is_sorted(), "{}", run.stderr);
    test.dockerfile("FROM busybox\nCOPY --from=8 a /\nCOPY --from=9 a /\n");
    let run = test.run(&[]);
    assert!(run.stderr.contains("Dockerfile:2") && run.stderr.contains("Dockerfile:3"), "{}", run.stderr);
}
