//! Uplinks, and what they have counted.

use std::collections::BTreeMap;

use serde::Serialize;
use vrouter_api::v1;

use super::filled;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Uplink {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) driver: String,
    pub(crate) network: String,
    pub(crate) host_interface: Option<String>,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) queues: u32,
    pub(crate) workers: Vec<u32>,
    pub(crate) link: bool,
    pub(crate) speed_mbit: Option<u32>,
    pub(crate) reason: Option<String>,
    pub(crate) numa_node: Option<u32>,
    /// The devices of a bond, the best first.
    pub(crate) members: Vec<Member>,
    /// `None` where counters were not asked for.
    pub(crate) counters: Option<UplinkCounters>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Member {
    pub(crate) device: String,
    pub(crate) link: bool,
    pub(crate) active: bool,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct UplinkCounters {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    /// Of what came from the wire.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Of what the kernel sent.
    pub(crate) host_drops: BTreeMap<String, u64>,
    pub(crate) punts: BTreeMap<String, u64>,
    pub(crate) device: BTreeMap<String, u64>,
    pub(crate) host_device: BTreeMap<String, u64>,
}

fn counters(list: Vec<v1::Counter>) -> BTreeMap<String, u64> {
    list.into_iter().map(|counter| (counter.name, counter.value)).collect()
}

fn drops(port: Option<&v1::PortStats>) -> BTreeMap<String, u64> {
    let drops = port.map(|port| port.drops.iter()).into_iter().flatten();
    drops.map(|drop| (drop.reason.clone(), drop.packets)).collect()
}

impl From<v1::UplinkStats> for UplinkCounters {
    fn from(stats: v1::UplinkStats) -> Self {
        let (from_wire, from_host) = (drops(stats.port.as_ref()), drops(stats.host.as_ref()));
        let port = stats.port.unwrap_or_default();
        Self {
            rx_packets: port.rx_packets,
            rx_bytes: port.rx_bytes,
            tx_packets: port.tx_packets,
            tx_bytes: port.tx_bytes,
            drops: from_wire,
            host_drops: from_host,
            punts: counters(stats.punts),
            device: counters(stats.device),
            host_device: counters(stats.host_device),
        }
    }
}

impl Uplink {
    /// What packets go by: of a bond the device that carries them, or all of them while none does.
    pub(crate) fn devices(&self) -> String {
        let names = |list: Vec<&Member>| {
            list.iter().map(|it| it.device.as_str()).collect::<Vec<_>>().join(",")
        };
        match self.members.iter().find(|member| member.active) {
            _ if self.members.is_empty() => self.device.clone(),
            Some(active) => {
                let rest = self.members.iter().filter(|it| !it.active).collect();
                format!("{} ({})", active.device, names(rest))
            }
            None => format!("({})", names(self.members.iter().collect())),
        }
    }

    pub(crate) fn new(uplink: v1::Uplink, stats: Option<v1::UplinkStats>) -> Self {
        let spec = uplink.spec.unwrap_or_default();
        let member =
            |it: v1::BondMember| Member { device: it.device, link: it.link, active: it.active };
        Self {
            name: spec.name,
            device: spec.device,
            driver: uplink.driver,
            network: spec.network,
            host_interface: filled(spec.host_interface),
            mac: uplink.mac,
            mtu: spec.mtu,
            queues: spec.queues,
            workers: uplink.workers,
            link: uplink.link,
            speed_mbit: (uplink.speed != 0).then_some(uplink.speed),
            reason: filled(uplink.reason),
            numa_node: u32::try_from(uplink.numa_node).ok(),
            members: uplink.members.into_iter().map(member).collect(),
            counters: stats.map(UplinkCounters::from),
        }
    }
}

/// All of them by name, with their counters.
pub(crate) fn uplinks(list: Vec<v1::Uplink>, stats: Vec<v1::UplinkStats>) -> Vec<Uplink> {
    let mut stats: BTreeMap<_, _> =
        stats.into_iter().map(|stats| (stats.name.clone(), stats)).collect();
    let mut list: Vec<_> = list
        .into_iter()
        .map(|uplink| {
            let name = uplink.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
            Uplink::new(uplink, stats.remove(&name))
        })
        .collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}
