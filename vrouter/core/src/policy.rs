//! What the tables are built from: plain values, checked as a whole.

mod error;
mod role;
mod tunnel;

use crate::routes::{reserved_around, reserved4, reserved6};
use crate::{FloodLimiter, PuntRates, Rates};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
pub use error::PolicyError;
pub use role::PortRole;
use vrouter_net::mpls::{self, Label};
use vrouter_net::vxlan::{self, Vni};
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac, ipip, ipv6};

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
    /// The same in IPv6, if the network has it.
    pub ipv6: Option<Ipv6Network>,
    /// What happens to frames that are not for the gateway.
    pub mode: Mode,
    /// In a bridged network: how many frames are repeated.
    pub floods: FloodLimit,
    /// How it reaches other hosts, if it does.
    pub tunnel: Option<Tunnel>,
    /// Its addresses are the kernel's, and its ports are uplinks and their host interfaces
    /// ([`NetworkPolicy::external`]).
    pub external: bool,
    /// How many packets one worker hands to the kernel for each of its ports.
    pub punts: PuntRates,
}

/// The tunnel between a network here and the same one on other hosts. What is routed into it is said by routes
/// ([`crate::RouteTarget::Vxlan`], [`crate::RouteTarget::MplsUdp`], [`crate::RouteTarget::Ipip`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's number on the wire in VXLAN, both ways; no other network has it on this underlay. `None`: the
    /// network does not speak VXLAN.
    pub vni: Option<Vni>,
    /// The label on MPLS packets for the network; no other network has it on this underlay. The other end's label is the
    /// route's. `None`: nothing comes by MPLS.
    pub label: Option<Label>,
    /// It speaks IP in IP, which has no number: all such packets for `local` are its own, so no other network has this at the
    /// same address of this underlay.
    pub ipip: bool,
    /// The network that carries the packets. It has no tunnel itself.
    pub underlay: NetworkIndex,
    /// This end's address in the underlay: the gateway's, or one that no port has. The vRouter answers for it. In an
    /// external network any address of this host; other packets for it still go to the kernel.
    pub local: IpAddr,
}

/// How a packet is carried through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Vxlan,
    Mpls,
    Ipip,
}

impl Tunnel {
    /// Bytes that a tunnel takes from an IP packet of the underlay before an IP packet of the network.
    pub(crate) fn overhead(&self, carrier: Carrier) -> u16 {
        const VXLAN4: u16 = 50;
        const VXLAN6: u16 = 70;
        const _: () = assert!(VXLAN4 as usize == vxlan::OUTER4_BYTES);
        const _: () = assert!(VXLAN6 as usize == vxlan::OUTER6_BYTES);
        const MPLS4: u16 = 32;
        const MPLS6: u16 = 52;
        const _: () = assert!(MPLS4 as usize + 14 == mpls::OUTER4_BYTES);
        const _: () = assert!(MPLS6 as usize + 14 == mpls::OUTER6_BYTES);
        const IPIP4: u16 = 20;
        const IPIP6: u16 = 40;
        const _: () = assert!(IPIP4 as usize + 14 == ipip::OUTER4_BYTES);
        const _: () = assert!(IPIP6 as usize + 14 == ipip::OUTER6_BYTES);
        match (carrier, self.local.is_ipv4()) {
            // The outer Ethernet header is not in the underlay's packet, but the inner one is, and is as long.
            (Carrier::Vxlan, true) => VXLAN4,
            (Carrier::Vxlan, false) => VXLAN6,
            // The others carry the inner packet without one.
            (Carrier::Mpls, true) => MPLS4,
            (Carrier::Mpls, false) => MPLS6,
            (Carrier::Ipip, true) => IPIP4,
            (Carrier::Ipip, false) => IPIP6,
        }
    }
}

/// How many broadcast, multicast and unknown unicast frames of one port one worker repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimit {
    /// Frames per second in the long run; zero: none.
    pub per_second: u32,
    /// Frames at once after a rest; zero: none.
    pub burst: u32,
}

impl Default for FloodLimit {
    fn default() -> Self {
        let (per_second, burst) = (FloodLimiter::DEFAULT_PER_SECOND, FloodLimiter::DEFAULT_BURST);
        Self { per_second, burst }
    }
}

/// The IPv6 side of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Network {
    /// Addresses of its ports and its gateway; at most 127 bits long.
    pub prefix: Ipv6Prefix,
    /// The address the vRouter answers for, beside the link-local one made from its MAC address.
    pub gateway: Ipv6Addr,
}

/// What a network does with frames that are not for the gateway. Those that are, are routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped: pods reach each other through the gateway, which answers ARP and Neighbor Discovery for
    /// all.
    #[default]
    Routed,
    /// They go to the port with the destination MAC address, or to all ports for a group.
    Bridged,
}

