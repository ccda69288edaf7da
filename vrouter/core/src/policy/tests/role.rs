//! Rules of uplinks, host interfaces, kernel ports and external networks, each broken alone.

use super::*;
use crate::PuntRates;
use core::net::IpAddr;

/// Beside the good policy: an external network with an uplink and its host interface, another uplink, and a kernel port.
fn good() -> Policy {
    let mut policy = super::good();
    policy.networks.push(NetworkPolicy::external(NetworkIndex(2), 1600));
    let like = |index, role, last| PortPolicy {
        index: PortIndex(index),
        network: NetworkIndex(2),
        role,
        mac: mac(last),
        ipv4: Ipv4Addr::UNSPECIFIED,
        ..policy.ports[0].clone()
    };
    let kernel = like(13, PortRole::Kernel, 23);
    let more = [
        like(10, PortRole::Uplink { host: Some(PortIndex(11)) }, 20),
        like(11, PortRole::Host { uplink: PortIndex(10) }, 20),
        like(12, PortRole::Uplink { host: None }, 22),
        PortPolicy { network: NetworkIndex(1), ..kernel },
    ];
    policy.ports.extend(more);
    let tunnel = |number, last| {
        let local = IpAddr::from([198, 51, 100, last]);
        let (vni, label) = (Vni::new(number), Label::new(number));
        Some(Tunnel { vni, label, ipip: number == 100, underlay: NetworkIndex(2), local })
    };
    policy.networks[0].tunnel = tunnel(100, 1);
    policy.networks[1].tunnel = tunnel(101, 1);
    policy
}

fn tunnel(policy: &mut Policy) -> &mut Tunnel {
    policy.networks[0].tunnel.as_mut().unwrap()
}

#[test]
fn roles_as_they_should_be() {
    good().check().unwrap();
    // Both addresses may be anything, and an MTU of its own may be as small as IPv6 allows.
    let mut policy = good();
    policy.ports[6].ipv4 = [10, 66, 0, 77].into();
    policy.ports[5].mtu = Some(1280);
    policy.networks[2].punts =
        PuntRates { local: PuntRates::default().control, ..Default::default() };
    tunnel(&mut policy).local = "2001:db8::9".parse().unwrap();
    tunnel(&mut policy).vni = None;
    policy.check().unwrap();
    tunnel(&mut policy).label = None;
    policy.check().unwrap();
    // Both speak IP in IP, each at an address of its own.
    policy.networks[1].tunnel.as_mut().unwrap().ipip = true;
    policy.check().unwrap();
}

#[test]
fn refuses() {
    type Break = fn(&mut Policy);
    let cases: [(Break, &str); 26] = [
        (
            |p| {
                let (prefix, gateway) = ("fd00::/64".parse().unwrap(), "fd00::1".parse().unwrap());
                p.networks[0].ipv6 = Some(Ipv6Network { prefix, gateway });
                p.ports[5].mtu = Some(1329);
            },
            "mtu 1329 of the underlay is too small for the tunnel: give the underlay and its ports at least 1330",
        ),
        (|p| p.ports[0].role = PortRole::Uplink { host: None }, "the port is an uplink"),
        (|p| p.ports[3].role = PortRole::Pod, "the ports in slots 11 and 10 are not uplink"),
        (|p| p.ports[5].role = PortRole::Pod, "the port is no uplink"),
        (|p| p.ports[5].role = PortRole::Kernel, "the port is no uplink"),
        (|p| p.ports[3].ipv4 = [10, 0, 0, 1].into(), "an uplink or its host interface has no"),
        (|p| p.ports[5].ipv6 = Some(Ipv6Addr::LOCALHOST), "an uplink or its host interface has no"),
        (|p| p.ports[5].allowed.push(IpPrefix::host([1; 4].into())), "an uplink or its host"),
        (|p| p.ports[5].trunk = true, "an uplink or its host interface has no"),
        (
            |p| p.ports[3].role = PortRole::Uplink { host: Some(PortIndex(12)) },
            "the ports in slots 10 and 12 are not uplink and host interface of each other",
        ),
        (|p| p.ports[3].role = PortRole::Uplink { host: None }, "the ports in slots 11 and 10"),
        (
            |p| p.ports[5].role = PortRole::Uplink { host: Some(PortIndex(11)) },
            "the ports in slots 12 and 11",
        ),
        (|p| p.ports[4].mac = mac(99), "the ports in slots 10 and 11 are not"),
        (
            |p| p.ports[5].mac = mac(20),
            "mac 02:00:00:00:00:14 is used by the ports in slots 10 and 12",
        ),
        (|p| p.ports[5].mac = Mac::BROADCAST, "mac ff:ff:ff:ff:ff:ff is a group or zero address"),
        (
            |p| p.ports[2].role = PortRole::Kernel,
            "the ports in slots 4 and 13 are both kernel ports of one network",
        ),
        (|p| p.ports[6].mac = mac(0x11), "mac 02:00:00:00:00:11 is the gateway's"),
        (|p| p.ports[6].ipv4 = [10, 67, 0, 1].into(), "ipv4 10.67.0.1 is not a host address"),
        (
            |p| p.ports[5].mtu = Some(1601),
            "mtu 1601 of the port is not between 1280 and its network's",
        ),
        (|p| p.ports[5].mtu = Some(1279), "mtu 1279 of the port is not between 1280"),
        (|p| p.networks[2].mtu = 1279, "mtu 1279 is too small for ipv6"),
        (
            |p| p.networks[2].mode = Mode::Bridged,
            "an external network has no prefix, gateway, mode",
        ),
        (|p| p.networks[2].gateway = [1; 4].into(), "an external network has no prefix, gateway"),
        (
            |p| (tunnel(p).vni, tunnel(p).label, tunnel(p).ipip) = (None, None, false),
            "the tunnel has neither a vni nor a label",
        ),
        (
            |p| p.networks[1].tunnel.as_mut().unwrap().ipip = true,
            "the networks in slots 0 and 1 speak ipip at 198.51.100.1, and nothing else",
        ),
        (
            |p| tunnel(p).label = Label::new(101),
            "label 101 is used by the networks in slots 0 and 1 on one underlay",
        ),
    ];
    for (change, text) in cases {
        let mut policy = good();
        change(&mut policy);
        let Err(error) = policy.check().map(|_| ()) else { panic!("{text}") };
        assert!(error.to_string().starts_with(text), "{error}, not {text}");
    }
    let refused = |local: &str| {
        let mut policy = good();
        tunnel(&mut policy).local = local.parse().unwrap();
        matches!(policy.check(), Err(PolicyError::TunnelAddress { .. }))
    };
    assert!(refused("224.0.0.1") && refused("fe80::1") && !refused("192.0.2.1"));
}
