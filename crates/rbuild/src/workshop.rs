//! Store, registry client and place, opened when something first needs them: a mistyped option makes no store.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;

use rbuild_engine::Fetcher;
use rbuild_executor::Place;
use rbuild_registry::Client;
use rbuild_store::Store;

use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

/// What a command works with.
pub(crate) struct Workshop {
    pub(crate) place: &'static Place,
    global: GlobalArgs,
    store: OnceCell<Store>,
    client: OnceCell<Client>,
    environment: BTreeMap<OsString, OsString>,
}

impl Workshop {
    /// Nothing is opened yet.
    pub(crate) fn new(global: GlobalArgs, place: &'static Place) -> Self {
        let (store, client) = (OnceCell::new(), OnceCell::new());
        Workshop { place, global, store, client, environment: surroundings::environment() }
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<&Store, CliError> {
        if self.store.get().is_none() {
            // Nobody else can have set it: there is one thread here.
            let _ = self.store.set(surroundings::open_store(self.global.root.as_deref(), self.place)?);
        }
        self.store.get().ok_or_else(|| CliError::usage("there is no store"))
    }

    /// The registry client.
    pub(crate) fn client(&self) -> Result<&Client, CliError> {
        if self.client.get().is_none() {
            // As above.
            let _ = self.client.set(surroundings::client(&self.global, self.place)?);
        }
        self.client.get().ok_or_else(|| CliError::usage("there is no registry client"))
    }

    /// Brings contexts here.
    pub(crate) fn fetcher(&self) -> Result<Fetcher<'_>, CliError> {
        let (store, client) = (self.store()?, self.client()?);
        Ok(Fetcher { store, client, place: self.place, git_environment: &self.environment })
    }
}
