//! Networks, and what pods in them may send.

use serde::Serialize;
use vrouter_api::v1;

use super::filled;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) ipv4: String,
    pub(crate) gateway: String,
    pub(crate) gateway_mac: Option<String>,
    pub(crate) ipv6: Option<String>,
    pub(crate) gateway6: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) mode: NetworkMode,
    pub(crate) flood_limit: Option<FloodLimit>,
    pub(crate) policer: Option<Policer>,
    pub(crate) routes: u64,
    pub(crate) stations: u64,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) external: bool,
    pub(crate) kernel_table: Option<u32>,
    pub(crate) kernel_vrf: Option<String>,
    pub(crate) kernel_port: Option<KernelPort>,
    pub(crate) kernel_bridge: Option<KernelBridge>,
}

/// What the kernel's forwarding database says of a network's other ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KernelBridge {
    pub(crate) device: Option<String>,
    pub(crate) ends: Vec<String>,
    pub(crate) station_ends: Vec<String>,
    pub(crate) stations: u64,
    pub(crate) left_out: u64,
    pub(crate) reason: Option<String>,
}

impl From<v1::KernelBridge> for KernelBridge {
    fn from(bridge: v1::KernelBridge) -> Self {
        Self {
            device: filled(bridge.device),
            ends: bridge.ends,
            station_ends: bridge.station_ends,
            stations: bridge.stations,
            left_out: bridge.left_out,
            reason: filled(bridge.reason),
        }
    }
}

/// The kernel as a router of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KernelPort {
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) packets_per_second: u32,
    pub(crate) burst_packets: u32,
    pub(crate) mac: String,
    pub(crate) reason: Option<String>,
}

impl From<v1::KernelPort> for KernelPort {
    fn from(port: v1::KernelPort) -> Self {
        Self {
            name: port.name,
            mtu: port.mtu,
            packets_per_second: port.packets_per_second,
            burst_packets: port.burst_packets,
            mac: port.mac,
            reason: filled(port.reason),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tunnel {
    pub(crate) vni: Option<u32>,
    pub(crate) label: Option<u32>,
    pub(crate) ipip: bool,
    pub(crate) underlay: String,
    pub(crate) local: String,
    pub(crate) flood: Vec<String>,
    pub(crate) kernel_bridge_port: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkMode {
    Routed,
    Bridged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FloodLimit {
    pub(crate) frames_per_second: u32,
    pub(crate) burst_frames: u32,
}

/// `None`: no limit of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Policer {
    pub(crate) packets_per_second: Option<u64>,
    pub(crate) burst_packets: Option<u64>,
    pub(crate) bits_per_second: Option<u64>,
    pub(crate) burst_bits: Option<u64>,
}

impl From<v1::Policer> for Policer {
    fn from(policer: v1::Policer) -> Self {
        let some = |number: u64| (number != 0).then_some(number);
        Self {
            packets_per_second: some(policer.packets_per_second),
            burst_packets: some(policer.burst_packets),
            bits_per_second: some(policer.bits_per_second),
            burst_bits: some(policer.burst_bits),
        }
    }
}

impl From<v1::Network> for Network {
    fn from(network: v1::Network) -> Self {
        let mode = match network.mode() {
            v1::NetworkMode::Unspecified | v1::NetworkMode::Routed => NetworkMode::Routed,
            v1::NetworkMode::Bridged => NetworkMode::Bridged,
        };
        let flood_limit = network.flood_limit.map(|limit| FloodLimit {
            frames_per_second: limit.frames_per_second,
            burst_frames: limit.burst_frames,
        });
        Self {
            name: network.name,
            ipv4: network.ipv4,
            gateway: network.gateway,
            gateway_mac: filled(network.gateway_mac),
            ipv6: filled(network.ipv6),
            gateway6: filled(network.gateway6),
            mtu: network.mtu,
            mode,
            flood_limit,
            policer: network.policer.map(Policer::from),
            routes: network.routes,
            stations: network.stations,
            external: network.external,
            kernel_table: (network.kernel_table != 0).then_some(network.kernel_table),
            kernel_vrf: filled(network.kernel_vrf),
            kernel_port: network.kernel_port.map(KernelPort::from),
            kernel_bridge: network.kernel_bridge.map(KernelBridge::from),
            tunnel: network.tunnel.map(|tunnel| Tunnel {
                vni: (!tunnel.no_vni).then_some(tunnel.vni),
                label: (tunnel.label != 0).then_some(tunnel.label),
                ipip: tunnel.ipip,
                underlay: tunnel.underlay,
                local: tunnel.local,
                flood: tunnel.flood,
                kernel_bridge_port: filled(tunnel.kernel_bridge_port),
            }),
        }
    }
}
