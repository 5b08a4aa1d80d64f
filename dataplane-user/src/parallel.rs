//! Work that is shared out among threads.

use std::{num::NonZero, panic::resume_unwind, thread};

/// Items that one thread does.
const FEW: usize = 1000;

/// What becomes of each item, in their order: in threads where there are many.
pub(crate) fn each<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> U + Sync) -> Vec<U> {
    shares(items, |share| share.iter().map(&work).collect::<Vec<_>>()).into_iter().flatten().collect()
}

/// What becomes of each share of the items, in their order: in threads where there are many.
pub(crate) fn shares<T: Sync, U: Send>(items: &[T], work: impl Fn(&[T]) -> U + Sync) -> Vec<U> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads).max(FEW);
    if items.len() <= share {
        return vec![work(items)];
    }
    let work = &work;
    thread::scope(|scope| {
        let shares: Vec<_> = items.chunks(share).map(|share| scope.spawn(move || work(share))).collect();
        shares.into_iter().map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Does two things, the first in a thread if they are about many items.
pub(crate) fn both<T: Send, U>(items: usize, one: impl FnOnce() -> T + Send, other: impl FnOnce() -> U) -> (T, U) {
    if items <= FEW {
        return (one(), other());
    }
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| resume_unwind(panic)), other)
    })
}

#[cfg(test)]
mod tests {
    use super::{both, each};

    #[test]
    fn both_are_done() {
        for count in [0, 1_000_000] {
            let mut done = false;
            assert_eq!(both(count, || count + 1, || done = true), (count + 1, ()));
            assert!(done);
        }
    }

    #[test]
    fn the_order_is_that_of_the_items() {
        for count in [0, 1, 999, 1001, 12_345] {
            let items: Vec<u32> = (0..count).collect();
            assert_eq!(each(&items, |item| item + 1), (1..=count).collect::<Vec<_>>());
        }
    }
}
