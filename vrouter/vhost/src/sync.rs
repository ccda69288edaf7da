//! What [`crate::queue`]'s hand-over needs of the standard library, under names that its model test replaces.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
pub(crate) use std::thread::yield_now;
use std::time::Duration;

/// How often a worker yields to a session before it insists; a bound, not a tuning value.
pub(crate) const STEP_BACK: usize = 1000;

/// Waits while `unfinished`, but no longer than `limit`.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
    mut unfinished: impl FnMut(&T) -> bool,
) -> MutexGuard<'a, T> {
    let waited = condvar.wait_timeout_while(guard, limit, |value| unfinished(value));
    waited.unwrap_or_else(PoisonError::into_inner).0
}
