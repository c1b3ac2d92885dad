//! What `SOURCE_DATE_EPOCH` means: seconds, or something that has a time of its own.

use std::collections::BTreeMap;

use crate::expand::Mode;
use crate::graph::{Contexts, global_args};
use crate::instruction::expand_at;
use crate::{Arg, Command, Copy, Diagnostic, Dockerfile, Escape, GraphArguments, Span, Stage, Word};

/// The build arg that dates an image.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Where the time of an image comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DateSource {
    /// Seconds since 1970.
    Seconds(i64),
    /// The build context.
    Context,
    /// The named context that was given under this key.
    Named(String),
    /// What the one ADD of a stage fetches.
    Added {
        /// The source of ADD, expanded. Whether it is somewhere else is for the caller to find out.
        source: Word,
        /// `--checksum`, expanded.
        checksum: Option<Word>,
    },
}

/// Why `SOURCE_DATE_EPOCH` gives no time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DateSourceError {
    /// The value is no number, no stage and no named context.
    Unknown {
        /// The value.
        value: String,
        /// The ARG that gives it; none where a build arg does.
        span: Option<Span>,
        /// What was probably meant.
        near: Option<String>,
    },
    /// The stage is none that has a time.
    Stage(Box<Diagnostic>),
}

/// What dates the image: the build arg, else the default of an ARG before the first FROM. `None` where neither has a text.
///
/// # Errors
/// A value that means nothing, and a stage that is more than one ADD.
pub fn date_source(
    dockerfile: &Dockerfile,
    arguments: &GraphArguments,
) -> Result<Option<DateSource>, DateSourceError> {
    let mut globals = global_args(dockerfile, arguments);
    let declared = globals.remove(SOURCE_DATE_EPOCH);
    let given = arguments.build_args.get(SOURCE_DATE_EPOCH);
    let Some(value) = given.cloned().or(declared).filter(|value| !value.is_empty()) else { return Ok(None) };
    if let Ok(seconds) = value.parse() {
        return Ok(Some(DateSource::Seconds(seconds)));
    }
    if value == "context" {
        return Ok(Some(DateSource::Context));
    }
    let name = value.to_lowercase();
    if let Some(key) = Contexts::of(arguments).for_image(&name, None) {
        return Ok(Some(DateSource::Named(key)));
    }
    match dockerfile.stages.iter().find(|stage| stage.name() == Some(&name)) {
        Some(stage) => {
            let source = source_of(stage, globals, arguments, dockerfile.escape);
            source.map(Some).map_err(|fault| DateSourceError::Stage(Box::new(fault)))
        }
        None => Err(unknown(dockerfile, arguments, value)),
    }
}

fn unknown(dockerfile: &Dockerfile, arguments: &GraphArguments, value: String) -> DateSourceError {
    let stages = dockerfile.stages.iter().filter_map(Stage::name);
    let contexts = arguments.contexts.iter().map(String::as_str);
    let near = crate::suggestion(&value, stages.chain(contexts).chain(["context"])).map(str::to_owned);
    let is_given = arguments.build_args.contains_key(SOURCE_DATE_EPOCH);
    let args = dockerfile.global_args.iter().filter_map(|instruction| match &instruction.command {
        Command::Arg(args) => Some(args),
        _ => None,
    });
    let span = args.flatten().rev().find(|arg| arg.name.text == SOURCE_DATE_EPOCH).map(|arg| arg.span);
    DateSourceError::Unknown { value, span: span.filter(|_| !is_given), near }
}

