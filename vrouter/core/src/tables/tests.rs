//! Building and updating, the incremental way beside the full one.

use super::*;
use crate::{DropReason, FloodLimit, Mode, NetworkPolicy, NextHop, PortHop, Rates, RouteTarget};
use bolero::TypeGenerator;
use core::net::Ipv4Addr;
use std::string::ToString;
use std::vec;
use vrouter_net::Mac;

fn mac(index: u16) -> Mac {
    let [high, low] = index.to_be_bytes();
    Mac::new([2, 0, 0, 0, high, low])
}

fn network(index: u16, mtu: u16) -> NetworkPolicy {
    NetworkPolicy {
        index: NetworkIndex(index),
        prefix: "10.66.0.0/16".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 66, 0, 1),
        gateway_mac: mac(0xffff),
        mtu,
        ipv6: None,
        mode: Mode::Routed,
        floods: FloodLimit::default(),
        tunnel: None,
        external: false,
        punts: Default::default(),
    }
}

fn port(index: u16, network: u16) -> PortPolicy {
    let [high, low] = index.to_be_bytes();
    PortPolicy {
        index: PortIndex(index),
        network: NetworkIndex(network),
        mac: mac(index + 1),
        ipv4: Ipv4Addr::new(10, 66, high + 1, low),
        ipv6: None,
        allowed: Vec::new(),
        trunk: false,
        rates: Rates::default(),
        role: Default::default(),
        mtu: None,
    }
}

fn shares(old: &Tables, new: &Tables, index: u16) -> bool {
    match (old.shared(NetworkIndex(index)), new.shared(NetworkIndex(index))) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        _ => false,
    }
}

#[test]
fn a_port_more_changes_its_network_only() {
    let mut policy = Policy {
        networks: vec![network(0, 1500), network(1, 1500)],
        ports: vec![port(0, 0), port(1, 1)],
    };
    let old = Tables::build(&policy).unwrap();
    policy.ports.push(port(2, 1));
    let new = old.update(&policy).unwrap();
    assert!(shares(&old, &new, 0));
    assert!(!shares(&old, &new, 1));
    let address = port(2, 1).ipv4;
    let lookup = |tables: &Tables, network| {
        tables.network(NetworkIndex(network)).unwrap().next_hop(address).clone()
    };
    assert_eq!(lookup(&old, 1), NextHop::Unreachable);
    assert_eq!(lookup(&new, 0), NextHop::Unreachable);
    let hop = PortHop::new(PortIndex(2), mac(3), mac(0xffff), 1500);
    assert_eq!(lookup(&new, 1), NextHop::Port(hop));
    assert_eq!(new.port(PortIndex(2)), Some(&port(2, 1)));
    assert_eq!(old.port(PortIndex(2)), None);
}

#[test]
fn order_of_the_policy_does_not_matter() {
    let mut policy = Policy {
        networks: vec![network(0, 1500), network(1, 1500)],
        ports: vec![port(0, 0), port(1, 1), port(2, 0)],
    };
    let old = Tables::build(&policy).unwrap();
    policy.networks.reverse();
    policy.ports.reverse();
    let new = old.update(&policy).unwrap();
    assert!(shares(&old, &new, 0) && shares(&old, &new, 1));
}

#[test]
fn a_refused_policy_is_an_error() {
    let policy = Policy { networks: vec![], ports: vec![port(0, 3)] };
    let expected = PolicyError::UnknownNetwork { port: PortIndex(0), network: NetworkIndex(3) };
    assert_eq!(Tables::build(&policy).unwrap_err(), expected);
}

/// Which of a few networks and ports exist, and some of their values.
#[derive(Clone, Debug, TypeGenerator)]
struct Shape {
    networks: [Option<bool>; 3],
    /// The network of each port, and whether its address is another one than usual.
    ports: [Option<(u8, bool)>; 8],
}

impl Shape {
    fn policy(&self) -> Policy {
        let networks: Vec<_> = (0..)
            .zip(self.networks)
            .filter_map(|(index, jumbo)| Some(network(index, if jumbo? { 9000 } else { 1500 })))
            .collect();
        let ports = (0..).zip(self.ports).filter_map(|(index, shape)| {
            let (at, moved) = shape?;
            let network = networks.get(usize::from(at) % networks.len().max(1))?;
            let mut port = port(index, network.index.0);
            if moved {
                // Another port's usual address, so that an address changes hands.
                let [a, b, c, d] = port.ipv4.octets();
                port.ipv4 = Ipv4Addr::new(a, b, c, d ^ 1);
            }
            Some(port)
        });
        let ports = ports.collect();
        Policy { networks, ports }
    }
}

