//! The immutable snapshot that packets are judged by.

mod expect;

use crate::policy::Checked;
use crate::routes::{RouteChange, RouteError};
use crate::tunnels::{self, Ends, Tunnels};
use crate::{
    DropReason, Flood, FloodEndError, Network, NetworkIndex, Packet, Policer, Policy, PolicyError,
    PortIndex, PortPolicy, StationChange, Verdict, process,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
pub(crate) use expect::{Expect, Expect6, Sender};

/// All networks and ports, immutable. A change makes new tables, which share with the old ones every
/// network that did not change.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// By slot.
    ports: Arc<Vec<Option<Port>>>,
    /// By slot.
    networks: Vec<Option<Arc<Network>>>,
    tunnels: Arc<Tunnels>,
    /// Ports without a link, sorted.
    down: Arc<Vec<PortIndex>>,
}

/// One port as its ingress check wants it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub policy: PortPolicy,
    pub expect: Expect,
    /// For a port with an IPv6 address.
    pub expect6: Option<Expect6>,
    /// What its pod may send, if that is limited. Later versions of the port that may send as much have the same one.
    pub policer: Option<Arc<Policer>>,
}

impl Tables {
    /// Builds everything anew.
    ///
    /// # Errors
    /// The first rule the policy breaks.
    pub fn build(policy: &Policy) -> Result<Self, PolicyError> {
        Self::default().update(policy)
    }

    /// The tables of the new policy. Networks that are as before are shared; one that only gained or lost
    /// ports changes by those ports. Routes stay, see [`Tables::with_routes`].
    ///
    /// The whole policy is checked, so that one port more takes time in proportion to all ports.
    ///
    /// # Errors
    /// The first rule the policy breaks.
    pub fn update(&self, policy: &Policy) -> Result<Self, PolicyError> {
        let Checked { networks: policies, ports } = policy.check()?;
        let mut tables = Self::default();
        let mut slots = Vec::new();
        for network in policies.iter().copied() {
            let start = ports.partition_point(|port| port.network < network.index);
            let end = ports.partition_point(|port| port.network <= network.index);
            let members = &ports[start..end];
            for port in members {
                let expect = Expect::new(port, &network);
                let expect6 = Expect6::new(port, &network);
                let policer = self.policer(port);
                put(
                    &mut slots,
                    port.index.0,
                    Port { policy: port.clone(), expect, expect6, policer },
                );
            }
            let ends = tunnels::ends_in(network.index, &policies);
            let built = match self.shared(network.index) {
                Some(old)
                    if *old.policy() == network
                        && old.ports() == members
                        && old.tunnel_ends() == ends =>
                {
                    Arc::clone(old)
                }
                Some(old) => Arc::new(old.changed(network, members, &ends)),
                None => Arc::new(Network::new(network, members, &ends)),
            };
            put(&mut tables.networks, network.index.0, built);
        }
        tables.ports = Arc::new(slots);
        tables.down = Arc::clone(&self.down);
        // What is now in the slot of a port that had no link has one until somebody says that it has not.
        let who = |port: &PortPolicy| (port.network, port.mac, port.role);
        let same = |index: &PortIndex| {
            self.port(*index).map(who).is_some_and(|old| tables.port(*index).map(who) == Some(old))
        };
        if !self.down.iter().all(same) {
            tables.down = Arc::new(self.down.iter().copied().filter(same).collect());
        }
        tables.connect();
        Ok(tables)
    }

    /// The tables with other routes in one network; all changes or none. For one prefix the last change holds.
    ///
    /// A million routes of /24 or /32 took 0.3 to 0.5 s to load, one change of them 30 to 80 us (release build, one
    /// CPU of a shared virtual machine at 2 GHz).
    ///
    /// A route and a port's own address may have the same prefix: the port comes first, and the route counts
    /// again when the port is gone. Routes stay when ports and networks change ([`Tables::update`]), until their
    /// network is deleted; one whose port is gone leads to nobody until a port has the address again.
    ///
    /// # Errors
    /// The first change that cannot be, see [`RouteError`].
    pub fn with_routes(
        &self,
        network: NetworkIndex,
        changes: &[RouteChange],
    ) -> Result<Self, RouteError> {
        let old = self.shared(network).ok_or(RouteError::UnknownNetwork { network })?;
        let mut tables = self.clone();
        put(&mut tables.networks, network.0, Arc::new(old.with_routes(changes)?));
        tables.connect();
        Ok(tables)
    }

