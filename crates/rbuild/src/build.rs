//! `rbuild CONTEXT`.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rbuild_engine::{BuildError, BuildRequest, BuiltImage, EventSink, OnFailure, Tools, Written};
use rbuild_executor::{Cancel, Place};
use rbuild_store::Store;
use rustix::termios::tcgetwinsize;

use crate::args::{BuildArgs, GlobalArgs, IgnoredArgs, Progress};
use crate::commands::shell::UserTerminal;
use crate::failure::CliError;
use crate::limits::Limits;
use crate::timings::Recorder;
use crate::ui::{Size, Ui, UiOptions};
use crate::workshop::Workshop;
use crate::{check, request, surroundings, terminal};

/// Exit code after Ctrl-C, as shells report it: 128 and the signal's number.
const INTERRUPTED: i32 = 130;
/// How long a cancelled build has to put its things away.
const GRACE: Duration = Duration::from_millis(600);

/// Builds, shows progress, and writes what was asked for beside the image.
pub(crate) fn run(args: &BuildArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let call = check::asked_for(args)?;
    let workshop = Workshop::new(global.clone(), place);
    let limits = Limits::read(args)?;
    let limits_of_run = args.limits.limits(&args.resources)?;
    let mut request = request::read(args, &workshop)?;
    let (store, client) = (workshop.store()?, workshop.client()?);
    let cancel = Cancel::new()
        .map_err(|error| CliError::environment("could not prepare to be interrupted".to_owned(), error))?;
    let wants_shell = request.on_failure == OnFailure::Shell;
    if wants_shell {
        terminal::is_there_for_shell()?;
    }
    watch_signals(&cancel, store)?;
    let tools = Tools { store, client, place, cancel: &cancel, terminal: None };
    if let Some(call) = call {
        return check::run(&call, &request, tools);
    }
    let ui = progress(if args.quiet { Progress::Quiet } else { args.progress }, args.explain);
    for name in args.ignored.given() {
        ui.event(rbuild_engine::Event::Warning { text: &format!("`{name}` has no effect here") });
    }
    match args.limits.groups(&limits_of_run) {
        Some(Ok(groups)) => request.run.limits = Some((groups, limits_of_run)),
        Some(Err(text)) => ui.event(rbuild_engine::Event::Warning { text: &text }),
        None => {}
    }
    let user = UserTerminal(&ui);
    let tools = Tools { terminal: wants_shell.then_some(&user), ..tools };
    let result = match &args.timings {
        Some(to) => timed(&request, tools, &ui, to)?,
        None => rbuild_engine::build(&request, tools, &ui),
    };
    if let Err(error) = limits.keep(store) {
        ui.event(rbuild_engine::Event::Warning { text: &format!("could not take from the cache: {error}") });
    }
    ui.finish();
    match result {
        Ok(image) => finish(args, &request, &image),
        Err(error) => {
            Err(CliError::Build { error, source: request.dockerfile, name: request.dockerfile_name })
        }
    }
}

/// Builds, and writes where the time went, also of a build that fails.
fn timed(
    request: &BuildRequest,
    tools: Tools<'_>,
    ui: &Ui,
    to: &Path,
) -> Result<Result<BuiltImage, BuildError>, CliError> {
    let recorder = Recorder::new(ui);
    let result = rbuild_engine::build(request, tools, &recorder);
    let name = request.tags.first().map_or_else(|| request.dockerfile_name.clone(), ToString::to_string);
    match recorder.write(&name, to) {
        // Of two failures the build's is the one to tell.
        Err(error) if result.is_ok() => Err(error),
        _ => Ok(result),
    }
}

