//! Counters that one worker writes and everybody reads.

pub mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vrouter_core::{Counters, DropReason, PortIndex, PuntClass, Timestamp};
use vrouter_vhost::queues::QUEUE_PAIRS;

use histogram::{BURST_BUCKETS, Histogram, TIME_BUCKETS};

/// A number with one writer: a plain load and store, no read-modify-write on the packet path.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds; for the one writer only.
    #[inline]
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// Replaces; for the one writer only.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker did for one sending queue of a port.
struct QueueTally {
    packets: Tally,
    ticks: Tally,
}

/// One port's counters of one worker. On cache lines of its own; what a burst writes comes first, that of the sender
/// on one line and that of the receiver on another.
#[repr(C, align(64))]
pub struct PortTally {
    rx_packets: Tally,
    rx_bytes: Tally,
    bursts: Histogram<BURST_BUCKETS>,
    tx_packets: Tally,
    tx_bytes: Tally,
    /// When the pod's receiving queue last had no room, in nanoseconds; 0 when it had since.
    refused_at: Tally,
    full_ns: Tally,
    crossings: Tally,
    _next_line: [Tally; 3],
    queues: [QueueTally; QUEUE_PAIRS],
    latency: Histogram<TIME_BUCKETS>,
    drops: [Tally; DropReason::COUNT],
    punts: [Tally; PuntClass::COUNT],
}

/// Longest span between two attempts to deliver that counts as time in which the ring was full: what it was in a longer
/// one, nobody knows. Chosen, not measured.
const FULL_GAP_NS: u64 = 100_000_000;

impl PortTally {
    const fn new() -> Self {
        Self {
            rx_packets: Tally::new(),
            rx_bytes: Tally::new(),
            bursts: [const { Tally::new() }; _],
            tx_packets: Tally::new(),
            tx_bytes: Tally::new(),
            refused_at: Tally::new(),
            full_ns: Tally::new(),
            crossings: Tally::new(),
            _next_line: [const { Tally::new() }; _],
            queues: [const { QueueTally { packets: Tally::new(), ticks: Tally::new() } }; _],
            latency: [const { Tally::new() }; _],
            drops: [const { Tally::new() }; _],
            punts: [const { Tally::new() }; _],
        }
    }

    /// Counts a packet of the port's that was handed to the kernel; for the worker only.
    #[inline]
    pub fn punted(&self, class: PuntClass) {
        if let Some(count) = self.punts.get(class as usize) {
            count.add(1);
        }
    }

    /// Counts frames the pod sent; for the worker only.
    #[inline]
    pub fn rx(&self, packets: u64, bytes: u64) {
        self.rx_packets.add(packets);
        self.rx_bytes.add(bytes);
    }

    /// Counts frames delivered to the pod; for the worker only.
    #[inline]
    pub fn tx(&self, packets: u64, bytes: u64) {
        self.tx_packets.add(packets);
        self.tx_bytes.add(bytes);
    }

    /// Counts a burst of `frames`, not none, that the pod sent on queue pair `pair`, and the TSC ticks it took; for the
    /// worker only.
    #[inline]
    pub fn burst(&self, pair: usize, frames: usize, ticks: u64) {
        histogram::count(&self.bursts, histogram::burst_bucket(frames));
        if let Some(queue) = self.queues.get(pair) {
            queue.packets.add(frames as u64);
            queue.ticks.add(ticks);
        }
    }

    /// Counts how long the frames of one burst of the pod's were here; for the worker only.
    #[cold]
    pub fn sample(&self, nanoseconds: u64) {
        histogram::count(&self.latency, histogram::time_bucket(nanoseconds));
    }

    /// The pod's receiving queue had no room for a frame; for the worker only. Once for each group of frames is enough.
    #[cold]
    pub fn refused(&self, now: Timestamp) {
        self.add_full_time(now);
        self.refused_at.set(now.nanoseconds().max(1));
    }

    /// The pod's receiving queue had room for a whole group of frames; for the worker only.
    #[inline]
    pub fn accepted(&self, now: Timestamp) {
        if self.refused_at.get() != 0 {
            self.add_full_time(now);
            self.refused_at.set(0);
        }
    }

    #[cold]
    fn add_full_time(&self, now: Timestamp) {
        let since = self.refused_at.get();
        if since != 0 {
            self.full_ns.add(now.nanoseconds().saturating_sub(since).min(FULL_GAP_NS));
        }
    }

    /// Counts frames of the pod's that went to another NUMA node; for the worker only.
    #[cold]
    pub fn crossed(&self, packets: u64) {
        self.crossings.add(packets);
    }

