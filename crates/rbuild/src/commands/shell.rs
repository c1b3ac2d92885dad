//! `rbuild shell`, and the terminal that a build lends to a shell.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_engine::{StepName, Stream, Terminal, Tools};
use rbuild_executor::{Cancel, ExitReport, OutputSink, Place, Sandbox, WindowSize};

use crate::args::{GlobalArgs, ShellArgs};
use crate::failure::CliError;
use crate::terminal::{self, Other, Raw};
use crate::ui::Ui;
use crate::workshop::Workshop;
use crate::{build, request, surroundings};

/// Opens a shell in a step; ends with its exit code.
pub(crate) fn run(args: &ShellArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    terminal::is_there_for_shell()?;
    super::run::can_run(place, "a shell")?;
    let workshop = Workshop::new(global.clone(), place);
    let cancel = Cancel::new()
        .map_err(|error| CliError::environment("could not prepare to be interrupted".to_owned(), error))?;
    build::watch_signals(&cancel, workshop.store()?)?;
    let ui = build::progress(args.build.progress, false);
    let user = UserTerminal(&ui);
    let report = match &args.at {
        None => {
            let options = rbuild_engine::RunOptions {
                resolv_conf: surroundings::resolv_conf(),
                ..rbuild_engine::RunOptions::default()
            };
            rbuild_engine::enter_kept(workshop.store()?, args.build.context.as_deref(), &options, &user)
                .map_err(CliError::from)
        }
        Some(at) => {
            let step = step(at)?;
            let mut request = request::read(&args.build, &workshop)?;
            // A stage without a name, `stage-1`, cannot be a target: it is entered where the target needs it.
            let named = step.stage.clone().filter(|stage| !stage.starts_with("stage-"));
            request.target = named.or(request.target);
            request.enter = Some(step);
            let (store, client) = (workshop.store()?, workshop.client()?);
            let tools = Tools { store, client, place, cancel: &cancel, terminal: None };
            let entered = rbuild_engine::enter_step(&request, tools, &ui, &user);
            let (source, name) = (request.dockerfile, request.dockerfile_name);
            entered.map_err(|error| CliError::Build { error, source, name })
        }
    };
    match report?.code() {
        0 => Ok(()),
        code => Err(CliError::Quiet(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// `[STAGE:]STEP`.
fn step(text: &str) -> Result<StepName, CliError> {
    let (stage, number) = match text.rsplit_once(':') {
        Some((stage, number)) => (Some(stage.to_owned()), number),
        None => (None, text),
    };
    let number = number.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| {
        let failure = CliError::usage(format!("could not understand the step `{text}`"));
        failure.help("write it as `STAGE:STEP`: `[build 3/6]` of the progress is `--at build:3`")
    })?;
    Ok(StepName { stage, number })
}

/// The terminal that rbuild runs in; progress gives it up for good.
pub(crate) struct UserTerminal<'a>(pub(crate) &'a Ui);

impl std::fmt::Debug for UserTerminal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserTerminal")
    }
}

impl Terminal for UserTerminal<'_> {
    fn size(&self) -> WindowSize {
        let (columns, rows) = terminal::size();
        WindowSize { columns, rows }
    }

    fn lend(
        &self,
        about: &str,
        run: &mut dyn FnMut(&mut dyn OutputSink) -> rbuild_engine::Result<ExitReport>,
    ) -> rbuild_engine::Result<ExitReport> {
        self.0.finish();
        // Nobody is left to tell if standard error is gone.
        let _ = std::io::stderr().write_all(
            format!("a shell {about}\n`exit` leaves it; what it changes is not kept\n").as_bytes(),
        );
        let inside = Arc::new(Inside::default());
        let raw = Raw::begin();
        terminal::pass_size_to(inside.clone());
        let report = run(&mut Shown(inside));
        drop(raw);
        report
    }
}

/// A shell, once it runs.
#[derive(Default)]
struct Inside(Mutex<Option<Sandbox>>);

impl Inside {
    fn sandbox(&self) -> Option<Sandbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Other for Inside {
    fn signal(&self, signal: i32) {
        if let Some(sandbox) = self.sandbox() {
            sandbox.signal(signal);
        }
    }

    fn resize(&self, columns: u16, rows: u16) {
        if let Some(sandbox) = self.sandbox() {
            sandbox.resize(WindowSize { columns, rows });
        }
    }

    fn input(&self, bytes: &[u8]) -> Result<(), ()> {
        self.sandbox().ok_or(())?.type_in(bytes).map_err(drop)
    }

    fn end_of_input(&self) {}
}

struct Shown(Arc<Inside>);

impl OutputSink for Shown {
    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        terminal::show(stream, bytes);
    }

    fn started(&mut self, sandbox: &Sandbox) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sandbox.clone());
        terminal::pass_input_to(self.0.clone());
    }
}
