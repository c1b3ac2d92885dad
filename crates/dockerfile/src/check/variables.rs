//! The variables of a stage as far as they are known.

use std::collections::BTreeMap;

use crate::Lookup;

/// Variables with their values, in the order in which they were last set.
#[derive(Clone, Default)]
pub(super) struct Variables {
    values: BTreeMap<String, (usize, String)>,
    sets: usize,
}

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.sets += 1;
        self.values.insert(name.to_owned(), (self.sets, value.to_owned()));
    }
}

impl Lookup for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<(usize, &str)> =
            self.values.iter().map(|(name, (at, _))| (*at, name.as_str())).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// Variables of which a base image that is not known may have more: those have some value.
pub(super) struct Open<'a>(pub(super) &'a Variables);

impl Lookup for Open<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).or(Some("1"))
    }
}
