//! Asking for entries before they are wanted.
//!
//! A step's key is known only when the step before it is, so a cached build would ask a registry one thing after the other,
//! and wait for the network each time. An entry therefore names what the build that made it asked for next in its stage
//! ([`Entry::next`](super::entry::Entry)); that is fetched meanwhile. It is a guess: an answer counts for whoever asks for just
//! its tag, and is read then as if it had come just then. That something was not there is not kept: it may be there by then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// So many requests are under way at once.
pub(super) const READERS: usize = 4;
/// So many tags are asked for ahead of the last that was wanted.
pub(super) const MOST: usize = 16;

#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    known: BTreeMap<String, Slot>,
    /// All that were ever guessed: none is asked for twice.
    guessed: BTreeSet<String>,
    closed: bool,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    UnderWay,
    There(Vec<u8>),
}

impl ReadAhead {
    /// What will probably be wanted soon. Where much that was fetched for a guess was never wanted, guesses are not worth it.
    pub(super) fn guess(&self, tags: &[String]) {
        let mut state = self.lock();
        for tag in tags {
            if state.known.len() < 2 * MOST && state.guessed.insert(tag.clone()) {
                state.known.insert(tag.clone(), Slot::Waiting);
                state.waiting.push_back(tag.clone());
                self.changed.notify_all();
            }
        }
    }

    /// The document with this tag if it was guessed and is there; waits if it is on its way.
    pub(super) fn take(&self, tag: &str) -> Option<Vec<u8>> {
        let is_under_way = |state: &mut State| matches!(state.known.get(tag), Some(Slot::UnderWay));
        let mut state =
            self.changed.wait_while(self.lock(), is_under_way).unwrap_or_else(PoisonError::into_inner);
        state.guessed.insert(tag.to_owned());
        match state.known.remove(tag)? {
            Slot::There(bytes) => Some(bytes),
            // Who wants it now has no reason to stand in line.
            Slot::Waiting | Slot::UnderWay => None,
        }
    }

    /// Fetches what is guessed, until [`ReadAhead::close`].
    pub(super) fn read(&self, get: impl Fn(&str) -> Option<Vec<u8>>) {
        while let Some(tag) = self.next() {
            let found = get(&tag);
            let mut state = self.lock();
            match found {
                Some(bytes) => state.known.insert(tag, Slot::There(bytes)),
                None => state.known.remove(&tag),
            };
            drop(state);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<String> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        while let Some(tag) = state.waiting.pop_front() {
            if let Some(slot @ Slot::Waiting) = state.known.get_mut(&tag) {
                *slot = Slot::UnderWay;
                return Some(tag);
            }
        }
        if state.closed {
            None
        } else {
            drop(state);
            self.next()
        }
    }

    /// No more is fetched.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn tags(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| number.to_string()).collect()
    }

    #[test]
    fn what_was_guessed_is_there_and_asked_for_once() {
        let (ahead, asked) = (ReadAhead::default(), AtomicUsize::new(0));
        let get = |tag: &str| {
            asked.fetch_add(1, Ordering::Relaxed);
            (tag != "3").then(|| tag.as_bytes().to_vec())
        };
        thread::scope(|scope| {
            (0..READERS).for_each(|_| drop(scope.spawn(|| ahead.read(get))));
            for first in 0..8 {
                ahead.guess(&tags(first..first + 4));
                // Either it came before it was wanted, or whoever wants it asks.
                let taken = ahead.take(&first.to_string());
                assert!(taken.is_none_or(|bytes| bytes == first.to_string().into_bytes() && first != 3));
            }
            ahead.close();
        });
        assert!(asked.load(Ordering::Relaxed) <= 11, "{asked:?}");
    }

    #[test]
    fn who_wants_what_is_under_way_waits_for_it() {
        let ahead = ReadAhead::default();
        let (begun, begins) = std::sync::mpsc::channel();
        let (go, goes) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let reader = &ahead;
            scope.spawn(move || {
                reader.read(|_| {
                    begun.send(()).unwrap();
                    goes.recv().unwrap();
                    Some(b"found".to_vec())
                });
            });
            ahead.guess(&tags(0..1));
            begins.recv().unwrap();
            let taker = scope.spawn(|| ahead.take("0"));
            go.send(()).unwrap();
            assert_eq!(taker.join().unwrap().unwrap(), b"found");
            assert_eq!(ahead.take("0"), None, "it is handed out once");
            ahead.close();
        });
    }

    #[test]
    fn guesses_that_nobody_wants_come_to_an_end() {
        let ahead = ReadAhead::default();
        ahead.guess(&tags(0..1000));
        assert_eq!(ahead.lock().waiting.len(), 2 * MOST);
        assert_eq!(ahead.take("0"), None);
        ahead.guess(&tags(0..1));
        assert!(!ahead.lock().known.contains_key("0"), "what was wanted is no guess any more");
        ahead.close();
        ahead.read(|_| panic!("it is closed"));
    }
}
