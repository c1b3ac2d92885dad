//! Names in a Dockerfile that no registry is to be asked for.

use rbuild_dockerfile::{Diagnostic, Dockerfile, Plan, Source, Span, StageGraph};
use rbuild_image::{ImageError, Platform, Reference};

/// The image names and platforms of the stages in a plan that are none, in no order.
pub(crate) fn unusable(dockerfile: &Dockerfile, graph: &StageGraph, plan: &Plan) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for planned in &plan.stages {
        let (stage, node) = (&dockerfile.stages[planned.id.0], &graph.stages[planned.id.0]);
        if let (Some(flag), Some(text)) = (&stage.from.platform, &node.platform) {
            found.extend(no_platform(text, flag.span));
        }
        let base = (&node.base, node.span);
        let read = node.dependencies.iter().map(|dependency| (&dependency.source, dependency.span));
        for (source, span) in std::iter::once(base).chain(read) {
            if let Source::Image { name, .. } = source {
                found.extend(no_reference(name, span));
            }
        }
    }
    found
}

fn no_platform(text: &str, span: Span) -> Option<Diagnostic> {
    let error = Platform::parse(text).err()?;
    let fault = Diagnostic::error(error.to_string(), span);
    Some(fault.help("a platform is an operating system, an architecture, or both: linux/amd64, linux/arm/v7"))
}

fn no_reference(name: &str, span: Span) -> Option<Diagnostic> {
    let reason = match Reference::parse(name).err()? {
        ImageError::Reference { reason, .. } => reason,
        other => other.to_string(),
    };
    Some(Diagnostic::error(format!("invalid reference format: `{name}`"), span).label(span, reason))
}
