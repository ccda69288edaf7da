//! The virtqueues of one port.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::queue::Queue;

/// Queue pairs every port has, whatever its pod uses: a frontend that asks for more than there are is cut off in
/// the middle of its start.
pub const QUEUE_PAIRS: usize = 16;

/// The virtqueues of one port. Virtqueue 2n is what pair n of the pod receives from, 2n+1 what it sends to (virtio
/// 1.2, 5.1.2).
pub struct PortQueues {
    virtqueues: Vec<Queue>,
    /// Bit n: the pod sends on pair n.
    sending: AtomicU32,
}

impl PortQueues {
    pub(crate) fn new() -> Self {
        let virtqueues = (0..2 * QUEUE_PAIRS).map(|_| Queue::new()).collect();
        Self { virtqueues, sending: AtomicU32::new(0) }
    }

    pub(crate) fn is_tx(virtqueue: usize) -> bool {
        virtqueue % 2 == 1
    }

    pub(crate) fn virtqueues(&self) -> usize {
        self.virtqueues.len()
    }

    pub(crate) fn virtqueue(&self, index: usize) -> &Queue {
        // Indexes come from the session, which has as many as there are.
        &self.virtqueues[index % self.virtqueues.len()]
    }

    pub(crate) fn set_sending(&self, virtqueue: usize, on: bool) {
        let bit = 1 << (virtqueue / 2);
        if on {
            self.sending.fetch_or(bit, Ordering::Release);
        } else {
            self.sending.fetch_and(!bit, Ordering::Release);
        }
    }

    /// Why a queue stopped by itself, if one did.
    pub(crate) fn broken(&self) -> Option<String> {
        self.virtqueues.iter().enumerate().find_map(|(index, queue)| {
            let error = queue.broken()?;
            Some(format!("queue {index} stopped: {error}"))
        })
    }

    /// The pairs on which the pod can send now: bit n for pair n. One load, for idle ports.
    #[inline]
    pub fn sending(&self) -> u32 {
        self.sending.load(Ordering::Acquire)
    }

    /// The queue that pair `pair` of the pod sends to.
    #[inline]
    pub fn tx(&self, pair: usize) -> &Queue {
        self.virtqueue(2 * pair + 1)
    }

    /// The queue to deliver to for traffic that came in on the sender's pair `pair`: the receiver's same pair, or
    /// its first when it does not use that one.
    #[inline]
    pub fn rx(&self, pair: usize) -> &Queue {
        let same = self.virtqueue(2 * pair);
        if same.is_running() { same } else { self.virtqueue(0) }
    }
}
