//! Runs images: a container is one sandbox over a tree that is thrown away, and one small process that minds it.
//!
//! ```text
//! rbuild run ─ Containers::create ─▶ containers/<id>/     settings.json   what to run; written once
//!      │                                                  state.json      how it stands; written by the monitor
//!      │ starts                                           log             what it wrote, streams told apart
//!      ▼                                                  lock            held while the monitor lives
//!   monitor ──── executor::run ─▶ sandbox                 control         the monitor's socket
//!      ▲                                                  monitor.log     what the monitor itself had to say
//!      └── control socket ◀── attach · logs -f · stop · kill · wait · exec, as many as there are
//! ```
//!
//! There is no daemon. The monitor is a process of its own because the sandbox dies with the process that runs it: so
//! `rbuild run` may end, be interrupted or killed, and the container goes on until it ends or is stopped. If the monitor is
//! killed the kernel ends the container, its lock is free, and the container counts as dead.
//!
//! The tree lies in the store's session of the monitor: its layers are leased while it runs, and what was written is removed
//! when it ends, or when the next process opens the store.

mod client;
mod health;
mod log;
mod monitor;
mod names;
mod ports;
mod record;
mod settings;
mod wire;

pub use client::{Connection, Ending, Writer};
pub use health::{Health, HealthCheck};
pub use log::{LogLine, LogReader};
pub use monitor::{Told, monitor};
pub use ports::{Port, Protocol};
pub use record::{Container, Containers, State, Status};
pub use settings::{NetworkMode, Settings, Volume};
pub use wire::ExecRequest;
