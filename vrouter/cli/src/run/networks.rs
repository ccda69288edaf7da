//! The request for a network.

use vrouter_api::v1;

use crate::args::{AddNetwork, Mode, Number};

/// Frames of [`v1::FloodLimit`] that are not given, while the other number is.
const FLOOD_LIMIT: v1::FloodLimit = v1::FloodLimit { frames_per_second: 1000, burst_frames: 100 };

pub(super) fn request(network: &AddNetwork) -> v1::Network {
    let mode = match network.mode {
        Mode::Routed => v1::NetworkMode::Routed,
        Mode::Bridged => v1::NetworkMode::Bridged,
    };
    let flood_limit = match (network.flood_limit, network.flood_burst) {
        (None, None) => None,
        (frames, burst) => Some(v1::FloodLimit {
            frames_per_second: frames.unwrap_or(FLOOD_LIMIT.frames_per_second),
            burst_frames: burst.unwrap_or(FLOOD_LIMIT.burst_frames),
        }),
    };
    let number = |number: Option<Number>| number.map_or(0, |Number(number)| number);
    let policer = v1::Policer {
        packets_per_second: number(network.packets_per_second),
        burst_packets: number(network.burst_packets),
        bits_per_second: number(network.bits_per_second),
        burst_bits: number(network.burst_bits),
    };
    v1::Network {
        name: network.name.clone(),
        ipv4: network.ipv4.clone().unwrap_or_default(),
        external: network.external,
        gateway: network.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        mtu: network.mtu.unwrap_or(0),
        gateway_mac: network.router_mac.clone().unwrap_or_default(),
        ipv6: network.ipv6.clone().unwrap_or_default(),
        gateway6: network.gateway6.map(|gateway| gateway.to_string()).unwrap_or_default(),
        mode: mode.into(),
        flood_limit,
        policer: (policer != v1::Policer::default()).then_some(policer),
        tunnel: network.underlay.as_ref().map(|underlay| v1::Tunnel {
            vni: network.vni.unwrap_or(0),
            no_vni: network.vni.is_none(),
            label: network.label.unwrap_or(0),
            ipip: network.ipip,
            underlay: underlay.clone(),
            local: network.local.map(|local| local.to_string()).unwrap_or_default(),
            gateways: false,
            flood: network.flood.iter().map(ToString::to_string).collect(),
            kernel_bridge_port: network.kernel_bridge_port.clone().unwrap_or_default(),
        }),
        kernel_table: network.kernel_table.unwrap_or(0),
        kernel_vrf: network.kernel_vrf.clone().unwrap_or_default(),
        kernel_port: network.kernel_port.as_ref().map(|name| v1::KernelPort {
            name: name.clone(),
            mtu: network.kernel_mtu.unwrap_or(0),
            packets_per_second: network.kernel_packets_per_second.unwrap_or(0),
            burst_packets: network.kernel_burst_packets.unwrap_or(0),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command, NetworkAction};

    fn add(line: &str) -> v1::Network {
        let args = Args::try_parse_from(format!("ringway networks add {line}").split(' ')).unwrap();
        let Command::Networks { action: Some(NetworkAction::Add(network)) } = args.command else {
            panic!("{args:?}")
        };
        request(&network)
    }

    #[test]
    fn what_is_left_out_is_left_to_the_vrouter() {
        let plain = add("red --ipv4 10.66.0.0/24");
        let expected = v1::Network {
            name: "red".into(),
            ipv4: "10.66.0.0/24".into(),
            mode: v1::NetworkMode::Routed.into(),
            ..Default::default()
        };
        assert_eq!(plain, expected);
        let full = add(
            "red --ipv4 10.66.0.0/24 --ipv6 fd00::/64 --gateway6 fd00::9 --mode bridged --flood-burst 7 \
             --packets-per-second 100k --bits-per-second 1G --burst-bits 2M --mtu 9000 \
             --vni 7 --underlay blue --local fd00:1::9 --router-mac 02:00:00:00:77:a1 --flood fd00:1::7,fd00:1::8 --kernel-bridge-port pods7",
        );
        assert_eq!(full.gateway_mac, "02:00:00:00:77:a1");
        assert_eq!((full.ipv6.as_str(), full.gateway6.as_str()), ("fd00::/64", "fd00::9"));
        let limit = full.flood_limit.unwrap();
        assert_eq!((limit.frames_per_second, limit.burst_frames), (1000, 7));
        let policer = full.policer.unwrap();
        assert_eq!((policer.packets_per_second, policer.burst_packets), (100_000, 0));
        assert_eq!((policer.bits_per_second, policer.burst_bits), (1_000_000_000, 2_000_000));
        let port =
            add("red --ipv4 10.66.0.0/24 --kernel-table 77 --kernel-port red0 --kernel-mtu 1400");
        assert_eq!(port.kernel_table, 77);
        let expected = v1::KernelPort { name: "red0".into(), mtu: 1400, ..Default::default() };
        assert_eq!(port.kernel_port, Some(expected));
        let (underlay, local) = ("blue".into(), "fd00:1::9".into());
        let both = v1::Tunnel { vni: 7, underlay, local, ..v1::Tunnel::default() };
        let flood = ["fd00:1::7", "fd00:1::8"].map(String::from).to_vec();
        let kernel_bridge_port = "pods7".to_owned();
        assert_eq!(full.tunnel, Some(v1::Tunnel { flood, kernel_bridge_port, ..both.clone() }));
        let mpls = add("red --ipv4 10.66.0.0/24 --label 99 --underlay blue --local fd00:1::9");
        let without = v1::Tunnel { vni: 0, no_vni: true, ..both };
        assert_eq!(mpls.tunnel, Some(v1::Tunnel { label: 99, ..without.clone() }));
        let ipip = add("red --ipv4 10.66.0.0/24 --ipip --underlay blue --local fd00:1::9");
        assert_eq!(ipip.tunnel, Some(v1::Tunnel { ipip: true, ..without }));
    }
}
