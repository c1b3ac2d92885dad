//! `--check`, `--call`: the Dockerfile is looked at, not built.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rbuild_dockerfile::{Finding, LineIndex, Rule, Span, suggestion};
use rbuild_engine::{BuildError, BuildRequest, Tools};
use serde_json::{Value, json};

use crate::args::BuildArgs;
use crate::failure::CliError;
use crate::outline;

/// What `--call` names, and whether it is to be printed as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// The build checks, with rules beyond the reference's by name.
    Check {
        json: bool,
        more: Vec<String>,
    },
    Outline {
        json: bool,
    },
    Targets {
        json: bool,
    },
}

/// What is to be done instead of a build, if anything.
pub(crate) fn asked_for(args: &BuildArgs) -> Result<Option<Call>, CliError> {
    let more = more_rules(args.check.as_deref().unwrap_or_default())?;
    let method = match (&args.call, &args.check) {
        (Some(method), _) => method.as_str(),
        (None, Some(_)) => "check",
        (None, None) => return Ok(None),
    };
    let (name, rest) = method.split_once(',').unwrap_or((method, ""));
    let json = match rest {
        "" | "format=text" => false,
        "format=json" => true,
        other => {
            return Err(CliError::usage(format!("unknown option `{other}` of `--call`"))
                .help("there is `format=json`"));
        }
    };
    match name {
        "build" => Ok(None),
        "check" | "lint" => Ok(Some(Call::Check { json, more })),
        "outline" => Ok(Some(Call::Outline { json })),
        "targets" => Ok(Some(Call::Targets { json })),
        other => Err(CliError::usage(format!("unknown method `{other}`"))
            .help("there are `build`, `check`, `outline` and `targets`")),
    }
}

/// The names in `--check=RULE,…`: `all`, or rules that are off by default.
fn more_rules(text: &str) -> Result<Vec<String>, CliError> {
    let names: Vec<String> = text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    for name in &names {
        if name != "all" && !Rule::ALL.iter().any(|rule| rule.name() == name) {
            let failure = CliError::usage(format!("unknown rule `{name}`"));
            let known = Rule::ALL.iter().filter(|rule| rule.is_experimental()).map(|rule| rule.name());
            return Err(match suggestion(name, known.clone()) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help(format!(
                    "`--check=all` runs all; these are off without it: {}",
                    known.collect::<Vec<_>>().join(", ")
                )),
            });
        }
    }
    Ok(names)
}

/// Prints what was asked for; of checks, any finding makes the exit code 1.
pub(crate) fn run(call: &Call, request: &BuildRequest, tools: Tools<'_>) -> Result<(), CliError> {
    match call {
        Call::Check { json, more } => check(*json, more, request, tools),
        Call::Outline { json } => outline::outline(*json, request),
        Call::Targets { json } => outline::targets(*json, request),
    }
}

fn check(json: bool, more: &[String], request: &BuildRequest, tools: Tools<'_>) -> Result<(), CliError> {
    let shown = |error| CliError::Build {
        error,
        source: request.dockerfile.clone(),
        name: request.dockerfile_name.clone(),
    };
    let lines = LineIndex::new(&request.dockerfile);
    let findings = match rbuild_engine::check(request, tools, more) {
        Ok(findings) => findings,
        Err(BuildError::Dockerfile(errors)) if json => {
            let mut document = as_json(&[], &lines, request);
            let first = errors.first();
            document["buildError"] = json!({
                "message": first.map(|error| error.message.as_str()),
                "location": first.map(|error| location(error.span, &lines)),
            });
            print(&pretty(&document));
            return Err(CliError::Quiet(1));
        }
        Err(error) => return Err(shown(error)),
    };
    if json {
        print(&pretty(&as_json(&findings, &lines, request)));
    } else {
        let name = &request.dockerfile_name;
        let line = |finding: &Finding| {
            format!("{} ({name}:{})\n", sentence(finding), lines.line(finding.span.start))
        };
        print(&findings.iter().map(line).collect::<String>());
    }
    if findings.is_empty() { Ok(()) } else { Err(CliError::Quiet(1)) }
}

pub(crate) fn print(text: &str) {
    // A reader that went away has what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub(crate) fn pretty(document: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(document).unwrap_or_default())
}

/// The findings after an ordinary build, as BuildKit shows them.
pub(crate) fn warnings(findings: &[Finding], request: &BuildRequest) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let lines = LineIndex::new(&request.dockerfile);
    let count = findings.len();
    let mut text = format!(
        "\n {count} warning{} found (`rbuild --check` shows only these):\n",
        if count == 1 { "" } else { "s" }
    );
    for finding in findings {
        text.push_str(&format!(" - {} (line {})\n", sentence(finding), lines.line(finding.span.start)));
    }
    text
}

fn sentence(finding: &Finding) -> String {
    format!("{}: {}", finding.rule.name(), finding.message)
}

/// BuildKit's document (`frontend/subrequests/lint`): lines only, as there.
fn as_json(findings: &[Finding], lines: &LineIndex, request: &BuildRequest) -> Value {
    let warning = |finding: &Finding| {
        let mut warning = json!({
            "ruleName": finding.rule.name(),
            "description": finding.rule.description(),
            "detail": finding.message,
            "location": location(finding.span, lines),
        });
        if let Some(url) = finding.rule.url() {
            warning["url"] = url.into();
        }
        warning
    };
    let source = json!({
        "filename": request.dockerfile_name,
        "language": "Dockerfile",
        "data": BASE64.encode(&request.dockerfile),
    });
    json!({ "warnings": findings.iter().map(warning).collect::<Vec<_>>(), "sources": [source] })
}

/// The lines of a place, counted from 1, as BuildKit writes a location: each a range of its own.
pub(crate) fn location(span: Span, lines: &LineIndex) -> Value {
    let last = lines.line(span.end.saturating_sub(1).max(span.start));
    let range = |line| json!({ "start": { "line": line }, "end": { "line": line } });
    json!({ "ranges": (lines.line(span.start)..=last).map(range).collect::<Vec<_>>() })
}
