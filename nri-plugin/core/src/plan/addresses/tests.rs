//! Addresses, Ethernet addresses and MTUs.

use core::net::Ipv6Addr;
use std::collections::BTreeSet;

use super::{Used, check_address, derive_mac, lowest_free, lowest_free6};
use crate::annotations::{InterfaceRequest, Leased, SocketOwner};
use crate::net::{Network, Network6};
use crate::plan::tests::{network, node};
use crate::plan::{Interface, PlanError};

fn used(network: &Network, addresses: &[&str]) -> Used {
    let mut used = Used {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..Used::default()
    };
    used.addresses.insert(network.gateway);
    used
}

#[test]
fn the_lowest_free_address() {
    for (prefix, gateway, taken, expected) in [
        ("10.66.0.0/24", "10.66.0.1", &[][..], Some("10.66.0.2")),
        ("10.66.0.0/24", "10.66.0.254", &[], Some("10.66.0.1")),
        ("10.66.0.0/24", "10.66.0.1", &["10.66.0.2", "10.66.0.4"], Some("10.66.0.3")),
        (
            "10.66.0.0/24",
            "10.66.0.1",
            &["10.66.0.0", "10.65.0.2", "10.66.0.255"],
            Some("10.66.0.2"),
        ),
        ("10.66.0.0/30", "10.66.0.1", &[], Some("10.66.0.2")),
        ("10.66.0.0/30", "10.66.0.1", &["10.66.0.2"], None),
        ("10.66.0.0/31", "10.66.0.0", &[], Some("10.66.0.1")),
        ("10.66.0.0/32", "10.66.0.0", &[], None),
        ("255.255.255.252/30", "255.255.255.253", &["255.255.255.254"], None),
        ("255.255.255.254/31", "255.255.255.254", &["255.255.255.255"], None),
        ("0.0.0.0/1", "0.0.0.1", &[], Some("0.0.0.2")),
    ] {
        let network = network("red", prefix, gateway);
        let found = lowest_free(&network, &used(&network, taken)).map(|ip| ip.to_string());
        match expected {
            Some(ip) => assert_eq!(found.as_deref(), Ok(ip), "{prefix} {taken:?}"),
            None => {
                assert!(matches!(found, Err(PlanError::NetworkFull { .. })), "{prefix} {taken:?}")
            }
        }
    }
}

#[test]
fn addresses_asked_for() {
    let network = network("red", "10.66.0.0/24", "10.66.0.1");
    let used = used(&network, &["10.66.0.9"]);
    for (ip, remedy) in [
        ("10.66.0.8", None),
        ("10.66.0.254", None),
        ("10.66.0.9", Some("is in use")),
        ("10.66.0.1", Some("gateway")),
        ("10.66.0.0", Some("network, broadcast or gateway")),
        ("10.66.0.255", Some("network, broadcast or gateway")),
        ("10.67.0.2", Some("not in network red (10.66.0.0/24)")),
    ] {
        let found = check_address(&network, ip.parse().unwrap(), &used);
        match (found, remedy) {
            (Ok(found), None) => assert_eq!(found.to_string(), ip),
            (Err(error), Some(remedy)) => {
                let error = error.to_string();
                assert!(error.contains(remedy) && error.contains(ip), "{error}");
            }
            (found, _) => panic!("{ip}: {found:?}"),
        }
    }
}

#[test]
fn mac_addresses_are_local_unicast_and_unique() {
    let ip = [10, 66, 0, 2].into();
    let mut used = BTreeSet::new();
    for _ in 0..256 {
        let mac = derive_mac("red", ip, &used);
        assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac}");
        assert_eq!(mac.0[2..], [10, 66, 0, 2]);
        assert!(used.insert(mac), "{mac} twice");
    }
    let again = BTreeSet::new();
    assert_eq!(derive_mac("red", ip, &again), derive_mac("red", ip, &again));
    assert_ne!(derive_mac("red", ip, &again), derive_mac("blue", ip, &again));
}

fn want(network: &str) -> InterfaceRequest {
    InterfaceRequest {
        name: "net0".into(),
        network: network.into(),
        ip: None,
        ipv6: None,
        mac: None,
        queues: 1,
        mtu: None,
        socket: None,
        leased: None,
        link: None,
    }
}

