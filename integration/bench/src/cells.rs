//! What is measured: cells of one kind of traffic each, and the switches compared in them.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde::Serialize;

/// A switch under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchKind {
    /// The vRouter: address check, route lookup, TTL, checksum and counters for every packet.
    Ringway,
    /// testpmd moving packets between two `net_vhost` ports without looking at them: the limit of librte_vhost.
    TestpmdIo,
    /// OVS-DPDK that learns MAC addresses.
    OvsNormal,
    /// OVS-DPDK with one rule per port.
    OvsPort,
}

/// One side of a comparison: a switch and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Name in reports; that of the switch unless the cell compares a switch with itself.
    pub name: &'static str,
    /// The switch.
    pub switch: SwitchKind,
    /// The pods use packed rings.
    pub packed: bool,
    /// Attached pods that neither send nor receive.
    pub idle_pods: u16,
    /// Routes of the network, when the cell is about their number.
    pub routes: Option<u32>,
    /// The second pod is on another network, the far end of a VXLAN tunnel: one direction goes in, the other comes out.
    pub tunnel: bool,
    /// The pods' network is bridged, and they send to each other's MAC address.
    pub bridged: bool,
}

/// The packets of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Frame with its check sequence, bytes.
    pub size: u16,
    /// Distinct flows from each pod.
    pub flows: u32,
    /// Pods write and read every byte of the payload.
    pub touch: bool,
    /// Pods use the vectorised driver, which takes no mergeable buffers.
    pub vectorized: bool,
}

/// What is found out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// How many packets arrive when both pods offer as many as they can.
    Throughput,
    /// How long packets take at `share` of the rate that the slowest of the cell's switches reaches.
    Latency {
        /// Share of that rate.
        share: f64,
    },
    /// How many packets get lost at `share` of the rate that each switch itself reaches.
    Loss {
        /// Share of that rate.
        share: f64,
    },
    /// How long a full table of the kernel's takes and what memory, and whether packets notice.
    FullTable(FullTable),
    /// CPU time and memory with nothing but idle pods.
    Idle {
        /// Length of the measurement.
        seconds: u32,
    },
}

/// A table that is filled under traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FullTable {
    /// Routes.
    pub ipv4: u32,
    /// Routes.
    pub ipv6: u32,
    /// Packets per second of each pod: so few that none has to be lost.
    pub rate_per_pod: u64,
    /// Length of the measurement, in which all has to be loaded.
    pub seconds: u32,
}

/// What the data plane must reach against `testpmd_io` on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Target {
    /// Name of the subject compared with.
    pub against: &'static str,
    /// Least quotient of received packets.
    pub packets: Option<f64>,
    /// Greatest quotient of cycles per packet.
    pub cycles: Option<f64>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// Name, matched by `--cells`.
    pub name: &'static str,
    /// What is found out.
    #[serde(flatten)]
    pub kind: Kind,
    /// Its packets.
    pub traffic: Traffic,
    /// What is compared. The first one is [`OURS`], which ratios are of, unless it was not selected.
    pub subjects: Vec<Subject>,
    /// Greatest share of lost packets in one sample; more fails the cell.
    pub loss_limit: f64,
    /// What the ratios should be.
    pub targets: Vec<Target>,
}

/// Switches lose packets at saturation when the generator is off its CPU for a moment and a pod's ring is full: 0.04 % was
/// the most seen. A switch that discards to look fast loses far more.
pub const SATURATED_LOSS: f64 = 0.005;
/// Below saturation, one interruption of the generator's CPU by a millisecond already costs 0.02 % of a second's packets.
const UNSATURATED_LOSS: f64 = 0.001;
/// Loss of the median round at 95 % of the greatest rate.
pub const LOSS_95_MEDIAN: f64 = 0.0001;
/// Attached idle pods of the cells about them.
const IDLE_PODS: u16 = 250;

/// The subject that ratios are of.
pub const OURS: &str = "ringway";

const fn subject(name: &'static str, switch: SwitchKind) -> Subject {
    Subject {
        name,
        switch,
        packed: false,
        idle_pods: 0,
        routes: None,
        tunnel: false,
        bridged: false,
    }
}

const RINGWAY: Subject = subject(OURS, SwitchKind::Ringway);
const IO: Subject = subject("testpmd_io", SwitchKind::TestpmdIo);
const NORMAL: Subject = subject("ovs_normal", SwitchKind::OvsNormal);
const PORT: Subject = subject("ovs_port", SwitchKind::OvsPort);

const fn traffic(size: u16, flows: u32) -> Traffic {
    Traffic { size, flows, touch: false, vectorized: false }
}

