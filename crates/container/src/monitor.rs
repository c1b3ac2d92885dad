//! The life of a monitor: make the way in and out, run the command, tell whoever asks, write down how it ended.

mod mounts;
mod visit;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rbuild_engine::{BuildError, Failure, FailureKind, Result, ThrowAway};
use rbuild_executor::{
    Cancel, CapabilitySet, Cgroup, ExitReport, Network, NetworkNamespace, OutputSink, Sandbox, SandboxSpec,
    Stream, WayOut, WindowSize, run_inside,
};
use rbuild_store::Store;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use self::mounts::mounts;
use self::visit::reply;
use crate::log::LogWriter;
use crate::ports::Listeners;
use crate::record::{State, Status};
use crate::wire::{self, Reply};
use crate::{Container, ExecRequest, Health, HealthCheck, NetworkMode, Settings, health};

/// How long a command waits for the one who is to look on.
const WAIT_FOR_ATTACHED: Duration = Duration::from_secs(10);
/// How long those who wait have to take up what they are told.
const PARTING: Duration = Duration::from_secs(1);

/// What a monitor says to the one who started it: one of these a line, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    /// Its socket is there.
    Listening,
    /// Something to warn of.
    Warning {
        /// What.
        text: String,
        /// What would help.
        help: Option<String>,
    },
    /// The command runs.
    Started,
    /// It could not be started.
    Failed {
        /// What could not be done.
        message: String,
        /// Why, from the outside in.
        causes: Vec<String>,
        /// What would help.
        help: Option<String>,
        /// 127 for a command that is not there, 126 for one that cannot be run, 125 for all else.
        code: i32,
    },
}

/// Runs a container to its end. `store` is for the trees of its id map; its lock is held by this process. Call it on the main thread: the
/// sandbox dies with the thread that runs it.
///
/// # Errors
/// What could not even be written down; the rest is told, and kept in the container's state.
pub fn monitor(store: &Store, container: Container, tell: &mut dyn FnMut(&Told)) -> Result<()> {
    let monitor = Monitor::new(container)?;
    if let Err(error) = monitor.run(store, tell) {
        tell(&failed(&error));
    }
    if monitor.container.settings.remove {
        monitor.container.forget()?;
    }
    monitor.say_goodbye();
    Ok(())
}

fn failed(error: &BuildError) -> Told {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let help = match error {
        BuildError::Failed(failure) => failure.help.clone(),
        _ => None,
    };
    Told::Failed { message: error.to_string(), causes, help, code: 125 }
}

/// What the threads of a monitor share.
struct Monitor {
    container: Container,
    cancel: Cancel,
    state: Mutex<State>,
    live: Mutex<Live>,
    /// Rung when `live` changes.
    changed: Condvar,
    /// Who looks on; written to by the thread that runs the command. Locked before `live`.
    attached: Mutex<Vec<Arc<Line>>>,
    /// Rung when somebody comes to look on.
    arrived: Condvar,
}

/// The command as it stands.
#[derive(Default)]
struct Live {
    sandbox: Option<Sandbox>,
    tree: Option<Arc<ThrowAway>>,
    /// The writing end of its input.
    input: Option<Arc<OwnedFd>>,
    namespace: Option<Arc<NetworkNamespace>>,
    /// The control group of all that runs in it, where it is limited.
    cgroup: Option<Arc<Cgroup>>,
    /// Its exit code, when it has ended.
    code: Option<i32>,
    /// The same when everything is put away: what those who wait are told.
    ended: Option<i32>,
    /// How many connections have to be told of an end.
    waiting: usize,
}

/// A connection's way back; whole messages are written by one thread at a time.
type Line = Mutex<UnixStream>;

impl Monitor {
    fn new(container: Container) -> Result<Arc<Monitor>> {
        let cancel = Cancel::new().map_err(|error| fault("prepare to end the container").caused_by(error))?;
        Ok(Arc::new(Monitor {
            container,
            cancel,
            state: Mutex::default(),
            live: Mutex::default(),
            changed: Condvar::new(),
            attached: Mutex::default(),
            arrived: Condvar::new(),
        }))
    }

    fn settings(&self) -> &Settings {
        &self.container.settings
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, here and on disk.
    fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.container.write_state(&state)
    }

