//! Those who come by a monitor's socket, and what they want.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rbuild_engine::{BuildError, Result};
use rbuild_executor::{Cancel, OutputSink, Sandbox, Stream, WindowSize};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Line, Monitor, fault};
use crate::ExecRequest;
use crate::wire::{self, Frame, Reply, Request};

impl Monitor {
    /// Answers on the socket, by threads that live as long as this process.
    pub(super) fn serve(self: &Arc<Self>) -> Result<()> {
        let fault = |error: std::io::Error| fault("make the monitor's socket").caused_by(error);
        let listener = self.container.listen().map_err(fault)?;
        let monitor = self.clone();
        let accept = move || {
            for client in listener.incoming().flatten() {
                let monitor = monitor.clone();
                // A thread that cannot be had closes the connection.
                let _ =
                    thread::Builder::new().name("client".to_owned()).spawn(move || monitor.attend(client));
            }
        };
        thread::Builder::new().name("socket".to_owned()).spawn(accept).map_err(fault)?;
        Ok(())
    }

    /// One connection to its end. What goes wrong is between the two: it closes.
    fn attend(self: &Arc<Self>, mut client: UnixStream) {
        let Ok(back) = client.try_clone() else { return };
        let mut visit =
            Visit { monitor: self, line: Arc::new(Mutex::new(back)), is_attached: false, own: None };
        while let Ok(Some(frame)) = wire::receive::<Request>(&mut client) {
            let outcome = match frame {
                Frame::Input(bytes) => {
                    visit.input(&bytes);
                    Ok(())
                }
                Frame::Document(request) => visit.carry_out(request),
                Frame::Output(..) => Ok(()),
            };
            if outcome.is_err() {
                break;
            }
        }
        visit.leave();
    }
}

/// A connection, and what it has going.
struct Visit<'a> {
    monitor: &'a Arc<Monitor>,
    line: Arc<Line>,
    is_attached: bool,
    /// The command that it started.
    own: Option<Arc<Own>>,
}

/// A command that a connection started.
struct Own {
    input: Mutex<Option<Arc<OwnedFd>>>,
    sandbox: Mutex<Option<Sandbox>>,
    cancel: Cancel,
}

impl Visit<'_> {
    fn carry_out(&mut self, request: Request) -> std::io::Result<()> {
        let monitor = self.monitor;
        match request {
            Request::Attach => {
                self.is_attached = true;
                // Under the lock of those attached: either it is told of the end there, or here.
                let mut attached = monitor.attached.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = monitor.live().ended;
                match ended {
                    Some(code) => return reply(&self.line, &Reply::Exited(code)),
                    None => attached.push(self.line.clone()),
                }
                drop(attached);
                monitor.arrived.notify_all();
                Ok(())
            }
            Request::EndOfInput => {
                self.end_input();
                Ok(())
            }
            Request::Resize(columns, rows) => {
                if let Some(sandbox) = self.sandbox() {
                    sandbox.resize(WindowSize { columns, rows });
                }
                Ok(())
            }
            Request::Signal(signal) => {
                match &self.own {
                    Some(_) => _ = self.sandbox().map(|sandbox| sandbox.signal(signal)),
                    None => monitor.signal(signal),
                }
                reply(&self.line, &Reply::Done)
            }
            Request::Stop { signal, seconds } => {
                let _waiting = monitor.waiting();
                monitor.stop(signal, seconds);
                self.tell_end()
            }
            Request::Wait => self.tell_end(),
            Request::Exec(request) => self.exec(*request),
        }
    }

    fn tell_end(&self) -> std::io::Result<()> {
        let _waiting = self.monitor.waiting();
        let code = self.monitor.wait_ended();
        reply(&self.line, &Reply::Exited(code))
    }

    fn sandbox(&self) -> Option<Sandbox> {
        match &self.own {
            Some(own) => own.sandbox.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.monitor.live().sandbox.clone(),
        }
    }

    /// What is typed at the terminal, or read through the pipe. A command that reads no more is no fault.
    fn input(&self, bytes: &[u8]) {
        let pipe = match &self.own {
            Some(own) => own.input.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.monitor.live().input.clone(),
        };
        match (self.sandbox().filter(Sandbox::has_terminal), pipe) {
            (Some(sandbox), _) => _ = sandbox.type_in(bytes),
            (None, Some(pipe)) => _ = write_all(&pipe, bytes),
            (None, None) => {}
        }
    }

    fn end_input(&self) {
        match &self.own {
            Some(own) => *own.input.lock().unwrap_or_else(PoisonError::into_inner) = None,
            None => self.monitor.live().input = None,
        }
    }

    /// Starts a command whose output and end go to this connection.
    fn exec(&mut self, request: ExecRequest) -> std::io::Result<()> {
        let refuse = |words: String| reply(&self.line, &Reply::Refused(words));
        let cancel = match Cancel::new() {
            Ok(cancel) => cancel,
            Err(error) => return refuse(error.to_string()),
        };
        let (stdin, input) = match request.stdin && request.terminal.is_none() {
            true => {
                let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
                (Some(Arc::new(reading)), Some(Arc::new(writing)))
            }
            false => (None, None),
        };
        let own = Arc::new(Own { input: Mutex::new(input), sandbox: Mutex::default(), cancel });
        self.own = Some(own.clone());
        let (monitor, line) = (self.monitor.clone(), self.line.clone());
        thread::Builder::new().name("exec".to_owned()).spawn(move || {
            let _waiting = monitor.waiting();
            let mut output = ExecOutput { own: &own, line: &line };
            let last = match monitor.run_inside(&request, stdin, &mut output, &own.cancel) {
                Ok(report) => Reply::Exited(report.code()),
                Err(error) => Reply::Refused(words(&error)),
            };
            // Who has gone has gone.
            let _ = reply(&line, &last);
        })?;
        Ok(())
    }

    /// The one for whom the command was started has gone: there will be no more input. A command of this connection ends.
    fn leave(self) {
        if let Some(own) = &self.own {
            own.cancel.cancel();
        }
        if self.is_attached {
            let mut attached = self.monitor.attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached.retain(|line| !Arc::ptr_eq(line, &self.line));
            drop(attached);
            if self.monitor.settings().attached {
                self.end_input();
            }
        }
    }
}

struct ExecOutput<'a> {
    own: &'a Own,
    line: &'a Line,
}

impl OutputSink for ExecOutput<'_> {
    fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has gone has gone; the command is ended by the connection's own thread.
        let _ = wire::send_output(&mut *line, stream, bytes);
    }

    fn started(&mut self, sandbox: &Sandbox) {
        *self.own.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(sandbox.clone());
    }
}

fn write_all(pipe: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(pipe, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

pub(super) fn reply(line: &Line, reply: &Reply) -> std::io::Result<()> {
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    wire::send_document(&mut *line, reply)?;
    line.flush()
}

/// An error with its causes in one line.
fn words(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