/// Smallest frames from pods with the fastest driver there is for split rings: with the default one the pods are the limit
/// before any switch is.
const fn fast(flows: u32) -> Traffic {
    Traffic { vectorized: true, ..traffic(64, flows) }
}

fn throughput(name: &'static str, traffic: Traffic, subjects: &[Subject]) -> Cell {
    Cell {
        name,
        kind: Kind::Throughput,
        traffic,
        subjects: subjects.to_vec(),
        loss_limit: SATURATED_LOSS,
        targets: Vec::new(),
    }
}

/// Ringway as a switch beside those that are nothing else.
fn bridged(name: &'static str, traffic: Traffic, packets: f64, cycles: f64) -> Cell {
    Cell {
        targets: vec![aim("testpmd_io", packets, cycles)],
        ..throughput(name, traffic, &[Subject { bridged: true, ..RINGWAY }, IO, NORMAL])
    }
}

/// Ringway through a tunnel beside Ringway without one.
fn tunnel(name: &'static str, size: u16) -> Cell {
    let through = Subject { tunnel: true, ..RINGWAY };
    Cell {
        targets: vec![aim("ringway_plain", 0.85, None)],
        ..throughput(
            name,
            traffic(size, 1024),
            &[through, Subject { name: "ringway_plain", ..RINGWAY }],
        )
    }
}

fn aim(against: &'static str, packets: f64, cycles: impl Into<Option<f64>>) -> Target {
    Target { against, packets: Some(packets), cycles: cycles.into() }
}

/// Every cell, in the order in which they are measured.
pub fn all() -> Vec<Cell> {
    let everybody = &[RINGWAY, IO, NORMAL, PORT];
    vec![
        Cell {
            targets: vec![aim("testpmd_io", 1.20, 0.60)],
            ..throughput("pod_pod.64.1024", fast(1024), everybody)
        },
        Cell {
            targets: vec![aim("testpmd_io", 1.65, 0.55)],
            ..throughput("pod_pod.512.1024", traffic(512, 1024), everybody)
        },
        Cell {
            targets: vec![aim("testpmd_io", 1.80, 0.56)],
            ..throughput("pod_pod.1518.1024", traffic(1518, 1024), everybody)
        },
        Cell {
            targets: vec![aim("testpmd_io", 1.20, 0.60)],
            ..throughput("pod_pod.64.65536", fast(65536), everybody)
        },
        Cell {
            targets: vec![aim("testpmd_io", 1.00, 0.65)],
            ..throughput(
                "pod_pod.1518.1024.touch",
                Traffic { touch: true, ..traffic(1518, 1024) },
                &[RINGWAY, IO, NORMAL],
            )
        },
        throughput("pod_pod.64.1024.default", traffic(64, 1024), &[RINGWAY, IO, NORMAL]),
        Cell {
            targets: vec![aim("ringway_split", 1.00, None)],
            ..throughput(
                "pod_pod.64.1024.packed",
                traffic(64, 1024),
                &[
                    Subject { packed: true, ..RINGWAY },
                    Subject { name: "ringway_split", ..RINGWAY },
                    Subject { packed: true, ..IO },
                ],
            )
        },
        Cell {
            targets: vec![aim("ringway_split", 1.00, 1.05)],
            ..throughput(
                "pod_pod.64.1024.packed_fast",
                fast(1024),
                &[
                    Subject { packed: true, ..RINGWAY },
                    Subject { name: "ringway_split", ..RINGWAY },
                    Subject { packed: true, ..IO },
                ],
            )
        },
        bridged("bridged.64", fast(1024), 1.20, 0.60),
        bridged("bridged.1518", traffic(1518, 1024), 1.80, 0.56),
        throughput("pod_pod.9018.1024", traffic(9018, 1024), &[RINGWAY, IO, NORMAL]),
        Cell {
            targets: vec![aim("ringway_1000", 0.90, None)],
            ..throughput(
                "routes.1000000",
                fast(32768),
                &[
                    Subject { routes: Some(1_000_000), ..RINGWAY },
                    Subject { name: "ringway_1000", routes: Some(1_000), ..RINGWAY },
                ],
            )
        },
        tunnel("vxlan.64", 64),
        tunnel("vxlan.512", 512),
        // The largest frames that go into a tunnel over a network with an MTU of 1,500 bytes.
        tunnel("vxlan.1468", 1468),
        Cell {
            targets: vec![aim("ringway_alone", 0.95, None)],
            ..throughput(
                "scale.250_idle",
                fast(1024),
                &[
                    Subject { idle_pods: IDLE_PODS, ..RINGWAY },
                    Subject { name: "ringway_alone", ..RINGWAY },
                ],
            )
        },
        Cell {
            kind: Kind::Latency { share: 0.5 },
            loss_limit: UNSATURATED_LOSS,
            ..throughput("latency.half_load", traffic(64, 1024), &[RINGWAY, IO, NORMAL])
        },
        Cell {
            kind: Kind::Loss { share: 0.95 },
            loss_limit: UNSATURATED_LOSS,
            ..throughput("loss.95", traffic(64, 1024), &[RINGWAY])
        },
        Cell {
            kind: Kind::FullTable(FullTable {
                ipv4: 1_000_000,
                ipv6: 200_000,
                rate_per_pod: 1_000_000,
                seconds: 100,
            }),
            loss_limit: LOSS_95_MEDIAN,
            ..throughput("full_table", traffic(64, 1024), &[RINGWAY])
        },
        Cell {
            kind: Kind::Idle { seconds: 10 },
            ..throughput(
                "idle.250_ports",
                traffic(64, 1),
                &[Subject { idle_pods: IDLE_PODS, ..RINGWAY }],
            )
        },
    ]
}

