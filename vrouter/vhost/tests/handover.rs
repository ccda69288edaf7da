//! The hand-over of a queue between a session and workers, in every order of steps that the memory model allows: the
//! very text of `queue/handover.rs`, with loom's locks and atomics for the standard library's.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking; it does not use every part"
)]

#[path = "../src/queue/handover.rs"]
mod handover;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;
    pub(crate) use std::sync::{PoisonError, TryLockError};
    use std::time::Duration;

    /// Enough to insist after it has stepped back.
    pub(crate) const STEP_BACK: usize = 1;

    /// Without the limit: a wake-up that gets lost is a deadlock then, which loom reports.
    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        mut guard: MutexGuard<'a, T>,
        _limit: Duration,
        mut unfinished: impl FnMut(&T) -> bool,
    ) -> MutexGuard<'a, T> {
        while unfinished(&guard) {
            guard = condvar.wait(guard).unwrap();
        }
        guard
    }
}

use std::time::Duration;

use handover::Handover;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A pod's memory behind a queue: touching it while the session unmaps it is a data race, which loom reports.
struct Memory(UnsafeCell<u32>);

// SAFETY: the cell is only touched by `touch` and `unmap`, whose order is what the tests are about; loom fails them if
// two threads do it at once.
unsafe impl Sync for Memory {}
// SAFETY: as above.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(0)))
    }

    fn touch(&self) {
        // SAFETY: loom checks that no other thread has access.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    fn unmap(&self) {
        // SAFETY: as above.
        self.0.with_mut(|value| unsafe { *value = u32::MAX });
    }

    fn touched(&self) -> u32 {
        // SAFETY: as above.
        self.0.with(|value| unsafe { *value })
    }
}

/// What stands for a ring: its memory, and packets that a stopping session wants forwarded first.
struct Ring {
    memory: Arc<Memory>,
    left: u32,
}

fn place(left: u32) -> (Arc<Handover<Ring>>, Arc<Memory>) {
    let (place, memory) = (Arc::new(Handover::new()), Memory::new());
    let ring = Ring { memory: Arc::clone(&memory), left };
    place.put(place.lock(), ring);
    (place, memory)
}

#[test]
fn nobody_touches_memory_once_the_queue_is_taken_out() {
    loom::model(|| {
        let (place, memory) = place(0);
        let worker = thread::spawn({
            let place = Arc::clone(&place);
            move || {
                if let Some(held) = place.try_use()
                    && let Some(ring) = held.as_ref()
                {
                    ring.memory.touch();
                }
            }
        });
        let ring = place.take(place.lock());
        assert!(ring.is_some());
        // The session gives the memory back to the system here.
        memory.unmap();
        worker.join().unwrap();
        assert_eq!(memory.touched(), u32::MAX, "a worker came after the session");
        assert!(place.try_use().is_none() && place.use_shared().is_none());
    });
}

#[test]
fn two_workers_and_a_session_take_turns() {
    // Three threads with every switch between them would take minutes; most faults need two switches.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (place, memory) = place(0);
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    let held = place.use_shared();
                    if let Some(ring) = held.as_ref().and_then(|held| held.as_ref()) {
                        ring.memory.touch();
                    }
                })
            })
            .collect();
        let _ = place.take(place.lock());
        memory.unmap();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(memory.touched(), u32::MAX);
    });
}

#[test]
fn what_was_sent_before_is_forwarded_and_the_session_always_wakes() {
    loom::model(|| {
        let (place, memory) = place(2);
        let worker = thread::spawn({
            let place = Arc::clone(&place);
            move || {
                // As the worker's round does it: a burst, and the word that it was the last.
                while place.is_running() {
                    let Some(mut held) = place.try_use() else {
                        thread::yield_now();
                        continue;
                    };
                    let Some(ring) = held.as_mut() else { break };
                    ring.memory.touch();
                    ring.left = ring.left.saturating_sub(1);
                    if ring.left == 0 {
                        place.tell_drained();
                    }
                }
            }
        });
        let ring = place.drain(place.lock(), Duration::MAX, |ring| ring.left == 0);
        assert_eq!(ring.map(|ring| ring.left), Some(0));
        assert_eq!(memory.touched(), 2);
        memory.unmap();
        worker.join().unwrap();
    });
}

#[test]
fn a_queue_that_comes_back_is_the_new_one() {
    loom::model(|| {
        let (place, old) = place(0);
        let worker = thread::spawn({
            let place = Arc::clone(&place);
            move || {
                for _ in 0..2 {
                    if let Some(held) = place.try_use()
                        && let Some(ring) = held.as_ref()
                    {
                        ring.memory.touch();
                    }
                }
            }
        });
        let _ = place.take(place.lock());
        old.unmap();
        let new = Memory::new();
        place.put(place.lock(), Ring { memory: Arc::clone(&new), left: 0 });
        worker.join().unwrap();
        assert_eq!(old.touched(), u32::MAX);
        assert!(new.touched() <= 2);
    });
}
