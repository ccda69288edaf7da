//! How a session gives something to the workers and gets it back, and how two workers share it.
//!
//! Written against [`crate::sync`], so that `tests/handover.rs` can run the same text under a model checker.

use crate::sync::{
    AtomicBool, AtomicU32, Condvar, Mutex, MutexGuard, Ordering, PoisonError, STEP_BACK,
    TryLockError, wait, yield_now,
};
use std::time::Duration;

/// A place for a value that workers use for a burst at a time and sessions put in and take out.
///
/// Whoever holds the lock owns the value; there is no other state to agree on. When [`Handover::take`] or
/// [`Handover::drain`] return, no worker uses the value any more.
pub(crate) struct Handover<T> {
    value: Mutex<Option<T>>,
    /// A hint for workers, so that places without a value cost one load.
    running: AtomicBool,
    /// Sessions that wait for the lock. A worker under load takes it again at once after each burst, and a mutex
    /// gives it to whoever comes first: without stepping back it would keep a session out for seconds.
    pub(super) waiting: AtomicU32,
    drained: Condvar,
}

/// The lock of a [`Handover`].
pub(crate) type Held<'a, T> = MutexGuard<'a, Option<T>>;

impl<T> Handover<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: Mutex::new(None),
            running: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            drained: Condvar::new(),
        }
    }

    /// For sessions: workers let it pass.
    pub(crate) fn lock(&self) -> Held<'_, T> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // A panic while the lock was held leaves ring positions that are still bounded and checked.
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        value
    }

    /// Puts a value in and lets workers see it.
    pub(crate) fn put(&self, mut held: Held<'_, T>, value: T) {
        *held = Some(value);
        self.running.store(true, Ordering::Release);
    }

    /// Waits until `done` says so of the value, which a worker tells by [`Self::tell_drained`], but no longer than
    /// `limit`; then takes it out.
    pub(crate) fn drain(
        &self,
        mut held: Held<'_, T>,
        limit: Duration,
        done: impl Fn(&T) -> bool,
    ) -> Option<T> {
        held = wait(&self.drained, held, limit, |value| !value.as_ref().is_none_or(&done));
        self.take(held)
    }

    /// Takes the value out.
    pub(crate) fn take(&self, mut held: Held<'_, T>) -> Option<T> {
        self.hide();
        held.take()
    }

    /// Workers pass the value by from now on.
    pub(crate) fn hide(&self) {
        self.running.store(false, Ordering::Release);
    }

    /// By a worker that holds the lock and lets it go next: the session that drains gets it before any worker does.
    pub(crate) fn tell_drained(&self) {
        self.hide();
        self.drained.notify_all();
    }

    /// Whether there is a value to use.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// For the worker whose value it is. `None`: there is none, or somebody else has it just now.
    #[inline]
    pub(crate) fn try_use(&self) -> Option<Held<'_, T>> {
        if !self.is_running() || self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        match self.value.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For workers that share it. `None`: there is none.
    #[inline]
    pub(crate) fn use_shared(&self) -> Option<Held<'_, T>> {
        if !self.is_running() {
            return None;
        }
        // A session is about to take the lock for a few instructions. It may need this very CPU for that.
        for _ in 0..STEP_BACK {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            yield_now();
        }
        // Held by another worker for one burst, or by a session: waiting is right.
        Some(self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