    fn read(&self) -> PortCounts {
        let mut counts = PortCounts {
            full_ns: self.full_ns.get(),
            crossings: self.crossings.get(),
            bursts: self.bursts.each_ref().map(Tally::get),
            latency: self.latency.each_ref().map(Tally::get),
            queues: self
                .queues
                .each_ref()
                .map(|q| QueueCounts { packets: q.packets.get(), ticks: q.ticks.get() }),
            ..PortCounts::default()
        };
        counts.total.rx_packets = self.rx_packets.get();
        counts.total.rx_bytes = self.rx_bytes.get();
        counts.total.tx_packets = self.tx_packets.get();
        counts.total.tx_bytes = self.tx_bytes.get();
        counts.total.drops = self.drops.each_ref().map(Tally::get);
        counts.total.punts = self.punts.each_ref().map(Tally::get);
        counts
    }
}

/// What was done for one sending queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Frames taken from it.
    pub packets: u64,
    /// TSC ticks spent on them.
    pub ticks: u64,
}

/// What was counted for a port, by one worker or by all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Packets, bytes and drops.
    pub total: Counters,
    /// Bursts the pod sent, by [`histogram::burst_bucket`].
    pub bursts: [u64; BURST_BUCKETS],
    /// Time from taking a burst to giving it to the receivers, by [`histogram::time_bucket`]. Samples only.
    pub latency: [u64; TIME_BUCKETS],
    /// Time in which the receiving queues had no room, each worker for itself.
    pub full_ns: u64,
    /// Frames of the pod's that went to another NUMA node.
    pub crossings: u64,
    /// By queue pair.
    pub queues: [QueueCounts; QUEUE_PAIRS],
}

impl PortCounts {
    /// TSC ticks spent on what the pod sent.
    pub fn ticks(&self) -> u64 {
        self.queues.iter().map(|q| q.ticks).sum()
    }

    /// Adds what another worker counted.
    fn add(&mut self, other: &Self) {
        self.each(other, u64::wrapping_add);
    }

    /// Leaves what was counted after `start`.
    fn after(&mut self, start: &Self) {
        self.each(start, u64::saturating_sub);
    }

    fn each(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        let apply = |mine: &mut u64, theirs: &u64| *mine = with(*mine, *theirs);
        apply(&mut self.total.rx_packets, &other.total.rx_packets);
        apply(&mut self.total.rx_bytes, &other.total.rx_bytes);
        apply(&mut self.total.tx_packets, &other.total.tx_packets);
        apply(&mut self.total.tx_bytes, &other.total.tx_bytes);
        apply(&mut self.full_ns, &other.full_ns);
        apply(&mut self.crossings, &other.crossings);
        self.total.drops.iter_mut().zip(&other.total.drops).for_each(|(m, t)| apply(m, t));
        self.total.punts.iter_mut().zip(&other.total.punts).for_each(|(m, t)| apply(m, t));
        self.bursts.iter_mut().zip(&other.bursts).for_each(|(m, t)| apply(m, t));
        self.latency.iter_mut().zip(&other.latency).for_each(|(m, t)| apply(m, t));
        for (mine, theirs) in self.queues.iter_mut().zip(&other.queues) {
            apply(&mut mine.packets, &theirs.packets);
            apply(&mut mine.ticks, &theirs.ticks);
        }
    }
}

/// All that one worker counts. On cache lines of its own: two workers' are allocated one after the other.
#[repr(align(64))]
pub struct WorkerTally {
    ports: Box<[PortTally]>,
    /// Bursts that held packets.
    pub bursts: Tally,
    /// Times it went to sleep.
    pub sleeps: Tally,
    /// TSC ticks in rounds that moved packets.
    pub busy_ticks: Tally,
    /// Packets taken from pods.
    pub packets: Tally,
    /// Packets delivered to another port.
    pub forwarded: Tally,
    /// Packets the gateway answered.
    pub replied: Tally,
    /// Packets made here.
    pub originated: Tally,
    /// Frames repeated to several ports.
    pub flooded: Tally,
    /// Copies of those that were put into tunnels to other hosts.
    pub flooded_into_tunnels: Tally,
    /// Drops of all ports, those that are gone included.
    pub drops: [Tally; DropReason::COUNT],
}

