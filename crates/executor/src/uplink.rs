//! The way out of a private network: pasta (passt.top) or slirp4netns, whichever is found and works here.

use std::ffi::OsString;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::NetworkNamespace;
use crate::network::Companion;

/// Where distributions put them; the user's PATH is not the library's to read.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"];
/// How long one may take to set the network up.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// What asks the host's name servers when it is asked for a name: an address of no network (RFC 3927).
const PASTA_RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same in slirp4netns' own network.
const SLIRP_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// A program that carries a namespace's packets to the host's network. The way is closed with this value.
#[derive(Debug)]
pub struct WayOut {
    _program: Companion,
    resolver: Ipv4Addr,
}

/// Why there is no way out of a private network here: one reason for each program.
#[derive(Debug, thiserror::Error)]
#[error("{}", reasons.join("; "))]
pub struct NoWayOut {
    /// `pasta: …`, `slirp4netns: …`
    pub reasons: Vec<String>,
}

impl NoWayOut {
    /// What would help.
    pub fn remedy(&self) -> &'static str {
        let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        match tun {
            Ok(_) => "install `passt` (pasta) or `slirp4netns`",
            Err(_) => "these programs need /dev/net/tun: as root, `modprobe tun; chmod 666 /dev/net/tun`",
        }
    }
}

impl WayOut {
    /// Tries pasta, then slirp4netns: by starting them, as only that tells whether they may do here what they do.
    pub fn of(namespace: &NetworkNamespace) -> Result<WayOut, NoWayOut> {
        let mut reasons = Vec::new();
        for (name, resolver) in [("pasta", PASTA_RESOLVER), ("slirp4netns", SLIRP_RESOLVER)] {
            let tried = match find(name) {
                Some(path) => start(name, &path, namespace),
                None => Err("is not installed".to_owned()),
            };
            match tried {
                Ok(program) => return Ok(WayOut { _program: program, resolver }),
                Err(reason) => reasons.push(format!("{name}: {reason}")),
            }
        }
        Err(NoWayOut { reasons })
    }

    /// Content of /etc/resolv.conf there: the host's, but for the name server, which may be one of the host's own addresses.
    pub fn resolv_conf(&self, of_host: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(of_host);
        let kept = text.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        format!("nameserver {}\n{kept}", self.resolver).into_bytes()
    }
}

fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.map(|folder| Path::new(folder).join(name)).into_iter().find(|path| path.exists())
}

/// `namespace` and `ready` are descriptors that it inherits: it may not look into this process for them.
fn arguments(name: &str, path: &Path, namespace: RawFd, ready: RawFd) -> Vec<OsString> {
    let (namespace, pid_file) = (format!("/proc/self/fd/{namespace}"), format!("/proc/self/fd/{ready}"));
    let (resolver, ready) = (PASTA_RESOLVER.to_string(), format!("--ready-fd={ready}"));
    let words: &[&str] = match name {
        // No ports by itself, and no way to what listens on the host's loopback. It writes its process id when it is ready.
        "pasta" => &[
            "--foreground",
            "--stderr",
            "--quiet",
            "--config-net",
            "--no-map-gw",
            "--no-netns-quit",
            "-t",
            "none",
            "-u",
            "none",
            "-T",
            "none",
            "-U",
            "none",
            "--dns-forward",
            &resolver,
            "--pid",
            &pid_file,
            "--netns",
            &namespace,
        ],
        _ => &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            &ready,
            "--netns-type=path",
            &namespace,
            "tap0",
        ],
    };
    std::iter::once(path.into()).chain(words.iter().map(OsString::from)).collect()
}

/// Starts one and waits until it says that the network is there, or is known to have failed.
fn start(name: &str, path: &Path, namespace: &NetworkNamespace) -> Result<Companion, String> {
    let said = |error: Errno| error.to_string();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(said)?;
    let (words, words_end) = pipe_with(PipeFlags::CLOEXEC).map_err(said)?;
    let (ready, ready_end) = pipe_with(PipeFlags::CLOEXEC).map_err(said)?;
    let argv = arguments(name, path, namespace.as_fd().as_raw_fd(), ready_end.as_raw_fd());
    let streams = [null.as_fd(), null.as_fd(), words_end.as_fd()];
    let program = Companion::start(&argv, streams, &[namespace.as_fd(), ready_end.as_fd()])
        .map_err(|error| error.to_string())?;
    drop((words_end, ready_end));
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    let in_time = poll(&mut fds, Some(&PATIENCE)).is_ok_and(|count| count > 0);
    // Nothing to read but the end is its own end.
    if in_time && rustix::io::read(&ready, &mut [0; 1]) == Ok(1) {
        return Ok(program);
    }
    drop(program);
    Err(last_words(words.into(), in_time))
}

fn last_words(mut words: std::fs::File, ended: bool) -> String {
    let mut text = Vec::new();
    // Its writers are gone.
    let _ = words.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match (last, ended) {
        (Some(line), _) => line.to_owned(),
        (None, true) => "ended without a word".to_owned(),
        (None, false) => format!("did not set the network up within {} s", PATIENCE.tv_sec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_programs_each_has_its_reason() {
        let error = NoWayOut { reasons: vec!["pasta: is not installed".into(), "slirp4netns: no".into()] };
        assert_eq!(error.to_string(), "pasta: is not installed; slirp4netns: no");
        assert!(!error.remedy().is_empty());
    }
}
