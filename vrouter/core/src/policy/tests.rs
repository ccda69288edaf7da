//! Each rule of a policy, broken alone.

use super::*;
use crate::Rate;
use std::string::ToString;
use std::vec;

fn mac(last: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, last])
}

fn good() -> Policy {
    let network = |index, last| NetworkPolicy {
        index: NetworkIndex(index),
        prefix: "10.66.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: mac(last),
        mtu: 1500,
        ipv6: None,
        mode: Mode::Routed,
        floods: FloodLimit::default(),
        tunnel: None,
        external: false,
        punts: Default::default(),
    };
    let port = |index, network, last| PortPolicy {
        index: PortIndex(index),
        network: NetworkIndex(network),
        mac: mac(last),
        ipv4: Ipv4Addr::new(10, 66, 0, last),
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    };
    Policy {
        networks: vec![network(1, 0x11), network(0, 0x10)],
        ports: vec![port(7, 0, 3), port(0, 0, 2), port(4, 1, 2)],
    }
}

#[test]
fn a_good_policy_is_sorted() {
    let checked = good().check().unwrap();
    let networks: Vec<_> = checked.networks.iter().map(|network| network.index.0).collect();
    assert_eq!(networks, [0, 1]);
    let ports: Vec<_> = checked.ports.iter().map(|port| port.index.0).collect();
    assert_eq!(ports, [0, 7, 4]);
}

#[test]
fn refuses() {
    type Break = fn(&mut Policy);
    let cases: [(Break, &str); 22] = [
        (|p| p.networks[0].index.0 = 0, "network slot 0 is used twice: give each network its own"),
        (|p| p.ports[1].index.0 = 7, "port slot 7 is used twice: give each port its own"),
        (
            |p| p.networks[0].prefix = "10.66.0.0/31".parse().unwrap(),
            "ipv4 10.66.0.0/31 has no room for a gateway and a port: use a length of at most 30",
        ),
        (
            |p| p.networks[0].prefix = "0.0.0.0/0".parse().unwrap(),
            "ipv4 0.0.0.0/0 overlaps 0.0.0.0/8, which hosts cannot use: choose a unicast prefix such as 10.66.0.0/24",
        ),
        (
            |p| p.networks[0].prefix = "127.0.1.0/24".parse().unwrap(),
            "ipv4 127.0.1.0/24 overlaps 127.0.0.0/8,",
        ),
        (
            |p| p.networks[0].prefix = "239.1.0.0/16".parse().unwrap(),
            "ipv4 239.1.0.0/16 overlaps 224.0.0.0/3,",
        ),
        (
            |p| p.networks[0].gateway = Ipv4Addr::new(10, 66, 1, 1),
            "gateway 10.66.1.1 is not a host address of 10.66.0.0/24: choose one from 10.66.0.1 to 10.66.0.254",
        ),
        (
            |p| p.networks[0].gateway = Ipv4Addr::new(10, 66, 0, 0),
            "gateway 10.66.0.0 is not a host address of 10.66.0.0/24",
        ),
        (
            |p| p.networks[0].gateway = Ipv4Addr::new(10, 66, 0, 255),
            "gateway 10.66.0.255 is not a host address of 10.66.0.0/24",
        ),
        (
            |p| p.networks[0].gateway_mac = Mac::ZERO,
            "gateway_mac 00:00:00:00:00:00 is a group or zero address",
        ),
        (
            |p| p.networks[0].gateway_mac = Mac::BROADCAST,
            "gateway_mac ff:ff:ff:ff:ff:ff is a group or zero address",
        ),
        (|p| p.networks[0].mtu = 67, "mtu 67 is too small: choose at least 68"),
        (
            |p| p.ports[2].network.0 = 2,
            "port slot 4 belongs to network slot 2, which does not exist: create the network first",
        ),
        (
            |p| p.ports[0].ipv4 = Ipv4Addr::new(10, 67, 0, 3),
            "ipv4 10.67.0.3 is not a host address of 10.66.0.0/24: choose one from 10.66.0.1 to 10.66.0.254",
        ),
        (|p| p.ports[0].ipv4 = Ipv4Addr::new(10, 66, 0, 0), "ipv4 10.66.0.0 is not a host address"),
        (
            |p| p.ports[0].ipv4 = Ipv4Addr::new(10, 66, 0, 255),
            "ipv4 10.66.0.255 is not a host address",
        ),
        (
            |p| p.ports[0].ipv4 = Ipv4Addr::new(10, 66, 0, 1),
            "ipv4 10.66.0.1 is the gateway's: choose another address",
        ),
        (
            |p| p.ports[0].ipv4 = Ipv4Addr::new(10, 66, 0, 2),
            "ipv4 10.66.0.2 is used by the ports in slots 0 and 7: choose another address",
        ),
        (|p| p.ports[0].mac = Mac::ZERO, "mac 00:00:00:00:00:00 is a group or zero address"),
        (
            |p| p.ports[0].mac = Mac::new([1, 0, 0x5e, 0, 0, 1]),
            "mac 01:00:5e:00:00:01 is a group or zero address",
        ),
        (|p| p.ports[0].mac = mac(0x10), "mac 02:00:00:00:00:10 is the gateway's"),
        (
            |p| p.ports[0].mac = mac(2),
            "mac 02:00:00:00:00:02 is used by the ports in slots 0 and 7: choose another one",
        ),
    ];
    for (change, text) in cases {
        let mut policy = good();
        change(&mut policy);
        let error = policy.check().err().unwrap().to_string();
        assert!(error.starts_with(text), "got {error}\nnot {text}");
    }
}