/// The cells whose names match `cells`, with the subjects whose names match `switches`.
///
/// # Errors
/// When a pattern matches nothing.
pub fn select(cells: &str, switches: &str) -> Result<Vec<Cell>> {
    let mut left = all();
    let names = left.iter().map(|cell| cell.name).collect();
    let cells = patterns("--cells", cells, names)?;
    left.retain(|cell| matches_any(&cells, cell.name));
    let names = left.iter().flat_map(|cell| &cell.subjects).map(|it| it.name).collect();
    let switches = patterns("--switches", switches, names)?;
    for cell in &mut left {
        cell.subjects.retain(|it| matches_any(&switches, it.name));
    }
    left.retain(|cell| !cell.subjects.is_empty());
    Ok(left)
}

/// The patterns of an option, each of which matches one of `names`.
fn patterns<'a>(option: &str, globs: &'a str, names: BTreeSet<&str>) -> Result<Vec<&'a str>> {
    let globs: Vec<&str> = globs.split(',').map(str::trim).collect();
    match globs.iter().find(|glob| !names.iter().any(|name| matches(glob, name))) {
        None => Ok(globs),
        Some(glob) => {
            let names: Vec<_> = names.into_iter().collect();
            bail!("{option} {glob:?} matches none of {}", names.join(", "))
        }
    }
}

fn matches_any(globs: &[&str], name: &str) -> bool {
    globs.iter().any(|glob| matches(glob, name))
}

/// `*` stands for any text, `?` for one character.
fn matches(glob: &str, name: &str) -> bool {
    let mut rest = glob.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| matches(rest.as_str(), &name[at..])),
        Some(wanted) => {
            let mut name = name.chars();
            name.next().is_some_and(|is| wanted == '?' || wanted == is)
                && matches(rest.as_str(), name.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_cells() {
        for (glob, name, expected) in [
            ("*", "a.b", true),
            ("a.?", "a.b", true),
            ("a.?", "a.bc", false),
            ("*.b*", "a.bc", true),
            ("a", "a.b", false),
            ("", "", true),
            ("*64*", "pod_pod.64.1024", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
        let names = |globs: &str| -> Vec<&str> {
            select(globs, "*").unwrap().iter().map(|cell| cell.name).collect()
        };
        assert_eq!(names("loss.*, pod_pod.512.*"), ["pod_pod.512.1024", "loss.95"]);
        assert_eq!(names("*").len(), all().len());
        let error = select("loss.95,moon", "*").unwrap_err().to_string();
        assert!(error.contains("--cells \"moon\"") && error.contains("idle.250_ports"), "{error}");

        let cells = select("pod_pod.64.1024,loss.95", "*io, ovs_port").unwrap();
        assert_eq!(cells.len(), 1, "nothing is left of the other");
        let names: Vec<_> = cells[0].subjects.iter().map(|it| it.name).collect();
        assert_eq!(names, ["testpmd_io", "ovs_port"]);
        let error = select("loss.95", "vpp").unwrap_err().to_string();
        assert!(error.contains("--switches \"vpp\"") && error.contains("ringway"), "{error}");
    }

    #[test]
    fn names_are_unique_and_what_is_compared_exists() {
        let cells = all();
        let names: BTreeSet<_> = cells.iter().map(|cell| cell.name).collect();
        assert_eq!(names.len(), cells.len());
        for cell in &cells {
            let subjects: BTreeSet<_> = cell.subjects.iter().map(|it| it.name).collect();
            assert_eq!(subjects.len(), cell.subjects.len(), "{}", cell.name);
            // Ratios are of the vRouter.
            assert_eq!(cell.subjects[0], Subject { name: OURS, ..cell.subjects[0] });
            for target in &cell.targets {
                assert!(subjects.contains(target.against), "{}: {target:?}", cell.name);
            }
        }
    }
}