#[test]
fn updating_leads_to_the_same_as_building() {
    bolero::check!().with_type().for_each(|shapes: &[Shape; 5]| {
        let mut tables = Tables::default();
        for shape in shapes {
            let policy = shape.policy();
            // Two ports may have got one address: both ways must refuse it alike.
            let built = Tables::build(&policy);
            let updated = tables.update(&policy);
            let (built, updated) = match (built, updated) {
                (Ok(built), Ok(updated)) => (built, updated),
                (built, updated) => {
                    assert_eq!(built.unwrap_err(), updated.unwrap_err());
                    continue;
                }
            };
            for index in (0..4).map(NetworkIndex) {
                let networks = (built.network(index), updated.network(index));
                let (Some(built), Some(updated)) = networks else {
                    assert!(networks.0.is_none() && networks.1.is_none());
                    continue;
                };
                assert_eq!(built.policy(), updated.policy());
                assert_eq!(built.ports(), updated.ports());
                for port in (0..10).map(|i| port(i, 0)) {
                    assert_eq!(built.next_hop(port.ipv4), updated.next_hop(port.ipv4));
                }
                for address in ["10.66.0.0", "10.66.0.1", "10.66.255.255", "10.65.0.1"] {
                    let address = address.parse().unwrap();
                    assert_eq!(built.next_hop(address), updated.next_hop(address));
                }
            }
            for index in (0..10).map(PortIndex) {
                let (built, updated) = (built.ingress(index), updated.ingress(index));
                assert_eq!(built.map(|(p, _)| &p.policy), updated.map(|(p, _)| &p.policy));
                assert_eq!(built.map(|(p, _)| p.expect), updated.map(|(p, _)| p.expect));
            }
            tables = updated;
        }
    });
}

fn via(index: u16) -> Option<RouteTarget> {
    Some(RouteTarget::Via(port(index, 0).ipv4.into()))
}

fn route(prefix: &str, target: Option<RouteTarget>) -> RouteChange {
    RouteChange { prefix: prefix.parse().unwrap(), target }
}

fn target(tables: &Tables, address: &str) -> NextHop {
    tables.network(NetworkIndex(0)).unwrap().next_hop(address.parse().unwrap()).clone()
}

fn leads_to(tables: &Tables, address: &str, index: u16) -> bool {
    matches!(target(tables, address), NextHop::Port(hop) if hop.port == PortIndex(index))
}

#[test]
fn routes_outlive_their_ports_and_changes_of_the_network() {
    let mut policy =
        Policy { networks: vec![network(0, 1500)], ports: vec![port(0, 0), port(1, 0)] };
    let tables = Tables::build(&policy).unwrap();
    let changes = [route("192.0.2.0/24", via(1)), route("0.0.0.0/0", via(0))];
    let tables = tables.with_routes(NetworkIndex(0), &changes).unwrap();
    assert_eq!(tables.network(NetworkIndex(0)).unwrap().routes(), 2);
    assert!(leads_to(&tables, "192.0.2.7", 1) && leads_to(&tables, "8.8.8.8", 0));

    // The port goes: its routes lead to nobody.
    let old = policy.ports.pop().unwrap();
    let without = tables.update(&policy).unwrap();
    assert_eq!(target(&without, "192.0.2.7"), NextHop::Unreachable);
    assert!(leads_to(&tables, "192.0.2.7", 1) && leads_to(&without, "8.8.8.8", 0));

    // Another port gets the address, with another MAC address and slot.
    let new = PortPolicy { index: PortIndex(7), mac: mac(0x77), ..old };
    policy.ports.push(new);
    let again = without.update(&policy).unwrap();
    let NextHop::Port(hop) = target(&again, "192.0.2.7") else { panic!("no port") };
    assert_eq!((hop.port, hop.destination_mac()), (PortIndex(7), mac(0x77)));

    // The network changes all it can change.
    policy.networks[0].mtu = 9000;
    policy.networks[0].gateway = Ipv4Addr::new(10, 66, 0, 9);
    policy.networks[0].gateway_mac = mac(0xfffe);
    let changed = again.update(&policy).unwrap();
    let NextHop::Port(hop) = target(&changed, "192.0.2.7") else { panic!("no port") };
    assert_eq!((hop.port, hop.mtu, hop.source_mac()), (PortIndex(7), 9000, mac(0xfffe)));
    assert!(leads_to(&changed, "8.8.8.8", 0));
    assert_eq!(target(&changed, "10.66.0.9"), NextHop::Gateway);
    assert_eq!(target(&changed, "10.66.0.1"), NextHop::Unreachable);
    assert_eq!(changed.network(NetworkIndex(0)).unwrap().routes(), 2);

    // Without its routes it is as if it had never had any.
    let gone = [route("192.0.2.0/24", None), route("0.0.0.0/0", None), route("9.0.0.0/8", None)];
    let bare = changed.with_routes(NetworkIndex(0), &gone).unwrap();
    assert_eq!(target(&bare, "192.0.2.7"), NextHop::Drop(DropReason::NoRoute));
    assert_eq!(target(&bare, "8.8.8.8"), NextHop::Drop(DropReason::NoRoute));
    assert_eq!(bare.network(NetworkIndex(0)).unwrap().hops().used(), 2);
    assert_eq!(bare.network(NetworkIndex(0)).unwrap().routes(), 0);

    // A network that was deleted has forgotten its routes.
    let deleted = changed.update(&Policy::default()).unwrap();
    let new = deleted.update(&policy).unwrap();
    assert_eq!(target(&new, "192.0.2.7"), NextHop::Drop(DropReason::NoRoute));
}

