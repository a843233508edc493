//! Work that is shared between threads.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` for each item, with up to `threads` threads of which each takes the next one that nobody has taken, and
/// returns what came of them in the order of the items. Each thread has what `begin` gives it at hand.
pub(crate) fn share_out<T: Sync, S, R: Send>(
    items: &[T],
    threads: usize,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut own = begin();
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match items.get(index) {
                Some(item) => done.push((index, work(&mut own, item))),
                None => return done,
            }
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(take_turns)).collect();
        let mut done = take_turns();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_items() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [0, 1, 4, 2000] {
            let work = |seen: &mut usize, item: &usize| {
                *seen += 1;
                item * 2
            };
            let results = share_out(&items, threads, || 0, work);
            assert!(results.iter().enumerate().all(|(index, result)| *result == index * 2), "{threads} threads");
            assert_eq!(results.len(), items.len());
        }
        assert!(share_out(&[] as &[u8], 4, || (), |(), byte| *byte).is_empty());
    }
}
