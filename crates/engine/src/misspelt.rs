//! An image that does not exist may be a stage whose name was misspelt.

use rbuild_dockerfile::{Diagnostic, Dockerfile, Span, suggestion};
use rbuild_registry::{ErrorKind, RegistryError};

use crate::error::{BuildError, Failure};

/// What to say of the image `name` at `span`, which could not be had: the same, or that a stage above was meant. `stages`
/// is how many stages stand above it.
pub(crate) fn as_stage(
    error: BuildError,
    dockerfile: &Dockerfile,
    stages: usize,
    name: &str,
    span: Span,
) -> BuildError {
    let BuildError::Failed(mut failure) = error else { return error };
    let names = dockerfile.stages.iter().take(stages).filter_map(|stage| stage.from.name.as_ref());
    let names: Vec<_> = names.collect();
    let near = suggestion(name, names.iter().map(|known| known.text.as_str()));
    let (Some(near), Some(kind)) = (near, registry_kind(&failure)) else {
        return BuildError::Failed(failure);
    };
    let help = format!("did you mean `{near}`?");
    // Docker Hub says "denied" of what does not exist.
    if !matches!(kind, ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Denied) {
        failure.help = Some(format!("if `{name}` is to be a stage: {help}"));
        return BuildError::Failed(failure);
    }
    let mut fault = Diagnostic::error(format!("no stage named `{name}`"), span)
        .label(span, "not a stage, an image or a named context")
        .help(help);
    if let Some(known) = names.iter().find(|known| known.text == near) {
        fault = fault.label(known.span, "a stage with a similar name");
    }
    BuildError::Dockerfile(vec![fault])
}

fn registry_kind(failure: &Failure) -> Option<ErrorKind> {
    failure.source.as_ref()?.downcast_ref::<RegistryError>().map(RegistryError::kind)
}
