//! One virtual network: what it is, who is in it, and where its addresses lead.

use crate::fib::Fib;
use crate::fib6::Fib6;
use crate::hops::{HopIndex, Hops, Neighbour, NextHop, PortHop, TunnelHop};
use crate::index::{Index, Key};
use crate::routes::{RouteChange, RouteError, RouteTarget, reserved_around};
use crate::stations::Stations;
use crate::{
    FloodLimit, FloodLimiter, Mode, NetworkPolicy, PortIndex, PortPolicy, Timestamp, Vtep,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vrouter_net::vxlan::{Encapsulation, Endpoint};
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac, ipv6};

/// A network in the tables.
#[derive(Clone, Debug)]
pub struct Network {
    policy: NetworkPolicy,
    /// Sorted by IPv4 address.
    members: Vec<PortPolicy>,
    hops: Hops,
    fib: Fib,
    fib6: Fib6,
    bridge: Bridge,
    /// Ends of tunnels that this network carries, sorted.
    tunnel_ends: Vec<IpAddr>,
}

/// What a bridged network knows of its ports; empty in a routed one.
#[derive(Clone, Debug)]
struct Bridge {
    macs: Index<PortIndex>,
    ports: Vec<PortIndex>,
    trunks: Vec<PortIndex>,
    /// How many frames are repeated.
    floods: FloodLimiter,
    /// Who was heard behind the trunks; nothing as long as there are none. What workers learn here they find in all
    /// later versions of the network, too.
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
            floods: FloodLimiter::default(),
            stations: None,
        };
        let (hops, fib6) = (Hops::new(), Fib6::new());
        let (members_yet, ends_yet) = (Vec::new(), Vec::new());
        let mut network =
            Self { policy, members: members_yet, hops, fib, fib6, bridge, tunnel_ends: ends_yet };
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
            network.set_own_routes(true);
        }
        network.change_members(members);
        network.set_tunnel_ends(tunnel_ends);
        network
    }

    /// Makes the vRouter have these addresses, and no others beside the gateway's.
    fn set_tunnel_ends(&mut self, ends: &[IpAddr]) {
        let old = core::mem::replace(&mut self.tunnel_ends, ends.to_vec());
        let gateways = [
            Some(IpAddr::V4(self.policy.gateway)),
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
        let NetworkPolicy { prefix, gateway, gateway_mac, ipv6, .. } = self.policy;
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
            if find(members, old.ipv4) != Some(old) {
                self.leave(old);
            }
        }
        for new in members {
            if find(&old_members, new.ipv4) != Some(new) {
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
        if self.bridge.trunks.is_empty() {
            self.bridge.stations = None;
        } else if self.bridge.stations.is_none() {
            self.bridge.stations = Some(Arc::new(Stations::new()));
        }
    }

    fn leave(&mut self, port: &PortPolicy) {
        self.fib.set_own(Ipv4Prefix::host(port.ipv4), None);
        self.hops.leave(port.ipv4.into());
        if let Some(address) = port.ipv6 {
            self.fib6.set_own(Ipv6Prefix::host(address), None);
            self.hops.leave(address.into());
        }
        self.bridge.macs.set(key(port.mac), None);
        if let Some(stations) = self.bridge.stations.as_ref().filter(|_| port.trunk) {
            // Its slot may be another port's next. Workers that still have the version before this one may learn a last
            // few; the tables that come then do not believe them before there is a trunk in the slot again.
            stations.forget(port.index);
        }
    }

    fn join(&mut self, port: &PortPolicy) {
        let NetworkPolicy { gateway_mac, mtu, .. } = self.policy;
        let hop = NextHop::Port(PortHop::new(port.index, port.mac, gateway_mac, mtu));
        let index = self.hops.join(port.ipv4.into(), hop);
        self.fib.set_own(Ipv4Prefix::host(port.ipv4), Some(index));
        if let Some(address) = port.ipv6 {
            let index = self.hops.join(address.into(), hop);
            self.fib6.set_own(Ipv6Prefix::host(address), Some(index));
        }
        if self.policy.mode == Mode::Bridged {
            self.bridge.macs.set(key(port.mac), Some(port.index));
        }
    }

    /// The same network with other routes; all changes or none.
    pub(crate) fn with_routes(&self, changes: &[RouteChange]) -> Result<Self, RouteError> {
        for change in changes {
            self.check_route(change)?;
        }
        let mut network = self.clone();
        // In order of the prefixes a route comes before those inside it and neighbours are painted together.
        // Changes of one prefix keep their order, so that the last one holds.
        let mut sorted: Vec<_> = changes.iter().collect();
        sorted.sort_by_key(|change| change.prefix);
        for change in sorted {
            network.change_route(change);
        }
        Ok(network)
    }

    fn check_route(&self, change: &RouteChange) -> Result<(), RouteError> {
        let RouteChange { prefix, target } = *change;
        if let Some(reserved) = reserved_around(prefix) {
            return Err(RouteError::Reserved { prefix, reserved });
        }
        match target {
            Some(RouteTarget::Via(via)) if !self.policy.may_have(via) => {
                Err(RouteError::Via { prefix, via, network: self.policy.index })
            }
            Some(RouteTarget::Vxlan(vtep)) => self.check_vtep(prefix, vtep),
            _ => Ok(()),
        }
    }

    fn check_vtep(&self, prefix: IpPrefix, vtep: Vtep) -> Result<(), RouteError> {
        let Vtep { address, mac } = vtep;
        let network = self.policy.index;
        let tunnel = self.policy.tunnel.ok_or(RouteError::NoTunnel { prefix, network })?;
        let local = tunnel.local;
        let is_host = reserved_around(IpPrefix::host(address)).is_none();
        if address == local || address.is_ipv4() != local.is_ipv4() || !is_host {
            return Err(RouteError::Vtep { prefix, address, local });
        }
        match mac {
            Some(mac) if !mac.is_station() => Err(RouteError::VtepMac { prefix, mac }),
            _ => Ok(()),
        }
    }

    /// The network with its tunnel as the underlay is now. `None`: it is so already.
    pub(crate) fn with_tunnel(&self, underlay: Option<&Self>) -> Option<Self> {
        let leads = |vtep: Vtep| {
            let tunnel = self.policy.tunnel?;
            let NextHop::Port(port) = underlay?.next_hop_ip(vtep.address) else { return None };
            let from = Endpoint { mac: port.source_mac(), address: tunnel.local };
            let to = Endpoint { mac: port.destination_mac(), address: vtep.address };
            let gateway = self.policy.gateway_mac;
            let mtu = port.mtu.saturating_sub(tunnel.overhead()).min(self.policy.mtu);
            let inner = PortHop::new(port.port, vtep.mac.unwrap_or(gateway), gateway, mtu);
            let outer = Encapsulation::new(tunnel.vni, from, to)?;
            Some(NextHop::Vxlan(TunnelHop { inner, outer }))
        };
        let mut changed: Option<Self> = None;
        for (vtep, index) in self.hops.vteps() {
            let hop = leads(vtep).unwrap_or(NextHop::Unreachable);
            if *self.hops.get(index) != hop {
                changed.get_or_insert_with(|| self.clone()).hops.set(index, hop);
            }
        }
        changed
    }

    fn change_route(&mut self, change: &RouteChange) {
        let hop = change.target.map(|target| match target {
            RouteTarget::Via(via) => self.hops.acquire(via),
            RouteTarget::Unreachable => HopIndex::UNREACHABLE,
            RouteTarget::Drop => HopIndex::BLACKHOLE,
            RouteTarget::Vxlan(vtep) => self.hops.acquire(Neighbour::Vtep(vtep)),
        });
        let old = match change.prefix {
            IpPrefix::V4(prefix) => self.fib.set_fixed(&mut self.hops, prefix, hop),
            IpPrefix::V6(prefix) => self.fib6.set_fixed(prefix, hop),
        };
        if let Some(old) = old {
            self.hops.release(old);
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

    /// How many routes the operator gave it.
    pub fn routes(&self) -> usize {
        self.fib.fixed_routes() + self.fib6.fixed_routes()
    }

    /// In a bridged network, the port with a MAC address.
    pub fn port_of(&self, mac: Mac) -> Option<PortIndex> {
        self.bridge.macs.get(key(mac))
    }

    /// In a bridged network, how many stations behind its trunks were heard of late.
    pub fn stations(&self, now: Timestamp) -> usize {
        self.bridge.stations.as_ref().map_or(0, |stations| stations.count(now))
    }

    /// In a bridged network, the stations behind its trunks.
    pub(crate) fn learned(&self) -> Option<&Stations> {
        self.bridge.stations.as_deref()
    }

    /// In a bridged network, how many frames are repeated.
    pub(crate) fn floods(&self) -> &FloodLimiter {
        &self.bridge.floods
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

fn find(list: &[PortPolicy], address: Ipv4Addr) -> Option<&PortPolicy> {
    let at = list.binary_search_by_key(&address, |port| port.ipv4).ok()?;
    list.get(at)
}

fn key(mac: Mac) -> Key {
    let [a, b, c, d, e, f] = mac.octets();
    Key { bits: u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f])), kind: 0 }
}
