//! A port that is an Ethernet device: what the workers see of it.
//!
//! A queue has one owner at a time: whoever holds its lock, for one burst, as with a pod's rings (ADR 1). Closing the port
//! takes the queues out, so that the device is gone when that returns, whatever snapshots there still are.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vrouter_dpdk::{MbufBatch, Offloads, Pool, Queues, RxQueue, TxQueue};
use vrouter_vhost::queue::BURST;
use vrouter_vhost::wake::{Token, Wake};

use crate::tap::{Tap, TapReader};

/// Packets a batch has room for.
const BATCH: u16 = 32;
const _: () = assert!(BATCH as usize == BURST);

/// The queues of one device.
pub struct Wire {
    rx: Vec<Mutex<Option<RxSide>>>,
    tx: Vec<Mutex<Option<TxSide>>>,
    /// What its descriptors say to whom they wake.
    token: Token,
    /// Each receive queue has a descriptor that tells of packets.
    tells: bool,
    /// For each send queue, packets that left work to the device.
    left: Vec<Arc<AtomicU64>>,
}

/// Where packets come from.
enum Source {
    Device(RxQueue),
    Tap(TapReader),
}

/// Where packets go.
enum Sink {
    Device(TxQueue),
    Tap(Tap),
}

impl Source {
    #[inline]
    fn receive(&mut self, batch: &mut MbufBatch) {
        match self {
            // The batch is of the queue's pool: it was made by it.
            Self::Device(queue) => {
                let _ = queue.receive(batch);
            }
            Self::Tap(tap) => tap.receive(batch),
        }
    }

    /// What tells of packets, if anything does.
    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Device(queue) => queue.interrupt(),
            Self::Tap(tap) => Some(tap.descriptor()),
        }
    }

    /// Whether it has said that there is no more. A device that tells is asked to before it is looked at.
    fn drained(&self) -> bool {
        match self {
            Self::Device(queue) => !queue.may_have_more(),
            Self::Tap(tap) => tap.drained(),
        }
    }

    /// A TAP tells without being asked.
    fn tell(&mut self, on: bool) {
        if let Self::Device(queue) = self {
            queue.tell(on);
        }
    }
}

/// A receive queue, and the packets that were taken from it and not moved yet.
pub struct RxSide {
    queue: Source,
    /// The packets.
    pub batch: MbufBatch,
    wake: Option<Arc<Wake>>,
}

/// A send queue, and the packets on their way to it.
pub struct TxSide {
    queue: Sink,
    /// The packets.
    pub batch: MbufBatch,
    /// Some of them leave work to the device.
    leaves: bool,
    /// How many did so far; only whoever has the queue counts.
    left: Arc<AtomicU64>,
}

impl RxSide {
    /// Takes what has arrived, as far as there is room; says how many packets there are now.
    #[inline]
    pub fn receive(&mut self) -> usize {
        // Not every driver takes a question for no packets well.
        if self.batch.len() < self.batch.capacity() {
            self.queue.receive(&mut self.batch);
        }
        usize::from(self.batch.len())
    }

    /// Whether there are packets, or may be.
    fn waits(&mut self) -> bool {
        self.receive() > 0 || !self.queue.drained()
    }

    fn unwatch(&mut self) {
        if let (Some(wake), Some(descriptor)) = (self.wake.take(), self.queue.interrupt()) {
            wake.unwatch(descriptor);
        }
    }
}

impl TxSide {
    fn new(queue: Sink, pool: &Pool) -> Self {
        Self { queue, batch: pool.batch(BATCH), leaves: false, left: Arc::default() }
    }

    /// What packets may leave to the device.
    #[inline]
    pub fn offloads(&self) -> &Offloads {
        match &self.queue {
            Sink::Device(queue) => queue.offloads(),
            Sink::Tap(_) => &Offloads::NONE,
        }
    }

