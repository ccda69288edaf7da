//! `ringway-pktgen` as a child process: where its pods attach, and what it says.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::{Daemon, tail};
use crate::wait;

/// Time for EAL, both handshakes and the links.
const READY: Duration = Duration::from_secs(30);
/// Time for the warm-up's end and the final counting, beyond what they are meant to take.
const SLACK: Duration = Duration::from_secs(15);
/// Least share of the ordered rate that still counts as that rate.
const RATE_TOLERANCE: f64 = 0.98;
/// Longest share of a measurement in which the generator may have been kept from running: beyond, what is left says little about a
/// constant rate.
const AWAY_LIMIT: f64 = 0.10;

/// Where one pod attaches and whom it sends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// vhost-user socket; the switch listens.
    pub socket: PathBuf,
    /// Its own MAC address.
    pub mac: String,
    /// Its own IPv4 address.
    pub ip: Ipv4Addr,
    /// Destination MAC address of what it sends.
    pub to_mac: String,
    /// First destination IPv4 address of what it sends.
    pub to_ip: Ipv4Addr,
    /// It is the far end of a tunnel.
    pub tunnel: Option<FarEnd>,
}

/// The far end of a VXLAN tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarEnd {
    /// The network's number.
    pub vni: u32,
    /// Its address in the underlay.
    pub from: Ipv4Addr,
    /// The switch's.
    pub to: Ipv4Addr,
    /// The switch's MAC address there.
    pub to_mac: String,
}

impl FarEnd {
    /// As the generator is told.
    fn options(&self) -> String {
        let Self { vni, from, to, to_mac } = self;
        format!(",vni={vni},vtep={from},to-vtep={to},vtep-mac={to_mac}")
    }
}

impl Endpoint {
    /// The generator's `--port`.
    pub fn option(&self) -> String {
        let Self { socket, mac, ip, to_mac, to_ip, tunnel } = self;
        let (socket, tunnel) = (socket.display(), tunnel.as_ref().map(FarEnd::options));
        let tunnel = tunnel.unwrap_or_default();
        format!("socket={socket},mac={mac},ip={ip},to-mac={to_mac},to-ip={to_ip}{tunnel}")
    }
}

/// The generator's last word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Length of the measurement.
    pub seconds: f64,
    /// Share of the generator's time in which it had something to do.
    pub busy: f64,
    /// Share of the time in which it did not run, as others used its CPU or the host did. Older generators did not tell.
    #[serde(default)]
    pub away: f64,
    /// Share of attempts to send that met a full ring.
    pub ring_full: f64,
    /// Which of the two could not do more.
    pub limit: Limit,
    /// Each pod.
    pub ports: Vec<PortEnd>,
    /// Lost packets of all sent.
    pub loss: f64,
    /// One-way latency of the timestamped packets.
    pub latency_ns: Option<Latency>,
    /// Whatever else it says goes into the report as it is.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// Who could not do more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The generator was busy all the time: the switch can do at least this.
    Generator,
    /// The switch.
    Switch,
}

/// One pod's counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortEnd {
    /// Packets its ring took.
    pub sent: u64,
    /// Packets received during the measurement.
    pub received: u64,
    /// Packets sent to it that never came.
    pub lost: u64,
    /// Packets that overtook another of their flow.
    pub reordered: u64,
    /// Damaged packets.
    pub corrupt: u64,
    /// Packets of which every byte was checked.
    pub checked: u64,
    /// Packets nobody here has sent.
    pub foreign: u64,
    /// Whatever else it says.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// One-way latency, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Packets measured.
    pub samples: u64,
    /// Packets left out, as the generator was away while they were under way. Older generators left none out.
    #[serde(default)]
    pub unseen: u64,
    /// Least.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// 99.9 % in half of all periods of 100 ms. Older generators did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999_of_half: Option<f64>,
    /// Greatest.
    pub max: f64,
}

impl End {
    /// Packets per second that reached a pod.
    pub fn received_pps(&self) -> f64 {
        let received: u64 = self.ports.iter().map(|port| port.received).sum();
        received as f64 / self.seconds
    }

