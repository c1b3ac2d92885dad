use super::*;

/// `Rule line` of each finding.
fn findings(source: &str) -> Vec<String> {
    let dockerfile = Dockerfile::parse(source).unwrap();
    let arguments = GraphArguments {
        platform_args: [("TARGETPLATFORM", "linux/amd64")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..GraphArguments::default()
    };
    let base = |name: &str, _: Option<&str>| {
        let platform = if name == "armonly" { "linux/arm64" } else { "linux/amd64" };
        Some(BaseImage { platform: Some(platform.to_owned()), ..BaseImage::default() })
    };
    let ignored = |path: &str| path == "ignored";
    let input =
        CheckInput { arguments: &arguments, ignored: Some(&ignored), base_images: &base, verify: None };
    let settings = check_settings(&dockerfile, &arguments).unwrap();
    check(&dockerfile, &input, &settings)
        .iter()
        .map(|f| format!("{} {}", f.rule, dockerfile.lines().line(f.span.start)))
        .collect()
}

#[test]
fn rules_and_lines() {
    for (source, expected) in [
        ("FROM armonly", &["InvalidBaseImagePlatform 1"][..]),
        ("# check=skip=all\nFROM busybox AS Upper\nMAINTAINER me", &[]),
        ("# check=skip=maintainerdeprecated\nFROM busybox\nMAINTAINER me", &["MaintainerDeprecated 3"]),
        ("FROM busybox\n# check=skip=MaintainerDeprecated\nMAINTAINER me", &[]),
        (
            "# check=experimental=InvalidDefinitionDescription\n\n# wrong words\nFROM busybox AS base\n# VERSION is right\n\
             ARG VERSION\n# not the name\nARG OTHER\n\n# separated by a blank line\n\nFROM base AS next\n",
            &[
                "InvalidDefinitionDescription 4",
                "InvalidDefinitionDescription 8",
                "InvalidDefinitionDescription 12",
            ],
        ),
        ("# wrong words\nFROM busybox AS base", &[]),
        ("FROM busybox\nRUN a && \\\n\n    b\nRUN c \\\n    # fine\n    d\n", &["NoEmptyContinuation 4"]),
        (
            "FROM busybox\nENV A b c\nLABEL k v\nENV B=1\nLABEL \"k 2\"=v",
            &["LegacyKeyValueFormat 2", "LegacyKeyValueFormat 3"],
        ),
        (
            "FROM busybox AS scratch\nFROM busybox AS context\nFROM busybox AS fine",
            &["ReservedStageName 1", "ReservedStageName 2"],
        ),
        ("FROM busybox AS Build", &["StageNameCasing 1"]),
        ("FROM busybox as build", &["FromAsCasing 1"]),
        ("FROM busybox\nrun x", &["ConsistentInstructionCasing 2"]),
        ("from busybox\nrun x\nRUN y", &["ConsistentInstructionCasing 3"]),
        ("FROM busybox AS a\nFROM busybox AS a", &["DuplicateStageName 2"]),
        ("FROM busybox\nCMD a b", &["JSONArgsRecommended 2"]),
        ("FROM busybox\nSHELL [\"x\"]\nCMD a b", &[]),
        ("ARG VER=1\nFROM busybox:${VERS:-1}$VRE", &["UndefinedArgInFrom 2", "UndefinedArgInFrom 2"]),
        ("ARG X\nFROM busybox:$X\nFROM scratch", &[]),
        ("FROM busybox\nWORKDIR a\nWORKDIR b", &["WorkdirRelativePath 2"]),
        ("FROM busybox\nARG A\nENV B=$A$C$PATH\nENV C=1\nLABEL l=$C", &["UndefinedVar 3"]),
        ("FROM busybox\nENV A=${D:-x}\nENV B=${E:+x}", &["UndefinedVar 2", "UndefinedVar 3"]),
        ("FROM busybox\nEXPOSE $P\nRUN --mount=type=tmpfs,target=/a$Q true", &["UndefinedVar 3"]),
        ("FROM busybox\nCOPY <<E <<\"F\" /\n$X\nE\n$Y\nF\n", &["UndefinedVar 2"]),
        (
            "FROM busybox AS p\nONBUILD ENV A=$B\nONBUILD CMD [\"a\"]\nFROM p\nCMD [\"b\"]",
            &["UndefinedVar 4", "MultipleInstructionsDisallowed 4"],
        ),
        ("FROM busybox\nCOPY --from=armonly /a /b", &["InvalidBaseImagePlatform 2"]),
        ("FROM busybox\nCOPY ./ignored d/../ignored /d/", &["CopyIgnoredFile 2", "CopyIgnoredFile 2"]),
        ("FROM busybox\nRUN true \\\n\n\n", &["NoEmptyContinuation 4"]),
        (
            "# check=skip=MaintainerDeprecated, StageNameCasing\nFROM busybox AS X\nMAINTAINER me",
            &["StageNameCasing 2"],
        ),
        ("FROM --platform=${TARGETPLATFORM:-x} busybox", &["RedundantTargetPlatform 1"]),
        ("FROM busybox\nCMD [\"a\"]\nCMD [\"b\"]", &["MultipleInstructionsDisallowed 2"]),
        ("FROM --platform=$TARGETPLATFORM busybox", &["RedundantTargetPlatform 1"]),
        (
            "FROM --platform=linux/arm64 busybox",
            &["FromPlatformFlagConstDisallowed 1", "InvalidBaseImagePlatform 1"],
        ),
        ("FROM --platform=linux/amd64 busybox AS for-amd64", &[]),
        ("FROM busybox\nARG DB_PASSWORD\nENV API_TOKEN_FILE=x KEYBOARD=y", &["SecretsUsedInArgOrEnv 2"]),
        ("ARG BASE=\nFROM busybox AS b\nFROM ${BASE:-}busybox", &[]),
        ("FROM busybox\nCOPY ignored fine /d/", &["CopyIgnoredFile 2"]),
        ("FROM busybox\nEXPOSE 80/TCP 127.0.0.1:1:2", &["ExposeProtoCasing 2", "ExposeInvalidFormat 2"]),
    ] {
        let mut found = findings(source);
        let mut expected: Vec<String> = expected.iter().map(|s| s.to_string()).collect();
        found.sort();
        expected.sort();
        if source.contains("busybox:$X") {
            // The default of X is empty: the name is invalid, and nothing can be built of it.
            expected = vec!["InvalidDefaultArgInFrom 2".to_owned()];
        }
        assert_eq!(found, expected, "{source}");
    }
}

#[test]
fn settings() {
    let settings = CheckSettings::parse("skip=A, B;error=true;experimental=all").unwrap();
    assert!(settings.skips("A") && settings.skips("B") && !settings.skips("C") && settings.error);
    assert!(settings.asks_for("InvalidDefinitionDescription") && !settings.asks_for("NoUserInFinalStage"));
    assert!(CheckSettings::parse("skipp=A").is_err());
    assert!(CheckSettings::parse("error=maybe").is_err());
}
