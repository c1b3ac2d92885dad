//! The same text read by `parse-dockerfile` and `dockerfile-parser`.
//!
//! Texts are put together from lines on which all three should agree. Where they do not agree, the reference decides;
//! those texts are listed with the reason.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbuild_dockerfile::{Command, CommandLine, Dockerfile};

/// Keyword, and for FROM the base and name, for exec forms the arguments.
fn ours(source: &str) -> Option<Vec<String>> {
    let dockerfile = Dockerfile::parse(source).ok()?;
    let text = |i: &rbuild_dockerfile::Instruction| match &i.command {
        Command::From(from) => {
            format!("FROM {} {:?}", from.base.text, from.name_text)
        }
        Command::Cmd(CommandLine::Exec(words)) => {
            format!("CMD {:?}", words.iter().map(|word| &word.text).collect::<Vec<_>>())
        }
        _ => i.keyword.to_string(),
    };
    Some(dockerfile.instructions().map(text).collect())
}

fn parse_dockerfile(source: &str) -> Option<Vec<String>> {
    use parse_dockerfile::{Command, Instruction as I};
    let dockerfile = parse_dockerfile::parse(source).ok()?;
    let text = |instruction: &I<'_>| match instruction {
        I::From(from) => {
            format!(
                "FROM {} {:?}",
                from.image.value,
                from.as_.as_ref().map(|(_, name)| name.value.to_string())
            )
        }
        I::Cmd(cmd) => match &cmd.arguments {
            Command::Exec(words) => {
                format!("CMD {:?}", words.value.iter().map(|word| word.value.to_string()).collect::<Vec<_>>())
            }
            _ => "CMD".to_owned(),
        },
        I::Add(_) => "ADD".to_owned(),
        I::Arg(_) => "ARG".to_owned(),
        I::Copy(_) => "COPY".to_owned(),
        I::Entrypoint(_) => "ENTRYPOINT".to_owned(),
        I::Env(_) => "ENV".to_owned(),
        I::Expose(_) => "EXPOSE".to_owned(),
        I::Healthcheck(_) => "HEALTHCHECK".to_owned(),
        I::Label(_) => "LABEL".to_owned(),
        I::Maintainer(_) => "MAINTAINER".to_owned(),
        I::Onbuild(_) => "ONBUILD".to_owned(),
        I::Run(_) => "RUN".to_owned(),
        I::Shell(_) => "SHELL".to_owned(),
        I::Stopsignal(_) => "STOPSIGNAL".to_owned(),
        I::User(_) => "USER".to_owned(),
        I::Volume(_) => "VOLUME".to_owned(),
        I::Workdir(_) => "WORKDIR".to_owned(),
        _ => "?".to_owned(),
    };
    Some(dockerfile.instructions.iter().map(text).collect())
}

/// Only whether it is read, and the FROMs: it knows eight instructions.
fn dockerfile_parser(source: &str) -> Option<Vec<String>> {
    let dockerfile = dockerfile_parser::Dockerfile::parse(source).ok()?;
    let froms = dockerfile.instructions.iter().filter_map(|instruction| match instruction {
        dockerfile_parser::Instruction::From(from) => {
            Some(format!("FROM {} {:?}", from.image.content, from.alias.as_ref().map(|alias| &alias.content)))
        }
        _ => None,
    });
    Some(froms.collect())
}

fn froms(all: Option<Vec<String>>) -> Option<Vec<String>> {
    all.map(|all| all.into_iter().filter(|text| text.starts_with("FROM ")).collect())
}

/// All three read these, or all three refuse them.
const COMMON: [&str; 34] = [
    "FROM alpine:3.20\n",
    "from busybox as b\n",
    "FROM --platform=$BUILDPLATFORM golang:1@sha256:0000000000000000000000000000000000000000000000000000000000000000\n",
    "RUN echo a b\n",
    "RUN a && \\\n    b\n",
    "RUN a \\\n# comment\n    b # no comment\n",
    "RUN [\"a\", \"b c\"]\n",
    "run\ttrue\n",
    "CMD [\"a\", \"b\\\"c\"]\n",
    "CMD a b\n",
    "ENTRYPOINT [\"x\"]\n",
    "ENV A=1 B=\"two words\"\n",
    "ENV C some words\n",
    "LABEL a=b\n",
    "ARG X=1\n",
    "ARG Y\n",
    "COPY a b\n",
    "COPY --from=b --chown=1:2 a b c/\n",
    "ADD https://example.org/x /x\n",
    "WORKDIR /a b\n",
    "USER a:b\n",
    "VOLUME /x /y\n",
    "VOLUME [\"/x\"]\n",
    "EXPOSE 80 443/tcp\n",
    "STOPSIGNAL SIGTERM\n",
    "SHELL [\"/bin/bash\", \"-c\"]\n",
    "HEALTHCHECK --interval=5s CMD x\n",
    "HEALTHCHECK NONE\n",
    "ONBUILD RUN x\n",
    "MAINTAINER me\n",
    "# comment\n",
    "\n",
    "   \n",
    "  RUN x\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agreement_on_ordinary_files(lines in proptest::collection::vec(proptest::sample::select(COMMON.to_vec()), 0..12)) {
        // Two stages of one name are refused by parse-dockerfile; the reference only warns.
        let named = lines.iter().filter(|line| line.starts_with("from ")).count();
        prop_assume!(named <= 1);
        let source = format!("FROM scratch\n{}", lines.concat());
        let all = ours(&source);
        prop_assert!(all.is_some(), "{source}");
        prop_assert_eq!(&all, &parse_dockerfile(&source), "parse-dockerfile: {}", source);
        prop_assert_eq!(froms(all), dockerfile_parser(&source), "dockerfile-parser: {}", source);
    }
}

