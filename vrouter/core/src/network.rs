//! One virtual network: what it is, who is in it, and where its addresses lead.

mod connect;
mod ends;
mod route;

use crate::fib::Fib;
use crate::fib6::Fib6;
use crate::hops::{HopIndex, Hops, Neighbour, NextHop, PortHop};
use crate::index::{Index, Key};
use crate::stations::{Behind, EndIndex, Stations};
use crate::{
    FloodLimit, FloodLimiter, Found, Mode, NetworkPolicy, PortIndex, PortPolicy, PortRole,
    PuntLimiter, Timestamp,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
pub use ends::{FloodEndError, StationChange};
use vrouter_net::{Ipv4Prefix, Ipv6Prefix, Mac, ipv6};

/// A network in the tables.
#[derive(Clone, Debug)]
pub struct Network {
    policy: NetworkPolicy,
    /// Sorted by IPv4 address and slot.
    members: Vec<PortPolicy>,
    hops: Hops,
    fib: Fib,
    fib6: Fib6,
    bridge: Bridge,
    /// Ends of tunnels that this network carries, sorted.
    tunnel_ends: Vec<IpAddr>,
    /// How many packets are handed to the kernel.
    punts: PuntLimiter,
}

/// What a bridged network knows of its ports; empty in a routed one.
#[derive(Clone, Debug)]
struct Bridge {
    macs: Index<PortIndex>,
    ports: Vec<PortIndex>,
    trunks: Vec<PortIndex>,
    /// The other ends of its tunnel that it stretches to.
    ends: ends::Ends,
    /// Stations that are known to be behind those, without having been heard.
    named: Index<EndIndex>,
    /// How many frames are repeated.
    floods: FloodLimiter,
    /// Who was heard behind the trunks and the ends; nothing as long as there are none. What workers learn here they find
    /// in all later versions of the network, too.
    stations: Option<Arc<Stations>>,
}

impl Network {
    /// `tunnel_ends`: its addresses at which tunnels end, sorted, each once.
    pub(crate) fn new(
        policy: NetworkPolicy,
        members: &[PortPolicy],
        tunnel_ends: &[IpAddr],
    ) -> Self {
        let mut fib = Fib::new();
        // RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7: these never leave a host. They are here for the
        // case that a default route leads somewhere.
        fib.set_own(Ipv4Prefix::containing(Ipv4Addr::UNSPECIFIED, 8), Some(HopIndex::NEVER));
        fib.set_own(Ipv4Prefix::containing(Ipv4Addr::LOCALHOST, 8), Some(HopIndex::NEVER));
        fib.set_own(Ipv4Prefix::containing(Ipv4Addr::BROADCAST, 4), Some(HopIndex::NEVER));
        // RFC 1112 section 4.
        let groups = Ipv4Prefix::containing(Ipv4Addr::new(224, 0, 0, 0), 4);
        fib.set_own(groups, Some(HopIndex::NOT_UNICAST));
        fib.set_own(Ipv4Prefix::host(Ipv4Addr::BROADCAST), Some(HopIndex::NOT_UNICAST));
        let bridge = Bridge {
            macs: Index::new(),
            ports: Vec::new(),
            trunks: Vec::new(),
            ends: ends::Ends::new(),
            named: Index::new(),
            floods: FloodLimiter::default(),
            stations: None,
        };
        let (hops, fib6) = (Hops::new(), Fib6::new());
        let mut network = Self {
            policy,
            members: Vec::new(),
            hops,
            fib,
            fib6,
            bridge,
            tunnel_ends: Vec::new(),
            punts: PuntLimiter::new(&policy.punts),
        };
        network.set_own_routes(true);
        network.change_members(members);
        network.set_tunnel_ends(tunnel_ends);
        network
    }

    /// The same network, changed. The operator's routes stay.
    pub(crate) fn changed(
        &self,
        policy: NetworkPolicy,
        members: &[PortPolicy],
        tunnel_ends: &[IpAddr],
    ) -> Self {
        let mut network = self.clone();
        // First of all, as the addresses may be ports' next.
        network.set_tunnel_ends(&[]);
        if policy != self.policy {
            // All ports leave and come again: their hops hold values of the policy.
            network.change_members(&[]);
            network.set_own_routes(false);
            network.policy = policy;
            network.punts = PuntLimiter::new(&policy.punts);
            network.set_own_routes(true);
            network.check_flood_ends();
        }
        network.change_members(members);
        network.set_tunnel_ends(tunnel_ends);
        network
    }

    /// Makes the vRouter have these addresses, and no others beside the gateway's.
    fn set_tunnel_ends(&mut self, ends: &[IpAddr]) {
        let old = core::mem::replace(&mut self.tunnel_ends, ends.to_vec());
        let gateways = [
            (!self.policy.external).then_some(IpAddr::V4(self.policy.gateway)),
            self.policy.ipv6.map(|ipv6| IpAddr::V6(ipv6.gateway)),
        ];
        let gone = old.into_iter().map(|end| (end, None));
        let here = ends.iter().map(|end| (*end, Some(HopIndex::GATEWAY)));
        for (end, hop) in gone.chain(here) {
            match end {
                _ if gateways.contains(&Some(end)) => {}
                IpAddr::V4(end) => self.fib.set_own(Ipv4Prefix::host(end), hop),
                IpAddr::V6(end) => self.fib6.set_own(Ipv6Prefix::host(end), hop),
            }
        }
    }

    /// Sets or takes away the routes that follow from the network's own addresses.
    fn set_own_routes(&mut self, set: bool) {
        let NetworkPolicy { prefix, gateway, gateway_mac, ipv6, external, .. } = self.policy;
        if external {
            return;
        }
        let hop = |hop| set.then_some(hop);
        let fib = &mut self.fib;
        fib.set_own(prefix, hop(HopIndex::UNREACHABLE));
        // RFC 1812 sections 4.2.2.11 and 4.2.3.1: the network's own address counts as a broadcast too.
        fib.set_own(Ipv4Prefix::host(prefix.network()), hop(HopIndex::NOT_UNICAST));
        fib.set_own(Ipv4Prefix::host(prefix.last()), hop(HopIndex::NOT_UNICAST));
        fib.set_own(Ipv4Prefix::host(gateway), hop(HopIndex::GATEWAY));
        if let Some(ipv6) = ipv6 {
            let fib = &mut self.fib6;
            fib.set_own(ipv6.prefix, hop(HopIndex::UNREACHABLE));
            // The Subnet-Router anycast address, unless it is the gateway's of a link of two.
            fib.set_own(Ipv6Prefix::host(ipv6.prefix.network()), hop(HopIndex::NEVER));
            fib.set_own(Ipv6Prefix::host(ipv6.gateway), hop(HopIndex::GATEWAY));
            let link_local = ipv6::link_local(gateway_mac);
            fib.set_own(Ipv6Prefix::host(link_local), hop(HopIndex::GATEWAY));
        }
    }

    /// Changes ports and what leads to them by what differs between the two lists, both sorted by IPv4 address.
    fn change_members(&mut self, members: &[PortPolicy]) {
        let old_members = core::mem::replace(&mut self.members, members.to_vec());
        for old in &old_members {
            if find(members, old) != Some(old) {
                self.leave(old);
            }
        }
        for new in members {
            if find(&old_members, new) != Some(new) {
                self.join(new);
            }
        }
        if self.policy.mode == Mode::Bridged {
            self.bridge.ports = members.iter().map(|port| port.index).collect();
            let trunks = members.iter().filter(|port| port.trunk);
            self.bridge.trunks = trunks.map(|port| port.index).collect();
        }
        let FloodLimit { per_second, burst } = self.policy.floods;
        self.bridge.floods = FloodLimiter::new(per_second, burst);
        self.set_stations();
    }

    fn leave(&mut self, port: &PortPolicy) {
        if port.role == PortRole::Kernel {
            self.hops.leave(Neighbour::Kernel);
        }
        if let Some(address) = port.own_ipv4() {
            self.fib.set_own(Ipv4Prefix::host(address), None);
            self.hops.leave(IpAddr::V4(address));
        }
        if let Some(address) = port.ipv6 {
            self.fib6.set_own(Ipv6Prefix::host(address), None);
            self.hops.leave(IpAddr::V6(address));
        }
        self.bridge.macs.set(key(port.mac), None);
        if let Some(stations) = self.bridge.stations.as_ref().filter(|_| port.trunk) {
            // Its slot may be another port's next. Workers that still have the version before this one may learn a last
            // few; the tables that come then do not believe them before there is a trunk in the slot again.
            stations.forget(Behind::Port(port.index));
        }
    }

    fn join(&mut self, port: &PortPolicy) {
        let mtu = port.mtu_in(&self.policy);
        let hop = PortHop::new(port.index, port.mac, self.policy.gateway_mac, mtu);
        let hop = match port.role {
            PortRole::Pod => NextHop::Port(hop),
            PortRole::Kernel => {
                self.hops.join(Neighbour::Kernel, NextHop::Kernel(hop));
                NextHop::Kernel(hop)
            }
            // Routes lead to what is behind an uplink, see `connect`; nothing leads to the kernel's side of it.
            PortRole::Uplink { .. } | PortRole::Host { .. } => return,
        };
        if let Some(address) = port.own_ipv4() {
            let index = self.hops.join(IpAddr::V4(address), hop.clone());
            self.fib.set_own(Ipv4Prefix::host(address), Some(index));
        }
        if let Some(address) = port.ipv6 {
            let index = self.hops.join(IpAddr::V6(address), hop);
            self.fib6.set_own(Ipv6Prefix::host(address), Some(index));
        }
        if self.policy.mode == Mode::Bridged {
            self.bridge.macs.set(key(port.mac), Some(port.index));
        }
    }

    /// What the network is.
    pub fn policy(&self) -> &NetworkPolicy {
        &self.policy
    }

    /// Its ports, sorted by IPv4 address.
    pub fn ports(&self) -> &[PortPolicy] {
        &self.members
    }

    /// Its addresses at which tunnels end, sorted.
    pub(crate) fn tunnel_ends(&self) -> &[IpAddr] {
        &self.tunnel_ends
    }

    /// Where an IPv4 address leads in this network.
    pub fn next_hop(&self, address: Ipv4Addr) -> &NextHop {
        self.hops.get(self.fib.lookup(address.to_bits()))
    }

    /// Where an address leads in this network. In one without IPv6 its addresses lead nowhere.
    pub fn next_hop_ip(&self, address: IpAddr) -> &NextHop {
        match address {
            IpAddr::V4(address) => self.next_hop(address),
            IpAddr::V6(address) => self.hops.get(self.fib6.lookup(address)),
        }
    }

    /// The entry that an address is found by. `None`: none contains it, or it is of a kind that is never routed.
    pub(crate) fn found_by(&self, address: IpAddr) -> Option<Found> {
        let found = match address {
            IpAddr::V4(address) => self.fib.entry_of(address).map(|(it, own)| (it.into(), own)),
            IpAddr::V6(address) => self.fib6.entry_of(address).map(|(it, own)| (it.into(), own)),
        };
        found.map(|(prefix, own)| Found { prefix, own })
    }

    /// How many routes the operator gave it.
    pub fn routes(&self) -> usize {
        self.fib.fixed_routes() + self.fib6.fixed_routes()
    }

    /// In a bridged network, the port with a MAC address.
    pub fn port_of(&self, mac: Mac) -> Option<PortIndex> {
        self.bridge.macs.get(key(mac))
    }

    /// In a bridged network, how many stations behind its trunks and its tunnel were heard of late.
    pub fn stations(&self, now: Timestamp) -> usize {
        self.bridge.stations.as_ref().map_or(0, |stations| stations.count(now))
    }

    /// In a bridged network, the stations behind its trunks and its tunnel.
    pub(crate) fn learned(&self) -> Option<&Stations> {
        self.bridge.stations.as_deref()
    }

    /// From now on learns stations for itself, beside those that are known.
    pub(crate) fn leave_stations(&mut self) {
        if let Some(stations) = &mut self.bridge.stations {
            *stations = Arc::new(stations.copy());
        }
    }

    /// In a bridged network, how many frames are repeated.
    pub(crate) fn floods(&self) -> &FloodLimiter {
        &self.bridge.floods
    }

    /// How many packets of each port are handed to the kernel.
    pub(crate) fn punts(&self) -> &PuntLimiter {
        &self.punts
    }

    /// In a bridged network, all its ports.
    pub(crate) fn bridged_ports(&self) -> &[PortIndex] {
        &self.bridge.ports
    }

    /// In a bridged network, its trunk ports.
    pub(crate) fn trunks(&self) -> &[PortIndex] {
        &self.bridge.trunks
    }

    #[inline]
    pub(crate) fn fib(&self) -> &Fib {
        &self.fib
    }

    #[inline]
    pub(crate) fn lookup6(&self, address: Ipv6Addr) -> HopIndex {
        self.fib6.lookup(address)
    }

    #[inline]
    pub(crate) fn hops(&self) -> &Hops {
        &self.hops
    }
}

/// The port in the same slot with the same address.
fn find<'a>(list: &'a [PortPolicy], like: &PortPolicy) -> Option<&'a PortPolicy> {
    let key = |port: &PortPolicy| (port.ipv4, port.index);
    list.get(list.binary_search_by_key(&key(like), key).ok()?)
}

fn key(mac: Mac) -> Key {
    let [a, b, c, d, e, f] = mac.octets();
    Key { bits: u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f])), kind: 0 }
}
