//! Build checks with what only a build knows: the ignore file and the base images.

use rbuild_context::IgnoreFile;
use rbuild_dockerfile::{
    BaseImage, CheckInput, Dockerfile, Finding, Inspection, Plan, check_settings, inspect,
};

use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::graph_arguments;
use crate::images::Images;
use crate::request::BuildRequest;
use crate::steps::refused;

/// The findings; an error where the Dockerfile says that findings are errors, and where a stage of the plan has
/// instructions that cannot be carried out: better now than after an hour's RUN.
pub(crate) fn before_build(
    dockerfile: &Dockerfile,
    plan: &Plan,
    request: &BuildRequest,
    images: &Images<'_>,
) -> Result<Vec<Finding>> {
    let settings = check_settings(dockerfile, &graph_arguments(request))
        .map_err(|error| BuildError::Dockerfile(vec![error]))?;
    let inspection = run(dockerfile, request, images, &[])?;
    let faults = inspection.faults_of(plan);
    if !faults.is_empty() {
        return Err(BuildError::Dockerfile(faults));
    }
    let findings = inspection.findings;
    if !settings.error || findings.is_empty() {
        return Ok(findings);
    }
    let mut rules: Vec<&str> = findings.iter().map(|finding| finding.rule.name()).collect();
    rules.dedup();
    let failure =
        Failure::new(FailureKind::Build, format!("lint violation found for rules: {}", rules.join(", ")));
    Err(failure.at(findings[0].place).help("`rbuild --check` lists them all").into())
}

/// Sentences on build args that nothing takes: an ARG of the Dockerfile or of a base image's triggers would.
pub(crate) fn unused_build_args(
    dockerfile: &Dockerfile,
    plan: &Plan,
    request: &BuildRequest,
    images: &Images<'_>,
) -> Vec<String> {
    let given = || request.build_args.keys().map(String::as_str);
    if rbuild_dockerfile::unused_build_args(dockerfile, given(), &[]).is_empty() {
        return Vec::new();
    }
    let bases =
        plan.images.iter().filter_map(|(name, platform)| images.by_name(name, platform.as_deref()).ok());
    let triggers: Vec<String> = bases.flat_map(|image| image.config.config.on_build.clone()).collect();
    rbuild_dockerfile::unused_build_args(dockerfile, given(), &triggers)
}

/// Sentences on comments for the cache that could not be understood.
pub(crate) fn cache_wishes(dockerfile: &Dockerfile) -> Vec<String> {
    let wishes = dockerfile.instructions().flat_map(|instruction| instruction.cache_wishes().not_understood);
    let line = |span: rbuild_dockerfile::Span| dockerfile.lines().line(span.start);
    wishes.map(|(why, span)| format!("line {}: {why}", line(span))).collect()
}

/// A sentence on a `# syntax=` that names something else than Docker's own Dockerfile frontend.
pub(crate) fn foreign_syntax(dockerfile: &Dockerfile) -> Option<String> {
    let name = &dockerfile.directives.syntax()?.value.text;
    let image = name.split(' ').next().unwrap_or(name);
    let short = image.strip_prefix("docker.io/").unwrap_or(image);
    (!short.starts_with("docker/dockerfile")).then(|| {
        format!(
            "`# syntax={image}` names another frontend; rbuild has none and reads the file as a Dockerfile"
        )
    })
}

/// Runs the rules: the reference's, what the Dockerfile asks for, and those named in `more` (`all` is each).
pub(crate) fn run(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    images: &Images<'_>,
    more: &[String],
) -> Result<Inspection> {
    let arguments = graph_arguments(request);
    let mut settings =
        check_settings(dockerfile, &arguments).map_err(|error| BuildError::Dockerfile(vec![error]))?;
    settings.experimental_all |= more.iter().any(|name| name == "all");
    settings.experimental.extend_from_slice(more);
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
        verify: Some(&refused),
    };
    Ok(inspect(dockerfile, &input, &settings))
}
