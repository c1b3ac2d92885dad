//! Containers on disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rbuild_engine::{Failure, FailureKind, Result};
use rbuild_store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Health, Port, Settings, names};

/// How a container stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not started yet, or it could not be.
    #[default]
    Created,
    /// Its command runs.
    Running,
    /// Its command has ended.
    Exited,
    /// Its monitor was killed, and it with that.
    Dead,
}

/// What changes of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// How it stands.
    pub status: Status,
    /// When its command was started, in seconds since 1970.
    pub started: Option<i64>,
    /// When it ended.
    pub finished: Option<i64>,
    /// Its exit code; 128 and the number of a signal that ended it.
    pub exit_code: Option<i32>,
    /// What the last health checks found.
    pub health: Option<Health>,
    /// Ports that lead into it, those included that were left to the kernel to choose.
    pub ports: Vec<Port>,
    /// Process id of its init on this machine.
    pub pid: Option<i32>,
}

/// All containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    folder: PathBuf,
}

/// One container on disk.
#[derive(Debug, Clone)]
pub struct Container {
    folder: PathBuf,
    /// What it is.
    pub settings: Settings,
}

impl Containers {
    /// Those of this store.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn of(store: &Store) -> Result<Self> {
        let folder =
            store.containers_path().map_err(|error| fault("open the containers' folder").caused_by(error))?;
        Ok(Self { folder })
    }

    /// Writes a new container down: gives it an id, and a name where it has none. The returned lock says that somebody minds
    /// it: the monitor's, from then on.
    ///
    /// # Errors
    /// The name is no name, or another's; or it cannot be written.
    pub fn create(&self, mut settings: Settings) -> Result<(Container, File)> {
        let _names = self.lock_names()?;
        self.sweep()?;
        let others = self.list()?;
        settings.id = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        settings.name = self.name(&settings.name, &others)?;
        if settings.hostname.is_empty() {
            settings.hostname = settings.short_id().to_owned();
        }
        let folder = self.folder.join(&settings.id);
        let unborn = self.folder.join(format!(".{}", settings.id));
        let write = || -> io::Result<File> {
            fs::DirBuilder::new().mode(0o700).create(&unborn)?;
            let lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(unborn.join("lock"))?;
            lock.lock()?;
            fs::write(unborn.join("settings.json"), serde_json::to_vec(&settings)?)?;
            fs::rename(&unborn, &folder)?;
            Ok(lock)
        };
        let lock = write().map_err(|error| fault("write down the container").caused_by(error))?;
        Ok((Container { folder, settings }, lock))
    }

    fn name(&self, wanted: &str, others: &[Container]) -> Result<String> {
        let owner = |name: &str| others.iter().find(|other| other.settings.name == name);
        if wanted.is_empty() {
            for attempt in 0..64 {
                let name = names::name_of(random()?, attempt > 0);
                if owner(&name).is_none() {
                    return Ok(name);
                }
            }
            return Err(fault("find a name for the container that is free").into());
        }
        if !names::is_valid(wanted) {
            let failure = Failure::new(FailureKind::Usage, format!("invalid container name `{wanted}`"));
            return Err(failure.help("letters, digits, `_`, `.` and `-`; a letter or digit first").into());
        }
        match owner(wanted) {
            None => Ok(wanted.to_owned()),
            Some(other) => {
                let id = other.settings.short_id();
                let message = format!("the container name `{wanted}` is already in use by container `{id}`");
                let failure = Failure::new(FailureKind::Usage, message);
                let help =
                    format!("remove that one (`rbuild rm {wanted}`, `-f` if it runs), or give another name");
                Err(failure.help(help).into())
            }
        }
    }

    /// One process at a time looks whether a name is free and takes it.
    fn lock_names(&self) -> Result<File> {
        let open = || {
            let path = self.folder.join(".lock");
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|error: io::Error| fault("lock the containers' names").caused_by(error).into())
    }

    /// Removes what was to be removed at its end but whose monitor was killed, and what was never finished. Needs the lock
    /// of the names.
    fn sweep(&self) -> Result<()> {
        for container in self.list()? {
            if container.settings.remove && !container.is_minded()? {
                container.forget()?;
            }
        }
        for name in entries(&self.folder)?.into_iter().filter(|name| name.starts_with('.') && name != ".lock")
        {
            // What cannot be removed now is tried again the next time.
            let _ = fs::remove_dir_all(self.folder.join(name));
        }
        Ok(())
    }

    /// All of them, the newest first.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn list(&self) -> Result<Vec<Container>> {
        let mut containers = Vec::new();
        for name in entries(&self.folder)?.into_iter().filter(|name| !name.starts_with('.')) {
            let folder = self.folder.join(name);
            // Gone meanwhile, or of another version: neither is a container that can be dealt with.
            if let Some(settings) = read(&folder.join("settings.json"))? {
                containers.push(Container { folder, settings });
            }
        }
        let age = |container: &Container| std::cmp::Reverse(container.settings.created);
        containers.sort_by(|one, other| {
            age(one).cmp(&age(other)).then_with(|| one.settings.id.cmp(&other.settings.id))
        });
        Ok(containers)
    }

    /// The one that a user means, by name or by the beginning of its id.
    ///
    /// # Errors
    /// There is none, or several ids begin so.
    pub fn find(&self, text: &str) -> Result<Container> {
        let mut all = self.list()?;
        if let Some(at) = all.iter().position(|one| one.settings.name == text || one.settings.id == text) {
            return Ok(all.swap_remove(at));
        }
        all.retain(|one| !text.is_empty() && one.settings.id.starts_with(text));
        match (all.pop(), all.len()) {
            (Some(found), 0) => Ok(found),
            (Some(_), _) => {
                let message = format!("several container ids begin with `{text}`");
                Err(Failure::new(FailureKind::Usage, message)
                    .help("give more of its digits, or its name")
                    .into())
            }
            (None, _) => {
                let failure = Failure::new(FailureKind::Build, format!("no such container: `{text}`"));
                Err(failure.help("`rbuild ps -a` lists them").into())
            }
        }
    }
}