/// A port: the MAC and the addresses its pod may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// Its slot.
    pub index: PortIndex,
    /// The network it belongs to.
    pub network: NetworkIndex,
    /// What is behind it.
    pub role: PortRole,
    /// The pod's MAC address; an uplink's own and its host interface's, which is the same; a kernel port's.
    pub mac: Mac,
    /// The pod's address. A kernel port can have one, so that the network's ports reach the kernel itself; 0.0.0.0: it
    /// has none, as uplinks and host interfaces never have one here.
    pub ipv4: Ipv4Addr,
    /// The pod's IPv6 address, if it has one. It may use link-local ones too, to talk to the gateway.
    pub ipv6: Option<Ipv6Addr>,
    /// Source addresses the pod may use beside its own, for a pod that routes for others: at most 64 prefixes,
    /// compared one after the other. It is the operator's to leave out what belongs to others.
    pub allowed: Vec<IpPrefix>,
    /// In a bridged network: a way to stations that are no ports. The pod may use any address that is no other
    /// port's, and gets frames for MAC addresses that no port has: those it was heard of behind it, and those that
    /// nobody has heard of.
    pub trunk: bool,
    /// What the pod may send.
    pub rates: Rates,
    /// Bytes of the largest IP packet it takes, if that is less than the network's.
    pub mtu: Option<u16>,
}

