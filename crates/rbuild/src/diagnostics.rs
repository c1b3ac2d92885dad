//! Errors as text: what could not be done, the place in the Dockerfile, the causes, the remedy.

use std::error::Error;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use rbuild_dockerfile::{Diagnostic, Severity, Span};
use rbuild_engine::{BuildError, Failure, FailureKind};

use crate::ui::text::{Keep, clean};

/// A line of a command's output is cut behind so many characters.
const LONGEST_LINE: usize = 1000;

/// How errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    /// Whether colours may be used.
    pub(crate) colour: bool,
}

impl Style {
    fn render(self, report: &[Group<'_>]) -> String {
        let renderer = if self.colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(report) + "\n"
    }
}

/// The process's exit code for a build that gave no image.
pub(crate) fn exit_code(error: &BuildError) -> u8 {
    match error {
        BuildError::Dockerfile(_) => 1,
        BuildError::Failed(failure) => match failure.kind {
            FailureKind::Build => 1,
            FailureKind::Usage => 2,
            FailureKind::Environment => 3,
            FailureKind::Registry => 4,
        },
        // As a shell has it for a command that was interrupted: 128 + SIGINT.
        BuildError::Cancelled => 130,
    }
}

/// Why a build gave no image, for people. `source_text` is the Dockerfile that the spans point into.
pub(crate) fn render_error(error: &BuildError, source_text: &str, file_name: &str, style: Style) -> String {
    let source = Source { text: source_text, name: file_name };
    match error {
        BuildError::Dockerfile(diagnostics) if !diagnostics.is_empty() => {
            render_diagnostics(diagnostics, source_text, file_name, style)
        }
        BuildError::Failed(failure) => render_failure(failure, source, style),
        BuildError::Dockerfile(_) | BuildError::Cancelled => {
            style.render(&[Group::with_title(Level::ERROR.primary_title(error.to_string()))])
        }
    }
}

/// Faults of a Dockerfile in their order, an empty line between them.
pub(crate) fn render_diagnostics(
    diagnostics: &[Diagnostic],
    source_text: &str,
    file_name: &str,
    style: Style,
) -> String {
    let source = Source { text: source_text, name: file_name };
    let rendered: Vec<String> =
        diagnostics.iter().map(|diagnostic| render_diagnostic(diagnostic, source, style)).collect();
    rendered.join("\n")
}

/// Warnings that have no place in a Dockerfile, one a line.
pub(crate) fn render_warnings<T: AsRef<str>>(warnings: &[T], style: Style) -> String {
    let line = |warning: &T| {
        style.render(&[Group::with_title(Level::WARNING.secondary_title(printable(warning.as_ref())))])
    };
    warnings.iter().map(line).collect()
}

/// The text that spans point into.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    name: &'a str,
}

fn render_diagnostic(diagnostic: &Diagnostic, source: Source<'_>, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let (own, related): (Vec<_>, Vec<_>) =
        diagnostic.labels.iter().partition(|(span, _)| *span == diagnostic.span);
    let mut title = level.primary_title(printable(&diagnostic.message));
    if let Some(rule) = diagnostic.rule {
        title = title.id(rule);
    }
    let own = own.first().map(|(_, text)| text.as_str());
    let mut report = vec![title.element(source.snippet(diagnostic.span, own, &related))];
    report.extend(diagnostic.help.as_deref().map(help));
    style.render(&report)
}

fn render_failure(failure: &Failure, source: Source<'_>, style: Style) -> String {
    let title = Level::ERROR.primary_title(printable(&failure.message));
    let mut report = vec![match failure.span {
        Some(span) => title.element(source.snippet(span, failure.label.as_deref(), &[])),
        None => Group::with_title(title),
    }];
    report.extend(causes(failure).into_iter().map(|cause| section("caused by", cause)));
    if !failure.output_tail.is_empty() {
        let lines: Vec<String> = failure.output_tail.iter().map(|line| output_line(line)).collect();
        report.push(section("last output", lines.join("\n")));
    }
    report.extend(failure.log.as_ref().map(|log| section("whole output", log.display().to_string())));
    report.extend(failure.help.as_deref().map(help));
    match failure.span {
        Some(_) => style.render(&report),
        // Drawn together, a title without a snippet would be followed by the empty margin of one.
        None => report.iter().map(|group| style.render(std::slice::from_ref(group))).collect(),
    }
}

fn section<'a>(name: &'a str, text: String) -> Group<'a> {
    Group::with_title(Level::NOTE.with_name(name).secondary_title(text))
}

fn help(text: &str) -> Group<'_> {
    Group::with_title(Level::HELP.secondary_title(printable(text)))
}

