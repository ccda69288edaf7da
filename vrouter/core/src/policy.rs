//! What the tables are built from: plain values, checked as a whole.

use crate::routes::reserved4;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use vrouter_net::{Ipv4Prefix, Mac};

/// Slot of a port. The caller gives them out, dense from zero; a slot may be used again later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u16);

/// Slot of a network. The caller gives them out, dense from zero; a slot may be used again later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkIndex(pub u16);

/// Everything that shall be: all networks and all ports, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The networks.
    pub networks: Vec<NetworkPolicy>,
    /// The ports.
    pub ports: Vec<PortPolicy>,
}

/// A virtual network. Networks may use the same addresses: they never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its slot.
    pub index: NetworkIndex,
    /// Addresses of its ports and its gateway; at most 30 bits long.
    pub prefix: Ipv4Prefix,
    /// The address the vRouter answers for.
    pub gateway: Ipv4Addr,
    /// The MAC address the vRouter has in this network.
    pub gateway_mac: Mac,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// A port: the one MAC and the one IPv4 address its pod may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// Its slot.
    pub index: PortIndex,
    /// The network it belongs to.
    pub network: NetworkIndex,
    /// The pod's MAC address.
    pub mac: Mac,
    /// The pod's address.
    pub ipv4: Ipv4Addr,
}

/// Smallest MTU every IPv4 link must take (RFC 791 section 3.2).
const MIN_MTU: u16 = 68;
/// Longest prefix with room for a network, a gateway, a port and a broadcast address.
const MAX_PREFIX_LENGTH: u8 = 30;

/// A policy contradicts itself. Slots name the culprit; the caller knows the names people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say what each field is")]
pub enum PolicyError {
    /// Two networks in one slot.
    DuplicateNetwork { network: NetworkIndex },
    /// Two ports in one slot.
    DuplicatePort { port: PortIndex },
    /// A prefix without room for a port.
    PrefixTooLong { network: NetworkIndex, prefix: Ipv4Prefix },
    /// A prefix with addresses that no host can have.
    PrefixReserved { network: NetworkIndex, prefix: Ipv4Prefix, reserved: Ipv4Prefix },
    /// A gateway address outside the prefix, or the first or last address of it.
    Gateway { network: NetworkIndex, gateway: Ipv4Addr, prefix: Ipv4Prefix },
    /// A gateway MAC address that no station can have.
    GatewayMac { network: NetworkIndex, mac: Mac },
    /// An MTU below the smallest allowed.
    Mtu { network: NetworkIndex, mtu: u16 },
    /// A port of a network that is not there.
    UnknownNetwork { port: PortIndex, network: NetworkIndex },
    /// A port address outside the prefix, or the first or last address of it.
    Address { port: PortIndex, address: Ipv4Addr, prefix: Ipv4Prefix },
    /// A port with the gateway's address.
    AddressOfGateway { port: PortIndex, address: Ipv4Addr },
    /// Two ports of a network with one address.
    DuplicateAddress { first: PortIndex, second: PortIndex, address: Ipv4Addr },
    /// A MAC address that no station can have.
    PortMac { port: PortIndex, mac: Mac },
    /// A port with the gateway's MAC address.
    MacOfGateway { port: PortIndex, mac: Mac },
    /// Two ports of a network with one MAC address.
    DuplicateMac { first: PortIndex, second: PortIndex, mac: Mac },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateNetwork { network } => {
                write!(f, "network slot {} is used twice: give each network its own", network.0)
            }
            Self::DuplicatePort { port } => {
                write!(f, "port slot {} is used twice: give each port its own", port.0)
            }
            Self::PrefixTooLong { prefix, .. } => write!(
                f,
                "ipv4 {prefix} has no room for a gateway and a port: use a length of at most \
                 {MAX_PREFIX_LENGTH}"
            ),
            Self::PrefixReserved { prefix, reserved, .. } => write!(
                f,
                "ipv4 {prefix} overlaps {reserved}, which hosts cannot use: choose a unicast prefix \
                 such as 10.66.0.0/24"
            ),
            Self::Gateway { gateway, prefix, .. } => write!(
                f,
                "gateway {gateway} is not a host address of {prefix}: choose one {}",
                Between(*prefix)
            ),
            Self::GatewayMac { mac, .. } => write!(
                f,
                "gateway_mac {mac} is a group or zero address: choose a unicast one such as \
                 02:00:00:00:00:01"
            ),
            Self::Mtu { mtu, .. } => {
                write!(f, "mtu {mtu} is too small: choose at least {MIN_MTU}")
            }
            Self::UnknownNetwork { port, network } => write!(
                f,
                "port slot {} belongs to network slot {}, which does not exist: create the network \
                 first",
                port.0, network.0
            ),
            Self::Address { address, prefix, .. } => write!(
                f,
                "ipv4 {address} is not a host address of {prefix}: choose one {}",
                Between(*prefix)
            ),
            Self::AddressOfGateway { address, .. } => {
                write!(f, "ipv4 {address} is the gateway's: choose another address")
            }
            Self::DuplicateAddress { address, first, second } => write!(
                f,
                "ipv4 {address} is used by the ports in slots {} and {}: choose another address",
                first.0, second.0
            ),
            Self::PortMac { mac, .. } => write!(
                f,
                "mac {mac} is a group or zero address: choose a unicast one such as \
                 02:00:00:00:00:02"
            ),
            Self::MacOfGateway { mac, .. } => {
                write!(f, "mac {mac} is the gateway's: choose another one")
            }
            Self::DuplicateMac { mac, first, second } => write!(
                f,
                "mac {mac} is used by the ports in slots {} and {}: choose another one",
                first.0, second.0
            ),
        }
    }
}

