//! `--check`, `--call`: the Dockerfile is looked at, not built.

use std::io::Write;

use rbuild_dockerfile::{Finding, LineIndex};
use rbuild_engine::{BuildRequest, Tools};

use crate::args::BuildArgs;
use crate::failure::CliError;

/// What `--call` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Check { json: bool },
}

/// What is to be done instead of a build, if anything.
pub(crate) fn asked_for(args: &BuildArgs) -> Result<Option<Call>, CliError> {
    let method = match (&args.call, &args.check) {
        (Some(method), _) => method.as_str(),
        (None, Some(format)) if format.is_empty() => "check",
        (None, Some(other)) => return Err(CliError::usage(format!("unknown set of checks `{other}`"))),
        (None, None) => return Ok(None),
    };
    let (name, rest) = method.split_once(',').unwrap_or((method, ""));
    let json = match rest {
        "" | "format=text" => false,
        "format=json" => true,
        other => return Err(CliError::usage(format!("unknown option `{other}` of `--call`")).help("there is `format=json`")),
    };
    match name {
        "build" => Ok(None),
        "check" | "lint" => Ok(Some(Call::Check { json })),
        other => Err(CliError::usage(format!("unknown method `{other}`")).help("there are `build` and `check`")),
    }
}

/// Prints the findings, one a line; any makes the exit code 1.
pub(crate) fn run(call: Call, request: &BuildRequest, tools: Tools<'_>) -> Result<(), CliError> {
    let shown = |error| CliError::Build { error, source: request.dockerfile.clone(), name: request.dockerfile_name.clone() };
    let findings = rbuild_engine::check(request, tools).map_err(shown)?;
    let lines = LineIndex::new(&request.dockerfile);
    let mut text = String::new();
    match call {
        Call::Check { json: true } => {
            let list: Vec<_> = findings.iter().map(|finding| as_json(finding, &lines, request)).collect();
            text = format!("{}\n", serde_json::to_string_pretty(&list).unwrap_or_default());
        }
        Call::Check { json: false } => {
            for finding in &findings {
                text.push_str(&format!("{} ({}:{})\n", sentence(finding), request.dockerfile_name, lines.line(finding.span.start)));
            }
        }
    }
    // A reader that went away has what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if findings.is_empty() { Ok(()) } else { Err(CliError::Quiet(1)) }
}

/// The findings after an ordinary build, as BuildKit shows them.
pub(crate) fn warnings(findings: &[Finding], request: &BuildRequest) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let lines = LineIndex::new(&request.dockerfile);
    let count = findings.len();
    let mut text = format!("\n {count} warning{} found (`rbuild --check` shows only these):\n", if count == 1 { "" } else { "s" });
    for finding in findings {
        text.push_str(&format!(" - {} (line {})\n", sentence(finding), lines.line(finding.span.start)));
    }
    text
}

fn sentence(finding: &Finding) -> String {
    format!("{}: {}", finding.rule.name(), finding.message)
}

fn as_json(finding: &Finding, lines: &LineIndex, request: &BuildRequest) -> serde_json::Value {
    serde_json::json!({
        "rule": finding.rule.name(),
        "description": finding.rule.description(),
        "message": finding.message,
        "file": request.dockerfile_name,
        "line": lines.line(finding.span.start),
        "start": finding.span.start,
        "end": finding.span.end,
    })
}
