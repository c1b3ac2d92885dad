//! What holds for every text.

use proptest::prelude::*;
use rbuild_dockerfile::{
    BaseImage, CheckInput, CheckSettings, Command, Dockerfile, Escape, GraphArguments, HistoryContext, Mode,
    StageGraph, check, expand, parse_onbuild,
};

/// Pieces that Dockerfiles are made of, and pieces that break them.
const PIECES: [&str; 62] = [
    "FROM ",
    "a",
    " AS b",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "CMD ",
    "SHELL ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "EXPOSE ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "\\",
    "\\\n",
    "`",
    "`\n",
    "#",
    "# ",
    "# escape=`\n",
    "# syntax=x\n",
    "# check=skip=all\n",
    "<<EOF",
    "<<-EOF",
    "<<'EOF'",
    "3<<E",
    "EOF\n",
    "\tEOF\n",
    "E\n",
    "$",
    "${",
    "}",
    "${a:-",
    "${a#*",
    "${a//x/",
    "'",
    "\"",
    " ",
    "\t",
    "=",
    "--from=b ",
    "--mount=type=cache,target=/x ",
    "--mount=",
    "--link ",
    "--",
    "[\"",
    "\"]",
    "\", \"",
    ",",
    "\u{feff}",
    "é\u{a0}",
    "NONE",
];

fn text() -> impl Strategy<Value = String> {
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..40);
    prop_oneof![
        pieces.clone().prop_map(|pieces| pieces.concat()),
        pieces.prop_map(|pieces| format!("FROM a AS b\n{}", pieces.concat())),
        any::<String>(),
    ]
}

/// What a Dockerfile says, without where.
fn meaning(dockerfile: &Dockerfile) -> Vec<serde_json::Value> {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                for key in ["span", "word", "body", "keyword_text", "comments", "as_text", "original"] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let instructions = dockerfile.instructions().filter_map(|i| serde_json::to_value(i).ok());
    instructions
        .map(|mut value| {
            strip(&mut value);
            value
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_spans_lie_in_the_text(source in text()) {
        match Dockerfile::parse(&source) {
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in &errors {
                    let spans = error.labels.iter().map(|(span, _)| *span).chain([error.span]);
                    for span in spans {
                        prop_assert!(source.get(span.start..span.end).is_some(), "{error:?}");
                    }
                }
            }
            Ok(dockerfile) => {
                let mut end = 0;
                for instruction in dockerfile.instructions() {
                    prop_assert!(source.get(instruction.span.start..instruction.span.end).is_some());
                    prop_assert!(instruction.span.start >= end);
                    end = instruction.span.end;
                    for flag in &instruction.flags {
                        prop_assert!(flag.span.of(&source).contains("--") || flag.span.len() > flag.name.len());
                    }
                    let env = vec!["a=x y".to_owned()];
                    let expanded = instruction.expanded(&env, dockerfile.escape);
                    if let Ok(expanded) = expanded {
                        let _ = expanded.created_by(&HistoryContext::default());
                    }
                    let _ = instruction.display(&env, dockerfile.escape);
                    if let Command::Onbuild(onbuild) = &instruction.command {
                        let _ = parse_onbuild(&onbuild.text, dockerfile.escape);
                    }
                }
                let arguments = GraphArguments::default();
                if let Ok(graph) = StageGraph::of(&dockerfile, &arguments) {
                    let _ = (graph.to_dot(), graph.to_mermaid(), graph.to_text());
                    prop_assert!(graph.plan_for(None).is_ok());
                }
                let base = |_: &str, _: Option<&str>| Some(BaseImage::default());
                let input = CheckInput { arguments: &arguments, ignored: None, base_images: &base, verify: None };
                for finding in check(&dockerfile, &input, &CheckSettings::default()) {
                    prop_assert!(source.get(finding.place.start..finding.place.end).is_some());
                }
            }
        }
    }

    #[test]
    fn the_canonical_form_means_the_same(source in text()) {
        if let Ok(dockerfile) = Dockerfile::parse(&source) {
            let formatted = dockerfile.format();
            let again = Dockerfile::parse(&formatted);
            prop_assert!(again.is_ok(), "{formatted:?}: {again:?}");
            let again = again.unwrap();
            prop_assert_eq!(meaning(&dockerfile), meaning(&again), "{:?}", formatted);
            prop_assert_eq!(again.format(), formatted);
        }
    }

    #[test]
    fn expansion_never_panics(source in text()) {
        let env = vec![("a".to_owned(), "x.y z".to_owned())];
        for escape in [Escape::Backslash, Escape::Backtick] {
            for mode in [Mode::Word, Mode::Heredoc, Mode::Display] {
                let _ = expand(&source, &env, escape, mode);
            }
        }
    }
}

/// Much of each nasty thing takes a time in proportion: seconds here would be an hour if it were quadratic. (The bench
/// reads a mebibyte of each.)
#[test]
fn long_inputs_take_linear_time() {
    let start = std::time::Instant::now();
    for (begin, piece, end) in [
        ("", "RUN a \\\n", ""),
        ("", "RUN <<E\nE\n", ""),
        ("", "ENV a=b\n", ""),
        ("", "ENV a=$a${a:-b}\\\n", ""),
        ("", "# c\n", ""),
        ("", "COPY <<A <<B /\nA\nB\n", ""),
        ("", "FROM a AS b\n", ""),
        ("RUN ", "x", ""),
        ("ENV a=", "${a:-\\\n", "\n"),
        ("ENV a=", "${a:-${a:-b}}${a//b/c}\\\n", "\n"),
        ("ARG ", "A=1 \\\n", "B\n"),
        ("LABEL ", "a=\"b\" \\\n", "c=d\n"),
        ("CMD [", "\"a\", \\\n", "\"b\"]\n"),
        ("CMD ", "[\\\n", "\n"),
        ("COPY ", "a \\\n", "/\n"),
        ("RUN ", "--mount=type=cache,target=/a \\\n", "true\n"),
        ("RUN ", "--nonsense \\\n", "true\n"),
        ("EXPOSE ", "80 \\\n", "81\n"),
    ] {
        let source = format!("FROM a\n{begin}{}{end}", piece.repeat(256 * 1024 / piece.len()));
        if let Ok(dockerfile) = Dockerfile::parse(&source) {
            let _ = dockerfile.format();
            let arguments = GraphArguments::default();
            let base = |_: &str, _: Option<&str>| Some(BaseImage::default());
            let input = CheckInput { arguments: &arguments, ignored: None, base_images: &base, verify: None };
            let _ = check(&dockerfile, &input, &CheckSettings::default());
            let _ = StageGraph::of(&dockerfile, &arguments).map(|graph| graph.plan_for(None));
        }
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
