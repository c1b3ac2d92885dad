//! A shell where a build is, or where it failed: over the step's files, which stay as they are.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rbuild_executor::{Cancel, ExitReport, OutputSink, SandboxSpec, WindowSize};
use rbuild_store::{MemoLinks, NewSnapshot, Parent, Resource, SnapshotId, SnapshotInfo, Store};
use serde::{Deserialize, Serialize};

use crate::build::{Builder, Shared};
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{EventSink, StepNumber};
use crate::request::{BuildRequest, OnFailure, RunOptions, StepName};
use crate::shared_cache::SharedCache;
use crate::state::StageState;
use crate::steps::{PlannedRun, Step, standard_mounts};
use crate::throwaway::ThrowAway;
use crate::{Tools, platforms};

/// Memo kind: failed steps that were kept, by the first digits of their snapshot, and the last one.
const KEPT: &str = "kept-step";
const LAST: &str = "last";
/// Digits of a snapshot that name a kept step.
const DIGITS: usize = 12;

/// The user's terminal.
pub trait Terminal: Sync + fmt::Debug {
    /// Its size.
    fn size(&self) -> WindowSize;

    /// Gives the terminal to what `run` runs, and takes it back; `about` is for the user to know where he is.
    ///
    /// # Errors
    /// Those of `run`.
    fn lend(
        &self,
        about: &str,
        run: &mut dyn FnMut(&mut dyn OutputSink) -> Result<ExitReport>,
    ) -> Result<ExitReport>;
}

/// A place between two steps, as far as a shell needs to know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entrance {
    /// The step that it is at, as progress shows it.
    step: String,
    /// The tree; none is known yet of a step that is at work.
    parent: Parent,
    /// The program of the stage's SHELL.
    pub(crate) shell: String,
    pub(crate) user: String,
    pub(crate) cwd: String,
    pub(crate) environment: Vec<(String, String)>,
}

impl Entrance {
    pub(crate) fn of(state: &StageState, step: &str) -> Entrance {
        Entrance {
            step: step.to_owned(),
            parent: Parent::None,
            shell: state.shell().into_iter().next().unwrap_or_default(),
            user: state.container().user.clone(),
            cwd: state.working_dir().to_owned(),
            environment: state.environment.clone(),
        }
    }

    /// `[build 3/6]`, without the instruction.
    fn short_step(&self) -> &str {
        self.step.find(']').map_or(&*self.step, |end| &self.step[..=end])
    }

    /// Opens a shell here; the mounts of a RUN are not part of the place.
    fn open(&self, store: &Store, options: &RunOptions, terminal: &dyn Terminal) -> Result<ExitReport> {
        let tree = ThrowAway::over(store, &self.parent)?;
        let user = tree.user(&self.user)?;
        let mut spec = SandboxSpec::new(tree.mounted(), [&self.shell]);
        (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
        spec.cwd = PathBuf::from(&self.cwd);
        spec.env = self.environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        if !self.environment.iter().any(|(name, _)| name == "HOME") {
            spec.env.push(("HOME".into(), user.home.into()));
        }
        tree.give_journal(&mut spec)?;
        spec.mounts = standard_mounts(options, &spec.hostname, options.resolv_conf.clone());
        converse(spec, &format!("at {}", self.short_step()), terminal)
    }
}

/// Runs the sandbox with the user at its terminal.
fn converse(mut spec: SandboxSpec<'_>, about: &str, terminal: &dyn Terminal) -> Result<ExitReport> {
    spec.terminal = Some(terminal.size());
    if !spec.env.iter().any(|(name, _)| name == "TERM") {
        spec.env.push(("TERM".into(), "xterm".into()));
    }
    terminal.lend(about, &mut |output| {
        let fault = || "could not open a shell".to_owned();
        // The build's own switch is thrown by the failure.
        let cancel = Cancel::new().explain(FailureKind::Environment, fault)?;
        rbuild_executor::run(&spec, output, &cancel).explain(FailureKind::Environment, fault)
    })
}

/// Where a build stops to be entered.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    failed: Option<FailedRun>,
    reached: Option<Entrance>,
}