/// The source of a stage that is `FROM scratch` and one ADD: only such a one has a time before it is built.
fn source_of(
    stage: &Stage,
    globals: BTreeMap<String, String>,
    arguments: &GraphArguments,
    escape: Escape,
) -> Result<DateSource, Diagnostic> {
    let refused = |message: &str, span| {
        Diagnostic::error(message, span)
            .label(span, format!("`{}` dates the image", stage.label()))
            .help("such a stage is `FROM scratch`, and one ADD of a URL or of a git repository")
    };
    let only_one = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
    let base = &stage.from.base;
    if expand_at(&base.text, base.span, &globals, escape, Mode::Word)?.value != "scratch" {
        return Err(refused("SOURCE_DATE_EPOCH stage must use FROM scratch", base.span));
    }
    let (mut env, mut found) = (globals, None);
    for instruction in &stage.instructions {
        match &instruction.command {
            Command::Arg(args) => {
                args.iter().try_for_each(|arg| declare(arg, &mut env, arguments, escape))?;
            }
            Command::Add(_) if found.is_some() => return Err(refused(only_one, instruction.span)),
            Command::Add(copy) => match one_source(copy) {
                Some(source) => found = Some(added(copy, source, &env, escape)?),
                None => return Err(refused(&format!("{only_one} source"), instruction.span)),
            },
            _ => {
                let keyword = instruction.keyword.as_str();
                let message = format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {keyword} instruction"
                );
                return Err(refused(&message, instruction.span));
            }
        }
    }
    found.ok_or_else(|| refused(only_one, stage.instruction.span))
}

/// What an ARG of the stage gives; one without a default leaves what the global ARGs say.
fn declare(
    arg: &Arg,
    env: &mut BTreeMap<String, String>,
    arguments: &GraphArguments,
    escape: Escape,
) -> Result<(), Diagnostic> {
    let name = arg.expanded_name(env, escape)?;
    let value = match arguments.build_args.get(&name) {
        Some(given) => Some(given.clone()),
        None => arg.expanded_default(env, escape)?,
    };
    env.extend(value.map(|value| (name, value)));
    Ok(())
}

fn one_source(copy: &Copy) -> Option<&Word> {
    match (copy.sources.as_slice(), copy.heredocs.is_empty()) {
        ([source], true) => Some(source),
        _ => None,
    }
}

