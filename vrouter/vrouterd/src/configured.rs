//! Networks as the configuration file has them, as requests of the API. Pure.

use ringway_config::{
    KernelTable, NetworkMode, NetworkSettings, RouteAction, RouteSettings, UplinkDriver,
    UplinkSettings,
};
use vrouter_api::v1;

/// The request for a network.
pub fn network(network: &NetworkSettings) -> v1::Network {
    let mode = match network.mode {
        NetworkMode::Routed => v1::NetworkMode::Routed,
        NetworkMode::Bridged => v1::NetworkMode::Bridged,
    };
    v1::Network {
        name: network.name.clone(),
        ipv4: network.ipv4.map(|prefix| prefix.to_string()).unwrap_or_default(),
        external: network.external,
        gateway: network.gateway.map(|g| g.to_string()).unwrap_or_default(),
        mtu: network.mtu,
        gateway_mac: network
            .tunnel
            .as_ref()
            .and_then(|it| it.router_mac.clone())
            .unwrap_or_default(),
        ipv6: network.ipv6.map(|prefix| prefix.to_string()).unwrap_or_default(),
        gateway6: network.gateway6.map(|g| g.to_string()).unwrap_or_default(),
        mode: mode.into(),
        flood_limit: network.flood_limit.map(|limit| v1::FloodLimit {
            frames_per_second: limit.frames_per_second,
            burst_frames: limit.burst_frames,
        }),
        policer: network.policer.map(|policer| v1::Policer {
            packets_per_second: policer.packets_per_second,
            burst_packets: policer.burst_packets,
            bits_per_second: policer.bits_per_second,
            burst_bits: policer.burst_bits,
        }),
        tunnel: network.tunnel.as_ref().map(|tunnel| v1::Tunnel {
            vni: tunnel.vni.unwrap_or(0),
            no_vni: tunnel.vni.is_none(),
            label: tunnel.label.unwrap_or(0),
            ipip: tunnel.ipip,
            underlay: tunnel.underlay.clone(),
            local: tunnel.local.to_string(),
            gateways: tunnel.gateways,
            flood: tunnel.flood.iter().map(ToString::to_string).collect(),
            kernel_bridge_port: tunnel.kernel_bridge_port.clone().unwrap_or_default(),
        }),
        kernel_port: network.kernel_port.as_ref().map(|port| v1::KernelPort {
            name: port.name.clone(),
            mtu: port.mtu.unwrap_or(0),
            packets_per_second: port.packets_per_second.unwrap_or(0),
            burst_packets: port.burst_packets.unwrap_or(0),
            ..Default::default()
        }),
        kernel_table: network.kernel_table.map_or(0, KernelTable::number),
        kernel_vrf: network.kernel_vrf.clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// The request for an uplink.
pub fn uplink(uplink: &UplinkSettings) -> v1::UplinkSpec {
    let driver = match uplink.driver {
        UplinkDriver::Auto => v1::UplinkDriver::Unspecified,
        UplinkDriver::Pci => v1::UplinkDriver::Pci,
        UplinkDriver::AfPacket => v1::UplinkDriver::AfPacket,
        UplinkDriver::AfXdp => v1::UplinkDriver::AfXdp,
        UplinkDriver::Tap => v1::UplinkDriver::Tap,
    };
    v1::UplinkSpec {
        name: uplink.name.clone(),
        device: uplink.device.clone(),
        driver: driver.into(),
        network: uplink.network.clone(),
        host_interface: uplink.host_interface.name().unwrap_or_default().to_owned(),
        queues: uplink.queues,
        mtu: uplink.mtu.unwrap_or(0),
        backups: uplink.backups.clone(),
    }
}

/// The request for its routes.
pub fn routes(network: &NetworkSettings) -> v1::ChangeRoutesRequest {
    let set = network.routes.iter().map(route).collect();
    v1::ChangeRoutesRequest { network: network.name.clone(), set, ..Default::default() }
}

fn route(route: &RouteSettings) -> v1::Route {
    let kind = match route.action {
        RouteAction::Via => v1::RouteKind::Via,
        RouteAction::Unreachable => v1::RouteKind::Unreachable,
        RouteAction::Drop => v1::RouteKind::Drop,
        RouteAction::Vxlan => v1::RouteKind::Vxlan,
        RouteAction::Mpls => v1::RouteKind::Mpls,
        RouteAction::Ipip => v1::RouteKind::Ipip,
    };
    let via = route.via.map(|via| via.to_string()).unwrap_or_default();
    let mac = route.mac.clone().unwrap_or_default();
    let (prefix, label) = (route.prefix.clone(), route.label.unwrap_or(0));
    v1::Route { prefix, kind: kind.into(), via, mac, label, ..v1::Route::default() }
}