#[test]
fn interfaces_of_one_request_do_not_collide() {
    let networks =
        [network("red", "10.66.0.0/24", "10.66.0.1"), network("blue", "10.66.0.0/24", "10.66.0.1")];
    let chosen = InterfaceRequest {
        ip: Some([10, 66, 0, 3].into()),
        mtu: Some(1400),
        socket: Some(SocketOwner::Pod),
        queues: 2,
        ..want("red")
    };
    let all = node("1-node-2-cpus")
        .assign(&[want("red"), chosen, want("red"), want("blue")], &networks)
        .unwrap();
    let shown: Vec<_> =
        all.iter().map(|i| format!("{} {}/{} {}", i.network, i.ip, i.prefix_len, i.mtu)).collect();
    assert_eq!(
        shown,
        [
            "red 10.66.0.2/24 1500",
            "red 10.66.0.3/24 1400",
            "red 10.66.0.4/24 1500",
            "blue 10.66.0.2/24 1500"
        ]
    );
    let Interface { socket, queues, queue_size, gateway, .. } = &all[1];
    assert_eq!((*socket, *queues, *queue_size), (SocketOwner::Pod, 2, 1024));
    assert_eq!(gateway.to_string(), "10.66.0.1");
    assert_eq!(all[0].socket, SocketOwner::Vrouter);
}

#[test]
fn what_cannot_be_given() {
    let mut red = network("red", "10.66.0.0/24", "10.66.0.1");
    red.used_macs.insert("02:00:00:00:00:07".parse().unwrap());
    red.gateway_mac = Some("02:00:00:00:00:01".parse().unwrap());
    red.used_addresses.insert([10, 66, 0, 7].into());
    let mac = |text: &str| InterfaceRequest { mac: Some(text.parse().unwrap()), ..want("red") };
    for (request, parts) in [
        (
            want("green"),
            &[
                "network \"green\" does not exist",
                "known networks: red;",
                "ringway networks add green",
            ][..],
        ),
        (mac("02:00:00:00:00:07"), &["MAC address 02:00:00:00:00:07 is in use in network red"]),
        (mac("02:00:00:00:00:01"), &["is in use"]),
        (
            InterfaceRequest { mtu: Some(1501), ..want("red") },
            &["mtu 1501 is greater than the 1500 of network red"],
        ),
        (
            InterfaceRequest { ip: Some([10, 66, 0, 7].into()), ..want("red") },
            &["10.66.0.7", "in use"],
        ),
    ] {
        let error =
            node("1-node-2-cpus").assign(&[request], &[red.clone()]).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let error = node("1-node-2-cpus").assign(&[want("red")], &[]).unwrap_err().to_string();
    assert!(error.contains("known networks: none"), "{error}");
}

fn dual(prefix6: &str, gateway6: &str) -> Network {
    let ipv6 = Some(Network6 {
        prefix: prefix6.parse().unwrap(),
        gateway: gateway6.parse().unwrap(),
        used_addresses: BTreeSet::new(),
    });
    Network { ipv6, ..network("red", "10.66.0.0/24", "10.66.0.1") }
}

#[test]
fn the_lowest_free_ipv6_address() {
    for (prefix, gateway, taken, expected) in [
        ("fd00::/64", "fd00::1", &[][..], Some("fd00::2")),
        ("fd00::/64", "fd00::9", &[], Some("fd00::1")),
        ("fd00::/64", "fd00::1", &["fd00::2", "fd00::4"], Some("fd00::3")),
        ("fd00::/126", "fd00::1", &["fd00::2"], Some("fd00::3")),
        ("fd00::/126", "fd00::1", &["fd00::2", "fd00::3"], None),
        ("fd00::/127", "fd00::", &[], Some("fd00::1")),
        ("fd00::/127", "fd00::1", &[], Some("fd00::")),
        ("fd00::/127", "fd00::1", &["fd00::"], None),
    ] {
        let network = dual(prefix, gateway);
        let side = network.ipv6.as_ref().unwrap();
        let mut used = Used::default();
        used.addresses6.extend(taken.iter().map(|ip| ip.parse::<Ipv6Addr>().unwrap()));
        used.addresses6.insert(side.gateway);
        let found = lowest_free6(&network, side, &used).map(|ip| ip.to_string());
        match expected {
            Some(ip) => assert_eq!(found.as_deref(), Ok(ip), "{prefix} {taken:?}"),
            None => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(prefix) && error.contains("no free address"), "{error}");
            }
        }
    }
}

