//! The virtqueues of one port.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::queue::Queue;
use crate::wake::{Token, Wake};

/// Queue pairs every port has, whatever its pod uses: a frontend that asks for more than there are is cut off in
/// the middle of its start.
pub const QUEUE_PAIRS: usize = 16;

/// The virtqueues of one port. Virtqueue 2n is what pair n of the pod receives from, 2n+1 what it sends to (virtio
/// 1.2, 5.1.2).
pub struct PortQueues {
    virtqueues: Vec<Queue>,
    /// Bit n: the pod sends on pair n.
    sending: AtomicU32,
    /// The NUMA node of the pod's memory; negative when unknown.
    node: AtomicI32,
    /// What the pod's kicks say to whom they wake.
    token: Token,
    /// For each pair, whom they wake.
    watches: Vec<Mutex<Watch>>,
}

/// The kicks of one sending queue: where they go, and the descriptor that goes there.
struct Watch {
    wake: Arc<Wake>,
    /// Held until it is removed from `wake`, which knows a file by the number it was added with.
    kick: Option<Arc<OwnedFd>>,
}

impl Watch {
    fn add(&self, token: Token) -> io::Result<()> {
        self.kick.as_ref().map_or(Ok(()), |kick| self.wake.add(kick.as_fd(), token))
    }

    fn remove(&self) {
        if let Some(kick) = &self.kick {
            self.wake.remove(kick.as_fd());
        }
    }
}

impl PortQueues {
    /// `token`: what the pod's kicks say; `wake`: whom the kicks of a pair wake at first.
    pub(crate) fn new(token: Token, wake: impl Fn(usize) -> Arc<Wake>) -> Self {
        let virtqueues = (0..2 * QUEUE_PAIRS).map(|_| Queue::new()).collect();
        let watches = (0..QUEUE_PAIRS).map(|pair| Watch { wake: wake(pair), kick: None });
        Self {
            virtqueues,
            sending: AtomicU32::new(0),
            node: AtomicI32::new(-1),
            token,
            watches: watches.map(Mutex::new).collect(),
        }
    }

    fn watch_of(&self, pair: usize) -> MutexGuard<'_, Watch> {
        // A watch is whole at every point where a panic is possible.
        self.watches[pair % QUEUE_PAIRS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the queue that pair `pair` of the pod sends to to the worker that sleeps on `wake`: from now on the pod
    /// wakes this one. The workers themselves learn from their snapshot who polls what; while both still poll the
    /// queue, its lock lets one burst at a time pass, in order.
    ///
    /// A kick that came while nobody watched is not lost: adding a descriptor that is readable is an event of its own,
    /// kicks are never read, and the new worker is woken in any case.
    ///
    /// # Errors
    /// The kick can't be watched; the new worker will find the pod's packets when it wakes by itself.
    pub fn set_wake(&self, pair: usize, wake: Arc<Wake>) -> io::Result<()> {
        let mut watch = self.watch_of(pair);
        if Arc::ptr_eq(&watch.wake, &wake) {
            return Ok(());
        }
        watch.remove();
        watch.wake = wake;
        let added = watch.add(self.token);
        watch.wake.poke(self.token);
        added
    }

    /// Wakes whoever polls pair `pair`, to look at this port.
    pub(crate) fn wake(&self, pair: usize) {
        self.watch_of(pair).wake.poke(self.token);
    }

    /// From now on `kick` is what the pod kicks pair `pair` with; `None`: it can't.
    pub(crate) fn watch(&self, pair: usize, kick: Option<Arc<OwnedFd>>) -> io::Result<()> {
        let mut watch = self.watch_of(pair);
        watch.remove();
        watch.kick = kick;
        watch.add(self.token)
    }

    /// The NUMA node of the memory that the pod shares, if it is known. For the workers, one load.
    #[inline]
    pub fn node(&self) -> Option<u32> {
        u32::try_from(self.node.load(Ordering::Relaxed)).ok()
    }

    /// Whether a frame that goes from here to node `to`, by the hands of a worker on node `by`, crosses from one NUMA node to
    /// another, as far as those are known.
    #[inline]
    pub fn crosses(&self, by: Option<u32>, to: Option<u32>) -> bool {
        let differ =
            |a: Option<u32>, b: Option<u32>| matches!((a, b), (Some(a), Some(b)) if a != b);
        let from = self.node();
        differ(from, to) || differ(from, by) || differ(by, to)
    }

    pub(crate) fn set_node(&self, node: Option<u32>) {
        let node = node.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1);
        self.node.store(node, Ordering::Relaxed);
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

#[cfg(test)]
mod tests;
