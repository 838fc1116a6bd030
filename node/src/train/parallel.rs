//! Independent computations at once, one per core.
//!
//! burn's autodiff keeps every thread's graph behind one set of locks, holds one during a backward pass, and takes all of
//! them after it. A rayon worker that waits inside a backward pass steals other work; if that is another backward
//! pass, the thread waits for a lock that it holds itself. So computations are not rayon tasks: each runs on a thread
//! of its own with a private pool of one thread, in which there is nothing to steal.

use std::{sync::Mutex, thread};

use rayon::ThreadPoolBuilder;

/// `each(number, item)` of all items, in their order, on as many threads as the current rayon pool has.
///
/// A single item, or a pool of one thread, is done on the calling thread, with all of the pool to itself.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, each: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    map_next(items.len(), items.into_iter(), each)
}

/// [`map`] of up to `most` items, each of which is asked for when a thread is free; fewer results if the items end early.
pub(super) fn map_next<T: Send, R: Send>(
    most: usize,
    items: impl Iterator<Item = T> + Send,
    each: impl Fn(usize, T) -> R + Sync,
) -> Vec<R> {
    let workers = rayon::current_num_threads().min(most);
    if workers <= 1 {
        return items.take(most).enumerate().map(|(number, item)| each(number, item)).collect();
    }
    let mut results: Vec<Option<R>> = (0..most).map(|_| None).collect();
    let queue = Mutex::new(results.iter_mut().zip(items).enumerate());
    let worker = || {
        loop {
            let next = queue.lock().expect("no worker panics while it holds the queue").next();
            let Some((number, (result, item))) = next else { return };
            *result = Some(each(number, item));
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| alone(worker));
        }
    });
    drop(queue);
    results.into_iter().flatten().collect()
}

/// Does `work` on a thread of its own with a pool of one thread, while the caller waits.
pub(super) fn alone<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let pool = ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("the system has a thread to spare").install(work)
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_are_in_order_and_workers_do_not_split_further() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        let found =
            pool.install(|| super::map((0..20).collect(), |n, i: usize| (n, i * i, rayon::current_num_threads())));
        assert_eq!(found, (0..20).map(|i| (i, i * i, 1)).collect::<Vec<_>>());
        assert!(super::map(Vec::<u8>::new(), |_, i| i).is_empty());
    }

    #[test]
    fn items_that_end_early_or_never_are_no_trouble() {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                assert_eq!(super::map_next(9, 0..4, |n, i: usize| (n, i)), [(0, 0), (1, 1), (2, 2), (3, 3)]);
                assert_eq!(super::map_next(3, 5.., |_, i: usize| i), [5, 6, 7]);
            });
        }
    }
}
