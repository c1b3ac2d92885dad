//! Checking every invariant of a store: for `cache verify` and for the tests.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::blob::hash_file;
use crate::error::Result;
use crate::inventory::{Entry, Inventory, Tree, record_needs};
use crate::lock::{self, Hold};
use crate::session::names;
use crate::{CacheRecord, Resource, Store};

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Read every blob and check its digest.
    pub read_blobs: bool,
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`: {}", self.path.display(), self.what)
    }
}

impl Store {
    /// Checks that every name holds what it says and that nothing refers to what is not there. Blobs are read without
    /// keeping other processes waiting; the rest is looked at under the gate.
    pub fn verify(&self, options: &VerifyOptions) -> Result<Vec<Violation>> {
        let layout = &self.inner.layout;
        let mut report = Report::default();
        let inventory = {
            let _gate = self.gate(Hold::Exclusive)?;
            let inventory = Inventory::read(layout)?;
            report.temporaries(self)?;
            inventory
        };
        report.records(&inventory);
        report.trees(&inventory);
        inventory.strange.iter().for_each(|path| report.add(path, "a name that no part of the store gives"));
        if options.read_blobs {
            report.blobs(&inventory)?;
        }
        Ok(report.violations)
    }
}

#[derive(Default)]
struct Report {
    violations: Vec<Violation>,
}

impl Report {
    fn add(&mut self, path: &Path, what: impl Into<String>) {
        self.violations.push(Violation { path: path.to_owned(), what: what.into() });
    }

    fn needs(&mut self, path: &Path, inventory: &Inventory, needs: &[Resource]) {
        for need in needs.iter().filter(|need| !inventory.has(need)) {
            self.add(path, format!("refers to {need}, which is not there"));
        }
    }

    fn parsed<'a, T>(&mut self, entry: &'a Entry<T>) -> Option<&'a T> {
        match &entry.record {
            Ok(record) => Some(record),
            Err(error) => {
                self.add(&entry.path, error.to_string());
                None
            }
        }
    }

    fn records(&mut self, all: &Inventory) {
        for entry in &all.cache {
            if let Some(record) = self.parsed(entry) {
                self.key(&entry.path, record);
                self.needs(&entry.path, all, &record_needs(record));
            }
        }
        for entry in &all.memos {
            if let Some(memo) = self.parsed(entry) {
                self.needs(&entry.path, all, &memo.links.keeps);
            }
        }
        for entry in &all.tags {
            if let Some(image) = self.parsed(entry) {
                self.needs(&entry.path, all, &image.keeps);
            }
        }
    }

    fn key(&mut self, path: &Path, record: &CacheRecord) {
        let named = path.file_stem().is_some_and(|stem| *stem == *record.key.to_string());
        if !named || record.parts.key() != record.key {
            self.add(path, "its parts do not give the key in its name");
        }
    }

    fn trees(&mut self, all: &Inventory) {
        for (id, tree) in &all.snapshots {
            self.tree(tree);
            self.needs(&tree.dir, all, &all.needs(&Resource::Snapshot(*id)));
        }
        all.layers.values().flatten().for_each(|tree| self.tree(tree));
    }

    fn tree<I>(&mut self, tree: &Tree<I>) {
        if tree.info.is_none() {
            self.add(&tree.dir, "its `info.json` is missing or does not parse");
        }
        if !tree.dir.join("fs").is_dir() {
            self.add(&tree.dir, "its `fs` is missing");
        }
        if tree.dir.join("work").exists() {
            self.add(&tree.dir, "it was published with its `work`");
        }
    }

    fn blobs(&mut self, all: &Inventory) -> Result<()> {
        for (digest, (path, _)) in &all.blobs {
            let actual = match hash_file(path, digest.digester()) {
                // Collected meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other?.finish(),
            };
            if actual != *digest {
                self.add(path, format!("its bytes have the digest {actual}"));
            }
        }
        Ok(())
    }

    /// Every temporary folder belongs to a living session.
    fn temporaries(&mut self, store: &Store) -> Result<()> {
        let layout = &store.inner.layout;
        for name in names(&layout.dir("tmp"))? {
            let tmp = layout.dir("tmp").join(&name);
            if !lock::is_held(&layout.dir("leases").join(&name))? && tmp.exists() {
                self.add(&tmp, "it was left by a dead session");
            }
        }
        Ok(())
    }
}