    /// The tables with other ends of a bridged network's tunnel that its frames are bridged to, by VXLAN: what is for
    /// everybody or for nobody known goes to each of them, and what comes from there is bridged here. They stay when ports,
    /// routes and networks change, until their network is deleted, or is none that can have them.
    ///
    /// # Errors
    /// The first end that cannot be, see [`FloodEndError`].
    pub fn with_flood_ends(
        &self,
        network: NetworkIndex,
        ends: &[IpAddr],
    ) -> Result<Self, FloodEndError> {
        let old = self.shared(network).ok_or(FloodEndError::UnknownNetwork { network })?;
        let mut tables = self.clone();
        put(&mut tables.networks, network.0, Arc::new(old.with_ends(ends, &[])?));
        tables.connect();
        Ok(tables)
    }

    /// The same, with ends besides that get only what is for stations that are known to be there ([`Tables::with_stations`]),
    /// and from which frames are bridged all the same. All of them together are at most [`FloodEndError::MOST`].
    ///
    /// # Errors
    /// The first end that cannot be, see [`FloodEndError`].
    pub fn with_bridge_ends(
        &self,
        network: NetworkIndex,
        flood: &[IpAddr],
        known: &[IpAddr],
    ) -> Result<Self, FloodEndError> {
        let old = self.shared(network).ok_or(FloodEndError::UnknownNetwork { network })?;
        let mut tables = self.clone();
        put(&mut tables.networks, network.0, Arc::new(old.with_ends(flood, known)?));
        tables.connect();
        Ok(tables)
    }

    /// The tables with stations of a bridged network known to be behind these ends of its tunnel, all changes or none. What is
    /// for one of them goes to its end, whether and wherever it was heard; only a port with its MAC address comes first. They
    /// stay until a change says otherwise, or their end goes.
    ///
    /// One change of 16,384 copies one page of 2 KiB and the list of pages.
    ///
    /// # Errors
    /// The first change that cannot be, see [`FloodEndError`].
    pub fn with_stations(
        &self,
        network: NetworkIndex,
        changes: &[StationChange],
    ) -> Result<Self, FloodEndError> {
        let old = self.shared(network).ok_or(FloodEndError::UnknownNetwork { network })?;
        let mut tables = self.clone();
        put(&mut tables.networks, network.0, Arc::new(old.with_stations(changes)?));
        Ok(tables)
    }

    /// The tables with the link of an uplink up or down. Flows that went over it take other paths at once, where routes
    /// have several; all others stay where they are. Links are up until this says otherwise; it holds as long as the port
    /// is there, whatever else changes.
    #[must_use]
    pub fn with_link_state(&self, port: PortIndex, up: bool) -> Self {
        let mut tables = self.clone();
        match (self.down.binary_search(&port), up) {
            (Ok(at), true) => {
                Arc::make_mut(&mut tables.down).remove(at);
            }
            (Err(at), false) if self.port(port).is_some() => {
                Arc::make_mut(&mut tables.down).insert(at, port);
            }
            _ => return tables,
        }
        tables.connect();
        tables
    }

    /// Whether a port has a link, as far as [`Tables::with_link_state`] was told.
    pub fn has_link(&self, port: PortIndex) -> bool {
        self.down.binary_search(&port).is_err()
    }

    /// Brings all next hops in line with links and with the networks that carry tunnels; those come first.
    fn connect(&mut self) {
        for over in [false, true] {
            for at in 0..self.networks.len() {
                let Some(network) = self.networks.get(at).and_then(Option::as_ref) else {
                    continue;
                };
                let tunnel = network.policy().tunnel;
                if tunnel.is_some() != over {
                    continue;
                }
                let underlay = tunnel.and_then(|tunnel| self.network(tunnel.underlay));
                if let Some(changed) = network.connected(&self.down, underlay) {
                    self.networks[at] = Some(Arc::new(changed));
                }
            }
        }
        let tunnels = Tunnels::new(self.networks.iter().flatten().map(Arc::as_ref));
        if tunnels != *self.tunnels {
            self.tunnels = Arc::new(tunnels);
        }
    }

