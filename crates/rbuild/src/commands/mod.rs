//! The commands besides `build`: images here and at registries.

pub(crate) mod archive;
pub(crate) mod args;
pub(crate) mod cache;
pub(crate) mod containers;
pub(crate) mod copy;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod prune;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod run_args;
mod run_settings;
pub(crate) mod shell;
mod show;
mod template;
pub(crate) mod transfer;

use std::io::Write;
use std::sync::Arc;

use rbuild_engine::stored::Transfers;
use rbuild_engine::{Failure, FailureKind};
use rbuild_executor::Place;
use rbuild_image::{Platform, Reference};
use rbuild_registry::Client;
use rbuild_store::Store;

use crate::args::{GlobalArgs, Progress};
use crate::failure::CliError;
use crate::surroundings;
use crate::ui::Ui;

/// Store, client and progress for one command; dropped, the progress ends.
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) client: Arc<Client>,
    pub(crate) ui: Ui,
}

impl Work {
    pub(crate) fn begin(global: &GlobalArgs, place: &'static Place, quiet: bool) -> Result<Work, CliError> {
        let store = surroundings::open_store(global.root.as_deref(), place)?;
        let client = Arc::new(surroundings::client(global, place)?);
        let progress = if quiet { Progress::Quiet } else { Progress::Auto };
        Ok(Work { store, client, ui: crate::build::progress(progress, false) })
    }

    pub(crate) fn transfers(&self) -> Transfers<'_> {
        Transfers { store: &self.store, client: &self.client, events: &self.ui }
    }
}

/// A command's result. A reader that went away has what it wanted.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// An image name that a user gave for something new.
pub(crate) fn reference(text: &str) -> Result<Reference, CliError> {
    Reference::parse(text).map_err(|error| {
        Failure::new(FailureKind::Usage, format!("invalid reference format: `{text}`"))
            .caused_by(error)
            .into()
    })
}

/// `--platform`, else this machine's.
pub(crate) fn platform(text: Option<&str>) -> Result<Platform, CliError> {
    let Some(text) = text else { return Ok(Platform::host()) };
    Platform::parse(text).map_err(|error| {
        let message = format!("could not understand the platform `{text}`");
        Failure::new(FailureKind::Usage, message).caused_by(error).into()
    })
}
