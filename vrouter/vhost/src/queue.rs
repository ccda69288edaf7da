//! One virtqueue of a port, shared by the session that starts and stops it and the worker that runs it.
//!
//! A queue is a mutex around an optional ring. The worker takes the lock once per burst; the session takes it to
//! put a ring in or take it out, and once it has it, no worker touches the pod's memory. That is the whole
//! protocol between the two; there is no other state to agree on.

mod handover;
mod resting;
mod rx;
mod tx;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::memory::GuestMemory;
use crate::offload::Offloads;
use crate::ring::{Direction, Layout, Ring, RingAddresses, RingError};
use handover::{Handover, Held};
use resting::Resting;
pub use rx::{Delivered, Headed, PushError, RxLease, RxScratch};
use tx::BURST_ENTRIES;
pub use tx::{BURST, Body, FrameFault, HEAD_BYTES, Head, PlainBurst, PlainFrame, TxBurst, TxLease};

/// How long stopping a queue waits for the worker to take what the pod sent before: at most one ring of frames. The
/// limit is for a worker that does not get a CPU; chosen, not measured.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// How a queue may be left alone so that frames leave the cache of the CPU that wrote them; see [`TxLease::rests`]. Times in
/// nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// The time, of any clock.
    pub now: u64,
    /// Longest that a frame waits for it; 0: never.
    pub limit: u64,
    /// The worker has much to do, so that queues may begin with it.
    pub may_begin: bool,
}

/// What the frontend accepted, as far as rings care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingFormat {
    /// Bytes of `struct virtio_net_hdr` in front of each frame: 10 or 12 (virtio 1.2, 5.1.6).
    pub header: u8,
    /// A received frame may span several buffers (VIRTIO_NET_F_MRG_RXBUF).
    pub mergeable: bool,
    /// What frames may leave to be done.
    pub offloads: Offloads,
}

struct Active {
    ring: Ring,
    format: RingFormat,
    call: Option<OwnedFd>,
    /// The ring is no longer served although it is set up.
    broken: bool,
    resting: Resting,
    /// Stop was asked for: how many more frames are forwarded at most. A pod can't keep itself running by sending on.
    drain: Option<usize>,
}

impl Active {
    fn drained(&self) -> bool {
        self.broken || self.drain.is_none_or(|left| left == 0) || !self.ring.is_waiting()
    }

    /// Publishes what was given back and interrupts the guest if it wants that.
    #[inline]
    fn flush(&mut self) {
        if self.ring.publish()
            && let Some(call) = &self.call
            && self.ring.wants_interrupt()
        {
            // The descriptor is an eventfd of ours, non-blocking (see `guard::relay`): a full counter means
            // that the guest has an interrupt pending anyway.
            let _ = nix::unistd::write(call.as_fd(), &1u64.to_ne_bytes());
        }
    }
}

/// A virtqueue: empty until the pod has set it up and enabled it. On cache lines of its own, as its neighbours may be other
/// workers'.
#[repr(align(64))]
pub struct Queue {
    active: Handover<Active>,
    /// Why the ring stopped by itself. Not under `active`: who asks must not wait for a worker.
    fault: Mutex<Option<RingError>>,
}

/// Everything needed to take a queue into use.
pub(crate) struct Activation {
    pub memory: Arc<GuestMemory>,
    pub addresses: RingAddresses,
    pub layout: Layout,
    pub direction: Direction,
    pub format: RingFormat,
    pub call: Option<OwnedFd>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { active: Handover::new(), fault: Mutex::new(None) }
    }

    /// Notes that the ring can't be served any more; workers pass it by from now on.
    #[cold]
    fn give_up(&self, active: &mut Active, error: RingError) {
        active.broken = true;
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.active.hide();
    }

    /// Whether the queue carries traffic.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.active.is_running()
    }

    /// Why the queue stopped by itself, if it did.
    pub(crate) fn broken(&self) -> Option<RingError> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self, with: Activation) -> Result<(), RingError> {
        let ring = Ring::new(with.memory, with.addresses, with.layout, with.direction)?;
        // Ring memory starts zeroed, which asks for nothing: say that we poll, or each burst costs the pod a kick.
        ring.set_notify(false);
        let held = self.active.lock();
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (format, call) = (with.format, with.call);
        self.active.put(
            held,
            Active { ring, format, call, broken: false, resting: Resting::default(), drain: None },
        );
        Ok(())
    }

    /// Replaces the call descriptor of a running queue.
    pub(crate) fn set_call(&self, call: Option<OwnedFd>) {
        if let Some(active) = self.active.lock().as_mut() {
            active.call = call;
        }
    }

    /// Takes the queue out of use; when it returns, no worker touches its memory any more.
    ///
    /// With `wake`, what the pod had sent before is forwarded first: the worker is woken and given
    /// [`DRAIN_LIMIT`]. Returns the position to go on from.
    pub(crate) fn stop(&self, wake: Option<&dyn Fn()>) -> Option<u16> {
        let mut held = self.active.lock();
        let mut limit = Duration::ZERO;
        if let (Some(wake), Some(active)) = (wake, held.as_mut()) {
            active.drain = Some(usize::from(active.ring.size()));
            if !active.drained() {
                wake();
                limit = DRAIN_LIMIT;
            }
        }
        let active = self.active.drain(held, limit, Active::drained);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        active.map(|a| a.ring.position())
    }

    /// Starts receiving from the pod: a lease for one burst. `None` when the queue is off or being changed.
    #[inline]
    pub fn lease_tx<'q>(&'q self, burst: &'q mut TxBurst) -> Option<TxLease<'q>> {
        let active = self.active.try_use()?;
        let usable = active.as_ref().is_some_and(|a| !a.broken);
        usable.then(|| TxLease::new(active, burst, self))
    }

    /// As [`Self::lease_rx`], but `None` also when somebody else has the queue just now.
    #[inline]
    pub fn try_lease_rx<'q>(&'q self, scratch: &'q mut RxScratch) -> Option<RxLease<'q>> {
        let active = self.active.try_use()?;
        let usable = active.as_ref().is_some_and(|a| !a.broken);
        usable.then(|| RxLease::new(active, scratch, self))
    }

    /// Starts sending to the pod: a lease for one burst. `None` when the queue is off.
    #[inline]
    pub fn lease_rx<'q>(&'q self, scratch: &'q mut RxScratch) -> Option<RxLease<'q>> {
        let active = self.active.use_shared()?;
        let usable = active.as_ref().is_some_and(|a| !a.broken);
        usable.then(|| RxLease::new(active, scratch, self))
    }
}

#[cfg(test)]
mod tests;