    /// A packet of the batch leaves work to the device.
    pub fn leaves_work(&mut self) {
        self.leaves = true;
        self.left.store(self.left.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Hands over the packets; returns number and bytes of those that the device did not take, which are lost.
    #[inline]
    pub fn send(&mut self) -> (u64, u64) {
        if self.batch.is_empty() {
            return (0, 0);
        }
        let mut lost = (0, 0);
        match &mut self.queue {
            Sink::Device(queue) => {
                if std::mem::take(&mut self.leaves) {
                    lost = queue.prepare(&mut self.batch);
                }
                queue.send(&mut self.batch);
            }
            Sink::Tap(tap) => return tap.send(&mut self.batch),
        }
        if !self.batch.is_empty() {
            lost.0 += u64::from(self.batch.len());
            lost.1 += self.batch.bytes();
            self.batch.clear();
        }
        lost
    }
}

/// A poisoned lock: a worker has panicked in the middle of a burst, and packets of it may be lost. The queue is whole.
fn lock<T>(side: &Mutex<T>) -> MutexGuard<'_, T> {
    side.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Of a started device whose packets live in `pool`. `token`: what its descriptors say.
    pub fn new(queues: Queues, pool: &Pool, token: Token) -> Self {
        let tells = queues.rx.iter().all(|queue| queue.interrupt().is_some());
        let rx = queues.rx.into_iter().map(|queue| {
            let batch = queue.batch(BATCH);
            Mutex::new(Some(RxSide { queue: Source::Device(queue), batch, wake: None }))
        });
        let tx = queues.tx.into_iter().map(|queue| TxSide::new(Sink::Device(queue), pool));
        Self::of_sides(rx.collect(), tx.collect(), token, tells)
    }

    fn of_sides(
        rx: Vec<Mutex<Option<RxSide>>>,
        tx: Vec<TxSide>,
        token: Token,
        tells: bool,
    ) -> Self {
        let left = tx.iter().map(|side| Arc::clone(&side.left)).collect();
        let tx = tx.into_iter().map(|side| Mutex::new(Some(side))).collect();
        Self { rx, tx, token, tells, left }
    }

    /// Of a TAP whose packets live in `pool`.
    pub fn of_tap(tap: Tap, pool: &Pool, token: Token) -> Self {
        let reader = tap.reader(pool);
        let batch = reader.batch(BATCH);
        let rx = vec![Mutex::new(Some(RxSide { queue: Source::Tap(reader), batch, wake: None }))];
        Self::of_sides(rx, vec![TxSide::new(Sink::Tap(tap), pool)], token, true)
    }

    /// Packets that left work to the device: checksums, or being cut into pieces.
    pub fn left_to_device(&self) -> u64 {
        self.left.iter().map(|left| left.load(Ordering::Relaxed)).sum()
    }

    /// Receive queues.
    pub fn queues(&self) -> usize {
        self.rx.len()
    }

    /// Whether its descriptors tell of packets, so that nobody has to look.
    pub fn tells(&self) -> bool {
        self.tells
    }

    /// A receive queue for one burst. `None` when there is none, or somebody else has it just now.
    #[inline]
    pub fn rx(&self, queue: usize) -> Option<MutexGuard<'_, Option<RxSide>>> {
        match self.rx.get(queue)?.try_lock() {
            Ok(side) => Some(side),
            Err(std::sync::TryLockError::Poisoned(side)) => Some(side.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The send queue for packets that came in on queue `pair` of their port, for one burst.
    #[inline]
    pub fn tx(&self, pair: usize) -> Option<MutexGuard<'_, Option<TxSide>>> {
        Some(lock(self.tx.get(pair % self.tx.len().max(1))?))
    }

    /// Whether there are packets on one of the queues in `mine`. They stay where the next burst finds them.
    pub fn has_packets(&self, mine: u32) -> bool {
        self.each(mine, RxSide::waits)
    }

    /// Asks to be told of packets; whether there are some already, or a queue is somebody else's just now.
    pub fn ask(&self, mine: u32) -> bool {
        self.each(mine, |side| {
            side.queue.tell(true);
            side.waits()
        })
    }

    /// Asks not to be told.
    pub fn take_back(&self, mine: u32) {
        self.each(mine, |side| {
            side.queue.tell(false);
            false
        });
    }

    /// Whether `look` says so of one of the queues in `mine`, or one is not free.
    fn each(&self, mine: u32, look: impl Fn(&mut RxSide) -> bool) -> bool {
        let mut any = false;
        for queue in (0..self.rx.len()).filter(|queue| mine >> queue & 1 != 0) {
            any |= match self.rx(queue) {
                Some(mut side) => side.as_mut().is_some_and(&look),
                None => true,
            };
        }
        any
    }

    /// From now on packets of a queue wake this worker.
    ///
    /// # Errors
    /// The descriptor can't be watched.
    pub fn set_wake(&self, queue: usize, wake: &Arc<Wake>) -> io::Result<()> {
        let Some(side) = self.rx.get(queue) else { return Ok(()) };
        let mut side = lock(side);
        let Some(side) = side.as_mut() else { return Ok(()) };
        if side.wake.as_ref().is_some_and(|known| Arc::ptr_eq(known, wake)) {
            return Ok(());
        }
        side.unwatch();
        if let Some(descriptor) = side.queue.interrupt() {
            wake.watch(descriptor, self.token)?;
            side.wake = Some(Arc::clone(wake));
        }
        Ok(())
    }

    /// Takes the queues out: no worker has them any more when this returns.
    pub fn close(&self) {
        for side in &self.rx {
            if let Some(mut side) = lock(side).take() {
                side.unwatch();
            }
        }
        for side in &self.tx {
            drop(lock(side).take());
        }
    }
}