/// Progress on standard error.
pub(crate) fn progress(progress: Progress, explain: bool) -> Ui {
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal() && surroundings::variable("TERM").as_deref() != Some("dumb");
    let log_lines =
        surroundings::variable("BUILDKIT_TTY_LOG_LINES").and_then(|text| text.parse().ok()).unwrap_or(6);
    let size = || match tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => Size { columns: size.ws_col.into(), rows: size.ws_row.into() },
        _ => Size::DEFAULT,
    };
    Ui::stderr(UiOptions {
        progress,
        terminal,
        colour: crate::colour(terminal),
        size: Box::new(size),
        log_lines,
        explain,
    })
}

/// Ctrl-C and its like end the build. What does not end soon by itself (a read from a server that is silent), or a second
/// signal, ends the process, and the kernel everything with it; the next build sweeps the store.
pub(crate) fn watch_signals(cancel: &Cancel, store: &Store) -> Result<(), CliError> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    // Blocked here, before any other thread: all of them inherit it, and only the one below takes signals; a change of the
    // terminal's size is for a shell that may open later.
    let blocked: SigSet = signals.iter().chain([Signal::SIGWINCH]).collect();
    blocked
        .thread_block()
        .map_err(|error| CliError::environment("could not prepare to be interrupted".to_owned(), error))?;
    let cancel = cancel.clone();
    let (again, abandon) = (signals, store.abandon());
    std::thread::spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        cancel.cancel();
        let late = abandon.clone();
        std::thread::spawn(move || {
            // Whichever comes first: patience runs out, or another signal comes.
            std::thread::sleep(GRACE);
            end_now(&late);
        });
        _ = again.wait();
        end_now(&abandon);
    });
    Ok(())
}

fn end_now(abandon: &dyn Fn()) -> ! {
    abandon();
    // Nobody is left to tell if standard error is gone.
    _ = std::io::stderr().write_all(b"error: cancelled\n");
    std::process::exit(INTERRUPTED)
}

fn finish(args: &BuildArgs, request: &BuildRequest, image: &BuiltImage) -> Result<(), CliError> {
    if !args.quiet {
        // Nobody is left to warn if standard error is gone.
        let _ = std::io::stderr().write_all(check::warnings(&image.findings, request).as_bytes());
    }
    let id = image.id.to_string();
    if let Some(path) = &args.iidfile {
        write_file(path, id.as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let mut text = serde_json::to_vec_pretty(&metadata(request, image)).unwrap_or_default();
        text.push(b'\n');
        write_file(path, &text)?;
    }
    if args.quiet {
        let mut stdout = std::io::stdout();
        // A reader that went away has what it wanted.
        let _ = writeln!(stdout, "{id}");
    }
    Ok(())
}

/// BuildKit's keys (reference 3.10).
fn metadata(request: &BuildRequest, image: &BuiltImage) -> serde_json::Value {
    let mut document = serde_json::json!({});
    if !request.is_for_several() {
        document["containerimage.config.digest"] = serde_json::json!(image.id);
    }
    let manifest = image.written.iter().find_map(|written: &Written| written.manifest.clone());
    if let Some(descriptor) = manifest {
        document["containerimage.digest"] = serde_json::json!(descriptor.digest);
        document["containerimage.descriptor"] = serde_json::json!(descriptor);
    }
    if !request.tags.is_empty() {
        let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
        document["image.name"] = names.join(",").into();
    }
    document
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    fs::write(path, bytes)
        .map_err(|error| CliError::environment(format!("could not write `{}`", path.display()), error))
}

impl IgnoredArgs {
    /// The options that were given, as typed.
    fn given(&self) -> Vec<&'static str> {
        let options = [
            ("--builder", self.builder.is_some()),
            ("--compress", self.compress),
            ("--force-rm", self.force_rm),
            ("--security-opt", !self.security_opt.is_empty()),
            ("--squash", self.squash),
            ("--provenance", self.provenance.as_deref().is_some_and(|value| value != "false")),
            ("--sbom", self.sbom.as_deref().is_some_and(|value| value != "false")),
            ("--attest", !self.attest.is_empty()),
        ];
        options.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}