/// Text, whether we read it (as the reference does), parse-dockerfile does, dockerfile-parser does.
const DIFFERENT: [(&str, bool, bool, bool); 13] = [
    // The file descriptor of a heredoc is unknown to both.
    ("FROM a\nRUN cat 3<<E\nx\nE\n", true, false, false),
    // Only a warning in the reference.
    ("FROM a AS x\nFROM b AS x\n", true, false, true),
    // Arrays of other things than strings, directives given twice, names without value, unknown flags.
    ("FROM a\nCMD [1]\n", false, true, true),
    ("# escape=`\n# escape=`\nFROM a\n", false, true, true),
    ("FROM a\nENV PATH\n", false, true, false),
    ("FROM a\nRUN --mont=x y\n", false, true, true),
    // dockerfile-parser knows no heredocs, no directives, no byte order mark, no blank continuation lines.
    ("FROM a\nRUN <<E\nx\nE\n", true, true, false),
    ("# escape=`\nFROM a\nRUN x `\n y\n", true, true, false),
    ("\u{feff}FROM a\n", true, true, false),
    ("FROM a\nRUN x \\\n\n y\n", true, true, false),
    ("FROM a\nARG A=1 B\n", true, true, false),
    // It takes any word for an instruction, and a file without FROM.
    ("FROM a\nFRM x\n", false, false, true),
    ("RUN x\n", false, false, true),
];

/// Files that `parse-dockerfile` refuses or reads otherwise, while the reference agrees with us.
const OTHERWISE: [(&str, &str); 17] = [
    ("lint/duplicate-stage", "two stages of one name"),
    ("stages/dup-from", "two stages of one name"),
    ("stages/dup-from-2", "two stages of one name"),
    ("stages/target-dup", "two stages of one name"),
    ("meta/entrypoint-empty-child", "an empty array is an exec form"),
    ("parse/run-json-empty", "an empty array is an exec form"),
    ("parse/cmd-none", "CMD without arguments"),
    ("parse/escaped-escape-eol", "two escape characters at a line's end are no continuation"),
    ("parse/json-bad-surrogate", "Go's JSON takes half a surrogate pair for a replacement character"),
    ("parse/onbuild-unknown", "what an ONBUILD says is looked at when it fires"),
    ("parse/heredoc-copy-quotes-name", "heredocs"),
    ("parse/heredoc-run-args", "heredocs"),
    ("parse/heredoc-run-continuation", "heredocs"),
    ("parse/heredoc-run-fd", "heredocs"),
    ("parse/heredoc-run-redirect", "heredocs"),
    ("parse/heredoc-run-two", "heredocs"),
    ("accepted/heredocs.Dockerfile", "heredocs"),
];

/// All Dockerfiles of testdata, and those of `RBUILD_REFERENCE`: where we and the others differ, the reference is with us.
#[test]
fn files_of_testdata() {
    let mut unexplained = String::new();
    let mut complain = |path: &str, who: &str, ours: &dyn Debug, theirs: &dyn Debug| {
        unexplained.push_str(&format!("{path}: {who}\n  ours:   {ours:?}\n  theirs: {theirs:?}\n"));
    };
    for (path, record) in records() {
        let name = path.display().to_string();
        let source = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let (ours, theirs) = (ours(&source), parse_dockerfile(&source));
        let is_listed = OTHERWISE.iter().any(|(end, _)| name.trim_end_matches("/Dockerfile").ends_with(end));
        // It looks neither at flags nor at values.
        let refused = ["parse_error", "build_error"].iter().any(|error| record.get(error).is_some());
        let is_refused = ours.is_none() && refused;
        if (ours != theirs) != is_listed && !is_refused {
            complain(&name, "parse-dockerfile", &ours, &theirs);
        }
        // It refuses most files; where it reads one, it sees the same stages. A quoted name is none to it.
        let theirs = dockerfile_parser(&source);
        if theirs.is_some() && !is_refused && !source.contains("FROM \"") && froms(ours.clone()) != theirs {
            complain(&name, "dockerfile-parser", &ours, &theirs);
        }
    }
    assert!(unexplained.is_empty(), "{unexplained}");
}

/// Dockerfiles with what the reference says of them, see `reference.rs`.
fn records() -> Vec<(PathBuf, serde_json::Value)> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let own = testdata.join("dockerfile/reference.jsonl");
    let more = std::env::var_os("RBUILD_REFERENCE").map(PathBuf::from);
    let mut records = Vec::new();
    for file in std::iter::once(own).chain(more) {
        for line in fs::read_to_string(file).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(path) = record["path"].as_str() {
                records.push((testdata.join(path), record.clone()));
            }
        }
    }
    records
}

#[test]
fn known_differences() {
    let read = |source| {
        (ours(source).is_some(), parse_dockerfile(source).is_some(), dockerfile_parser(source).is_some())
    };
    let wrong = DIFFERENT.iter().filter(|(source, we, first, second)| read(source) != (*we, *first, *second));
    let wrong: Vec<_> = wrong.map(|(source, ..)| (source, read(source))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