impl WorkerTally {
    /// Room for `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| PortTally::new()).collect(),
            bursts: Tally::default(),
            sleeps: Tally::default(),
            busy_ticks: Tally::default(),
            packets: Tally::default(),
            forwarded: Tally::default(),
            replied: Tally::default(),
            originated: Tally::default(),
            flooded: Tally::default(),
            flooded_into_tunnels: Tally::default(),
            drops: [const { Tally::new() }; _],
        }
    }

    /// A port's counters.
    #[inline]
    pub fn port(&self, port: PortIndex) -> Option<&PortTally> {
        self.ports.get(usize::from(port.0))
    }

    /// Counts a packet of a port of this worker's that was dropped; for the worker only.
    #[inline]
    pub fn drop(&self, port: &PortTally, reason: DropReason) {
        for drops in [&port.drops, &self.drops] {
            if let Some(count) = drops.get(reason as usize) {
                count.add(1);
            }
        }
    }

    /// What was counted for a port since the start of the process.
    pub fn read(&self, port: PortIndex) -> PortCounts {
        self.port(port).map(PortTally::read).unwrap_or_default()
    }

    /// What was counted for all ports together since the start of the process, those that are gone included.
    pub fn read_all(&self) -> PortCounts {
        self.ports.iter().map(PortTally::read).fold(PortCounts::default(), |mut sum, port| {
            sum.add(&port);
            sum
        })
    }
}

/// What was counted for a port by all workers since `start`.
pub fn since(workers: &[Arc<WorkerTally>], port: PortIndex, start: &PortCounts) -> PortCounts {
    let mut sum = PortCounts::default();
    for worker in workers {
        sum.add(&worker.read(port));
    }
    sum.after(start);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanoseconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(nanoseconds)
    }

    #[test]
    fn a_port_index_used_again_starts_from_zero() {
        let workers = [Arc::new(WorkerTally::new(4)), Arc::new(WorkerTally::new(4))];
        let port = PortIndex(3);
        let count = |worker: usize| {
            let tally = workers[worker].port(port).unwrap();
            tally.rx(3, 180);
            tally.tx(1, 60);
            tally.burst(2, 3, 500);
            tally.sample(1000);
            tally.refused(at(10));
            tally.accepted(at(17));
            tally.crossed(2);
            WorkerTally::drop(&workers[worker], tally, DropReason::NoRoute);
        };
        let mut burst = PortCounts { full_ns: 7, crossings: 2, ..PortCounts::default() };
        burst.total.rx_packets = 3;
        burst.total.rx_bytes = 180;
        burst.total.sent(60);
        burst.total.dropped(DropReason::NoRoute);
        burst.bursts[2] = 1;
        burst.latency[3] = 1;
        burst.queues[2] = QueueCounts { packets: 3, ticks: 500 };
        count(0);
        let start = since(&workers, port, &PortCounts::default());
        assert_eq!(start, burst);
        assert_eq!(since(&workers, port, &start), PortCounts::default());
        count(1);
        assert_eq!(since(&workers, port, &start), burst);
        assert_eq!(start.ticks(), 500);
        assert_eq!(workers[1].drops[DropReason::NoRoute as usize].get(), 1);
        assert_eq!(workers[0].read(PortIndex(2)), PortCounts::default());
        assert_eq!(workers[0].read_all(), burst);
        assert!(workers[0].port(PortIndex(99)).is_none());
        workers[0].port(port).unwrap().burst(99, 1, 1);
    }

    #[test]
    fn a_ring_is_full_from_the_first_refusal_until_there_is_room() {
        let worker = WorkerTally::new(1);
        let port = worker.port(PortIndex(0)).unwrap();
        let full = || port.read().full_ns;
        port.accepted(at(5));
        assert_eq!(full(), 0);
        port.refused(at(100));
        assert_eq!(full(), 0);
        port.refused(at(150));
        assert_eq!(full(), 50, "seen while it lasts");
        port.accepted(at(180));
        port.accepted(at(500));
        assert_eq!(full(), 80);
        port.refused(at(1_000_000_000));
        port.accepted(at(9_000_000_000));
        assert_eq!(full(), 80 + FULL_GAP_NS, "nobody tried for 8 s");
        // A clock that starts at zero is a time, too.
        port.refused(at(0));
        port.accepted(at(11));
        assert_eq!(full(), 90 + FULL_GAP_NS);
    }

    #[test]
    fn what_a_burst_writes_of_one_port_lies_on_three_lines() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(PortTally, tx_packets), 64);
        assert_eq!(offset_of!(PortTally, queues), 128);
        assert_eq!(align_of::<PortTally>(), 64);
    }

    /// Everything that one worker writes in each burst and others have, too: by address, whatever the allocator does.
    #[test]
    fn what_two_workers_count_lies_on_different_lines() {
        let tallies = [(); 4].map(|()| Arc::new(WorkerTally::new(3)));
        let mut lines = std::collections::BTreeSet::new();
        for tally in &tallies {
            let own = std::ptr::from_ref(tally.as_ref()).addr();
            let ports = tally.ports.as_ptr().addr();
            for (start, bytes) in
                [(own, size_of::<WorkerTally>()), (ports, size_of_val(&*tally.ports))]
            {
                for line in start / 64..=(start + bytes - 1) / 64 {
                    assert!(lines.insert(line), "two of them are on one line");
                }
            }
        }
    }
}
