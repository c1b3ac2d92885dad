//! The way out of a private network: pasta (passt.top) or slirp4netns, whichever is found and works here.

use std::ffi::OsString;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::network::Companion;
use crate::{NetworkNamespace, SandboxError};

/// Where distributions put them; the user's PATH is not the library's to read.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"];
/// How long one may take to set the network up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile: neither program says when it is done in every version.
const LOOK: Duration = Duration::from_millis(5);
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
                Some(path) => start(&arguments(name, &path, namespace), namespace),
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

fn arguments(name: &str, path: &Path, namespace: &NetworkNamespace) -> Vec<OsString> {
    // Its own descriptor: another process may not look into this one.
    let namespace = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
    let resolver = PASTA_RESOLVER.to_string();
    let words: &[&str] = match name {
        // No ports by itself, and no way to what listens on the host's loopback.
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
            "--netns",
            &namespace,
        ],
        _ => &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--netns-type=path",
            &namespace,
            "tap0",
        ],
    };
    std::iter::once(path.into()).chain(words.iter().map(OsString::from)).collect()
}

/// Starts one and waits until the namespace has a route, or says why it has not.
fn start(argv: &[OsString], namespace: &NetworkNamespace) -> Result<Companion, String> {
    let said = |error: SandboxError| error.to_string();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| error.to_string())?;
    let (words, words_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let streams = [null.as_fd(), null.as_fd(), words_end.as_fd()];
    let program = Companion::start(argv, streams, &[namespace.as_fd()]).map_err(said)?;
    drop(words_end);
    let begun = Instant::now();
    loop {
        if has_route(namespace)? {
            return Ok(program);
        }
        let ended = is_readable(program.descriptor());
        if ended || begun.elapsed() > PATIENCE {
            drop(program);
            return Err(last_words(words.into(), ended));
        }
        thread::sleep(LOOK);
    }
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
        (None, false) => format!("did not set the network up within {} s", PATIENCE.as_secs()),
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(count) if count > 0)
}

/// Whether packets for anywhere have a way.
fn has_route(namespace: &NetworkNamespace) -> Result<bool, String> {
    let look = || {
        namespace.join().map_err(|error| error.to_string())?;
        std::fs::read_to_string("/proc/thread-self/net/route").map_err(|error| error.to_string())
    };
    let routes =
        thread::scope(|scope| scope.spawn(look).join()).map_err(|_| "a thread panicked".to_owned())??;
    // Interface, destination, gateway …
    Ok(routes.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000")))
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