impl core::error::Error for PolicyError {}

/// Prints the range of host addresses of a prefix.
struct Between(Ipv4Prefix);

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.network().to_bits(), self.0.last().to_bits());
        let first = Ipv4Addr::from_bits(first.saturating_add(1));
        let last = Ipv4Addr::from_bits(last.saturating_sub(1));
        write!(f, "from {first} to {last}")
    }
}

/// A policy that is consistent, sorted for building.
pub(crate) struct Checked {
    /// By slot.
    pub networks: Vec<NetworkPolicy>,
    /// By network, then by address.
    pub ports: Vec<PortPolicy>,
}

impl Policy {
    /// Checks every rule; the first one broken is the error.
    pub(crate) fn check(&self) -> Result<Checked, PolicyError> {
        let mut networks = self.networks.clone();
        networks.sort_unstable_by_key(|network| network.index);
        if let Some([first, _]) = pairs(&networks).find(|[a, b]| a.index == b.index) {
            return Err(PolicyError::DuplicateNetwork { network: first.index });
        }
        for network in &networks {
            network.check()?;
        }

        let mut ports = self.ports.clone();
        ports.sort_unstable_by_key(|port| port.index);
        if let Some([first, _]) = pairs(&ports).find(|[a, b]| a.index == b.index) {
            return Err(PolicyError::DuplicatePort { port: first.index });
        }
        for port in &ports {
            let found = networks.binary_search_by_key(&port.network, |network| network.index);
            let network = found
                .ok()
                .and_then(|at| networks.get(at))
                .ok_or(PolicyError::UnknownNetwork { port: port.index, network: port.network })?;
            port.check(network)?;
        }

        ports.sort_unstable_by_key(|port| (port.network, port.mac));
        if let Some([a, b]) = pairs(&ports).find(|[a, b]| (a.network, a.mac) == (b.network, b.mac))
        {
            let (first, second) = in_order(a, b);
            return Err(PolicyError::DuplicateMac { first, second, mac: a.mac });
        }
        ports.sort_unstable_by_key(|port| (port.network, port.ipv4));
        if let Some([a, b]) =
            pairs(&ports).find(|[a, b]| (a.network, a.ipv4) == (b.network, b.ipv4))
        {
            let (first, second) = in_order(a, b);
            return Err(PolicyError::DuplicateAddress { first, second, address: a.ipv4 });
        }
        Ok(Checked { networks, ports })
    }
}

fn pairs<T>(items: &[T]) -> impl Iterator<Item = &[T; 2]> {
    items.windows(2).filter_map(|pair| pair.first_chunk())
}

fn in_order(a: &PortPolicy, b: &PortPolicy) -> (PortIndex, PortIndex) {
    (a.index.min(b.index), a.index.max(b.index))
}

fn is_host_address(prefix: Ipv4Prefix, address: Ipv4Addr) -> bool {
    prefix.contains(address) && address != prefix.network() && address != prefix.last()
}

impl NetworkPolicy {
    fn check(&self) -> Result<(), PolicyError> {
        let Self { index: network, prefix, gateway, gateway_mac, mtu } = *self;
        if let Some(reserved) = reserved4().into_iter().find(|other| prefix.overlaps(*other)) {
            return Err(PolicyError::PrefixReserved { network, prefix, reserved });
        }
        if prefix.length() > MAX_PREFIX_LENGTH {
            return Err(PolicyError::PrefixTooLong { network, prefix });
        }
        if !is_host_address(prefix, gateway) {
            return Err(PolicyError::Gateway { network, gateway, prefix });
        }
        if !gateway_mac.is_station() {
            return Err(PolicyError::GatewayMac { network, mac: gateway_mac });
        }
        if mtu < MIN_MTU {
            return Err(PolicyError::Mtu { network, mtu });
        }
        Ok(())
    }
}

impl PortPolicy {
    fn check(&self, network: &NetworkPolicy) -> Result<(), PolicyError> {
        let Self { index: port, network: _, mac, ipv4: address } = *self;
        if !is_host_address(network.prefix, address) {
            return Err(PolicyError::Address { port, address, prefix: network.prefix });
        }
        if address == network.gateway {
            return Err(PolicyError::AddressOfGateway { port, address });
        }
        if !mac.is_station() {
            return Err(PolicyError::PortMac { port, mac });
        }
        if mac == network.gateway_mac {
            return Err(PolicyError::MacOfGateway { port, mac });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        };
        let port = |index, network, last| PortPolicy {
            index: PortIndex(index),
            network: NetworkIndex(network),
            mac: mac(last),
            ipv4: Ipv4Addr::new(10, 66, 0, last),
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
            (
                |p| p.networks[0].index.0 = 0,
                "network slot 0 is used twice: give each network its own",
            ),
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
            (
                |p| p.ports[0].ipv4 = Ipv4Addr::new(10, 66, 0, 0),
                "ipv4 10.66.0.0 is not a host address",
            ),
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
}