fn six() -> Policy {
    let mut policy = good();
    for network in &mut policy.networks {
        let (prefix, gateway) = ("fd00:66::/64".parse().unwrap(), "fd00:66::1".parse().unwrap());
        network.ipv6 = Some(Ipv6Network { prefix, gateway });
    }
    for port in &mut policy.ports {
        port.ipv6 = Some(Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 1, port.index.0));
    }
    policy
}

#[test]
fn refuses_for_ipv6_and_more() {
    assert!(six().check().is_ok());
    fn set(policy: &mut Policy, prefix: &str, gateway: &str) {
        let (prefix, gateway) = (prefix.parse().unwrap(), gateway.parse().unwrap());
        policy.networks[1].ipv6 = Some(Ipv6Network { prefix, gateway });
    }
    fn address(text: &str) -> Option<Ipv6Addr> {
        Some(text.parse().unwrap())
    }
    type Break = fn(&mut Policy);
    let cases: [(Break, &str); 17] = [
        (
            |p| set(p, "fe80::/64", "fe80::1"),
            "ipv6 fe80::/64 overlaps fe80::/10, which hosts cannot use: choose a unicast prefix such as fd00:66::/64",
        ),
        (|p| set(p, "::/0", "fd00::1"), "ipv6 ::/0 overlaps ::/96,"),
        (|p| set(p, "ff00:1::/64", "ff00:1::1"), "ipv6 ff00:1::/64 overlaps ff00::/8,"),
        (
            |p| set(p, "fd00:66::1/128", "fd00:66::1"),
            "ipv6 fd00:66::1/128 has no room for a gateway and a port: use a length of at most 127",
        ),
        (
            |p| set(p, "fd00:66::/64", "fd00:66::"),
            "gateway fd00:66:: is not a host address of fd00:66::/64: choose one inside it but not its first",
        ),
        (|p| set(p, "fd00:66::/64", "fd00:67::1"), "gateway fd00:67::1 is not a host address"),
        (|p| p.networks[1].mtu = 1279, "mtu 1279 is too small for ipv6: choose at least 1280"),
        (
            |p| p.networks[1].ipv6 = None,
            "ipv6 fd00:66::1:0 is in a network without ipv6: give the network a prefix",
        ),
        (
            |p| p.ports[1].ipv6 = address("fd00:67::2"),
            "ipv6 fd00:67::2 is not a host address of fd00:66::/64: choose one inside it but not its first",
        ),
        (|p| p.ports[1].ipv6 = address("fd00:66::"), "ipv6 fd00:66:: is not a host address"),
        (|p| p.ports[1].ipv6 = address("fd00:66::1"), "ipv6 fd00:66::1 is the gateway's"),
        (
            |p| p.ports[1].ipv6 = p.ports[0].ipv6,
            "ipv6 fd00:66::1:7 is used by the ports in slots 0 and 7: choose another address",
        ),
        (
            |p| p.ports[1].allowed = vec!["10.0.0.0/8".parse().unwrap(); 65],
            "65 allowed prefixes are too many: give at most 64, shorter ones if need be",
        ),
        (
            |p| p.ports[1].allowed = vec!["127.0.0.0/16".parse().unwrap()],
            "allowed prefix 127.0.0.0/16 lies in 127.0.0.0/8, which hosts cannot use: choose a unicast prefix",
        ),
        (
            |p| p.ports[1].trunk = true,
            "trunk is set but the port's network is not bridged: leave it out, or choose a bridged network",
        ),
        (
            |p| p.ports[1].rates.bits = Some(Rate { per_second: 1, burst: 12_143 }),
            "the policer never lets a whole frame of the network's MTU pass: allow a burst of at least 1 packet and \
             12144 bits",
        ),
        (
            |p| p.ports[1].rates.packets = Some(Rate { per_second: 1, burst: 0 }),
            "the policer never lets a whole frame",
        ),
    ];
    for (change, text) in cases {
        let mut policy = six();
        change(&mut policy);
        let error = policy.check().err().unwrap().to_string();
        assert!(error.starts_with(text), "got {error}\nnot {text}");
    }
    // A link of two has no anycast address, and the same address may be in two networks.
    let mut policy = six();
    set(&mut policy, "fd00:66::2/127", "fd00:66::2");
    policy.ports.truncate(2);
    policy.ports[0].ipv6 = address("fd00:66::3");
    policy.ports[1].ipv6 = None;
    assert!(policy.check().is_ok());
    policy.ports[1].network.0 = 1;
    policy.ports[1].ipv6 = address("fd00:66::3");
    assert!(policy.check().is_ok());
}