/// The texts of the causes, each only if none before it says the same already.
fn causes(failure: &Failure) -> Vec<String> {
    let mut told = vec![printable(&failure.message)];
    let mut next = failure.source();
    while let Some(cause) = next {
        let text = printable(&cause.to_string());
        if !told.iter().any(|earlier| earlier.contains(&text)) {
            told.push(text);
        }
        next = cause.source();
    }
    told.split_off(1)
}

fn output_line(line: &str) -> String {
    let mut text = clean(line.trim_end(), Keep::Nothing);
    if let Some((at, _)) = text.char_indices().nth(LONGEST_LINE) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// A message's lines without escape sequences or trailing blanks.
fn printable(text: &str) -> String {
    let lines: Vec<String> = text.trim().lines().map(|line| clean(line, Keep::Nothing)).collect();
    lines.join("\n")
}

impl<'a> Source<'a> {
    fn snippet(
        self,
        span: Span,
        label: Option<&str>,
        related: &[&(Span, String)],
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let primary = AnnotationKind::Primary.span(self.range(span));
        let primary = match label {
            Some(text) => primary.label(clean(text, Keep::Nothing)),
            None => primary,
        };
        let context = related.iter().map(|(span, text)| {
            AnnotationKind::Context.span(self.range(*span)).label(clean(text, Keep::Nothing))
        });
        Snippet::source(self.text).path(self.name).annotation(primary).annotations(context)
    }

    /// The bytes of a span that lie in the text, between characters, without the blanks at its end.
    fn range(self, span: Span) -> Range<usize> {
        let boundary = |offset: usize| {
            let candidates = (0..=offset.min(self.text.len())).rev();
            candidates.into_iter().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
        };
        let start = boundary(span.start);
        let end = boundary(span.end).max(start);
        start..start + self.text[start..end].trim_end().len()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const PLAIN: Style = Style { colour: false };
    const DOCKERFILE: &str = "FROM golang:1.24 AS build\nRUN a\nRUN b\n\n\nCOPY --from=biuld /src/app /app\n";

    fn span_of(source: &str, text: &str) -> Span {
        let start = source.find(text).unwrap();
        Span::new(start, start + text.len())
    }

    /// An error with a cause.
    #[derive(Debug)]
    struct Chain(&'static str, Option<Box<Chain>>);

    impl std::fmt::Display for Chain {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn failure(kind: FailureKind, message: &str) -> Failure {
        Failure::new(kind, message)
    }

    fn render(failure: Failure) -> String {
        render_error(&failure.into(), DOCKERFILE, "Dockerfile", PLAIN)
    }

    #[test]
    fn a_fault_shows_its_place_and_the_related_one() {
        let place = span_of(DOCKERFILE, "biuld");
        let fault = Diagnostic::error("no stage named `biuld`", place)
            .label(place, "not a stage, an image or a named context")
            .label(span_of(DOCKERFILE, "build"), "a stage with a similar name")
            .help("did you mean `build`?");
        let expected = "\
error: no stage named `biuld`
 --> Dockerfile:6:13
  |
1 | FROM golang:1.24 AS build
  |                     ----- a stage with a similar name
...
6 | COPY --from=biuld /src/app /app
  |             ^^^^^ not a stage, an image or a named context
  |
help: did you mean `build`?
";
        let error = BuildError::Dockerfile(vec![fault]);
        assert_eq!(render_error(&error, DOCKERFILE, "Dockerfile", PLAIN), expected);
    }

    #[test]
    fn several_faults_are_told_in_their_order() {
        let faults = [
            Diagnostic::error("first", span_of(DOCKERFILE, "RUN a")),
            Diagnostic::warning("StageNameCasing", "second", span_of(DOCKERFILE, "build")),
        ];
        let expected = "\
error: first
 --> Dockerfile:2:1
  |
2 | RUN a
  | ^^^^^

warning[StageNameCasing]: second
 --> Dockerfile:1:21
  |
1 | FROM golang:1.24 AS build
  |                     ^^^^^
";
        assert_eq!(render_diagnostics(&faults, DOCKERFILE, "Dockerfile", PLAIN), expected);
        assert_eq!(render_diagnostics(&[], DOCKERFILE, "Dockerfile", PLAIN), "");
    }

    #[test]
    fn a_failing_command_shows_its_last_output() {
        let mut failed = failure(FailureKind::Build, "command `npm install` ended with exit code 1")
            .at(span_of(DOCKERFILE, "RUN b\n"))
            .help("see the log");
        failed.label = Some("this command".into());
        failed.output_tail = vec!["npm \x1b[31mERR!\x1b[0m".into(), "\ttab\r".into()];
        failed.log = Some("/var/lib/rbuild/logs/7".into());
        let expected = "\
error: command `npm install` ended with exit code 1
 --> Dockerfile:3:1
  |
3 | RUN b
  | ^^^^^ this command
  |
last output: npm ERR!
                     tab
whole output: /var/lib/rbuild/logs/7
help: see the log
";
        assert_eq!(render(failed), expected);
    }

    #[test]
    fn causes_without_news_are_left_out() {
        let innermost = Chain("connection refused", None);
        let inner = Chain("GET http://r/v2/: connection refused", Some(Box::new(innermost)));
        let outer = Chain("could not pull `x`", Some(Box::new(inner)));
        let failed = failure(FailureKind::Registry, "could not pull `x`").caused_by(outer);
        let expected = "error: could not pull `x`\ncaused by: GET http://r/v2/: connection refused\n";
        assert_eq!(render(failed), expected);
    }

    #[test]
    fn errors_without_a_place_have_no_snippet() {
        let failed = failure(FailureKind::Environment, "could not mount the overlay")
            .caused_by(io::Error::from_raw_os_error(1))
            .help("sysctl kernel.unprivileged_userns_clone=1");
        let expected = "\
error: could not mount the overlay
caused by: Operation not permitted (os error 1)
help: sysctl kernel.unprivileged_userns_clone=1
";
        assert_eq!(render(failed), expected);
        for (error, expected) in [
            (BuildError::Cancelled, "cancelled"),
            (BuildError::Dockerfile(Vec::new()), "the Dockerfile is wrong"),
        ] {
            assert_eq!(render_error(&error, "", "Dockerfile", PLAIN), format!("error: {expected}\n"));
        }
    }

    #[test]
    fn warnings_are_lines() {
        assert_eq!(
            render_warnings(&["one", "two\nlines"], PLAIN),
            "warning: one\nwarning: two\n         lines\n"
        );
    }

    #[test]
    fn colours_only_when_allowed() {
        let error = BuildError::from(failure(FailureKind::Build, "x \x1b[2Jy"));
        assert_eq!(render_error(&error, "", "Dockerfile", PLAIN), "error: x y\n");
        let coloured = render_error(&error, "", "Dockerfile", Style { colour: true });
        assert!(coloured.contains('\x1b') && !coloured.contains("\x1b[2J"), "{coloured:?}");
    }

    #[test]
    fn crlf_and_tabs_keep_the_marks_in_place() {
        let source = "FROM a\r\n\tRUN\tfalse\r\n";
        let fault = Diagnostic::error("no", span_of(source, "false\r\n"));
        let expected = "\
error: no
 --> Dockerfile:2:6
  |
2 |     RUN    false
  |            ^^^^^
";
        assert_eq!(render_diagnostics(&[fault], source, "Dockerfile", PLAIN), expected);
    }

    #[test]
    fn long_lines_are_shortened() {
        let source = format!("RUN {} && false && {}\n", "x".repeat(100_000), "y".repeat(100_000));
        let fault = Diagnostic::error("no", span_of(&source, "false"));
        let rendered = render_diagnostics(&[fault], &source, "Dockerfile", PLAIN);
        assert!(rendered.lines().all(|line| line.chars().count() < 200), "{}", rendered.len());
        assert!(rendered.contains("false") && rendered.contains("^^^^^"));
        let mut failed = failure(FailureKind::Build, "no");
        failed.output_tail = vec!["é".repeat(5000)];
        assert_eq!(render(failed).chars().filter(|c| *c == 'é').count(), LONGEST_LINE);
    }

    #[test]
    fn no_span_panics() {
        let sources = [
            "",
            "\n",
            "\r\n",
            "é",
            "FROM a",
            "\u{feff}FROM é\r\n\t\x1b[2J\0\n\nRUN <<E\n日本\nE",
            "a\rb\n\r\r\n\t",
        ];
        for source in sources {
            let offsets = 0..source.len() + 3;
            for (start, end) in offsets.clone().flat_map(|start| offsets.clone().map(move |end| (start, end)))
            {
                let fault = Diagnostic::error("no", Span { start, end })
                    .label(Span { start, end }, "here\nand")
                    .label(Span { start: end, end: start }, "there");
                let rendered = render_diagnostics(&[fault], source, "Dockerfile", PLAIN);
                assert!(rendered.starts_with("error: no\n"), "{source:?} {start}..{end}");
            }
        }
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        let of = |kind| exit_code(&failure(kind, "x").into());
        assert_eq!(exit_code(&BuildError::Dockerfile(Vec::new())), 1);
        assert_eq!(exit_code(&BuildError::Cancelled), 130);
        let kinds = [FailureKind::Build, FailureKind::Usage, FailureKind::Environment, FailureKind::Registry];
        assert_eq!(kinds.map(of), [1, 2, 3, 4]);
    }
}