#[derive(Debug)]
struct FailedRun {
    number: StepNumber,
    run: Arc<PlannedRun>,
    /// What it left, once that is kept.
    snapshot: Option<SnapshotId>,
}

impl Shared<'_> {
    /// A RUN's command has failed; the first one counts.
    pub(crate) fn note_failed(&self, number: StepNumber, run: &Arc<PlannedRun>) {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.failed.get_or_insert_with(|| FailedRun { number, run: run.clone(), snapshot: None });
    }
}

impl Builder<'_> {
    /// Whether what this step leaves is wanted although it has failed.
    pub(crate) fn keeps_failed(&self, number: StepNumber) -> bool {
        let stops = self.shared.stops.lock().unwrap_or_else(PoisonError::into_inner);
        self.request.on_failure != OnFailure::Drop
            && stops.failed.as_ref().is_some_and(|failed| failed.number == number)
    }

    /// Keeps what a failed RUN left.
    pub(crate) fn keep_failed(&self, number: StepNumber, left: NewSnapshot, step: &Step) -> Result<()> {
        let mut stops = self.shared.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failed) = stops.failed.as_mut().filter(|failed| failed.number == number) else {
            return Ok(());
        };
        let info = SnapshotInfo {
            created_by: step.created_by.clone(),
            created: rbuild_fs::Timestamp::now().seconds,
            ..SnapshotInfo::default()
        };
        let fault = || "could not keep the failed step".to_owned();
        failed.snapshot = Some(left.commit(info).explain(FailureKind::Environment, fault)?.id);
        Ok(())
    }

    /// Ends the build at the step that is to be entered.
    pub(crate) fn stop_if_reached(&self, state: &StageState, stage: &str, name: &str) -> Result<()> {
        let wanted = self.request.enter.as_ref();
        if !wanted.is_some_and(|wanted| wanted.means(stage, name)) {
            return Ok(());
        }
        let place = Entrance { parent: self.parent(&state.rootfs)?, ..Entrance::of(state, name) };
        self.shared.stops.lock().unwrap_or_else(PoisonError::into_inner).reached = Some(place);
        Err(BuildError::Cancelled)
    }
}

impl StepName {
    /// `name` begins with `[stage 3/6]`, or `[3/6]`.
    fn means(&self, stage: &str, name: &str) -> bool {
        let number = name.split_once(']').and_then(|(before, _)| before.rsplit([' ', '[']).next());
        let number = number.and_then(|count| count.split('/').next()?.parse().ok());
        // Numbers stand in a column: `[build  3/12]`.
        number == Some(self.number)
            && self.stage.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(stage))
    }
}

/// What the request wants done with a RUN that failed; the error with what there is to say of it.
pub(crate) fn after_failure(
    builder: &Builder<'_>,
    terminal: Option<&dyn Terminal>,
    error: BuildError,
) -> BuildError {
    let failed = builder.shared.stops.lock().unwrap_or_else(PoisonError::into_inner).failed.take();
    let Some(FailedRun { number, run, snapshot: Some(snapshot) }) = failed else { return error };
    let outcome = match (builder.request.on_failure, terminal) {
        (OnFailure::Shell, Some(terminal)) => {
            shell_in_place(builder, &run, number, snapshot, terminal).map(|_| error)
        }
        _ => keep(builder.store, &run.place, snapshot).map(|name| told(error, &name)),
    };
    // A shell that cannot be opened is news; that the step failed is in its cause.
    outcome.unwrap_or_else(|fault| fault)
}

fn shell_in_place(
    builder: &Builder<'_>,
    run: &PlannedRun,
    number: StepNumber,
    snapshot: SnapshotId,
    terminal: &dyn Terminal,
) -> Result<ExitReport> {
    let tree = ThrowAway::over(builder.store, &Parent::Snapshot(snapshot))?;
    builder.sandboxed(run, tree.mounted(), tree.root(), number, |mut spec| {
        spec.argv = vec![run.place.shell.clone().into()];
        converse(spec, &format!("where {} failed", run.place.short_step()), terminal)
    })
}

