//! Counters as they are on the wire.

use vrouter_api::v1;
use vrouter_core::DropReason;

use super::uplinks::punts;
use crate::assign::Owners;
use crate::counters::{PortCounts, WorkerTally};

fn per_packet(ticks: u64, packets: u64) -> f64 {
    // Both far below 2^53 for years of traffic; it is a figure for people and benches.
    if packets == 0 { 0.0 } else { ticks as f64 / packets as f64 }
}

/// A port's counters.
pub fn port_stats(id: &str, counts: &PortCounts, owners: &Owners) -> v1::PortStats {
    let PortCounts { total, bursts, latency, full_ns, crossings, queues } = counts;
    let used = queues.iter().zip(0..).filter(|(queue, _)| queue.packets > 0);
    v1::PortStats {
        id: id.to_owned(),
        rx_packets: total.rx_packets,
        rx_bytes: total.rx_bytes,
        tx_packets: total.tx_packets,
        tx_bytes: total.tx_bytes,
        drops: drops(total.drops()),
        burst_sizes: bursts.to_vec(),
        busy_ticks: counts.ticks(),
        cycles_per_packet: per_packet(counts.ticks(), total.rx_packets),
        ring_full_ns: *full_ns,
        latency: latency.to_vec(),
        numa_crossings: *crossings,
        queues: used
            .map(|(queue, pair)| v1::QueueStats {
                pair,
                worker: u32::from(owners.of(pair as usize).0),
                rx_packets: queue.packets,
                busy_ticks: queue.ticks,
            })
            .collect(),
        punts: punts(counts),
    }
}

/// A worker's counters. `queues`: sending queues it polls; `hz`: TSC ticks in a second.
pub fn worker_stats(
    worker: v1::Worker,
    tally: &WorkerTally,
    queues: usize,
    hz: u64,
) -> v1::WorkerStats {
    let all = tally.read_all();
    let (packets, ticks) = (tally.packets.get(), tally.busy_ticks.get());
    let busy_ns = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
    let counted = DropReason::ALL.into_iter().zip(tally.drops.iter().map(|d| d.get()));
    v1::WorkerStats {
        index: worker.index,
        cpu: worker.cpu,
        packets,
        bursts: tally.bursts.get(),
        sleeps: tally.sleeps.get(),
        busy_ns: u64::try_from(busy_ns).unwrap_or(u64::MAX),
        forwarded: tally.forwarded.get(),
        replied: tally.replied.get(),
        originated: tally.originated.get(),
        flooded: tally.flooded.get(),
        flooded_into_tunnels: tally.flooded_into_tunnels.get(),
        drops: drops(counted.filter(|(_, n)| *n > 0)),
        busy_ticks: ticks,
        cycles_per_packet: per_packet(ticks, packets),
        burst_sizes: all.bursts.to_vec(),
        latency: all.latency.to_vec(),
        queues: u32::try_from(queues).unwrap_or(u32::MAX),
    }
}

/// Drops that occurred, by name.
pub fn drops(counted: impl Iterator<Item = (DropReason, u64)>) -> Vec<v1::DropCount> {
    counted
        .map(|(reason, packets)| v1::DropCount { reason: reason.name().to_owned(), packets })
        .collect()
}
