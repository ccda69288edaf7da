//! Switches under test, each a process of its own that is started for one sample and then stopped.

pub mod ovs;
pub mod ringway;
pub mod testpmd;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cells::{Subject, SwitchKind, Traffic};
use integration::launch::Cgroups;
use integration::memory::Resident;
use integration::pktgen::Endpoint;

/// What a switch has counted about itself during a part of the measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Packets it moved.
    pub packets: u64,
    /// TSC ticks of its worker per packet, polls that found nothing left out; `None` without a packet.
    pub cycles_per_packet: Option<f64>,
    /// Share of the worker's time in which it had packets; `None` where the switch does not tell.
    pub busy: Option<f64>,
    /// Packets it took from a pod at once, on average; where it tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub burst: Option<f64>,
    /// Packets it discarded, by reason; where it tells.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub drops: BTreeMap<String, u64>,
}

/// Quotient of `cycles` and `packets`; nothing without packets.
fn per_packet(cycles: f64, packets: u64) -> Option<f64> {
    (packets > 0).then(|| cycles / packets as f64)
}

/// A running switch with two ports; dropping it stops it.
pub trait Switch {
    /// Where the two pods attach.
    fn endpoints(&self) -> [Endpoint; 2];

    /// Destination addresses the pods' flows may be spread over, of `wanted`.
    fn addresses(&self, wanted: u32) -> u32 {
        wanted
    }

    /// Both pods are attached and traffic flows.
    fn attached(&mut self) -> Result<()> {
        Ok(())
    }

    /// From now on the switch's own counters matter.
    fn begin(&mut self) -> Result<()>;

    /// What it counted since [`Self::begin`].
    fn end(&mut self) -> Result<Window>;

    /// The process whose CPU time and memory are those of the switch.
    fn pid(&self) -> u32;

    /// Its memory before idle pods attached, where it has some.
    fn resident_before_pods(&self) -> Option<Resident> {
        None
    }
}

/// Where and how a switch runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// A directory of its own.
    pub directory: PathBuf,
    /// Cgroups of switches and pods.
    pub cgroups: Cgroups,
    /// CPU for everything that does not forward.
    pub control_cpu: u16,
    /// CPU of the worker.
    pub worker_cpu: u16,
    /// Ticks of the time stamp counter per second.
    pub tsc_hz: f64,
    /// The network namespace it runs in, if it is another.
    pub namespace: Option<String>,
}

impl Place {
    /// Where its output goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }
}

/// Starts the switch of a subject for some traffic.
pub fn start(subject: &Subject, traffic: &Traffic, place: Place) -> Result<Box<dyn Switch>> {
    Ok(match subject.switch {
        SwitchKind::Ringway => Box::new(ringway::Ringway::start(subject, traffic, place)?),
        SwitchKind::TestpmdIo => Box::new(testpmd::Testpmd::start(place)?),
        SwitchKind::OvsNormal => Box::new(ovs::Ovs::start(ovs::Rules::Normal, traffic, place)?),
        SwitchKind::OvsPort => Box::new(ovs::Ovs::start(ovs::Rules::Port, traffic, place)?),
    })
}

/// Why a subject cannot be measured here, if it cannot.
pub fn unavailable(subject: &Subject) -> Option<String> {
    let missing = |program: &str, package: &str| {
        (!Path::new(program).exists()).then(|| format!("{program} is missing (package {package})"))
    };
    match subject.switch {
        SwitchKind::Ringway => None,
        SwitchKind::TestpmdIo => missing(testpmd::PROGRAM, "dpdk"),
        SwitchKind::OvsNormal | SwitchKind::OvsPort => {
            missing(ovs::PROGRAM, "openvswitch-switch-dpdk")
        }
    }
}

/// Bytes of the IP packet in a frame whose size includes the check sequence.
pub fn mtu(traffic: &Traffic) -> u16 {
    traffic.size.saturating_sub(18).max(1500)
}

/// Two pods that address each other directly, as through a wire or a learning switch. Which addresses the flows are spread
/// over makes no difference to such a switch.
fn neighbours(sockets: [PathBuf; 2]) -> [Endpoint; 2] {
    let [a, b] = sockets;
    let macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"].map(ToOwned::to_owned);
    let [mac_a, mac_b] = macs;
    let ip = |last| Ipv4Addr::new(10, 66, 0, last);
    [
        Endpoint {
            socket: a,
            mac: mac_a.clone(),
            ip: ip(2),
            to_mac: mac_b.clone(),
            to_ip: Ipv4Addr::new(10, 67, 0, 0),
            tunnel: None,
        },
        Endpoint {
            socket: b,
            mac: mac_b,
            ip: ip(3),
            to_mac: mac_a,
            to_ip: Ipv4Addr::new(10, 68, 0, 0),
            tunnel: None,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_address_each_other() {
        let [a, b] = neighbours([PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((&a.to_mac, &b.to_mac), (&b.mac, &a.mac));
        assert_ne!(a.mac, b.mac);
        assert_ne!(a.socket, b.socket);
    }

    #[test]
    fn the_mtu_has_room_for_the_frame() {
        for (size, expected) in [(64, 1500), (1518, 1500), (9018, 9000)] {
            let traffic = Traffic { size, flows: 1, touch: false, vectorized: false };
            assert_eq!(mtu(&traffic), expected, "{size}");
        }
    }
}