/// Writes down how to enter it; the name to do so.
fn keep(store: &Store, place: &Entrance, snapshot: SnapshotId) -> Result<String> {
    let fault = || "could not keep the failed step".to_owned();
    let place = Entrance { parent: Parent::Snapshot(snapshot), ..place.clone() };
    let name: String = snapshot.to_string().chars().take(DIGITS).collect();
    let links = MemoLinks { keeps: vec![Resource::Snapshot(snapshot)], about: Vec::new() };
    for key in [&*name, LAST] {
        store.put_memo(KEPT, key, &place, &links).explain(FailureKind::Environment, fault)?;
    }
    store.finish_build().explain(FailureKind::Environment, fault)?;
    Ok(name)
}

fn told(error: BuildError, name: &str) -> BuildError {
    let BuildError::Failed(mut failure) = error else { return error };
    let help = format!("the failed step is kept: look around in it with `rbuild shell {name}`");
    failure.help = Some(match failure.help.take() {
        Some(first) => format!("{first}\n{help}"),
        None => help,
    });
    BuildError::Failed(failure)
}

/// Opens a shell in a failed step that was kept: the one of this name, else the last.
///
/// # Errors
/// There is none, or no shell in it.
pub fn enter_kept(
    store: &Store,
    name: Option<&str>,
    options: &RunOptions,
    terminal: &dyn Terminal,
) -> Result<ExitReport> {
    let fault = || "could not read the store".to_owned();
    let known: Option<Entrance> =
        store.memo(KEPT, name.unwrap_or(LAST)).explain(FailureKind::Environment, fault)?;
    let Some(place) = known else {
        let message = match name {
            Some(name) => format!("there is no kept step `{name}`"),
            None => "there is no kept step".to_owned(),
        };
        let help = "build with `--keep-failed`; or name any step, `rbuild shell --at STAGE:STEP CONTEXT`";
        return Err(Failure::new(FailureKind::Usage, message).help(help).into());
    };
    place.open(store, options, terminal)
}

/// Opens a shell right after the step that the request names; what comes before it is built where the cache has it not.
///
/// # Errors
/// Those of a build up to there; no such step; no shell in it.
pub fn enter_step(
    request: &BuildRequest,
    tools: Tools<'_>,
    events: &dyn EventSink,
    terminal: &dyn Terminal,
) -> Result<ExitReport> {
    let dockerfile = crate::read(request)?;
    let variants = platforms::variants(&dockerfile, request)?;
    let shared = Shared::new(SharedCache::new(request, tools, events));
    let builders = Builder::for_each(&variants, &dockerfile, tools, events, &shared);
    let ran = builders[0].run();
    let reached = shared.stops.lock().unwrap_or_else(PoisonError::into_inner).reached.take();
    match (reached, ran) {
        (Some(place), _) => place.open(tools.store, &request.run, terminal),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => {
            let step = request.enter.as_ref().map_or(0, |step| step.number);
            let failure = Failure::new(FailureKind::Usage, format!("there is no step {step} in that stage"));
            Err(failure.help("progress shows the steps: `[build 3/6]` is `--at build:3`").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_by_their_shown_names() {
        let step = |stage: Option<&str>, number| StepName { stage: stage.map(str::to_owned), number };
        for (wanted, stage, name, means) in [
            (step(Some("build"), 3), "build", "[build 3/6] RUN true", true),
            (step(Some("BUILD"), 3), "build", "[build  3/12] RUN true", true),
            (step(None, 2), "stage-0", "[2/2] COPY a /", true),
            (step(None, 2), "stage-0", "[linux/amd64 2/2] COPY a /", true),
            (step(Some("build"), 3), "test", "[test 3/6] RUN true", false),
            (step(None, 2), "stage-0", "[1/2] FROM x", false),
            (step(None, 2), "stage-0", "[internal] load metadata", false),
        ] {
            assert_eq!(wanted.means(stage, name), means, "{name}");
        }
    }
}
