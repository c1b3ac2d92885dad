//! Drives a Dockerfile to an image: parse, plan, stages side by side, the final stage alone assembled and written out.
//!
//! [`build`] is the whole in one screen. A stage is a fold over its instructions: each step is a cache hit that is
//! reused, or is run over an overlay of its parents and kept as a snapshot.

mod assemble;
mod build;
mod cancel;
mod checks;
mod context_files;
mod contexts;
mod enter;
mod epoch;
mod error;
mod event;
mod explain;
mod files;
mod image;
mod images;
mod misspelt;
mod names;
mod output;
mod packing;
mod platforms;
pub mod relay;
mod remote;
mod request;
mod schedule;
mod shared_cache;
mod side_by_side;
mod state;
mod steps;
pub mod stored;
mod throwaway;
mod users;

use std::convert::Infallible;

use rbuild_dockerfile::{
    BuildPlatform, Dockerfile, Finding, GraphArguments, ParseOptions, Plan, StageGraph, diagnose,
};
use rbuild_executor::{Cancel, Place};
use rbuild_image::{Digest, Platform};
use rbuild_registry::Client;
use rbuild_store::Store;

use crate::shared_cache::SharedCache;
use crate::side_by_side::side_by_side;

pub use contexts::{FetchedContext, LONE_FILE, UnpackedContext, read_in_context};
pub use enter::{Terminal, enter_kept, enter_step};
pub use error::{BuildError, Failure, FailureKind, Result};
pub use event::{Event, EventSink, Phase, Silent, StepNumber, Stream};
pub use output::Written;
pub use relay::Location;
pub use remote::Fetcher;
pub use request::{
    AllowedDevices, BuildRequest, CacheExport, CachePlace, CacheTarget, CacheUse, CompressionChoice, Context,
    Destination, NamedContext, Network, OnFailure, Output, RunOptions, Secret, SecretSource, StepName,
};
pub use throwaway::{ContainerImage, ThrowAway};

/// What a build works with.
#[derive(Debug, Clone, Copy)]
pub struct Tools<'a> {
    /// Images, snapshots and cache.
    pub store: &'a Store,
    /// Registries, and files by HTTP.
    pub client: &'a Client,
    /// What this process may do here.
    pub place: &'a Place,
    /// Ends the build when it is thrown.
    pub cancel: &'a Cancel,
    /// The user's terminal, where a failure may open a shell.
    pub terminal: Option<&'a dyn Terminal>,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The image ID: digest of the config; of the index, where there are images for several platforms.
    pub id: Digest,
    /// What was written where.
    pub written: Vec<Written>,
    /// What the build checks found.
    pub findings: Vec<Finding>,
}

/// Builds what the request asks for.
///
/// # Errors
/// The first thing that went wrong, with its place in the Dockerfile. Nothing half-made stays.
pub fn build(request: &BuildRequest, tools: Tools<'_>, events: &dyn EventSink) -> Result<BuiltImage> {
    let shared = build::Shared::new(SharedCache::new(request, tools, events));
    let result = attempt(request, tools, events, &shared);
    let (Err(_), Some(why)) = (&result, shared.cache.distant.failure()) else { return result };
    // What it did is in the store; what it took on trust is not taken again.
    let text = format!("{why}; building again without the shared cache");
    events.event(Event::Warning { text: &text });
    tools.cancel.reset();
    attempt(request, tools, events, &build::Shared::new(shared.cache.again()))
}

