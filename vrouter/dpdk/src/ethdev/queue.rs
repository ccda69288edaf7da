//! A device's queues, moved from and to in bursts.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use vrouter_dpdk_sys as sys;

use super::Device;
use crate::mbuf::{MbufBatch, WrongPool};
use crate::pool::Pool;

/// A receive queue. Whoever has it polls it; it may move to another thread.
#[derive(Debug)]
pub struct RxQueue {
    device: u16,
    queue: u16,
    pool: Pool,
    /// After `pool`, though either order is sound: the device holds a handle to it, too.
    _keep: Arc<Device>,
}

/// A send queue. Whoever has it fills it; it may move to another thread.
#[derive(Debug)]
pub struct TxQueue {
    device: u16,
    queue: u16,
    /// Pools that were seen here, and are therefore kept by the device. Few: a look-up per burst.
    seen: Vec<Pool>,
    keep: Arc<Device>,
}

impl RxQueue {
    pub(super) fn new(keep: Arc<Device>, device: u16, queue: u16, pool: Pool) -> Self {
        Self { device, queue, pool, _keep: keep }
    }

    /// The descriptor that becomes readable when packets arrive, if the driver has one and the device was started with
    /// [`super::EthdevConfig::interrupts`]. It is never to be read; watch it edge-triggered.
    pub fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: a started device and one of its queues.
        let fd: RawFd = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.device, self.queue) };
        // SAFETY: a descriptor of the driver's, which lives as long as the device, which `self` holds.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Asks the device to tell of the next packet, or no longer to. Says whether the driver needs to be asked: one that
    /// does not tells of every packet.
    pub fn tell(&mut self, on: bool) -> bool {
        if on {
            // SAFETY: a started device and one of its queues, which is ours alone.
            unsafe { sys::rte_eth_dev_rx_intr_enable(self.device, self.queue) == 0 }
        } else {
            // SAFETY: as above.
            unsafe { sys::rte_eth_dev_rx_intr_disable(self.device, self.queue) == 0 }
        }
    }

    /// An empty batch for packets from this queue.
    pub fn batch(&self, capacity: u16) -> MbufBatch {
        self.pool.batch(capacity)
    }

    /// Adds to `batch` what has arrived, as far as there is room. Returns how many packets.
    ///
    /// # Errors
    /// [`WrongPool`]: the batch must be of the pool that the queue receives into.
    #[inline]
    pub fn receive(&mut self, batch: &mut MbufBatch) -> Result<u16, WrongPool> {
        if !batch.pool().is(&self.pool) {
            return Err(WrongPool);
        }
        let before = batch.len();
        let (device, queue) = (self.device, self.queue);
        let burst = |spare, room| {
            // SAFETY: the queue is started, for `Ethdev::start` made this, and stays so: this holds the device. It is
            // polled by one thread at a time: `&mut self`, and there is no second `RxQueue` for it. `fill` has
            // `room` places at `spare`.
            unsafe { sys::ringway_ethdev_rx_burst(device, queue, spare, room) }
        };
        // SAFETY: what the driver returns are buffers of the queue's pool, which is the batch's, given away.
        unsafe { batch.fill(burst) };
        Ok(batch.len() - before)
    }
}

impl TxQueue {
    pub(super) fn new(keep: Arc<Device>, device: u16, queue: u16) -> Self {
        Self { device, queue, seen: Vec::new(), keep }
    }

    /// Sends packets from the front of `batch`, as many as the queue takes, and returns how many. The others stay
    /// in the batch, in order: try them again, or clear it.
    #[inline]
    pub fn send(&mut self, batch: &mut MbufBatch) -> u16 {
        if !self.seen.iter().any(|pool| pool.is(batch.pool())) {
            self.admit(batch.pool());
        }
        let (device, queue) = (self.device, self.queue);
        let burst = |mbufs, count| {
            // SAFETY: as for `RxQueue::receive`, the queue is started and ours alone; `drain` has `count` live
            // buffers at `mbufs`.
            unsafe { sys::ringway_ethdev_tx_burst(device, queue, mbufs, count) }
        };
        // SAFETY: the driver owns the buffers it counts, and returns them to their pool, which `admit` had the
        // device keep until it is closed.
        unsafe { batch.drain(burst) }
    }

    #[cold]
    fn admit(&mut self, pool: &Pool) {
        self.keep.keep(pool);
        self.seen.push(pool.clone());
    }
}