fn added(
    copy: &Copy,
    source: &Word,
    env: &BTreeMap<String, String>,
    escape: Escape,
) -> Result<DateSource, Diagnostic> {
    let expanded = |word: &Word| -> Result<Word, Diagnostic> {
        Ok(Word::new(expand_at(&word.text, word.span, env, escape, Mode::Word)?.value, word.span))
    };
    let checksum = copy.checksum.as_ref().map(expanded).transpose()?;
    Ok(DateSource::Added { source: expanded(source)?, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the named contexts `src` and `lib/x:latest`, and build args.
    fn found(text: &str, build_args: &[(&str, &str)]) -> Result<Option<DateSource>, String> {
        let dockerfile = Dockerfile::parse(text).unwrap();
        let build_args = build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let arguments = GraphArguments {
            build_args: build_args.collect(),
            contexts: vec!["src".to_owned(), "lib/x:latest".to_owned()],
            ..GraphArguments::default()
        };
        date_source(&dockerfile, &arguments).map_err(|error| match error {
            DateSourceError::Unknown { value, span, near } => {
                let place = span.and_then(|span| text.get(span.start..span.end));
                format!("unknown {value} at {place:?} near {near:?}")
            }
            DateSourceError::Stage(fault) => {
                format!("{} at {:?}", fault.message, text.get(fault.span.start..fault.span.end).unwrap())
            }
        })
    }

    fn added(source: &str, checksum: Option<&str>) -> Result<Option<DateSource>, String> {
        let word = |text| Word::new(text, Span::default());
        Ok(Some(DateSource::Added { source: word(source), checksum: checksum.map(word) }))
    }

    /// Places are told by the errors.
    fn without_places(found: Result<Option<DateSource>, String>) -> Result<Option<DateSource>, String> {
        found.map(|source| match source {
            Some(DateSource::Added { mut source, mut checksum }) => {
                source.span = Span::default();
                checksum.iter_mut().for_each(|word| word.span = Span::default());
                Some(DateSource::Added { source, checksum })
            }
            other => other,
        })
    }

    #[test]
    fn values_of_every_kind() {
        for (value, expected) in [
            ("", None),
            ("1700000000", Some(DateSource::Seconds(1_700_000_000))),
            ("-1", Some(DateSource::Seconds(-1))),
            ("context", Some(DateSource::Context)),
            ("src", Some(DateSource::Named("src".to_owned()))),
            ("SRC", Some(DateSource::Named("src".to_owned()))),
            ("lib/x", Some(DateSource::Named("lib/x:latest".to_owned()))),
        ] {
            let text =
                format!("ARG SOURCE_DATE_EPOCH={value}\nFROM scratch AS context\nFROM scratch AS src\n");
            assert_eq!(found(&text, &[]), Ok(expected.clone()), "ARG {value}");
            let given = found("FROM scratch AS src\n", &[(SOURCE_DATE_EPOCH, value)]);
            assert_eq!(given, Ok(expected), "--build-arg {value}");
        }
    }

    #[test]
    fn the_build_arg_goes_first_and_an_empty_one_takes_the_default_away() {
        let text = "ARG SOURCE_DATE_EPOCH=nonsense\nFROM scratch\n";
        assert_eq!(found(text, &[(SOURCE_DATE_EPOCH, "5")]), Ok(Some(DateSource::Seconds(5))));
        assert_eq!(found(text, &[(SOURCE_DATE_EPOCH, "")]), Ok(None));
    }

    #[test]
    fn an_arg_of_a_stage_is_no_default() {
        assert_eq!(found("FROM scratch\nARG SOURCE_DATE_EPOCH=5\n", &[]), Ok(None));
    }

    #[test]
    fn what_means_nothing_is_unknown() {
        let text = "ARG SOURCE_DATE_EPOCH=mysorce\nFROM scratch AS mysource\nADD https://x.test/a /\n";
        let error = "unknown mysorce at Some(\"SOURCE_DATE_EPOCH=mysorce\") near Some(\"mysource\")";
        assert_eq!(found(text, &[]), Err(error.to_owned()));
        let error = "unknown 0 at None near None";
        assert_eq!(found("FROM scratch\n", &[(SOURCE_DATE_EPOCH, "0x5")]), Err(error.replace('0', "0x5")));
    }

    #[test]
    fn stages_with_one_remote_add() {
        let url = "https://x.test/src.tar";
        for (stage, build_args, expected) in [
            ("ADD https://x.test/src.tar /", &[][..], added(url, None)),
            ("ARG URL=https://x.test/src.tar\nADD $URL /", &[], added(url, None)),
            ("ARG HOST\nADD https://${HOST}/src.tar /", &[], added(url, None)),
            ("ARG HOST=other\nADD https://${HOST}/src.tar /", &[("HOST", "x.test")], added(url, None)),
            (
                "ADD --checksum=sha256:$SUM https://x.test/src.tar /",
                &[("SUM", "00")],
                added(url, Some("sha256:00")),
            ),
            ("ARG SOURCE_DATE_EPOCH\nADD https://x.test/src.tar$SOURCE_DATE_EPOCH /", &[], added(url, None)),
        ] {
            let text = format!(
                "ARG BASE=scratch\nARG HOST=x.test\nARG SUM\nARG SOURCE_DATE_EPOCH=Time\nFROM $BASE AS time\n{stage}\nFROM scratch\n"
            );
            assert_eq!(without_places(found(&text, build_args)), expected, "{stage}");
        }
    }

    #[test]
    fn other_stages_have_no_time() {
        let add = "ADD https://x.test/a /";
        for (stage, message) in [
            (format!("FROM busybox AS time\n{add}"), "must use FROM scratch at \"busybox\""),
            (
                "FROM scratch AS time".to_owned(),
                "must contain exactly one remote ADD at \"FROM scratch AS time\"",
            ),
            (
                format!("FROM scratch AS time\n{add}\nADD b /"),
                "must contain exactly one remote ADD at \"ADD b /\"",
            ),
            (
                "FROM scratch AS time\nADD a b /".to_owned(),
                "must contain exactly one remote ADD source at \"ADD a b /\"",
            ),
            (
                "FROM scratch AS time\nADD <<A /\nx\nA".to_owned(),
                "must contain exactly one remote ADD source at \"ADD <<A /\\nx\\nA\"",
            ),
            (
                format!("FROM scratch AS time\n{add}\nCOPY a /"),
                "does not meet source-only requirements: unsupported COPY instruction at \"COPY a /\"",
            ),
        ] {
            let text = format!("ARG SOURCE_DATE_EPOCH=time\n{stage}\nFROM scratch\n");
            assert_eq!(found(&text, &[]), Err(format!("SOURCE_DATE_EPOCH stage {message}")), "{stage}");
        }
    }
}