    fn sum(&self, of: impl Fn(&PortEnd) -> u64) -> u64 {
        self.ports.iter().map(of).sum()
    }

    /// What may not happen on any machine, whatever it was busy with.
    pub fn damage(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, what) in [
            (self.sum(|port| port.corrupt), "damaged"),
            (self.sum(|port| port.reordered), "reordered"),
        ] {
            if number > 0 {
                faults.push(format!("{number} packets {what}"));
            }
        }
        faults
    }

    /// What may not happen on a machine that was fit: where a CPU is taken away for long, packets of the warm-up come so late that
    /// they count as foreign, and many are lost.
    pub fn oddities(&self, loss_limit: f64) -> Vec<String> {
        let mut faults = Vec::new();
        let foreign = self.sum(|port| port.foreign);
        if foreign > 0 {
            faults.push(format!("{foreign} packets not ours"));
        }
        if self.ports.iter().any(|port| port.received == 0) {
            faults.push("a pod received nothing".to_owned());
        }
        if self.sum(|port| port.checked) == 0 {
            faults.push("no packet was checked".to_owned());
        }
        faults.extend(self.excessive_loss(loss_limit));
        faults
    }

    /// Whether the pods sent clearly less than `rate` packets per second each while the generator ran, so that what was measured is
    /// not what was asked. What was due while it did not run is not asked for: at most a ring of it is sent later, none where
    /// latency is measured, and what was under way then is not among the latencies either.
    pub fn too_slow(&self, rate: u64) -> Option<String> {
        if rate == 0 {
            return None;
        }
        let away = self.away * 100.0;
        if self.away > AWAY_LIMIT {
            return Some(format!("the generator did not run for {away:.0} % of the time"));
        }
        let sent: u64 = self.ports.iter().map(|port| port.sent).sum();
        let due = self.seconds * (1.0 - self.away) * rate as f64 * self.ports.len() as f64;
        let share = sent as f64 / due;
        (share < RATE_TOLERANCE).then(|| {
            format!(
                "the generator reached {:.0} % of {rate} packets per second in the {:.1} % of the time in which it ran",
                share * 100.0,
                100.0 - away
            )
        })
    }

    /// Whether more than the share `limit` of the packets was lost.
    fn excessive_loss(&self, limit: f64) -> Option<String> {
        let (loss, limit) = (self.loss * 100.0, limit * 100.0);
        (loss.is_nan() || loss > limit)
            .then(|| format!("{loss:.4} % of the packets lost, {limit} % is the limit"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Ready,
    Start,
    End(Box<End>),
}

/// The events among the lines of its output; EAL's messages are between them.
fn events(output: &str) -> Result<Vec<Event>> {
    output
        .lines()
        .filter(|line| line.starts_with("{\"event\""))
        .map(|line| serde_json::from_str(line).with_context(|| format!("generator: {line}")))
        .collect()
}

/// A running generator; dropping it stops it.
#[derive(Debug)]
pub struct Pktgen {
    process: Daemon,
    log: PathBuf,
}

impl Pktgen {
    /// Starts `command`, which runs it, with its output in `log`, a file of its own.
    pub fn start(command: Command, log: &Path) -> Result<Self> {
        let process = Daemon::start("ringway-pktgen", command, log)?;
        Ok(Self { process, log: log.to_owned() })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn wait_event<T>(
        &mut self,
        what: &str,
        limit: Duration,
        which: impl Fn(Event) -> Option<T>,
    ) -> Result<T> {
        let log = self.log.clone();
        let look = || Ok(events(&fs::read_to_string(&log)?)?.into_iter().find_map(&which));
        // It prints its result and ends: the last look is after the end.
        let seen = self.process.wait_for(what, limit, look);
        if seen.is_err()
            && self.process.exited()?.is_some()
            && let Some(value) = look()?
        {
            return Ok(value);
        }
        seen
    }

    /// Returns when all pods are attached and begin to send.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_event("the pods are attached", READY, |_| Some(()))
    }

    /// Returns when the measurement has begun, after a warm-up of this length.
    pub fn wait_start(&mut self, warmup: Duration) -> Result<()> {
        let start = |event| matches!(event, Event::Start | Event::End(_)).then_some(());
        self.wait_event("the measurement begins", warmup + SLACK, start)
    }

    /// Waits for the result of a measurement of this length, and for the end of the process.
    pub fn finish(mut self, length: Duration) -> Result<End> {
        let end = self.wait_event("the measurement ends", length + SLACK, |event| match event {
            Event::End(end) => Some(*end),
            Event::Ready | Event::Start => None,
        })?;
        wait::until("the generator ends after its result", SLACK, || self.process.exited())?;
        if end.ports.is_empty() || end.seconds <= 0.0 {
            bail!("unexpected result of the generator: {}", tail(&self.log, 3));
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = include_str!("../bench/testdata/pktgen.txt");

    fn end() -> End {
        let end = events(OUTPUT).unwrap().into_iter().find_map(|event| match event {
            Event::End(end) => Some(*end),
            Event::Ready | Event::Start => None,
        });
        end.unwrap()
    }

    #[test]
    fn reads_real_output() {
        let seen: Vec<_> = events(OUTPUT).unwrap();
        assert!(matches!(seen[..], [Event::Ready, Event::Start, Event::End(_)]), "{seen:?}");
        let end = end();
        assert_eq!(end.ports.len(), 2);
        let received = end.ports[0].received + end.ports[1].received;
        assert!((end.received_pps() * end.seconds - received as f64).abs() < 1.0);
        assert_eq!(end.damage(), Vec::<String>::new());
        assert_eq!(end.oddities(0.01), Vec::<String>::new());
        assert!(events("{\"event\":\"end\",\"seconds\":3}").is_err());
    }

    #[test]
    fn every_fault_is_named() {
        for (field, value, damage, oddity) in [
            ("sent", 1, &[][..], &[][..]),
            ("corrupt", 2, &["2 packets damaged"], &[]),
            ("reordered", 3, &["3 packets reordered"], &[]),
            ("foreign", 1, &[], &["1 packets not ours"]),
            ("received", 0, &[], &["a pod received nothing"]),
        ] {
            let mut json = serde_json::to_value(end()).unwrap();
            json["ports"][1][field] = value.into();
            let end: End = serde_json::from_value(json).unwrap();
            assert_eq!(end.damage(), damage, "{field}");
            assert_eq!(end.oddities(0.01), oddity, "{field}");
        }
        let mut unchecked = end();
        unchecked.ports.iter_mut().for_each(|port| port.checked = 0);
        assert_eq!(unchecked.oddities(0.01), ["no packet was checked"]);
        for (loss, expected) in [
            (0.005, None),
            (0.01, Some("1.0000 % of the packets lost, 0.5 % is the limit")),
            (f64::NAN, Some("NaN % of the packets lost, 0.5 % is the limit")),
        ] {
            assert_eq!(End { loss, ..end() }.excessive_loss(0.005).as_deref(), expected);
        }
    }

    #[test]
    fn a_rate_that_was_not_reached_is_told() {
        let sent = |share: u64, away: f64| {
            let mut end = end();
            (end.seconds, end.away) = (1.0, away);
            end.ports.iter_mut().for_each(|port| port.sent = share);
            end
        };
        assert_eq!(sent(990_000, 0.0).too_slow(1_000_000), None);
        assert_eq!(sent(500_000, 0.0).too_slow(0), None, "as many as possible");
        let told = sent(500_000, 0.0).too_slow(1_000_000).unwrap();
        let all = "in the 100.0 % of the time in which it ran";
        assert_eq!(told, format!("the generator reached 50 % of 1000000 packets per second {all}"));
        assert!(sent(960_000, 0.0).too_slow(1_000_000).is_some());
        assert_eq!(sent(960_000, 0.035).too_slow(1_000_000), None, "it sent while it could");
        let told = sent(900_000, 0.05).too_slow(1_000_000).unwrap();
        assert!(
            told.starts_with("the generator reached 95 % of") && told.contains(" 95.0 % of"),
            "{told}"
        );
        assert_eq!(sent(900_000, 0.1).too_slow(1_000_000), None);
        let told = sent(880_000, 0.12).too_slow(1_000_000).unwrap();
        assert_eq!(told, "the generator did not run for 12 % of the time");
    }
}
