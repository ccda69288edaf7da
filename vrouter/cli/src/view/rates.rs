//! Rates between two looks at the counters.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Owner, PortStats, Stats, WorkerStats};

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Rates {
    pub(crate) seconds: f64,
    pub(crate) ports: Vec<PortRates>,
    pub(crate) workers: Vec<WorkerRates>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct PortRates {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) owner: Owner,
    pub(crate) rx_packets_per_second: u64,
    pub(crate) rx_bits_per_second: u64,
    pub(crate) tx_packets_per_second: u64,
    pub(crate) tx_bits_per_second: u64,
    pub(crate) drops_per_second: u64,
    pub(crate) cycles_per_packet: Option<f64>,
    pub(crate) packets_per_burst: Option<f64>,
    pub(crate) ring_full_percent: u64,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct WorkerRates {
    pub(crate) index: u32,
    pub(crate) cpu: u32,
    pub(crate) packets_per_second: u64,
    pub(crate) sleeps_per_second: u64,
    pub(crate) drops_per_second: u64,
    pub(crate) busy_percent: u64,
    pub(crate) cycles_per_packet: Option<f64>,
    pub(crate) packets_per_burst: Option<f64>,
}

impl Rates {
    /// What happened between `before` and `after`. A port or worker that is new, or whose counters went back because
    /// the vRouter was started again, is taken to have started at zero.
    pub(crate) fn new(before: &Stats, after: &Stats, elapsed: Duration) -> Self {
        // Shorter than a millisecond is no interval one can wait for.
        let elapsed = elapsed.max(Duration::from_millis(1));
        let port = |now: &PortStats| {
            let then = before.ports.iter().find(|then| then.id == now.id);
            let rate =
                |count: fn(&PortStats) -> u64| per_second(then.map(count), count(now), elapsed);
            let new = |count: fn(&PortStats) -> u64| increase(then.map(count), count(now));
            PortRates {
                id: now.id.clone(),
                owner: now.owner.clone(),
                rx_packets_per_second: rate(|port| port.rx_packets),
                rx_bits_per_second: rate(|port| port.rx_bytes).saturating_mul(8),
                tx_packets_per_second: rate(|port| port.tx_packets),
                tx_bits_per_second: rate(|port| port.tx_bytes).saturating_mul(8),
                drops_per_second: rate(|port| sum(&port.drops)),
                cycles_per_packet: ratio(new(|port| port.busy_ticks), new(|port| port.rx_packets)),
                packets_per_burst: ratio(
                    new(|port| port.rx_packets),
                    new(|port| total(&port.burst_sizes)),
                ),
                ring_full_percent: rate(|port| port.ring_full_ns) / NS_PER_PERCENT,
            }
        };
        let worker = |now: &WorkerStats| {
            let then = before.workers.iter().find(|then| then.index == now.index);
            let rate =
                |count: fn(&WorkerStats) -> u64| per_second(then.map(count), count(now), elapsed);
            let new = |count: fn(&WorkerStats) -> u64| increase(then.map(count), count(now));
            WorkerRates {
                index: now.index,
                cpu: now.cpu,
                packets_per_second: rate(|worker| worker.packets),
                sleeps_per_second: rate(|worker| worker.sleeps),
                drops_per_second: rate(|worker| sum(&worker.drops)),
                busy_percent: rate(|worker| worker.busy_ns) / NS_PER_PERCENT,
                cycles_per_packet: ratio(
                    new(|worker| worker.busy_ticks),
                    new(|worker| worker.packets),
                ),
                packets_per_burst: ratio(new(|worker| worker.packets), new(|worker| worker.bursts)),
            }
        };
        Self {
            seconds: elapsed.as_secs_f64(),
            ports: after.ports.iter().map(port).collect(),
            workers: after.workers.iter().map(worker).collect(),
        }
    }
}

/// Nanoseconds in a second that are one per cent of it.
const NS_PER_PERCENT: u64 = 10_000_000;

fn increase(before: Option<u64>, after: u64) -> u64 {
    before.and_then(|before| after.checked_sub(before)).unwrap_or(after)
}

/// Two digits behind the point are more than either counter is worth.
fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| (of as f64 / to as f64 * 100.0).round() / 100.0)
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
}

fn per_second(before: Option<u64>, after: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(increase(before, after)) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

pub(crate) fn sum(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().fold(0, |sum, packets| sum.saturating_add(*packets))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Rates, per_second};
    use crate::view::tests::stats;

    #[test]
    fn rates() {
        let s = Duration::from_secs;
        for (before, after, elapsed, expected) in [
            (Some(100), 300, s(2), 100),
            (Some(100), 100, s(2), 0),
            (None, 300, s(2), 150),
            // Started again.
            (Some(1000), 300, s(1), 300),
            (Some(0), u64::MAX, s(1), u64::MAX),
            (Some(0), u64::MAX, Duration::from_millis(1), u64::MAX),
            (Some(0), 10, Duration::from_millis(2500), 4),
        ] {
            assert_eq!(
                per_second(before, after, elapsed),
                expected,
                "{before:?} {after} {elapsed:?}"
            );
        }
    }

    #[test]
    fn ports_and_workers() {
        let before = stats();
        let mut after = before.clone();
        after.ports[0].rx_packets += 1000;
        after.ports[0].rx_bytes += 64_000;
        after.ports[0].tx_packets += 500;
        after.ports[0].tx_bytes += 32_000;
        *after.ports[0].drops.get_mut("ttl_exceeded").unwrap() += 20;
        after.workers[0].packets += 1500;
        after.workers[0].sleeps += 4;
        after.ports[0].busy_ticks += 50_500;
        after.ports[0].burst_sizes[5] += 40;
        after.ports[0].ring_full_ns += 600_000_000;
        after.workers[0].busy_ns += 500_000_000;
        after.workers[0].busy_ticks += 60_000;
        after.workers[0].bursts += 100;
        let rates = Rates::new(&before, &after, Duration::from_secs(2));
        let port = &rates.ports[0];
        assert_eq!((port.rx_packets_per_second, port.rx_bits_per_second), (500, 256_000));
        assert_eq!((port.tx_packets_per_second, port.tx_bits_per_second), (250, 128_000));
        assert_eq!(port.drops_per_second, 10);
        assert_eq!(
            (port.cycles_per_packet, port.packets_per_burst, port.ring_full_percent),
            (Some(50.5), Some(25.0), 30)
        );
        let worker = &rates.workers[0];
        assert_eq!(
            (worker.packets_per_second, worker.sleeps_per_second, worker.busy_percent),
            (750, 2, 25)
        );
        assert_eq!((worker.cycles_per_packet, worker.packets_per_burst), (Some(40.0), Some(15.0)));
        assert_eq!(rates.ports[1].rx_packets_per_second, 0);
        assert_eq!(
            (rates.ports[1].cycles_per_packet, rates.ports[1].packets_per_burst),
            (None, None)
        );
    }
}