impl Container {
    /// One of the store with this root, by its whole id.
    ///
    /// # Errors
    /// There is none.
    pub fn reopen(root: &Path, id: &str) -> Result<Container> {
        let folder = root.join("containers").join(id);
        match read(&folder.join("settings.json"))? {
            Some(settings) => Ok(Container { folder, settings }),
            None => Err(Failure::new(FailureKind::Build, format!("no such container: `{id}`")).into()),
        }
    }

    /// How it stands now.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn state(&self) -> Result<State> {
        let minded = self.is_minded()?;
        // Read after the lock was found free: the monitor has written its last.
        let mut state: State = read(&self.folder.join("state.json"))?.unwrap_or_default();
        if !minded && state.status == Status::Running {
            state.status = Status::Dead;
            state.exit_code = Some(137);
            state.health = None;
        }
        Ok(state)
    }

    pub(crate) fn write_state(&self, state: &State) -> Result<()> {
        let (path, new) = (self.folder.join("state.json"), self.folder.join(".state.json"));
        let write = || fs::write(&new, serde_json::to_vec(state)?).and_then(|()| fs::rename(&new, &path));
        write().map_err(|error| fault("write down the container's state").caused_by(error).into())
    }

    /// Whether its monitor lives.
    ///
    /// # Errors
    /// The lock cannot be looked at.
    pub fn is_minded(&self) -> Result<bool> {
        let taken = match File::open(self.folder.join("lock")) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(fs::TryLockError::WouldBlock) => Ok(true),
                Err(fs::TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        taken.map_err(|error| fault("look whether the container runs").caused_by(error).into())
    }

    /// The file with what it wrote.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The file with what its monitor had to say.
    pub fn monitor_log_path(&self) -> PathBuf {
        self.folder.join("monitor.log")
    }

    /// A connection to its monitor; `None` when there is none, or no more.
    pub(crate) fn connect(&self) -> io::Result<Option<UnixStream>> {
        match self.by_short_path(|path| UnixStream::connect(path)) {
            Ok(stream) => Ok(Some(stream)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        self.by_short_path(|path| UnixListener::bind(path))
    }

    /// A socket's path ends at 108 bytes (unix(7)), which a store's root may well exceed.
    fn by_short_path<T>(&self, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let folder = File::open(&self.folder)?;
        with(Path::new(&format!("/proc/self/fd/{}/control", folder.as_raw_fd())))
    }

    /// Removes all that is kept of it.
    ///
    /// # Errors
    /// It is minded, so it may run; or its files cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if self.is_minded()? {
            let message = format!("could not remove the container `{}`: it is running", self.settings.name);
            let help = "stop it first (`rbuild stop`), or remove it with `-f`";
            return Err(Failure::new(FailureKind::Build, message).help(help).into());
        }
        self.forget()
    }

    /// The same for its own monitor.
    pub(crate) fn forget(&self) -> Result<()> {
        // By another name first: nobody finds half a container.
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let doomed = self.folder.with_file_name(format!(".{name}"));
        match fs::rename(&self.folder, &doomed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| fault("remove the container").caused_by(error))?,
        }
        match fs::remove_dir_all(&doomed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fault("remove the container").caused_by(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Waits until its monitor is gone, and with it all of the container.
    ///
    /// # Errors
    /// The lock cannot be looked at.
    pub fn wait_unminded(&self) -> Result<()> {
        let wait = || match File::open(self.folder.join("lock")) {
            Ok(file) => file.lock_shared(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        wait().map_err(|error| fault("wait for the container's end").caused_by(error).into())
    }
}

fn fault(action: &str) -> Failure {
    Failure::new(FailureKind::Environment, format!("could not {action}"))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let fault = |error: io::Error| fault(&format!("read `{}`", path.display())).caused_by(error);
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| fault(error.into()))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error).into()),
    }
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    let list = || {
        fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
    };
    let names = list().map_err(|error| fault("list the containers").caused_by(error))?;
    // Names that are no UTF-8 are not ours.
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| fault("get random bytes").caused_by(error))?;
    Ok(bytes)
}