#[test]
fn both_families_have_the_same_number_where_that_is_free() {
    let mut red = dual("fd00:66::/64", "fd00:66::1");
    let take = |network: &mut Network, ip: &str| {
        network.ipv6.as_mut().unwrap().used_addresses.insert(ip.parse().unwrap());
    };
    take(&mut red, "fd00:66::3");
    let both = InterfaceRequest {
        ip: Some([10, 66, 0, 9].into()),
        ipv6: Some("fd00:66::77".parse().unwrap()),
        ..want("red")
    };
    let six = InterfaceRequest { ipv6: Some("fd00:66::4".parse().unwrap()), ..want("red") };
    let far = InterfaceRequest { ip: Some([10, 66, 0, 200].into()), ..want("red") };
    let requests = [want("red"), want("red"), both, six, want("red"), far];
    let show = |networks: &[Network]| -> Vec<String> {
        let all = node("1-node-2-cpus").assign(&requests, networks).unwrap();
        let show = |it: &Interface| match it.ipv6 {
            Some(ipv6) => {
                format!("{} {}/{} {}", it.ip, ipv6.address, ipv6.prefix_len, ipv6.gateway)
            }
            None => it.ip.to_string(),
        };
        all.iter().map(show).collect()
    };
    let expected = [
        "10.66.0.2 fd00:66::2/64 fd00:66::1",
        // 3 is taken.
        "10.66.0.3 fd00:66::4/64 fd00:66::1",
        "10.66.0.9 fd00:66::77/64 fd00:66::1",
    ];
    // The next asks for what has been given away.
    let error = node("1-node-2-cpus").assign(&requests, &[red]).unwrap_err().to_string();
    assert!(error.contains("address fd00:66::4 of network red is in use"), "{error}");
    let free = dual("fd00:66::/64", "fd00:66::1");
    assert_eq!(
        show(&[free]),
        [
            expected[0],
            "10.66.0.3 fd00:66::3/64 fd00:66::1",
            expected[2],
            "10.66.0.4 fd00:66::4/64 fd00:66::1",
            "10.66.0.5 fd00:66::5/64 fd00:66::1",
            "10.66.0.200 fd00:66::c8/64 fd00:66::1",
        ]
    );
    // Prefixes without room for the number, and a gateway that is another one's number.
    let small = InterfaceRequest { ip: Some([10, 66, 0, 200].into()), ..want("red") };
    for (prefix, gateway, expected) in [
        ("fd00::/125", "fd00::1", "fd00::2"),
        ("fd00::/120", "fd00::c8", "fd00::1"),
        ("fd00::c0/122", "fd00::c1", "fd00::c2"),
    ] {
        let all = node("1-node-2-cpus")
            .assign(std::slice::from_ref(&small), &[dual(prefix, gateway)])
            .unwrap();
        assert_eq!(all[0].ipv6.unwrap().address.to_string(), expected, "{prefix}");
    }
}

#[test]
fn ipv6_addresses_that_cannot_be_given() {
    let red = dual("fd00:66::/64", "fd00:66::1");
    let plain = network("red", "10.66.0.0/24", "10.66.0.1");
    for (network, ip, remedy) in [
        (&red, "fd00:67::2", "is not in network red (fd00:66::/64)"),
        (&red, "fd00:66::", "gateway address of network red"),
        (&red, "fd00:66::1", "gateway address of network red"),
        (&plain, "fd00:66::2", "is IPv6, which network red has not"),
    ] {
        let wanted = InterfaceRequest { ipv6: Some(ip.parse().unwrap()), ..want("red") };
        let networks = std::slice::from_ref(network);
        let error = node("1-node-2-cpus").assign(&[wanted], networks).unwrap_err().to_string();
        assert!(error.contains(remedy) && error.contains(ip), "{error}");
    }
}

#[test]
fn addresses_of_a_plugin_are_taken_or_refused_but_never_changed() {
    let leased = |ip: [u8; 4], ipv6: Option<&str>| InterfaceRequest {
        leased: Some(Leased {
            id: "lease-1".into(),
            ip: ip.into(),
            ipv6: ipv6.map(|ip| ip.parse().unwrap()),
        }),
        ..want("red")
    };
    let ipv6 = Network6 {
        prefix: "fd00:66::/64".parse().unwrap(),
        gateway: "fd00:66::1".parse().unwrap(),
        used_addresses: BTreeSet::new(),
    };
    let networks = [Network { ipv6: Some(ipv6), ..network("red", "10.66.0.0/24", "10.66.0.1") }];
    let node = node("4-nodes");
    let one = node.assign(&[leased([10, 66, 0, 9], Some("fd00:66::99"))], &networks).unwrap();
    assert_eq!((one[0].ip, one[0].lease.as_deref()), ([10, 66, 0, 9].into(), Some("lease-1")));
    assert_eq!(one[0].ipv6.unwrap().address, "fd00:66::99".parse::<Ipv6Addr>().unwrap());
    let four = node.assign(&[leased([10, 66, 0, 9], None)], &networks).unwrap();
    assert_eq!(four[0].ipv6, None, "an address that the plugin does not know of");
    for (ip, ipv6) in [
        ([10, 67, 0, 9], None),
        ([10, 66, 0, 1], None),
        ([10, 66, 0, 9], Some("fd00:67::9")),
        ([10, 66, 0, 9], Some("fd00:66::1")),
    ] {
        let error = node.assign(&[leased(ip, ipv6)], &networks).unwrap_err().to_string();
        assert!(error.contains("address plugin") && !error.contains('\n'), "{error}");
    }
}
