//! What a training needs next, made on a thread of its own while the training computes.
//!
//! The thread makes things in their order and waits where a few of them lie ready: memory is bounded, and what is made does
//! not depend on who is faster. It touches no tensor, and whatever it does in parallel stays in a pool of its own
//! ([`super::parallel`]): a computing thread that waits inside a backward pass never finds work of this thread to steal,
//! and this thread none of theirs.

use std::{
    panic::resume_unwind,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::parallel;

/// Things that are made ahead, in their order.
pub struct Ahead<T> {
    ready: Receiver<T>,
    waited: Duration,
}

impl<T> Ahead<T> {
    /// How long the calls of `next` have waited so far, all together.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let asked = Instant::now();
        let thing = self.ready.recv().ok();
        self.waited += asked.elapsed();
        thing
    }
}

/// Does `work` while a thread makes `things` for it, up to `most` of them ahead and one more in the making.
///
/// When `work` has returned no further thing is begun, and the thread has ended when this function returns. A panic of the
/// thread ends the things early and goes on here.
pub fn ahead<T: Send, R>(
    most: usize,
    things: impl Iterator<Item = T> + Send,
    work: impl FnOnce(&mut Ahead<T>) -> R,
) -> R {
    thread::scope(|scope| {
        let (sender, ready) = sync_channel(most);
        let make = move || {
            for thing in things {
                if sender.send(thing).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("prefetch".to_owned()).spawn_scoped(scope, || parallel::alone(make));
        let thread = thread.expect("the system has a thread to spare");
        let mut ahead = Ahead { ready, waited: Duration::ZERO };
        let result = work(&mut ahead);
        // A thread that waits to hand something over learns that nobody wants it.
        drop(ahead);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        result
    })
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn things_come_in_order_from_another_thread_in_a_pool_of_one() {
        let caller = thread::current().id();
        let make = |n: u32| (n, thread::current().id() == caller, rayon::current_num_threads());
        for most in [0, 1, 7] {
            let found: Vec<_> = ahead(most, (0..50).map(make), |things| things.collect());
            assert_eq!(found, (0..50).map(|n| (n, false, 1)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_is_made_than_asked_for() {
        let made = AtomicUsize::new(0);
        let count = || made.fetch_add(1, Ordering::SeqCst);
        let taken = ahead(3, std::iter::repeat_with(count), |things| things.take(5).count());
        // 3 lie ready at most, one is in the making and one more may have been begun when the last was taken.
        assert!(taken == 5 && (5..=9).contains(&made.into_inner()));
    }

    #[test]
    fn the_thread_has_ended_when_the_work_fails() {
        struct Ended<'a>(&'a AtomicUsize);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let ended = AtomicUsize::new(0);
        let guard = Ended(&ended);
        let things = (0..).inspect(move |_| {
            let _held_until_the_things_are_dropped = &guard;
        });
        let failed: Result<(), &str> = ahead(2, things, |things| {
            things.next();
            Err("no")
        });
        assert_eq!((failed, ended.load(Ordering::SeqCst)), (Err("no"), 1));
        let things = (0..).map(|n: u32| n);
        let panicked = catch_unwind(AssertUnwindSafe(|| ahead(2, things, |_| panic!("of the work"))));
        assert_eq!(panicked.expect_err("it panics").downcast_ref(), Some(&"of the work"));
    }

    #[test]
    fn a_panic_of_the_thread_is_not_swallowed() {
        let made = AtomicUsize::new(0);
        let things = (0..9).map(|n| if n < 3 { n } else { panic!("of the thread") });
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            ahead(1, things, |things| made.store(things.count(), Ordering::SeqCst));
        }));
        assert_eq!(panicked.expect_err("it panics").downcast_ref(), Some(&"of the thread"));
        assert_eq!(made.into_inner(), 3);
    }

    #[test]
    fn only_waiting_is_counted() {
        let started = Instant::now();
        let (waited, worked) = ahead(0, 0..3, |things| {
            let mut worked = Duration::ZERO;
            while things.next().is_some() {
                let start = Instant::now();
                thread::sleep(Duration::from_millis(5));
                worked += start.elapsed();
            }
            (things.waited(), worked)
        });
        assert!(waited > Duration::ZERO && waited + worked <= started.elapsed());
    }
}
