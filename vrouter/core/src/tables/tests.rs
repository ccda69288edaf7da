//! Building and updating, the incremental way beside the full one.

use super::*;
use bolero::TypeGenerator;
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
    }
}

fn port(index: u16, network: u16) -> PortPolicy {
    let [high, low] = index.to_be_bytes();
    PortPolicy {
        index: PortIndex(index),
        network: NetworkIndex(network),
        mac: mac(index + 1),
        ipv4: Ipv4Addr::new(10, 66, high + 1, low),
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
        *tables.network(NetworkIndex(network)).unwrap().next_hop(address)
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
                assert_eq!(built.map(|(p, _)| p.policy), updated.map(|(p, _)| p.policy));
                assert_eq!(built.map(|(p, _)| p.expect), updated.map(|(p, _)| p.expect));
            }
            tables = updated;
        }
    });
}
