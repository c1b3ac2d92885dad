//! Work on several things at a time, on threads of their own.
//!
//! Not on rayon's: a thread of its pool that waits for inner work (compressing, digesting) takes up another of the outer
//! things meanwhile, on top of its own stack, and with some hundred layers there is no stack left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// So many at a time.
const WORKERS: usize = 4;

/// The results in the order of the things; the first failure ends it.
pub(crate) fn side_by_side<T: Sync, R: Send, E: Send>(
    things: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::with_capacity(things.len()), None));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(things.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = things.get(at) else { return };
                    let result = work(thing);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(result) => done.0.push((at, result)),
                        Err(error) => {
                            done.1.get_or_insert(error);
                            next.store(things.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (mut results, failure) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = failure {
        return Err(error);
    }
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_first_failure_counts() {
        let numbers: Vec<usize> = (0..100).collect();
        assert_eq!(side_by_side(&numbers, |number| Ok::<_, ()>(number * 2)).unwrap()[99], 198);
        assert_eq!(
            side_by_side(&numbers, |number| if *number == 7 { Err("seven") } else { Ok(()) }),
            Err("seven")
        );
        assert_eq!(side_by_side(&[] as &[u8], |_| Err::<(), _>("never")), Ok(Vec::new()));
    }
}