#[test]
fn a_port_comes_before_a_route_to_its_address() {
    let mut policy = Policy { networks: vec![network(0, 1500)], ports: vec![port(0, 0)] };
    let address = port(1, 0).ipv4;
    let text = std::format!("{address}/32");
    let tables = Tables::build(&policy).unwrap();
    let tables = tables.with_routes(NetworkIndex(0), &[route(&text, via(0))]).unwrap();
    assert!(leads_to(&tables, &address.to_string(), 0));
    policy.ports.push(port(1, 0));
    let tables = tables.update(&policy).unwrap();
    assert!(leads_to(&tables, &address.to_string(), 1));
    policy.ports.pop();
    let tables = tables.update(&policy).unwrap();
    assert!(leads_to(&tables, &address.to_string(), 0));
}

#[test]
fn the_last_change_of_a_prefix_holds() {
    let policy = Policy { networks: vec![network(0, 1500)], ports: vec![port(0, 0), port(1, 0)] };
    let tables = Tables::build(&policy).unwrap();
    let prefix = "192.0.2.0/24";
    for (changes, expected) in [
        (vec![route(prefix, via(1)), route(prefix, None), route(prefix, via(0))], Some(0)),
        (vec![route(prefix, None), route(prefix, via(0)), route(prefix, via(1))], Some(1)),
        (vec![route(prefix, via(0)), route(prefix, via(1)), route(prefix, None)], None),
    ] {
        let tables = tables.with_routes(NetworkIndex(0), &changes).unwrap();
        match expected {
            Some(index) => assert!(leads_to(&tables, "192.0.2.7", index)),
            None => assert_eq!(target(&tables, "192.0.2.7"), NextHop::Drop(DropReason::NoRoute)),
        }
        assert_eq!(tables.network(NetworkIndex(0)).unwrap().hops().used(), 2);
    }
}

#[test]
fn refused_routes_change_nothing() {
    let policy = Policy { networks: vec![network(0, 1500)], ports: vec![port(0, 0)] };
    let tables = Tables::build(&policy).unwrap();
    let to = |text: &str| Some(RouteTarget::Via(text.parse().unwrap()));
    for (change, text) in [
        (route("127.0.1.0/24", via(0)), "route 127.0.1.0/24 lies in 127.0.0.0/8,"),
        (route("0.0.0.0/8", via(0)), "route 0.0.0.0/8 lies in 0.0.0.0/8,"),
        (route("239.1.1.1/32", None), "route 239.1.1.1/32 lies in 224.0.0.0/3,"),
        (route("255.255.255.255/32", via(0)), "route 255.255.255.255/32 lies in"),
        (
            route("192.0.2.0/24", to("10.67.0.2")),
            "route 192.0.2.0/24 leads via 10.67.0.2, which no port of its network can have",
        ),
        (route("192.0.2.0/24", to("10.66.0.1")), "route 192.0.2.0/24 leads via 10.66.0.1,"),
        (route("192.0.2.0/24", to("10.66.0.0")), "route 192.0.2.0/24 leads via 10.66.0.0,"),
        (route("192.0.2.0/24", to("10.66.255.255")), "route 192.0.2.0/24 leads via"),
    ] {
        let changes = [route("8.0.0.0/8", via(0)), change];
        let error = tables.with_routes(NetworkIndex(0), &changes).unwrap_err();
        assert!(error.to_string().starts_with(text), "got {error}\nnot {text}");
        assert_eq!(target(&tables, "8.8.8.8"), NextHop::Drop(DropReason::NoRoute));
    }
    let error = tables.with_routes(NetworkIndex(3), &[]).unwrap_err();
    let text = "network slot 3 does not exist: create the network first";
    assert_eq!(error.to_string(), text);
}