/// Smallest MTU every IPv4 link must take (RFC 791 section 3.2).
const MIN_MTU: u16 = 68;
/// Longest prefix with room for a network, a gateway, a port and a broadcast address.
const MAX_PREFIX_LENGTH: u8 = 30;
/// Longest IPv6 prefix with room for a gateway and a port.
const MAX_PREFIX_LENGTH_6: u8 = 127;
/// Most prefixes a port may use beside its own addresses.
const MAX_ALLOWED: usize = 64;

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
        tunnel::check(&networks, &self.ports)?;

        let mut ports = self.ports.clone();
        ports.sort_unstable_by_key(|port| port.index);
        if let Some([first, _]) = pairs(&ports).find(|[a, b]| a.index == b.index) {
            return Err(PolicyError::DuplicatePort { port: first.index });
        }
        role::check(&ports)?;
        for port in &ports {
            let found = networks.binary_search_by_key(&port.network, |network| network.index);
            let network = found
                .ok()
                .and_then(|at| networks.get(at))
                .ok_or(PolicyError::UnknownNetwork { port: port.index, network: port.network })?;
            port.check(network)?;
        }

        let mut macs: Vec<_> = ports.iter().filter(|port| !port.role.is_host()).collect();
        macs.sort_unstable_by_key(|port| (port.network, port.mac));
        for pair in macs.windows(2) {
            if let [a, b] = pair
                && (a.network, a.mac) == (b.network, b.mac)
            {
                let (first, second) = in_order(a, b);
                return Err(PolicyError::DuplicateMac { first, second, mac: a.mac });
            }
        }
        ports.sort_unstable_by_key(|port| (port.network, port.ipv4, port.index));
        if let Some([a, b]) = pairs(&ports)
            .find(|[a, b]| (a.network, a.own_ipv4()) == (b.network, b.own_ipv4()) && a.has_ipv4())
        {
            let (first, second) = in_order(a, b);
            return Err(PolicyError::DuplicateAddress { first, second, address: a.ipv4 });
        }
        let mut six: Vec<_> = ports.iter().filter(|port| port.ipv6.is_some()).collect();
        six.sort_unstable_by_key(|port| (port.network, port.ipv6));
        for pair in six.windows(2) {
            if let [a, b] = pair
                && (a.network, a.ipv6) == (b.network, b.ipv6)
                && let Some(address) = a.ipv6
            {
                let (first, second) = in_order(a, b);
                return Err(PolicyError::DuplicateIpv6 { first, second, address });
            }
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
    /// A network whose addresses belong to the kernel: one that hosts are connected by. Its routes say what is the
    /// kernel's ([`crate::RouteTarget::Local`]) and what lies behind its uplinks ([`crate::RouteTarget::Link`]).
    /// `mtu`: bytes of the largest IP packet.
    pub fn external(index: NetworkIndex, mtu: u16) -> Self {
        Self {
            index,
            prefix: Ipv4Prefix::ALL,
            gateway: Ipv4Addr::UNSPECIFIED,
            gateway_mac: Mac::new([0; 6]),
            mtu,
            ipv6: None,
            mode: Mode::Routed,
            floods: FloodLimit::default(),
            tunnel: None,
            external: true,
            punts: PuntRates::default(),
        }
    }

    fn check_external(&self) -> Result<(), PolicyError> {
        let Self { index: network, mtu, floods, punts, .. } = *self;
        if *self != (Self { floods, punts, ..Self::external(network, mtu) }) {
            return Err(PolicyError::External { network });
        }
        if mtu < ipv6::MIN_MTU {
            return Err(PolicyError::Ipv6Mtu { network, mtu });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), PolicyError> {
        if self.external {
            return self.check_external();
        }
        let Self { index: network, prefix, gateway, gateway_mac, mtu, ipv6, .. } = *self;
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
        ipv6.map_or(Ok(()), |ipv6| ipv6.check(network, mtu))
    }

    /// Whether a port of the network could have this address.
    pub(crate) fn may_have(&self, address: IpAddr) -> bool {
        match address {
            _ if self.external => false,
            IpAddr::V4(address) => is_host_address(self.prefix, address) && address != self.gateway,
            IpAddr::V6(address) => self
                .ipv6
                .is_some_and(|ipv6| ipv6.is_host_address(address) && address != ipv6.gateway),
        }
    }
}

impl Ipv6Network {
    fn check(&self, network: NetworkIndex, mtu: u16) -> Result<(), PolicyError> {
        let Self { prefix, gateway } = *self;
        if let Some(reserved) = reserved6().into_iter().find(|other| prefix.overlaps(*other)) {
            return Err(PolicyError::Ipv6Reserved { network, prefix, reserved });
        }
        if prefix.length() > MAX_PREFIX_LENGTH_6 {
            return Err(PolicyError::Ipv6TooLong { network, prefix });
        }
        if !self.is_host_address(gateway) {
            return Err(PolicyError::Ipv6Gateway { network, gateway, prefix });
        }
        if mtu < ipv6::MIN_MTU {
            return Err(PolicyError::Ipv6Mtu { network, mtu });
        }
        Ok(())
    }

    /// The first address of a prefix is every router's (RFC 4291 section 2.6.1), but not of a link of two (RFC 6164
    /// section 5).
    fn is_host_address(&self, address: Ipv6Addr) -> bool {
        self.prefix.contains(address)
            && (self.prefix.length() == MAX_PREFIX_LENGTH_6 || address != self.prefix.network())
    }
}

impl PortPolicy {
    /// Whether the pod may send from this address beside its own ones. The kernel sends for others.
    pub(crate) fn allows(&self, source: IpAddr) -> bool {
        self.role == PortRole::Kernel || self.allowed.iter().any(|prefix| prefix.contains(source))
    }

    /// Whether it has an IPv4 address.
    pub(crate) fn has_ipv4(&self) -> bool {
        !self.ipv4.is_unspecified()
    }

    /// Its IPv4 address, if it has one.
    pub(crate) fn own_ipv4(&self) -> Option<Ipv4Addr> {
        self.has_ipv4().then_some(self.ipv4)
    }

    /// Bytes of the largest IP packet that it takes in a network.
    pub(crate) fn mtu_in(&self, network: &NetworkPolicy) -> u16 {
        self.mtu.map_or(network.mtu, |mtu| mtu.min(network.mtu))
    }

    fn check(&self, network: &NetworkPolicy) -> Result<(), PolicyError> {
        let Self { index: port, mac, ipv4: address, ipv6, ref allowed, trunk, rates, .. } = *self;
        if !mac.is_station() {
            return Err(PolicyError::PortMac { port, mac });
        }
        self.check_role(network)?;
        if network.external {
            return Ok(());
        }
        let none = self.role == PortRole::Kernel && !self.has_ipv4();
        if !none && !is_host_address(network.prefix, address) {
            return Err(PolicyError::Address { port, address, prefix: network.prefix });
        }
        if address == network.gateway {
            return Err(PolicyError::AddressOfGateway { port, address });
        }
        if mac == network.gateway_mac {
            return Err(PolicyError::MacOfGateway { port, mac });
        }
        if let Some(address) = ipv6 {
            let ipv6 = network.ipv6.ok_or(PolicyError::NoIpv6 { port, address })?;
            if !ipv6.is_host_address(address) {
                return Err(PolicyError::Ipv6Address { port, address, prefix: ipv6.prefix });
            }
            if address == ipv6.gateway {
                return Err(PolicyError::Ipv6OfGateway { port, address });
            }
        }
        if allowed.len() > MAX_ALLOWED {
            return Err(PolicyError::TooManyAllowed { port, count: allowed.len() });
        }
        for prefix in allowed {
            if let Some(reserved) = reserved_around(*prefix) {
                return Err(PolicyError::AllowedReserved { port, prefix: *prefix, reserved });
            }
        }
        if trunk && network.mode != Mode::Bridged {
            return Err(PolicyError::Trunk { port });
        }
        if let Some(least) = rates.too_small_for(network.mtu) {
            return Err(PolicyError::Burst { port, least_bits: least });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
