//! How many transfers of a kind run at one registry at a time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    In,
    Out,
}

type Key = (String, Way);

/// Transfers that run, by registry. The two ways are counted apart: a copy within a registry reads while it writes.
#[derive(Debug)]
pub(crate) struct Lanes {
    limit: usize,
    taken: Mutex<BTreeMap<Key, usize>>,
    freed: Condvar,
}

/// One transfer's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Lane<'lanes> {
    lanes: &'lanes Lanes,
    key: Key,
}

impl Lanes {
    /// At least one at a time.
    pub(crate) fn new(limit: usize) -> Lanes {
        Lanes { limit: limit.max(1), taken: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits until another transfer may begin at the registry `domain`.
    pub(crate) fn enter(&self, domain: &str, way: Way) -> Lane<'_> {
        let key = (domain.to_owned(), way);
        let full =
            |taken: &mut BTreeMap<Key, usize>| taken.get(&key).is_some_and(|count| *count >= self.limit);
        let mut taken = self.freed.wait_while(self.taken(), full).unwrap_or_else(PoisonError::into_inner);
        *taken.entry(key.clone()).or_default() += 1;
        drop(taken);
        Lane { lanes: self, key }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<Key, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.lanes.taken().get_mut(&self.key) {
            *count -= 1;
        }
        self.lanes.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_limit_and_each_registry_apart() {
        let lanes = Lanes::new(2);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lane = lanes.enter("r.io", Way::In);
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
        let _both = (lanes.enter("r.io", Way::In), lanes.enter("r.io", Way::In));
        drop((lanes.enter("r.io", Way::Out), lanes.enter("other.io", Way::In)));
    }
}
