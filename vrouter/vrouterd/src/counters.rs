//! Counters that one worker writes and everybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

use vrouter_core::{Counters, DropReason, PortIndex};

/// A number with one writer: a plain load and store, no read-modify-write on the packet path.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds; for the one writer only.
    #[inline]
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One port's counters of one worker. On cache lines of its own.
#[repr(align(64))]
struct PortTally {
    rx_packets: Tally,
    rx_bytes: Tally,
    tx_packets: Tally,
    tx_bytes: Tally,
    drops: [Tally; DropReason::COUNT],
}

/// All that one worker counts.
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
    /// Drops of all ports, those that are gone included.
    pub drops: [Tally; DropReason::COUNT],
}

impl WorkerTally {
    /// Room for `ports` ports.
    pub fn new(ports: usize) -> Self {
        let zero = || PortTally {
            rx_packets: Tally::default(),
            rx_bytes: Tally::default(),
            tx_packets: Tally::default(),
            tx_bytes: Tally::default(),
            drops: Default::default(),
        };
        Self {
            ports: (0..ports).map(|_| zero()).collect(),
            bursts: Tally::default(),
            sleeps: Tally::default(),
            busy_ticks: Tally::default(),
            packets: Tally::default(),
            forwarded: Tally::default(),
            replied: Tally::default(),
            originated: Tally::default(),
            drops: Default::default(),
        }
    }

    /// Adds what a burst brought; for the worker only.
    #[inline]
    pub fn add(&self, port: PortIndex, counted: &Counters) {
        let Some(tally) = self.ports.get(usize::from(port.0)) else { return };
        tally.rx_packets.add(counted.rx_packets);
        tally.rx_bytes.add(counted.rx_bytes);
        tally.tx_packets.add(counted.tx_packets);
        tally.tx_bytes.add(counted.tx_bytes);
        for ((mine, all), n) in tally.drops.iter().zip(&self.drops).zip(counted.drops) {
            mine.add(n);
            all.add(n);
        }
    }

    /// What was counted for a port since the start of the process.
    pub fn port(&self, port: PortIndex) -> Counters {
        let mut counters = Counters::ZERO;
        if let Some(tally) = self.ports.get(usize::from(port.0)) {
            counters.rx_packets = tally.rx_packets.get();
            counters.rx_bytes = tally.rx_bytes.get();
            counters.tx_packets = tally.tx_packets.get();
            counters.tx_bytes = tally.tx_bytes.get();
            for (out, drop) in counters.drops.iter_mut().zip(&tally.drops) {
                *out = drop.get();
            }
        }
        counters
    }
}

/// What was counted for a port by all workers since `start`.
pub fn since(
    workers: &[std::sync::Arc<WorkerTally>],
    port: PortIndex,
    start: &Counters,
) -> Counters {
    let mut sum = Counters::ZERO;
    for worker in workers {
        sum.merge(&worker.port(port));
    }
    sum.rx_packets -= start.rx_packets.min(sum.rx_packets);
    sum.rx_bytes -= start.rx_bytes.min(sum.rx_bytes);
    sum.tx_packets -= start.tx_packets.min(sum.tx_packets);
    sum.tx_bytes -= start.tx_bytes.min(sum.tx_bytes);
    for (now, then) in sum.drops.iter_mut().zip(start.drops) {
        *now -= then.min(*now);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_port_index_used_again_starts_from_zero() {
        let workers = [Arc::new(WorkerTally::new(4)), Arc::new(WorkerTally::new(4))];
        let port = PortIndex(3);
        let mut burst = Counters::ZERO;
        burst.received(60);
        burst.dropped(DropReason::NoRoute);
        workers[0].add(port, &burst);
        let start = since(&workers, port, &Counters::ZERO);
        assert_eq!(start, burst);
        assert_eq!(since(&workers, port, &start), Counters::ZERO);
        workers[1].add(port, &burst);
        assert_eq!(since(&workers, port, &start), burst);
        assert_eq!(workers[1].drops[DropReason::NoRoute as usize].get(), 1);
        assert_eq!(workers[0].port(PortIndex(2)), Counters::ZERO);
        workers[0].add(PortIndex(99), &burst);
    }
}