    fn run(self: &Arc<Self>, store: &Store, tell: &mut dyn FnMut(&Told)) -> Result<()> {
        let settings = self.settings();
        let listeners = Listeners::bind(&settings.ports)?;
        let ports = listeners.ports.clone();
        self.change(|state| state.ports = ports)?;
        self.serve()?;
        tell(&Told::Listening);
        let (network, _way_out, resolv_conf) = self.network(tell)?;
        if let Network::Joined(namespace) = &network {
            let led = listeners.lead_into(namespace);
            led.map_err(|error| fault("pass ports on to the container").caused_by(error))?;
            self.live().namespace = Some(namespace.clone());
        }
        let tree = Arc::new(ThrowAway::over(store, &settings.parent)?);
        self.live().tree = Some(tree.clone());
        let (stdin, input) = self.input()?.unzip();
        self.live().input = input;
        let mut spec = self.spec(&tree)?;
        spec.network = network;
        spec.stdin = stdin;
        if let Some((groups, limits)) = &settings.limits {
            let group = groups.group(limits);
            spec.cgroup = Some(group.map_err(|error| fault("limit the container").caused_by(error))?);
            self.live().cgroup = spec.cgroup.clone();
        }
        spec.mounts = mounts(settings, resolv_conf);
        spec.read_only = settings.read_only;
        tree.give_journal(&mut spec)?;
        spec.terminal = settings.terminal.map(|(columns, rows)| WindowSize { columns, rows });
        let log = LogWriter::create(&self.container.log_path())
            .map_err(|error| fault("write the container's log").caused_by(error))?;
        self.wait_for_attached();
        let mut output = Output { monitor: self, log, tell, started: false, refusal: Vec::new() };
        let ran = rbuild_executor::run(&spec, &mut output, &self.cancel);
        let (started, refusal) = (output.started, output.refusal);
        let report = ran.map_err(|error| fault("run the command in a sandbox").caused_by(error))?;
        self.ended(report, started, &refusal, tell)
    }

    /// Writes down how it ended. A command that could not be started is told of, with the exit code that a shell gives it.
    fn ended(
        &self,
        report: ExitReport,
        started: bool,
        refusal: &[u8],
        tell: &mut dyn FnMut(&Told),
    ) -> Result<()> {
        let code = match report {
            // By us, with SIGKILL.
            ExitReport::Cancelled => 137,
            report => report.code(),
        };
        self.change(|state| {
            state.status = if started { Status::Exited } else { Status::Created };
            (state.finished, state.exit_code, state.pid) = (Some(now()), Some(code), None);
        })?;
        if !started {
            let why = String::from_utf8_lossy(refusal).trim_end().to_owned();
            let message = "could not start the container's command".to_owned();
            tell(&Told::Failed { message, causes: vec![why], help: None, code });
        }
        self.live().code = Some(code);
        Ok(())
    }

