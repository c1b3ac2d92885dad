//! RUN.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_dockerfile::{Network as RunNetwork, Program, Run, Security};
use rbuild_executor::{
    CapabilitySet, Cgroup, ExitReport, Mount, MountKind, Mounted, NetworkNamespace, PlaceKind, Resource,
    Rlimit, SandboxSpec, Stream, WayOut, signal_name,
};
use rbuild_fs::Root;

use super::cdi::Edits;
use super::mounts::Prepared;
use super::{Step, Workspace, devices, ended};
use crate::build::{Builder, StageRun};
use crate::enter::Entrance;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, StepNumber};
use crate::request::{Network, RunOptions};
use crate::state::StageState;
use crate::users;

/// The build args that reach RUN without `ARG`, in both spellings, and are part of no key.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// Where the host's certificate authorities appear during RUN, and the variables by which programs find them.
const CERTIFICATES: &str = "/run/rbuild/host-certificates.crt";
const CERTIFICATE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
];
/// They are looked for in so much of its end.
const TAIL_BYTES: usize = 64 << 10;

/// A RUN as it is to be carried out.
#[derive(Debug)]
pub(crate) struct PlannedRun {
    pub(crate) argv: Vec<String>,
    mounts: Prepared,
    network: Network,
    insecure: bool,
    devices: Vec<Edits>,
    pub(crate) place: Entrance,
}

