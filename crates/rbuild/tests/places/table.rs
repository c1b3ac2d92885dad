//! Places by builds.

use std::collections::BTreeMap;
use std::fmt;

use crate::fixture::Case;
use crate::places::{PLACES, Place};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../executor/README.md");

/// How a build came out in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// The image is root's.
    Same,
    /// RUN was refused with a sentence, as promised.
    Refused,
    /// Otherwise, for a reason that is written down.
    Exception,
    Wrong,
}

#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<String, BTreeMap<&'static str, Cell>>);

impl Table {
    pub(crate) fn new(cases: &[Case]) -> Table {
        Table(cases.iter().map(|case| (case.name.clone(), BTreeMap::new())).collect())
    }

    pub(crate) fn set(&mut self, case: &str, place: &'static Place, cell: Cell) {
        self.0.entry(case.to_owned()).or_default().insert(place.name, cell);
    }

    /// Nothing where the README has this table, or where only a part of it was made.
    pub(crate) fn differs_from_readme(&self) -> Option<&'static str> {
        let whole =
            self.0.values().all(|row| row.len() == PLACES.len()) && self.0.contains_key("apt-install");
        let readme = std::fs::read_to_string(README).expect("the README of the executor");
        (whole && !readme.contains(&self.to_string()))
            .then_some("the table of places is another one: paste what is printed")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| build |")?;
        PLACES.iter().try_for_each(|place| write!(f, " {} |", place.name))?;
        writeln!(f, "\n| --- |{}", " :-: |".repeat(PLACES.len()))?;
        for (case, row) in &self.0 {
            write!(f, "| {case} |")?;
            for place in PLACES {
                let cell = match row.get(place.name) {
                    Some(Cell::Same) => "=",
                    Some(Cell::Refused) => "3",
                    Some(Cell::Exception) => "≠",
                    Some(Cell::Wrong) => "WRONG",
                    None => "",
                };
                write!(f, " {cell} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
