//! What can be wrong with a policy.

use super::{
    MAX_ALLOWED, MAX_PREFIX_LENGTH, MAX_PREFIX_LENGTH_6, MIN_MTU, NetworkIndex, PortIndex,
};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_net::mpls::Label;
use vrouter_net::vxlan::Vni;
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac};

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
    /// An IPv6 prefix without room for a port.
    Ipv6TooLong { network: NetworkIndex, prefix: Ipv6Prefix },
    /// An IPv6 prefix with addresses that no host can have.
    Ipv6Reserved { network: NetworkIndex, prefix: Ipv6Prefix, reserved: Ipv6Prefix },
    /// An IPv6 gateway address outside the prefix, or the first of it.
    Ipv6Gateway { network: NetworkIndex, gateway: Ipv6Addr, prefix: Ipv6Prefix },
    /// An MTU that IPv6 cannot live with.
    Ipv6Mtu { network: NetworkIndex, mtu: u16 },
    /// A port with an IPv6 address in a network without IPv6.
    NoIpv6 { port: PortIndex, address: Ipv6Addr },
    /// An IPv6 port address outside the prefix, or the first of it.
    Ipv6Address { port: PortIndex, address: Ipv6Addr, prefix: Ipv6Prefix },
    /// A port with the gateway's IPv6 address.
    Ipv6OfGateway { port: PortIndex, address: Ipv6Addr },
    /// Two ports of a network with one IPv6 address.
    DuplicateIpv6 { first: PortIndex, second: PortIndex, address: Ipv6Addr },
    /// More allowed source prefixes than a packet may be compared with.
    TooManyAllowed { port: PortIndex, count: usize },
    /// Allowed source addresses that no host can have.
    AllowedReserved { port: PortIndex, prefix: IpPrefix, reserved: IpPrefix },
    /// A trunk in a network that is not bridged.
    Trunk { port: PortIndex },
    /// A tunnel over a network that is not there, or has a tunnel itself.
    Underlay { network: NetworkIndex, underlay: NetworkIndex },
    /// A tunnel's address outside the underlay, or the first or last address of it.
    TunnelAddress { network: NetworkIndex, local: IpAddr },
    /// A tunnel's address that a port of the underlay has.
    TunnelAddressTaken { network: NetworkIndex, local: IpAddr, port: PortIndex },
    /// An underlay whose packets are too small for a tunnel.
    UnderlayMtu { network: NetworkIndex, mtu: u16, needed: u16 },
    /// Two networks with one number on one underlay.
    DuplicateVni { first: NetworkIndex, second: NetworkIndex, vni: Vni },
    /// Two networks with one label on one underlay.
    DuplicateLabel { first: NetworkIndex, second: NetworkIndex, label: Label },
    /// Two networks that speak IP in IP at one address.
    DuplicateIpip { first: NetworkIndex, second: NetworkIndex, local: IpAddr },
    /// A tunnel of no kind.
    TunnelKind { network: NetworkIndex },
    /// An external network with what only others have.
    External { network: NetworkIndex },
    /// A port of a kind that its network cannot have.
    Role { port: PortIndex, external: bool },
    /// An uplink or a host interface with what only a pod has.
    ExternalPort { port: PortIndex },
    /// A port that takes smaller packets than it must, or larger ones than its network has.
    PortMtu { port: PortIndex, mtu: u16, least: u16, most: u16 },
    /// An uplink and a host interface that do not name each other, or differ in network or MAC address.
    Twin { port: PortIndex, other: PortIndex },
    /// Two kernel ports of one network.
    DuplicateKernel { first: PortIndex, second: PortIndex },
    /// A policer whose bucket never holds a frame of the network's MTU.
    Burst { port: PortIndex, least_bits: u64 },
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
            Self::Ipv6TooLong { prefix, .. } => write!(
                f,
                "ipv6 {prefix} has no room for a gateway and a port: use a length of at most \
                 {MAX_PREFIX_LENGTH_6}"
            ),
            Self::Ipv6Reserved { prefix, reserved, .. } => write!(
                f,
                "ipv6 {prefix} overlaps {reserved}, which hosts cannot use: choose a unicast prefix \
                 such as fd00:66::/64"
            ),
            Self::Ipv6Gateway { gateway, prefix, .. } => write!(
                f,
                "gateway {gateway} is not a host address of {prefix}: choose one inside it but not \
                 its first"
            ),
            Self::Ipv6Mtu { mtu, .. } => write!(
                f,
                "mtu {mtu} is too small for ipv6: choose at least {}",
                vrouter_net::ipv6::MIN_MTU
            ),
            Self::NoIpv6 { address, .. } => {
                write!(f, "ipv6 {address} is in a network without ipv6: give the network a prefix")
            }
            Self::Ipv6Address { address, prefix, .. } => write!(
                f,
                "ipv6 {address} is not a host address of {prefix}: choose one inside it but not its \
                 first"
            ),
            Self::Ipv6OfGateway { address, .. } => {
                write!(f, "ipv6 {address} is the gateway's: choose another address")
            }
            Self::DuplicateIpv6 { address, first, second } => write!(
                f,
                "ipv6 {address} is used by the ports in slots {} and {}: choose another address",
                first.0, second.0
            ),
            Self::TooManyAllowed { count, .. } => write!(
                f,
                "{count} allowed prefixes are too many: give at most {MAX_ALLOWED}, shorter ones if \
                 need be"
            ),
            Self::AllowedReserved { prefix, reserved, .. } => write!(
                f,
                "allowed prefix {prefix} lies in {reserved}, which hosts cannot use: choose a unicast \
                 prefix"
            ),
            Self::Trunk { .. } => f.write_str(
                "trunk is set but the port's network is not bridged: leave it out, or choose a bridged \
                 network",
            ),
            Self::Burst { least_bits, .. } => write!(
                f,
                "the policer never lets a whole frame of the network's MTU pass: allow a burst of at \
                 least 1 packet and {least_bits} bits"
            ),
            Self::Underlay { underlay, .. } => write!(
                f,
                "the tunnel's underlay, network slot {}, does not exist or has a tunnel itself: create \
                 a network without tunnel for it first",
                underlay.0
            ),
            Self::TunnelAddress { local, .. } => write!(
                f,
                "tunnel address {local} is not a host address of the underlay: choose its gateway's or \
                 one that no port has"
            ),
            Self::TunnelAddressTaken { local, .. } => {
                write!(
                    f,
                    "address {local} is that of a port and of a tunnel's end: change one of the two"
                )
            }
            Self::UnderlayMtu { mtu, needed, .. } => write!(
                f,
                "mtu {mtu} of the underlay is too small for the tunnel: give the underlay and its ports \
                 at least {needed}"
            ),
            Self::DuplicateLabel { label, first, second } => write!(
                f,
                "label {label} is used by the networks in slots {} and {} on one underlay: choose \
                 another one",
                first.0, second.0
            ),
            Self::DuplicateIpip { local, first, second } => write!(
                f,
                "the networks in slots {} and {} speak ipip at {local}, and nothing else tells its packets \
                 apart: give one of them another local address, a vni or a label",
                first.0, second.0
            ),
            Self::TunnelKind { .. } => f.write_str(
                "the tunnel has neither a vni nor a label nor ipip: give it one of them or more",
            ),
            Self::External { .. } => f.write_str(
                "an external network has no prefix, gateway, mode or tunnel of its own: leave them out",
            ),
            Self::Role { external: true, .. } => f.write_str(
                "the port is no uplink, but its network is external: choose another network",
            ),
            Self::Role { external: false, .. } => f.write_str(
                "the port is an uplink or its host interface, but its network is not external: choose \
                 an external network",
            ),
            Self::ExternalPort { .. } => f.write_str(
                "an uplink or its host interface has no addresses, allowed prefixes or trunk here: leave \
                 them out",
            ),
            Self::PortMtu { mtu, least, most, .. } => {
                write!(f, "mtu {mtu} of the port is not between {least} and its network's, {most}")
            }
            Self::Twin { port, other } => write!(
                f,
                "the ports in slots {} and {} are not uplink and host interface of each other: let each \
                 name the other, in one network and with one MAC address",
                port.0, other.0
            ),
            Self::DuplicateKernel { first, second } => write!(
                f,
                "the ports in slots {} and {} are both kernel ports of one network: leave one out",
                first.0, second.0
            ),
            Self::DuplicateVni { vni, first, second } => write!(
                f,
                "vni {vni} is used by the networks in slots {} and {} on one underlay: choose another \
                 one",
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
