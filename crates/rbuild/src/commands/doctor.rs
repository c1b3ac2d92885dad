//! `rbuild doctor`: what this machine allows, which way rbuild takes here, and the one change that would give more.

use std::path::Path;

use rbuild_executor::{Overlay, Place, PlaceKind};

use crate::args::GlobalArgs;
use crate::failure::CliError;
use crate::surroundings;

/// One line of the table.
struct Finding {
    what: &'static str,
    found: String,
    /// What to do about it, where something is missing.
    better: Option<String>,
}

/// Prints the table; exit code 3 when RUN cannot work here.
pub(crate) fn run(global: &GlobalArgs, place: &Place) -> Result<(), CliError> {
    let root = surroundings::store_root(global.root.as_deref());
    let store = Finding { what: "store", found: root.display().to_string(), better: None };
    for finding in [kernel(), isolation(place), snapshots(&root, place), store, programs(place)] {
        super::print(&format!("{:<11}{}\n", finding.what, finding.found));
        if let Some(better) = finding.better {
            super::print(&format!("{:<11}  better: {better}\n", ""));
        }
    }
    match place.kind() {
        PlaceKind::None => Err(CliError::Quiet(3)),
        _ => Ok(()),
    }
}

fn kernel() -> Finding {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = version.trim();
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let numbers = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let better = (numbers < (5, 11)).then(|| "Linux 5.11 or later: overlays in user namespaces".to_owned());
    Finding { what: "kernel", found: format!("Linux {version}"), better }
}

fn isolation(place: &Place) -> Finding {
    let found = match place.kind() {
        PlaceKind::Root => "root: RUN in namespaces, all user ids".to_owned(),
        PlaceKind::Mapped => {
            format!("user namespace with many user ids ({}): RUN in namespaces", place.id_map())
        }
        PlaceKind::SingleId => {
            "user namespace with one user id: RUN is supervised, so that owners are right in the image; calls about owners and \
             new files take some 10 µs more"
                .to_owned()
        }
        PlaceKind::InPlace => {
            "in place: RUN works in this container's own root file system, one at a time and kept apart from nothing; each fills \
             the root and wipes it"
                .to_owned()
        }
        PlaceKind::None => "no user namespace: COPY, ADD and metadata work, RUN does not".to_owned(),
    };
    let better = place.shortfall().map(|error| match error.remedy() {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    });
    Finding { what: "isolation", found, better }
}

/// Tries an overlay in the nearest folder above the store that is there.
fn snapshots(root: &Path, place: &Place) -> Finding {
    let what = "snapshots";
    let Some(Err(error)) = root.ancestors().find(|path| path.is_dir()).map(Overlay::probe) else {
        return Finding { what, found: "overlays: a step costs what it changes".to_owned(), better: None };
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let found = format!("copies: each step copies the files below it ({error}{cause})");
    // Without mounts another file system does not help.
    let helps = !matches!(place.kind(), PlaceKind::None | PlaceKind::InPlace);
    let better = "a store on a volume or another file system that overlays can use (ext4, xfs, btrfs, tmpfs), by --root";
    Finding { what, found, better: helps.then(|| better.to_owned()) }
}

fn programs(place: &Place) -> Finding {
    let path = surroundings::variable("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let wanted: &[&str] = match place.kind() {
        PlaceKind::Root | PlaceKind::InPlace => &["git"],
        _ => &["git", "newuidmap", "newgidmap"],
    };
    let (found, missing): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|name| there(name));
    let better = (!missing.is_empty()).then(|| format!("install {}", missing.join(", ")));
    Finding { what: "programs", found: found.join(", "), better }
}
