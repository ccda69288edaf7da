//! Threads that DPDK knows: only they have a cache in front of each packet pool.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use nix::errno::Errno;
use vrouter_dpdk_sys as sys;

use crate::eal::{Eal, Running, last_errno};

/// DPDK's number for a thread it knows. 0 is the thread that started the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(u32);

impl LcoreId {
    /// The calling thread's, if DPDK knows it.
    pub fn current() -> Option<Self> {
        // SAFETY: reads a thread-local integer.
        let id = unsafe { sys::ringway_lcore_id() };
        (id != sys::RINGWAY_LCORE_ID_ANY).then_some(Self(id))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a thread was not registered.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The thread is registered already, or started the environment.
    #[error("this thread is DPDK's lcore {lcore} already")]
    AlreadyRegistered {
        /// Its number.
        lcore: LcoreId,
    },
    /// DPDK refused; `ENOMEM`: all its lcore numbers are taken.
    #[error("DPDK refused to register a worker thread")]
    Refused(#[source] Errno),
}

/// The calling thread's registration with DPDK, ended when dropped.
///
/// It cannot leave its thread:
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>(_: T) {}
/// fn hand_over(worker: vrouter_dpdk::WorkerThread) {
///     elsewhere(worker);
/// }
/// ```
#[derive(Debug)]
pub struct WorkerThread {
    lcore: LcoreId,
    _eal: Arc<Running>,
    /// `rte_thread_unregister` acts on the calling thread, so this must be dropped where it was made.
    _this_thread: PhantomData<*mut ()>,
}

impl Eal {
    /// Registers the calling thread. Pin it first, see [`crate::pin_current_thread`].
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn register_worker(&self) -> Result<WorkerThread, WorkerError> {
        // DPDK would hand out a second number and lose the first.
        if let Some(lcore) = LcoreId::current() {
            return Err(WorkerError::AlreadyRegistered { lcore });
        }
        // SAFETY: `self` proves that the environment is up, and the thread has no number yet.
        if unsafe { sys::rte_thread_register() } != 0 {
            return Err(WorkerError::Refused(last_errno()));
        }
        let lcore = LcoreId::current().ok_or(WorkerError::Refused(Errno::ENOMEM))?;
        Ok(WorkerThread { lcore, _eal: Arc::clone(self.running()), _this_thread: PhantomData })
    }
}

impl WorkerThread {
    /// DPDK's number for this thread.
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        // SAFETY: not being Send, this is dropped on the thread it registered; `_eal` goes after this.
        unsafe { sys::rte_thread_unregister() };
    }
}
