//! Build checks with what only a build knows: the ignore file and the base images.

use rbuild_context::IgnoreFile;
use rbuild_dockerfile::{BaseImage, CheckInput, Dockerfile, Finding, check, check_settings};

use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::graph_arguments;
use crate::images::Images;
use crate::request::BuildRequest;

/// The findings; an error where the Dockerfile says that findings are errors.
pub(crate) fn before_build(dockerfile: &Dockerfile, request: &BuildRequest, images: &Images<'_>) -> Result<Vec<Finding>> {
    let settings = check_settings(dockerfile, &graph_arguments(request)).map_err(|error| BuildError::Dockerfile(vec![error]))?;
    let findings = run(dockerfile, request, images)?;
    if !settings.error || findings.is_empty() {
        return Ok(findings);
    }
    let mut rules: Vec<&str> = findings.iter().map(|finding| finding.rule.name()).collect();
    rules.dedup();
    let failure = Failure::new(FailureKind::Build, format!("lint violation found for rules: {}", rules.join(", ")));
    Err(failure.at(findings[0].place).help("`rbuild --check` lists them all").into())
}

/// Runs the rules.
pub(crate) fn run(dockerfile: &Dockerfile, request: &BuildRequest, images: &Images<'_>) -> Result<Vec<Finding>> {
    let arguments = graph_arguments(request);
    let settings = check_settings(dockerfile, &arguments).map_err(|error| BuildError::Dockerfile(vec![error]))?;
    let ignore = match &request.ignore {
        Some((text, name)) => Some(
            IgnoreFile::parse(text)
                .explain(FailureKind::Build, || format!("could not understand the ignore file `{name}`"))?,
        ),
        None => None,
    };
    // With exceptions in it, what the ignore file lets through is only known by walking the context.
    let ignore = ignore.filter(|file| !file.has_negation());
    let ignored = ignore.as_ref().map(|file| move |path: &str| file.is_ignored(path));
    let base = |name: &str, platform: Option<&str>| {
        let image = images.by_name(name, platform).ok()?;
        Some(BaseImage {
            env: image.config.config.env.clone(),
            has_shell: !image.config.config.shell.is_empty(),
            platform: Some(image.config.platform().normalised().to_string()),
            user: image.config.config.user.clone(),
            on_build: image.config.config.on_build.clone(),
        })
    };
    let input = CheckInput {
        arguments: &arguments,
        ignored: ignored.as_ref().map(|closure| closure as &dyn Fn(&str) -> bool),
        base_images: &base,
    };
    Ok(check(dockerfile, &input, &settings))
}