    /// Everybody who waits hears of the end; what they are told is in their sockets when this process ends.
    fn say_goodbye(&self) {
        let mut live = self.live();
        let code = live.code.unwrap_or(125);
        live.ended = Some(code);
        (live.sandbox, live.tree, live.input, live.cgroup) = (None, None, None, None);
        drop(live);
        self.changed.notify_all();
        for line in self.attached.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Who has gone has gone.
            let _ = reply(&line, &Reply::Exited(code));
        }
        let some = |live: &mut Live| live.waiting > 0;
        drop(self.changed.wait_timeout_while(self.live(), PARTING, some));
    }

    /// The network, what keeps its way out open, and the resolv.conf that belongs to it.
    fn network(&self, tell: &mut dyn FnMut(&Told)) -> Result<(Network, Option<WayOut>, Vec<u8>)> {
        let settings = self.settings();
        let of_host = settings.resolv_conf.clone();
        match settings.network {
            NetworkMode::Host => Ok((Network::Host, None, of_host)),
            NetworkMode::None => Ok((Network::None, None, of_host)),
            NetworkMode::Private => {
                let namespace = NetworkNamespace::new()
                    .map_err(|error| fault("make a network for the container").caused_by(error))?;
                let way_out = match WayOut::of(&namespace) {
                    Ok(way_out) => Some(way_out),
                    Err(reasons) => {
                        let text = format!("the container cannot reach other machines: {reasons}");
                        tell(&Told::Warning { text, help: Some(reasons.remedy().to_owned()) });
                        None
                    }
                };
                let resolv_conf = way_out.as_ref().map_or(of_host.clone(), |way| way.resolv_conf(&of_host));
                Ok((Network::Joined(Arc::new(namespace)), way_out, resolv_conf))
            }
        }
    }

    /// The reading end for the command, and the writing end for those who are attached; with a terminal that is both.
    fn input(&self) -> Result<Option<(Arc<OwnedFd>, Arc<OwnedFd>)>> {
        if !self.settings().stdin || self.settings().terminal.is_some() {
            return Ok(None);
        }
        let (reading, writing) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| fault("make a pipe").caused_by(error))?;
        Ok(Some((Arc::new(reading), Arc::new(writing))))
    }

    /// The command as far as it is the same for all that runs in the container.
    fn spec<'a>(&self, tree: &'a ThrowAway) -> Result<SandboxSpec<'a>> {
        let settings = self.settings();
        let mut spec = SandboxSpec::new(tree.mounted(), &settings.argv);
        self.as_user(&mut spec, tree, &settings.user)?;
        spec.cwd = PathBuf::from(&settings.cwd);
        spec.hostname = settings.hostname.clone();
        spec.capabilities = CapabilitySet::docker()
            .adjusted(&settings.cap_add, &settings.cap_drop)
            .map_err(|name| Failure::new(FailureKind::Usage, format!("there is no capability `{name}`")))?;
        if let Some(size) = settings.shm_size {
            spec.shm_size = size;
        }
        Ok(spec)
    }

    /// Who the command runs as, and the environment, where that user's home is.
    fn as_user(&self, spec: &mut SandboxSpec<'_>, tree: &ThrowAway, user: &str) -> Result<()> {
        let account = tree.user(user)?;
        (spec.uid, spec.gid, spec.groups) = (account.uid, account.gid, account.groups);
        let settings = self.settings();
        spec.env = settings.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        if !settings.env.iter().any(|(name, _)| name == "HOME") {
            spec.env.push(("HOME".into(), account.home.into()));
        }
        if !settings.env.iter().any(|(name, _)| name == "HOSTNAME") {
            spec.env.push(("HOSTNAME".into(), settings.hostname.clone().into()));
        }
        Ok(())
    }

    fn wait_for_attached(&self) {
        if !self.settings().attached {
            return;
        }
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody = |attached: &mut Vec<Arc<Line>>| attached.is_empty();
        drop(self.arrived.wait_timeout_while(attached, WAIT_FOR_ATTACHED, nobody));
    }
}

/// Where the command's output goes.
struct Output<'a> {
    monitor: &'a Arc<Monitor>,
    log: LogWriter,
    tell: &'a mut dyn FnMut(&Told),
    started: bool,
    /// Why it could not be started.
    refusal: Vec<u8>,
}

impl OutputSink for Output<'_> {
    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.started {
            self.refusal.extend_from_slice(bytes);
            return;
        }
        // A full disk must not stop the command; who looks on sees it all the same.
        let _ = self.log.write(stream, bytes);
        let mut attached = self.monitor.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|line| {
            let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
            wire::send_output(&mut *line, stream, bytes).is_ok()
        });
    }

    fn started(&mut self, sandbox: &Sandbox) {
        self.started = true;
        self.monitor.live().sandbox = Some(sandbox.clone());
        let check = self.monitor.settings().health.clone();
        // The state is for `ps`: without it the command runs all the same.
        let _ = self.monitor.change(|state| {
            (state.status, state.started, state.pid) = (Status::Running, Some(now()), Some(sandbox.pid()));
            state.health = check.is_some().then(Health::starting);
        });
        self.monitor.changed.notify_all();
        if let Some(check) = check {
            let monitor = self.monitor.clone();
            let _ =
                thread::Builder::new().name("health".to_owned()).spawn(move || monitor.keep_checking(&check));
        }
        (self.tell)(&Told::Started);
    }
}

impl Monitor {
    /// Waits for the command's end, so long.
    fn has_ended_within(&self, patience: Duration) -> bool {
        let lasts = |live: &mut Live| live.ended.is_none();
        let waited = self.changed.wait_timeout_while(self.live(), patience, lasts);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended.is_some()
    }