    /// The ends of tunnels that the network in a slot carries.
    #[inline]
    pub(crate) fn tunnels(&self, underlay: NetworkIndex) -> Ends<'_> {
        self.tunnels.over(underlay)
    }

    /// The network in a slot.
    pub fn network(&self, index: NetworkIndex) -> Option<&Network> {
        self.shared(index).map(Arc::as_ref)
    }

    /// The port in a slot.
    pub fn port(&self, index: PortIndex) -> Option<&PortPolicy> {
        self.ports.get(usize::from(index.0))?.as_ref().map(|port| &port.policy)
    }

    /// Tables that judge what comes from a port as these do, and remember nothing of it: without its policer, and with
    /// stations, of its network's and of those that it carries, that are learned by nobody else.
    pub(crate) fn for_trial(&self, ingress: PortIndex) -> Self {
        let mut tables = self.clone();
        let slot = usize::from(ingress.0);
        let Some(port) = Arc::make_mut(&mut tables.ports).get_mut(slot).and_then(Option::as_mut)
        else {
            return tables;
        };
        port.policer = None;
        let at = port.policy.network;
        for network in tables.networks.iter_mut().flatten() {
            let policy = network.policy();
            let is_near = policy.index == at || policy.tunnel.is_some_and(|it| it.underlay == at);
            if is_near && network.learned().is_some() {
                Arc::make_mut(network).leave_stations();
            }
        }
        tables
    }

    /// The ports that get a frame from `ingress` whose verdict is [`crate::Verdict::Flood`].
    pub fn flood(&self, ingress: PortIndex, flood: Flood) -> impl Iterator<Item = PortIndex> {
        let network = self.ingress(ingress).map(|(_, network)| network);
        bridged_ports(network, flood).filter(move |port| *port != ingress)
    }

    /// The ports that get a frame whose verdict is [`crate::Verdict::FloodInside`].
    pub fn flood_inside(
        &self,
        network: NetworkIndex,
        flood: Flood,
    ) -> impl Iterator<Item = PortIndex> {
        bridged_ports(self.network(network), flood)
    }

    /// The copies of a frame from `ingress` whose verdict is [`crate::Verdict::Flood`] that go to other hosts, one for each
    /// end of the network's tunnel ([`Tables::with_flood_ends`]): each with a verdict of its own, which is
    /// [`crate::Verdict::Encapsulate`] unless the copy is dropped.
    pub fn flood_into_tunnels(
        &self,
        ingress: PortIndex,
        packet: &Packet,
    ) -> impl Iterator<Item = Packet> {
        let network = self.ingress(ingress).map(|(_, network)| network);
        let ends = network
            .into_iter()
            .flat_map(|network| network.flood_ends().map(move |(end, _)| (network, end)));
        ends.map(move |(network, end)| {
            let mut copy = *packet;
            // What is to be cut would be many frames for each end. Whoever sends such has heard of its peer, and so have we,
            // or will when its TCP sends less at once.
            copy.verdict = if packet.segment_bytes == 0 {
                process::into_tunnel(network, end, &mut copy)
            } else {
                Verdict::Drop(DropReason::FloodLimited)
            };
            copy
        })
    }

    /// The other ends of a bridged network's tunnel that its frames are bridged to.
    pub fn flood_ends(&self, network: NetworkIndex) -> impl Iterator<Item = IpAddr> {
        let network = self.network(network);
        network.into_iter().flat_map(Network::flood_ends).map(|(_, address)| address)
    }

    /// The policer of a port, with what its pod has used of it.
    fn policer(&self, port: &PortPolicy) -> Option<Arc<Policer>> {
        if port.rates.is_unlimited() {
            return None;
        }
        let who = |port: &PortPolicy| (port.network, port.mac, port.rates);
        let old = self.ports.get(usize::from(port.index.0)).and_then(Option::as_ref);
        let old = old.filter(|old| who(&old.policy) == who(port));
        old.and_then(|old| old.policer.clone()).or_else(|| Some(Arc::new(Policer::new(port.rates))))
    }

    fn shared(&self, index: NetworkIndex) -> Option<&Arc<Network>> {
        self.networks.get(usize::from(index.0))?.as_ref()
    }

    /// A port and its network.
    #[inline]
    pub(crate) fn ingress(&self, index: PortIndex) -> Option<(&Port, &Network)> {
        let port = self.ports.get(usize::from(index.0))?.as_ref()?;
        Some((port, self.network(port.policy.network)?))
    }
}

/// Those of a bridged network's ports that get a frame that is repeated.
fn bridged_ports(network: Option<&Network>, flood: Flood) -> impl Iterator<Item = PortIndex> {
    let ports = network.map_or(&[][..], |network| match flood {
        Flood::All => network.bridged_ports(),
        Flood::Trunks => network.trunks(),
    });
    ports.iter().copied()
}

fn put<T>(slots: &mut Vec<Option<T>>, index: u16, value: T) {
    let index = usize::from(index);
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = Some(value);
}

#[cfg(test)]
mod tests;
