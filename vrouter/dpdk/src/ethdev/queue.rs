//! A device's queues, moved from and to in bursts.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vrouter_dpdk_sys as sys;

use super::offload::Offloads;
use super::xdp::{self, Sockets};
use super::{Device, EthdevConfig, EthdevError};
use crate::mbuf::{MbufBatch, WrongPool};
use crate::pool::Pool;

/// A receive queue. Whoever has it polls it; it may move to another thread.
#[derive(Debug)]
pub struct RxQueue {
    device: u16,
    queue: u16,
    /// Of the driver's, negative: none. Asked for once: DPDK logs an error where there is none.
    interrupt: RawFd,
    /// That descriptor is the packets' own, and readable while there are some.
    is_source: bool,
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
    offloads: Offloads,
    keep: Arc<Device>,
}

/// Drivers whose descriptors of receive queues are those that packets are read from.
const SOURCES: [&str; 1] = ["net_tap"];

impl RxQueue {
    pub(super) fn new(
        keep: Arc<Device>,
        device: u16,
        queue: u16,
        pool: Pool,
        interrupts: bool,
        driver: &str,
    ) -> Self {
        let mut interrupt = -1;
        if interrupts {
            // SAFETY: a started device and one of its queues.
            interrupt = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(device, queue) };
        }
        let is_source = SOURCES.contains(&driver);
        Self { device, queue, interrupt, is_source, pool, _keep: keep }
    }

    /// The descriptor that becomes readable when packets arrive, if the driver has one and the device was started with
    /// [`EthdevConfig::interrupts`]. It is never to be read; watch it edge-triggered.
    pub fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: a descriptor of the driver's, which lives as long as the device is started, which `self` sees to.
        (self.interrupt >= 0).then(|| unsafe { BorrowedFd::borrow_raw(self.interrupt) })
    }

    /// Asks the device to tell of the next packet, or no longer to. Says whether the driver needs to be asked: one that
    /// does not tells of every packet.
    pub fn tell(&mut self, on: bool) -> bool {
        if self.interrupt < 0 {
            return false;
        }
        if on {
            // SAFETY: a started device and one of its queues, which is ours alone.
            unsafe { sys::rte_eth_dev_rx_intr_enable(self.device, self.queue) == 0 }
        } else {
            // SAFETY: as above.
            unsafe { sys::rte_eth_dev_rx_intr_disable(self.device, self.queue) == 0 }
        }
    }

    /// Whether packets may be there although [`RxQueue::receive`] has just found none. DPDK's driver of TAPs looks for some
    /// only after the process has handled a signal of the kernel's, on whatever thread, and [`RxQueue::interrupt`] told of
    /// them before that.
    pub fn may_have_more(&self) -> bool {
        let Some(descriptor) = self.interrupt().filter(|_| self.is_source) else { return false };
        let mut looked_at = [PollFd::new(descriptor, PollFlags::POLLIN)];
        let readable = |fd: &PollFd<'_>| fd.revents() == Some(PollFlags::POLLIN);
        poll(&mut looked_at, PollTimeout::ZERO).is_ok_and(|n| n > 0)
            && looked_at.iter().all(readable)
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
    pub(super) fn new(keep: Arc<Device>, device: u16, queue: u16, offloads: Offloads) -> Self {
        Self { device, queue, seen: Vec::new(), offloads, keep }
    }

    /// What packets sent here may leave to the device.
    #[inline]
    pub fn offloads(&self) -> &Offloads {
        &self.offloads
    }

    /// Has the driver look at packets that leave work to the device ([`crate::Chain::leave`]), as it must before they are sent.
    /// Those that it can't do that for are taken out; returns their number and bytes.
    pub fn prepare(&mut self, batch: &mut MbufBatch) -> (u64, u64) {
        let (device, queue) = (self.device, self.queue);
        let check = |mbufs, count| {
            // SAFETY: as for `send`: the queue is started and ours alone, and there are `count` live buffers at `mbufs`.
            unsafe { sys::ringway_ethdev_tx_prepare(device, queue, mbufs, count) }
        };
        // SAFETY: drivers look at the packets and write their headers; none is taken or freed.
        unsafe { batch.sift(check) }
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

impl Device {
    /// Sets up the receive queues.
    pub(super) fn receive_by(
        &self,
        config: &EthdevConfig,
        driver: &str,
    ) -> Result<(), EthdevError> {
        let set_up = |queue| {
            let (count, pool) = (config.rx_descriptors, config.rx_pool.raw());
            // SAFETY: a configured device that is not started, and a pool that `keep` holds until it is closed.
            unsafe { sys::ringway_ethdev_rx_queue(self.port, queue, count, pool) }
        };
        let set_up_all = || {
            let failed = |queue| (queue, set_up(queue));
            (0..config.rx_queues).map(failed).find(|(_, status)| *status != 0)
        };
        if driver != xdp::DRIVER {
            let status = set_up_all().map_or(0, |(_, status)| status);
            return self.check("set up a receive queue", status);
        }
        let (failed, sockets) = Sockets::of(set_up_all);
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = sockets;
        let Some((queue, _)) = failed else { return Ok(()) };
        if queue == 0 {
            // SAFETY: a device of this driver that was configured, and the only queue that was tried does not exist.
            unsafe { xdp::forget_queue(self.port) };
        }
        Err(EthdevError::NoSocket { name: self.name.clone(), queue })
    }
}
