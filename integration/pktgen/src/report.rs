//! What is printed: one JSON object per line.

use std::io::{self, Write};

use serde::Serialize;

use crate::latencies::Latencies;

/// Above this share of busy time, and below that share of full rings, the generator is what limits.
const BUSY: f64 = 0.97;
const RING_FULL: f64 = 0.10;

/// A line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Links are up, traffic starts.
    Ready,
    /// The measurement begins.
    Start,
    /// The measurement is over.
    End(Box<Results>),
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Length of the measurement.
    pub seconds: f64,
    /// Share of time in rounds that moved packets.
    pub busy: f64,
    /// How often the thread did not run for a while, as others used its CPU.
    pub absences: u64,
    /// Share of time in which it did not.
    pub away: f64,
    /// Share of attempts to send that a ring did not take whole.
    pub ring_full: f64,
    /// What kept the rate from being higher.
    pub limit: Limit,
    /// Busy ticks of the cycle counter per packet sent or received.
    pub cycles_per_packet: f64,
    /// Packets sent per second, all ports together.
    pub sent_per_second: f64,
    /// Packets received per second, all ports together.
    pub received_per_second: f64,
    /// By number.
    pub ports: Vec<PortResults>,
    /// Share of the packets sent that was lost.
    pub loss: f64,
    /// One-way latencies, if measured.
    pub latency_ns: Option<Latency>,
    /// How often memory was allocated and freed, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_changes: Option<u64>,
}

/// Counters of one port.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortResults {
    /// Packets sent in the measurement.
    pub sent: u64,
    /// Packets received in the measurement.
    pub received: u64,
    /// Packets sent to this port in the measurement that never arrived.
    pub lost: u64,
    /// Packets that came behind a later one of their flow, or twice.
    pub reordered: u64,
    /// Packets that were not as sent.
    pub corrupt: u64,
    /// Packets that were fully checked.
    pub checked: u64,
    /// Packets that were not ours.
    pub foreign: u64,
}

/// Who kept the rate from being higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// This process.
    Generator,
    /// What it sends through.
    Switch,
}

impl Limit {
    /// Decides by the shares of busy time and of full rings.
    pub fn of(busy: f64, ring_full: f64) -> Self {
        if busy > BUSY && ring_full < RING_FULL { Self::Generator } else { Self::Switch }
    }
}

/// One-way latencies in nanoseconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many.
    pub samples: u64,
    /// How many more are left out, as the generator was away while they were under way.
    pub unseen: u64,
    /// Shortest.
    pub min: u64,
    /// Half of them took no longer.
    pub p50: u64,
    /// 90 % took no longer.
    pub p90: u64,
    /// 99 % took no longer.
    pub p99: u64,
    /// 99.9 % took no longer.
    pub p999: u64,
    /// 99.9 % took no longer in half of all periods of 100 ms; absent in a run without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_of_half: Option<u64>,
    /// Longest.
    pub max: u64,
}

impl Latency {
    /// From ticks at `hz` per second, which leave `unseen` out; `None` without samples.
    pub fn of(latencies: &Latencies, unseen: u64, hz: u64) -> Option<Self> {
        let ticks = latencies.whole();
        let ns = |ticks: u64| {
            let ns = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
            u64::try_from(ns).unwrap_or(u64::MAX)
        };
        Some(Self {
            samples: ticks.samples(),
            unseen,
            min: ns(ticks.min()?),
            p50: ns(ticks.quantile(500)?),
            p90: ns(ticks.quantile(900)?),
            p99: ns(ticks.quantile(990)?),
            p999: ns(ticks.quantile(999)?),
            p999_of_half: latencies.p999_of_half().map(ns),
            max: ns(ticks.max()?),
        })
    }
}

/// Prints a line at once.
///
/// # Errors
/// Nobody reads stdout.
pub fn print(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// `a / b`; 0 when there is nothing to divide by.
#[allow(clippy::cast_precision_loss, reason = "a share or a rate for people; 53 bits are plenty")]
pub fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_generator_only_if_it_is_busy_and_the_rings_are_not_full() {
        for (busy, ring_full, limit) in
            [(0.99, 0.01, Limit::Generator), (0.99, 0.5, Limit::Switch), (0.6, 0.01, Limit::Switch)]
        {
            assert_eq!(Limit::of(busy, ring_full), limit);
        }
    }

    #[test]
    fn events_are_lines_of_json() {
        let line = |event: &Event| serde_json::to_string(event).unwrap();
        assert_eq!(line(&Event::Ready), r#"{"event":"ready"}"#);
        assert_eq!(line(&Event::Start), r#"{"event":"start"}"#);
        let results = Results {
            seconds: 1.5,
            busy: 0.25,
            absences: 2,
            away: 0.5,
            ring_full: 0.0,
            limit: Limit::Switch,
            cycles_per_packet: 60.5,
            sent_per_second: 2.0,
            received_per_second: 1.0,
            ports: vec![PortResults { sent: 2, received: 1, lost: 1, ..PortResults::default() }],
            loss: 0.5,
            latency_ns: Some(Latency {
                samples: 1,
                unseen: 8,
                min: 2,
                p50: 3,
                p90: 4,
                p99: 5,
                p999: 6,
                p999_of_half: None,
                max: 7,
            }),
            memory_changes: None,
        };
        assert_eq!(
            line(&Event::End(Box::new(results))),
            concat!(
                r#"{"event":"end","seconds":1.5,"busy":0.25,"absences":2,"away":0.5,"ring_full":0.0,"limit":"switch","#,
                r#""cycles_per_packet":60.5,"sent_per_second":2.0,"received_per_second":1.0,"ports":[{"sent":2,"#,
                r#""received":1,"lost":1,"reordered":0,"corrupt":0,"checked":0,"foreign":0}],"loss":0.5,"#,
                r#""latency_ns":{"samples":1,"unseen":8,"min":2,"p50":3,"p90":4,"p99":5,"p999":6,"max":7}}"#
            )
        );
    }

    #[test]
    fn latencies_are_nanoseconds() {
        let mut ticks = Latencies::new(2_000_000_000);
        assert_eq!(Latency::of(&ticks, 3, 2_000_000_000), None);
        ticks.record(0, 40);
        let latency = Latency::of(&ticks, 3, 2_000_000_000).unwrap();
        assert_eq!((latency.samples, latency.unseen), (1, 3));
        assert_eq!((latency.min, latency.p999, latency.max), (20, 20, 20));
    }
}