fn attempt<'a>(
    request: &'a BuildRequest,
    tools: Tools<'a>,
    events: &'a dyn EventSink,
    shared: &build::Shared<'a>,
) -> Result<BuiltImage> {
    let (request, dockerfile) = &epoch::settle(request, read(request)?, tools, events, &shared.steps)?;
    platforms::refuse_lists(request)?;
    let variants = platforms::variants(dockerfile, request)?;
    let builders = build::Builder::for_each(&variants, dockerfile, tools, events, shared);
    find_bases(&builders);
    // Platforms differ little in what there is to say: it is said of the first.
    let first = &builders[0];
    let warnings = checks::unused_build_args(dockerfile, &variants[0].plan, first.request, &first.images);
    let wishes = if request.strict_docker { Vec::new() } else { checks::cache_wishes(dockerfile) };
    for text in warnings.iter().chain(&wishes).chain(&checks::foreign_syntax(dockerfile)) {
        events.event(Event::Warning { text });
    }
    let findings = checks::before_build(dockerfile, &variants[0].plan, first.request, &first.images)?;
    let image = |builder| {
        let state = build::Builder::run(builder)
            .map_err(|error| enter::after_failure(builder, tools.terminal, error))?;
        assemble::assemble(builder, state)
    };
    let images = shared.cache.asking_ahead(|| builders.iter().map(image).collect::<Result<Vec<_>>>())?;
    tools.store.begin_sync();
    let (id, written) = output::write_all(first, &images)?;
    shared.cache.export(&first.images);
    tools.store.finish_build().map_err(|error| {
        Failure::new(FailureKind::Environment, "could not make the build durable").caused_by(error)
    })?;
    Ok(BuiltImage { id, written, findings })
}

/// Asks for all base images at once: each takes a registry a few round trips, and the checks and the stages would ask for one after
/// the other. Whoever needs one hears what came of it.
fn find_bases(builders: &[build::Builder<'_>]) {
    let wanted: Vec<_> = builders.iter().flat_map(build::Builder::bases).collect();
    _ = side_by_side(&wanted, |(images, name, platform)| {
        _ = images.by_name(name, *platform);
        Ok::<_, Infallible>(())
    });
}

/// Runs the build checks and builds nothing; `more` names rules beyond the reference's, `all` is each.
///
/// # Errors
/// Faults of the Dockerfile. A base image that cannot be asked leaves out what depends on it.
pub fn check(request: &BuildRequest, tools: Tools<'_>, more: &[String]) -> Result<Vec<Finding>> {
    let dockerfile = read(request)?;
    epoch::source(request, &dockerfile)?;
    let steps = event::Steps::default();
    let images = images::Images::new(request, tools, &Silent, &steps);
    let inspection = checks::run(&dockerfile, request, &images, more)?;
    // What is found may well be why nothing can be built of it.
    if inspection.findings.is_empty() {
        let (_, plan) = plan(&dockerfile, request)?;
        let faults = inspection.faults_of(&plan);
        if !faults.is_empty() {
            return Err(BuildError::Dockerfile(faults));
        }
    }
    Ok(inspection.findings)
}

/// The Dockerfile of a request.
///
/// # Errors
/// All that can be said against it without its base images.
pub fn read(request: &BuildRequest) -> Result<Dockerfile> {
    let options = ParseOptions { strict_docker: request.strict_docker };
    Dockerfile::parse_with(&request.dockerfile, options).map_err(|_| {
        BuildError::Dockerfile(diagnose(&request.dockerfile, options, &graph_arguments(request)))
    })
}

/// The stage graph of a Dockerfile, and what the target needs of it.
///
/// # Errors
/// Faults of the Dockerfile: unknown or later stages, circles, an unknown target, wrong values in what the target needs.
pub fn plan(dockerfile: &Dockerfile, request: &BuildRequest) -> Result<(StageGraph, Plan)> {
    let graph = StageGraph::of(dockerfile, &graph_arguments(request)).map_err(BuildError::Dockerfile)?;
    let plan =
        graph.plan_for(request.target.as_deref()).map_err(|error| BuildError::Dockerfile(vec![error]))?;
    let mut faults = graph.faults(&plan);
    faults.extend(names::unusable(dockerfile, &graph, &plan));
    faults.sort_by_key(|fault| fault.span.start);
    if faults.is_empty() { Ok((graph, plan)) } else { Err(BuildError::Dockerfile(faults)) }
}

/// What a request gives to its Dockerfile.
pub fn graph_arguments(request: &BuildRequest) -> GraphArguments {
    let arguments = GraphArguments {
        build_args: request.build_args.clone(),
        contexts: request.named_contexts.keys().cloned().collect(),
        target: request.target.clone(),
        strict_docker: request.strict_docker,
        ..GraphArguments::default()
    };
    arguments
        .with_platforms(&as_build_platform(&request.platform), &as_build_platform(&request.build_platform))
}

fn as_build_platform(platform: &Platform) -> BuildPlatform {
    BuildPlatform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        os_version: platform.os_version.clone().unwrap_or_default(),
    }
}