impl Builder<'_> {
    /// `RUN`, its flags expanded.
    pub(crate) fn run_command(
        &self,
        state: &mut StageState,
        run: &Run,
        at: &StageRun<'_>,
        mut step: Step,
    ) -> Result<()> {
        let devices = self.plan_devices(run)?;
        let mut mounts = self.prepare_mounts(state, run, at)?;
        let argv = match run.program() {
            Program::Exec(words) => words,
            Program::Shell(text) => state.shell().into_iter().chain([text]).collect(),
            Program::Script { name, content } => {
                let path = format!("/dev/pipes/{name}");
                mounts.parts.push(("script".to_owned(), content.clone()));
                mounts.add_file(PathBuf::from(&path), content.into_bytes(), 0o755);
                state.shell().into_iter().chain([path]).collect()
            }
        };
        for name in self.request.run.devices.iter().chain(run.devices.iter().map(|word| &word.text)) {
            mounts.parts.push(("device".to_owned(), name.clone()));
        }
        let network = self.network(run)?;
        let insecure = run.security == Some(Security::Insecure);
        if insecure && !self.request.run.allow_insecure {
            let message = "`RUN --security=insecure` is not allowed";
            return Err(Failure::new(FailureKind::Build, message)
                .help("allow it with `--allow security.insecure`")
                .into());
        }
        self.refuse_in_place(network, insecure, !devices.is_empty())?;
        step.runs = true;
        step.contents = std::mem::take(&mut mounts.said);
        self.run_key(state, &argv, network, insecure, &mounts, &mut step);
        let platform = state.config.platform();
        let planned = Arc::new(PlannedRun {
            argv,
            mounts,
            network,
            insecure,
            devices,
            place: Entrance::of(state, &step.name),
        });
        self.step(state, step, |workspace| {
            self.place_for_run()?;
            let mounted = workspace
                .mounted
                .as_ref()
                .ok_or_else(|| Failure::new(FailureKind::Environment, "RUN needs a mounted tree"))?;
            self.sandboxed(&planned, mounted, &workspace.root, workspace.number, |spec| {
                let (report, tail, starved) = self.in_sandbox(&spec, workspace)?;
                if !report.success() && report != ExitReport::Cancelled {
                    self.shared.note_failed(workspace.number, &planned);
                }
                let outcome = self.outcome(report, &planned.argv, workspace.number, &tail);
                let outcome = outcome.map_err(|error| match &self.request.run.limits {
                    Some((_, limits)) if starved => ended::on_starved(error, limits),
                    _ => error,
                });
                outcome.map_err(|error| ended::on_foreign(error, &platform))
            })
        })
    }

    /// Does something with the sandbox of a RUN over a tree; its mounts and its network are there as long as that takes.
    pub(crate) fn sandboxed<T>(
        &self,
        run: &PlannedRun,
        mounted: &Mounted,
        root: &Root,
        number: StepNumber,
        work: impl FnOnce(SandboxSpec<'_>) -> Result<T>,
    ) -> Result<T> {
        let account = users::of(root, &run.place.user)?;
        let mut spec = SandboxSpec::new(mounted, &run.argv);
        (spec.uid, spec.gid) = (account.uid, account.gid);
        spec.groups = with_primary(account.gid, account.groups);
        if let Some(sidecar) = super::sidecar(mounted)? {
            spec.journaled = sidecar.is_marked();
            spec.sidecar = Some(sidecar);
        }
        spec.cwd = PathBuf::from(&run.place.cwd);
        let (network, _way_out, resolv_conf) = self.open_network(run.network)?;
        spec.network = network;
        spec.privileged = run.insecure;
        spec.hostname = self.hostname().to_owned();
        self.apply_options(&mut spec)?;
        spec.cgroup = self.own_group()?;
        let mut environment = run.place.environment.clone();
        let mut mounts = self.open_mounts(&run.mounts, &mut environment, number)?;
        let _relays = mounts.take_relays();
        spec.held = mounts.locks();
        spec.mounts = mounts.into_sandbox();
        spec.mounts.extend(standard_mounts(&self.request.run, self.hostname(), resolv_conf));
        devices::add(&run.devices, &mut spec, &mut environment);
        spec.env = self.environment(environment, &account.home);
        work(spec)
    }

    /// Refuses where nothing can be isolated.
    fn place_for_run(&self) -> Result<()> {
        if self.place.kind() != PlaceKind::None {
            return Ok(());
        }
        let mut failure =
            Failure::new(FailureKind::Environment, "RUN needs user namespaces, and there are none here");
        if let Some(why) = self.place.shortfall() {
            failure = Failure { help: why.remedy(), ..failure.caused_by(why.to_string()) };
        }
        Err(failure.into())
    }

    /// What the result of a RUN depends on (reference 1.18): not on proxies, secrets, or the host's certificates.
    fn run_key(
        &self,
        state: &StageState,
        argv: &[String],
        network: Network,
        insecure: bool,
        prepared: &Prepared,
        step: &mut Step,
    ) {
        let options = &self.request.run;
        let parts = &mut step.parts;
        parts.text("instruction", "RUN").text("parent", &*state.key);
        parts.text("command", format!("{argv:?}"));
        parts.text("directory", state.working_dir()).text("user", &*state.container().user);
        parts.text("platform", state.config.platform().to_string()).text("hostname", self.hostname());
        parts
            .text("network", format!("{network:?}"))
            .text("security", if insecure { "insecure" } else { "sandbox" });
        for (name, value) in &state.environment {
            parts.text(format!("environment {name}"), &**value);
        }
        for (name, value) in &prepared.parts {
            parts.text(name.clone(), &**value);
        }
        for (name, digest) in &prepared.contents {
            parts.content(name.clone(), digest.clone());
        }
        if let Some(size) = options.shm_size {
            parts.text("shm-size", size.to_string());
        }
        for (host, _) in &options.extra_hosts {
            parts.text("host", &**host);
        }
        for (name, soft, hard) in &options.ulimits {
            parts.text(format!("ulimit {name}"), format!("{soft}:{hard}"));
        }
        if let Some(parent) = &options.cgroup_parent {
            parts.text("cgroup-parent", &**parent);
        }
        for (name, list) in
            [("--cap-add", &options.capabilities_added), ("--cap-drop", &options.capabilities_dropped)]
        {
            for capability in list {
                parts.text(name, &**capability);
            }
        }
    }

    fn network(&self, run: &Run) -> Result<Network> {
        Ok(match run.network {
            None | Some(RunNetwork::Default) => self.request.run.network,
            Some(RunNetwork::None) => Network::None,
            Some(RunNetwork::Private) => Network::Private,
            Some(RunNetwork::Host) if self.request.run.allow_network_host => Network::Host,
            Some(RunNetwork::Host) => {
                let failure = Failure::new(FailureKind::Build, "`RUN --network=host` is not allowed");
                return Err(failure.help("allow it with `--allow network.host`").into());
            }
        })
    }

    /// The network, what keeps its way out open, and the resolv.conf that belongs to it.
    fn open_network(&self, network: Network) -> Result<(rbuild_executor::Network, Option<WayOut>, Vec<u8>)> {
        let of_host = &self.request.run.resolv_conf;
        match network {
            Network::Host => Ok((rbuild_executor::Network::Host, None, of_host.clone())),
            Network::None => Ok((rbuild_executor::Network::None, None, of_host.clone())),
            Network::Private => {
                let fault = || "could not make a private network for RUN".to_owned();
                let namespace = NetworkNamespace::new().explain(FailureKind::Environment, fault)?;
                let way_out = WayOut::of(&namespace).map_err(|reasons| {
                    let help = format!("{}, or build with the host's network", reasons.remedy());
                    Failure::new(FailureKind::Environment, fault()).caused_by(reasons).help(help)
                })?;
                let resolv_conf = way_out.resolv_conf(of_host);
                Ok((rbuild_executor::Network::Joined(Arc::new(namespace)), Some(way_out), resolv_conf))
            }
        }
    }

    fn hostname(&self) -> &str {
        self.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").map_or("buildkitsandbox", String::as_str)
    }

    fn apply_options(&self, spec: &mut SandboxSpec<'_>) -> Result<()> {
        let options = &self.request.run;
        if let Some(size) = options.shm_size {
            spec.shm_size = size;
        }
        spec.capabilities = CapabilitySet::docker()
            .adjusted(&options.capabilities_added, &options.capabilities_dropped)
            .map_err(|name| Failure::new(FailureKind::Usage, format!("there is no capability `{name}`")))?;
        for (name, soft, hard) in &options.ulimits {
            let resource = resource(name).ok_or_else(|| {
                Failure::new(FailureKind::Usage, format!("there is no resource limit `{name}`"))
            })?;
            let limit = |value: u64| (value != u64::MAX).then_some(value);
            spec.rlimits.push(Rlimit { resource, soft: limit(*soft), hard: limit(*hard) });
        }
        Ok(())
    }

    /// A control group with the limits that were asked for.
    fn own_group(&self) -> Result<Option<Arc<Cgroup>>> {
        let Some((groups, limits)) = &self.request.run.limits else { return Ok(None) };
        let group = groups
            .group(limits)
            .explain(FailureKind::Environment, || "could not limit what RUN uses".to_owned())?;
        Ok(Some(group))
    }

    /// The command's whole environment: image and build args, the user's home, proxies, and the host's certificates.
    fn environment(&self, mut environment: Vec<(String, String)>, home: &str) -> Vec<(OsString, OsString)> {
        let mut add = |name: &str, value: &str| {
            if !environment.iter().any(|(known, _)| known == name) {
                environment.push((name.to_owned(), value.to_owned()));
            }
        };
        add("HOME", home);
        for name in PROXIES {
            let lower = name.to_lowercase();
            let given = &self.request.build_args;
            if let Some(value) = given.get(name).or_else(|| given.get(&lower)) {
                add(name, value);
                add(&lower, value);
            }
        }
        if self.request.run.host_certificates.is_some() {
            CERTIFICATE_VARIABLES.iter().for_each(|name| add(name, CERTIFICATES));
        }
        environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// How the command ended, the end of its output, and whether its memory was used up.
    fn in_sandbox(
        &self,
        spec: &SandboxSpec<'_>,
        workspace: &Workspace,
    ) -> Result<(ExitReport, Vec<u8>, bool)> {
        let log = self.log_file(workspace.number)?;
        let mut output = Output { events: self.events, step: workspace.number, log, tail: Vec::new() };
        let report = rbuild_executor::run(spec, &mut output, self.cancel)
            .explain(FailureKind::Environment, || "could not run the command in a sandbox".to_owned())?;
        let starved = spec.cgroup.as_ref().is_some_and(|group| group.killed_for_memory() > 0);
        Ok((report, output.tail, starved))
    }

    fn log_file(&self, number: StepNumber) -> Result<File> {
        let fault = || "could not write the step's log".to_owned();
        let path = self.log_path(number)?;
        File::create(&path).explain(FailureKind::Environment, fault)
    }

    fn log_path(&self, number: StepNumber) -> Result<PathBuf> {
        self.store
            .log_path(&self.name, &number.to_string())
            .explain(FailureKind::Environment, || "could not write the step's log".to_owned())
    }

    fn outcome(&self, report: ExitReport, argv: &[String], number: StepNumber, tail: &[u8]) -> Result<()> {
        let how = match report {
            ExitReport::Exited(0) => return Ok(()),
            ExitReport::Cancelled => return Err(BuildError::Cancelled),
            ExitReport::Exited(137) => "exit code: 137 (killed; out of memory?)".to_owned(),
            ExitReport::Exited(code) => format!("exit code: {code}"),
            ExitReport::Signaled(signal) => format!("killed by {}", signal_name(signal)),
        };
        let message = format!("process \"{}\" did not complete successfully: {how}", argv.join(" "));
        let mut failure = Failure::new(FailureKind::Build, message);
        failure.output_tail = ended::last_lines(tail);
        failure.log = Some(self.log_path(number)?);
        failure.help = ended::remedy(report, argv, &failure.output_tail).map(str::to_owned);
        Err(failure.into())
    }
}

/// The host's name look-up, and its certificates where they were asked for.
pub(crate) fn standard_mounts(options: &RunOptions, hostname: &str, resolv_conf: Vec<u8>) -> Vec<Mount> {
    // The same on every machine, as in the reference; names of the host's own file are no part of a build.
    let mut hosts =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n").into_bytes();
    for (host, address) in &options.extra_hosts {
        hosts.extend(format!("{address}\t{host}\n").bytes());
    }
    let mut files = vec![("/etc/resolv.conf", resolv_conf), ("/etc/hosts", hosts)];
    if let Some(bundle) = &options.host_certificates {
        files.push((CERTIFICATES, bundle.clone()));
    }
    let file = |(target, content): (&str, Vec<u8>)| Mount {
        target: target.into(),
        kind: MountKind::File { content, mode: 0o644, uid: 0, gid: 0, read_only: true },
    };
    files.into_iter().map(file).collect()
}

/// The groups of a process: the primary one is always among them, as in the reference.
pub(crate) fn with_primary(gid: u32, groups: Vec<u32>) -> Vec<u32> {
    if groups.contains(&gid) { groups } else { [vec![gid], groups].concat() }
}

/// Passes a command's output on, keeps all of it in a file, and its end in memory: on a full disk the file has a hole there.
struct Output<'a> {
    events: &'a dyn EventSink,
    step: StepNumber,
    log: File,
    tail: Vec<u8>,
}

impl rbuild_executor::OutputSink for Output<'_> {
    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        // A log that cannot be written must not stop the command; the output is shown all the same.
        let _ = self.log.write_all(bytes);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
        self.events.event(Event::Output { step: self.step, stream, bytes });
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
