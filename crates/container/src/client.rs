//! The other end of a monitor's socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_engine::{Failure, FailureKind, Result};
use rbuild_executor::Stream;

use crate::wire::{self, Frame, Reply, Request};
use crate::{Container, ExecRequest};

/// A connection to a container's monitor.
#[derive(Debug)]
pub struct Connection {
    reading: UnixStream,
    writing: Writer,
}

/// The way to the monitor, for several threads.
#[derive(Debug, Clone)]
pub struct Writer(Arc<Mutex<UnixStream>>);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The command ended with this code.
    Exited(i32),
    /// The monitor was killed, and the command with it.
    Lost,
}

impl Container {
    /// Connects to its monitor; `None` when it does not run.
    ///
    /// # Errors
    /// The socket is there and cannot be reached.
    pub fn connection(&self) -> Result<Option<Connection>> {
        let fault = |error: io::Error| {
            let message = format!("could not reach the monitor of the container `{}`", self.settings.name);
            Failure::new(FailureKind::Environment, message).caused_by(error)
        };
        let Some(reading) = self.connect().map_err(fault)? else { return Ok(None) };
        let writing = reading.try_clone().map_err(fault)?;
        Ok(Some(Connection { reading, writing: Writer(Arc::new(Mutex::new(writing))) }))
    }

    /// The same where there is nothing to do without.
    ///
    /// # Errors
    /// It does not run.
    pub fn running(&self) -> Result<Connection> {
        let stopped = || {
            Failure::new(FailureKind::Build, format!("the container `{}` is not running", self.settings.name))
                .into()
        };
        self.connection()?.ok_or_else(stopped)
    }
}

impl Connection {
    /// The way to the monitor.
    pub fn writer(&self) -> Writer {
        self.writing.clone()
    }

    /// From now on, what the container writes comes here.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn attach(&self) -> Result<()> {
        self.writing.send(&Request::Attach)
    }

    /// Runs a command inside; this connection is its.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn exec(&self, request: ExecRequest) -> Result<()> {
        self.writing.send(&Request::Exec(Box::new(request)))
    }

    /// Passes output on until the end.
    ///
    /// # Errors
    /// What was asked for was refused.
    pub fn follow(mut self, output: &mut dyn FnMut(Stream, &[u8])) -> Result<Ending> {
        loop {
            match wire::receive::<Reply>(&mut self.reading) {
                Ok(Some(Frame::Output(stream, bytes))) => output(stream, &bytes),
                Ok(Some(Frame::Document(Reply::Exited(code)))) => return Ok(Ending::Exited(code)),
                Ok(Some(Frame::Document(Reply::Refused(why)))) => {
                    return Err(Failure::new(FailureKind::Environment, why).into());
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Ok(Ending::Lost),
            }
        }
    }

    /// Waits for the command's end.
    ///
    /// # Errors
    /// As [`Connection::follow`].
    pub fn wait(self) -> Result<Ending> {
        self.ask(&Request::Wait)
    }

    /// Asks the command to end, and ends it where that does not help; see [`crate::Settings`] for what is not said here.
    ///
    /// # Errors
    /// As [`Connection::follow`].
    pub fn stop(self, signal: Option<i32>, seconds: Option<u64>) -> Result<Ending> {
        self.ask(&Request::Stop { signal, seconds })
    }

    fn ask(self, request: &Request) -> Result<Ending> {
        match self.writing.send(request) {
            Ok(()) => self.follow(&mut |_, _| {}),
            // It was about to go when we came.
            Err(_) => Ok(Ending::Lost),
        }
    }

    /// Sends the command a signal; one that has just ended needs none.
    pub fn signal(mut self, signal: i32) {
        if self.writing.send(&Request::Signal(signal)).is_ok() {
            // The answer: it has been sent. An end of the connection is the command's.
            let _ = wire::receive::<Reply>(&mut self.reading);
        }
    }

    /// Readable when there is an answer, or the monitor is gone.
    pub fn descriptor(&self) -> &UnixStream {
        &self.reading
    }

    /// Asks to be told of the end, without waiting for it.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn tell_end(&self) -> Result<()> {
        self.writing.send(&Request::Wait)
    }
}

impl Writer {
    /// Input for the command.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn input(&self, bytes: &[u8]) -> Result<()> {
        self.with(|line| wire::send_input(line, bytes))
    }

    /// There is no more input.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn end_of_input(&self) -> Result<()> {
        self.send(&Request::EndOfInput)
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.send(&Request::Resize(columns, rows))
    }

    /// A signal for the command.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.send(&Request::Signal(signal))
    }

    fn send(&self, request: &Request) -> Result<()> {
        self.with(|line| wire::send_document(line, request))
    }

    fn with(&self, send: impl FnOnce(&mut UnixStream) -> io::Result<()>) -> Result<()> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut line).map_err(|error| {
            Failure::new(FailureKind::Environment, "the container's monitor is gone").caused_by(error).into()
        })
    }
}
