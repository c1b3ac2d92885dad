//! A build for several platforms: the Dockerfile is built once for each, one after another. Steps that do not depend on the
//! platform have the same key each time, and run once.

use rbuild_dockerfile::{Dockerfile, Plan, StageGraph};
use rbuild_image::Platform;

use crate::error::{Failure, FailureKind, Result};
use crate::request::{BuildRequest, Output};

/// What is built for one platform.
#[derive(Debug)]
pub(crate) struct Variant {
    /// The request as if for this platform alone.
    pub(crate) request: BuildRequest,
    pub(crate) graph: StageGraph,
    pub(crate) plan: Plan,
}

/// The request for each platform that it names, in order: stages may differ, as names of bases may hold `TARGETARCH`.
pub(crate) fn variants(dockerfile: &Dockerfile, request: &BuildRequest) -> Result<Vec<Variant>> {
    let platforms = if request.is_for_several() {
        &request.platforms[..]
    } else {
        std::slice::from_ref(&request.platform)
    };
    let variant = |platform: &Platform| {
        let request = BuildRequest { platform: platform.clone(), ..request.clone() };
        let (graph, plan) = crate::plan(dockerfile, &request)?;
        Ok(Variant { request, graph, plan })
    };
    platforms.iter().map(variant).collect()
}

/// Says before the build what could not be written after it.
pub(crate) fn refuse_lists(request: &BuildRequest) -> Result<()> {
    if !request.is_for_several()
        || !request.outputs.iter().any(|output| matches!(output, Output::Docker { .. }))
    {
        return Ok(());
    }
    let message = "docker exporter does not currently support exporting manifest lists";
    Err(Failure::new(FailureKind::Usage, message).help("write `type=oci`, or build for one platform").into())
}

/// The folder of a platform in outputs of files: `linux_arm_v7`.
pub(crate) fn folder_name(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_called_as_the_reference_calls_them() {
        for (platform, expected) in [
            ("linux/amd64", "linux_amd64"),
            ("linux/arm64/v8", "linux_arm64"),
            ("linux/arm", "linux_arm_v7"),
            ("linux/arm/v6", "linux_arm_v6"),
            ("linux/amd64/v2", "linux_amd64_v2"),
        ] {
            assert_eq!(folder_name(&platform.parse().unwrap()), expected, "{platform}");
        }
    }
}
