//! The SSH agent's socket in a sandbox: one of our own, so that it has the owner and mode that the mount asks for. What
//! connects to it is connected with the agent.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::mounts::Owner;

/// Connections at a time; more are turned away.
const MOST_CONNECTIONS: usize = 64;

/// A socket that leads to an agent while this lives.
#[derive(Debug)]
pub(super) struct AgentRelay {
    path: PathBuf,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    /// Both sides of each connection, to cut it off.
    connections: Mutex<BTreeMap<u64, [UnixStream; 2]>>,
}

impl AgentRelay {
    /// Listens in an empty folder.
    pub(super) fn start(folder: &Path, agent: &Path, owner: Owner) -> io::Result<Self> {
        let path = folder.join("agent");
        let listener = within(&path, UnixListener::bind)?;
        fs::set_permissions(&path, Permissions::from_mode(owner.mode))?;
        match chown(&path, Some(owner.uid), Some(owner.gid)) {
            // An id that this user does not have.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
            answer => answer?,
        }
        let shared = Arc::new(Shared::default());
        let (ours, agent) = (Arc::clone(&shared), agent.to_owned());
        let listening = thread::Builder::new()
            .name("ssh agent".to_owned())
            .spawn(move || ours.accept(&listener, &agent))?;
        Ok(Self { path, shared, listening: Some(listening) })
    }

    /// The socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentRelay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let woken = within(&self.path, UnixStream::connect);
        if let (Ok(_), Some(listening)) = (woken, self.listening.take()) {
            let _ = listening.join();
        }
        self.shared.connections().values().for_each(cut);
        let _ = fs::remove_file(&self.path);
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, [UnixStream; 2]>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener, agent: &Path) {
        for (number, client) in (0..).zip(listener.incoming()) {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            // A connection that cannot be made is closed: the program in the sandbox sees an agent that is not there.
            if let Ok(client) = client {
                let _ = self.connect(number, client, agent);
            }
        }
    }

    fn connect(self: &Arc<Self>, number: u64, client: UnixStream, agent: &Path) -> io::Result<()> {
        if self.connections().len() >= MOST_CONNECTIONS {
            return Ok(());
        }
        let agent = within(agent, UnixStream::connect)?;
        self.connections().insert(number, [client.try_clone()?, agent.try_clone()?]);
        let (to_client, to_agent) = (client.try_clone()?, agent.try_clone()?);
        let shared = Arc::clone(self);
        let back = thread::Builder::new().spawn(move || pass(agent, to_client));
        let there = back.and_then(|back| {
            thread::Builder::new().spawn(move || {
                pass(client, to_agent);
                let _ = back.join();
                shared.connections().remove(&number);
            })
        });
        if there.is_err()
            && let Some(both) = self.connections().remove(&number)
        {
            cut(&both);
        }
        there.map(drop)
    }
}

/// Copies until the end, and tells the other side of it.
fn pass(mut from: UnixStream, mut to: UnixStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn cut(both: &[UnixStream; 2]) {
    both.iter().for_each(|side| drop(side.shutdown(Shutdown::Both)));
}

/// Names a socket by way of its open folder: the kernel takes 107 bytes for the name of one.
fn within<T>(path: &Path, then: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return then(path.to_owned());
    };
    let folder = File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
    then(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// An agent that says everything twice.
    fn agent(path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut text = String::new();
                let mut stream = stream.unwrap();
                let _ = stream.read_to_string(&mut text);
                let _ = stream.write_all(format!("{text}{text}").as_bytes());
            }
        });
    }

    #[test]
    fn a_relay_has_the_mode_asked_for_and_leads_to_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the name of a socket may be.
        let deep = folder.path().join("d".repeat(150));
        fs::create_dir(&deep).unwrap();
        let at = folder.path().join("a");
        agent(&at);
        let me = fs::metadata(&deep).unwrap();
        let relay =
            AgentRelay::start(&deep, &at, Owner { mode: 0o640, uid: me.uid(), gid: me.gid() }).unwrap();
        let meta = fs::metadata(relay.path()).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, me.uid(), me.gid()));
        for text in ["one", "two"] {
            let mut client = within(relay.path(), UnixStream::connect).unwrap();
            client.write_all(text.as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{text}{text}"));
        }
    }

    #[test]
    fn its_end_cuts_connections_off() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a");
        agent(&at);
        let owner = Owner { mode: 0o600, uid: 0, gid: 0 };
        let relay = AgentRelay::start(folder.path(), &at, owner);
        // The folder holds the agent `a`; the relay is `agent`.
        let relay = relay.unwrap();
        let mut client = UnixStream::connect(relay.path()).unwrap();
        client.write_all(b"x").unwrap();
        while relay.shared.connections().is_empty() {
            thread::yield_now();
        }
        let path = relay.path().to_owned();
        drop(relay);
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "nothing more is to come");
        assert!(!path.exists());
    }
}