    /// The exit code, when there is nothing left of the command.
    fn wait_ended(&self) -> i32 {
        let lasts = |live: &mut Live| live.ended.is_none();
        let live = self.changed.wait_while(self.live(), lasts).unwrap_or_else(PoisonError::into_inner);
        live.ended.unwrap_or(125)
    }

    /// Says for as long as the value lives that somebody has to be told of an end.
    fn waiting(self: &Arc<Self>) -> Waiting {
        self.live().waiting += 1;
        Waiting(self.clone())
    }

    /// A signal, patience, and the end.
    fn stop(&self, signal: Option<i32>, seconds: Option<u64>) {
        let signal = signal.unwrap_or(self.settings().stop_signal);
        let seconds = seconds.unwrap_or(self.settings().stop_timeout);
        self.signal(signal);
        if !self.has_ended_within(Duration::from_secs(seconds)) {
            self.cancel.cancel();
        }
    }

    fn signal(&self, signal: i32) {
        /// Nobody can take it, so nobody can pass it on.
        const KILL: i32 = 9;
        let sandbox = self.live().sandbox.clone();
        match sandbox {
            Some(sandbox) if signal != KILL => sandbox.signal(signal),
            _ => self.cancel.cancel(),
        }
    }

    /// The health checks, until the command's end.
    fn keep_checking(&self, check: &HealthCheck) {
        let begun = std::time::Instant::now();
        loop {
            let starting = begun.elapsed() < Duration::from_millis(check.start_period);
            let pause = if starting { check.start_interval.min(check.interval) } else { check.interval };
            if self.has_ended_within(Duration::from_millis(pause)) {
                return;
            }
            let lenient = begun.elapsed() < Duration::from_millis(check.start_period);
            let request = ExecRequest {
                argv: check.argv.clone(),
                env: Vec::new(),
                cwd: None,
                user: None,
                terminal: None,
                stdin: false,
            };
            let (code, output) = health::check(Duration::from_millis(check.timeout), |output, cancel| {
                self.run_inside(&request, None, &mut |stream, bytes: &[u8]| output(stream, bytes), cancel)
            });
            if self.live().code.is_some() {
                return;
            }
            // The state is for `ps`.
            let _ = self.change(|state| {
                let before = state.health.take().unwrap_or_else(Health::starting);
                state.health = Some(before.after(code, output, check.retries, lenient));
            });
        }
    }

    /// Runs another command inside, to its end.
    fn run_inside(
        &self,
        request: &ExecRequest,
        stdin: Option<Arc<OwnedFd>>,
        output: &mut dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<ExitReport> {
        let live = self.live();
        let (sandbox, tree, namespace) = (live.sandbox.clone(), live.tree.clone(), live.namespace.clone());
        let cgroup = live.cgroup.clone();
        drop(live);
        let (Some(sandbox), Some(tree)) = (sandbox, tree) else {
            return Err(Failure::new(FailureKind::Build, "the container is not running").into());
        };
        let mut spec = self.spec(&tree)?;
        spec.cgroup = cgroup;
        spec.argv = request.argv.iter().map(Into::into).collect();
        if let Some(user) = &request.user {
            self.as_user(&mut spec, &tree, user)?;
        }
        spec.env.extend(request.env.iter().map(|(name, value)| (name.into(), value.into())));
        if let Some(cwd) = &request.cwd {
            spec.cwd = PathBuf::from(cwd);
        }
        spec.terminal = request.terminal.map(|(columns, rows)| WindowSize { columns, rows });
        spec.stdin = stdin;
        spec.network = match (self.settings().network, namespace) {
            (NetworkMode::Private, Some(namespace)) => Network::Joined(namespace),
            (NetworkMode::None, _) => Network::None,
            _ => Network::Host,
        };
        run_inside(&sandbox, &spec, output, cancel)
            .map_err(|error| fault("run a command in the container").caused_by(error).into())
    }
}

/// Somebody who has to be told of an end.
struct Waiting(Arc<Monitor>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.live().waiting -= 1;
        self.0.changed.notify_all();
    }
}

fn fault(action: &str) -> Failure {
    Failure::new(FailureKind::Environment, format!("could not {action}"))
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
