//! `rbuild logs`.

use std::io;

use rbuild_container::{Container, LogReader};
use rbuild_engine::{Failure, FailureKind};
use rbuild_executor::Place;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use super::containers::open;
use super::run_args::LogsArgs;
use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::terminal;

pub(crate) fn run(args: &LogsArgs, global: &GlobalArgs, place: &'static Place) -> Result<(), CliError> {
    let container = open(global, place)?.find(&args.container)?;
    let fault = |error: io::Error| {
        let message = format!("could not read the log of the container `{}`", container.settings.name);
        CliError::from(Failure::new(FailureKind::Environment, message).caused_by(error))
    };
    let mut log = match LogReader::open(&container.log_path()) {
        Ok(log) => log,
        // It has not been started.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
    };
    if args.tail != "all" {
        let count = args.tail.parse();
        let count = count.map_err(|_| CliError::usage(format!("`{}` is no number of lines", args.tail)))?;
        log.skip_to_last(count).map_err(fault)?;
    }
    if !args.follow {
        return show(&mut log, args.timestamps).map_err(fault);
    }
    follow(&container, &mut log, args.timestamps).map_err(|error| match error {
        Error::Log(error) => fault(error),
        Error::Monitor(error) => error.into(),
    })
}

fn show(log: &mut LogReader, timestamps: bool) -> io::Result<()> {
    for line in log.by_ref() {
        let line = line?;
        if timestamps {
            terminal::show(line.stream, format!("{} ", line.time).as_bytes());
        }
        terminal::show(line.stream, &line.content);
    }
    Ok(())
}

enum Error {
    Log(io::Error),
    Monitor(rbuild_engine::BuildError),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Log(error)
    }
}

/// Goes on whenever the file has grown, until the monitor tells of the end or is gone.
fn follow(container: &Container, log: &mut LogReader, timestamps: bool) -> Result<(), Error> {
    let grown = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
    inotify::add_watch(&grown, container.log_path(), inotify::WatchFlags::MODIFY).map_err(io::Error::from)?;
    let Some(connection) = container.connection().map_err(Error::Monitor)? else {
        return Ok(show(log, timestamps)?);
    };
    // One that was about to go when we came is seen to have gone below.
    let _ = connection.tell_end();
    let mut events = vec![0; 4096];
    loop {
        show(log, timestamps)?;
        let mut fds =
            [PollFd::new(&grown, PollFlags::IN), PollFd::new(connection.descriptor(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let [grows, ended] = [!fds[0].revents().is_empty(), !fds[1].revents().is_empty()];
        if ended {
            return Ok(show(log, timestamps)?);
        }
        if grows {
            // What it says is known: the file has grown.
            rustix::io::read(&grown, &mut events).map_err(io::Error::from)?;
        }
    }
}
