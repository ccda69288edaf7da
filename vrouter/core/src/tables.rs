//! The immutable snapshot that packets are judged by.

use crate::policy::Checked;
use crate::routes::{RouteChange, RouteError};
use crate::tunnels::{self, TunnelEnd, Tunnels};
use crate::{
    Flood, Network, NetworkIndex, NetworkPolicy, Policer, Policy, PolicyError, PortIndex,
    PortPolicy,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use vrouter_net::ethernet::EtherType;

/// All networks and ports, immutable. A change makes new tables, which share with the old ones every
/// network that did not change.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// By slot.
    ports: Arc<Vec<Option<Port>>>,
    /// By slot.
    networks: Vec<Option<Arc<Network>>>,
    tunnels: Arc<Tunnels>,
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

/// What the first 32 bytes of a frame must be that is right in the common way, as little-endian words with a mask
/// for each: from this port's MAC and IPv4 address to the gateway, IPv4, no options. Type of service and all that
/// differs from packet to packet may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    words: [u64; 4],
}

impl Expect {
    /// The bytes that must be right.
    const MASK: [u64; 4] = [u64::MAX, u64::MAX >> 8, 0, 0x0000_ffff_ffff_0000];

    fn new(port: &PortPolicy, network: &NetworkPolicy) -> Self {
        let mut bytes = [0; 32];
        bytes[..6].copy_from_slice(&network.gateway_mac.octets());
        bytes[6..12].copy_from_slice(&port.mac.octets());
        bytes[12..14].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        bytes[14] = 0x45;
        bytes[26..30].copy_from_slice(&port.ipv4.octets());
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { words }
    }

    /// Whether words 0, 1 and 3 of a frame are as expected.
    #[inline]
    pub fn agrees(&self, first: u64, second: u64, fourth: u64) -> bool {
        let wrong = (first ^ self.words[0])
            | ((second ^ self.words[1]) & Self::MASK[1])
            | ((fourth ^ self.words[3]) & Self::MASK[3]);
        wrong == 0
    }
}

/// The same for IPv6: words 0 and 1, and the source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect6 {
    words: [u64; 2],
    pub source: Ipv6Addr,
}

impl Expect6 {
    /// In word 1: all but the traffic class and the flow label behind the version.
    const MASK: u64 = 0x00f0_ffff_ffff_ffff;

    fn new(port: &PortPolicy, network: &NetworkPolicy) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&network.gateway_mac.octets());
        bytes[6..12].copy_from_slice(&port.mac.octets());
        bytes[12..14].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
        bytes[14] = 0x60;
        let [first, second] = *bytes.as_chunks().0 else { return None };
        let words = [u64::from_le_bytes(first), u64::from_le_bytes(second)];
        Some(Self { words, source: port.ipv6? })
    }

    /// Whether words 0 and 1 of a frame are as expected.
    #[inline]
    pub fn agrees(&self, first: u64, second: u64) -> bool {
        (first ^ self.words[0]) | ((second ^ self.words[1]) & Self::MASK) == 0
    }
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
        tables.connect_tunnels();
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
        tables.connect_tunnels();
        Ok(tables)
    }

    /// Brings all tunnels in line with the networks that carry them.
    fn connect_tunnels(&mut self) {
        for at in 0..self.networks.len() {
            let Some(network) = self.networks.get(at).and_then(Option::as_ref) else { continue };
            let Some(tunnel) = network.policy().tunnel else { continue };
            if let Some(changed) = network.with_tunnel(self.network(tunnel.underlay)) {
                self.networks[at] = Some(Arc::new(changed));
            }
        }
        let tunnels = Tunnels::new(self.networks.iter().flatten().map(Arc::as_ref));
        if tunnels != *self.tunnels {
            self.tunnels = Arc::new(tunnels);
        }
    }

    /// The ends of tunnels that the network in a slot carries.
    #[inline]
    pub(crate) fn tunnels(&self, underlay: NetworkIndex) -> &[TunnelEnd] {
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

    /// The ports that get a frame from `ingress` whose verdict is [`crate::Verdict::Flood`].
    pub fn flood(&self, ingress: PortIndex, flood: Flood) -> impl Iterator<Item = PortIndex> {
        let network = self.ingress(ingress).map(|(_, network)| network);
        let ports = network.map_or(&[][..], |network| match flood {
            Flood::All => network.bridged_ports(),
            Flood::Trunks => network.trunks(),
        });
        ports.iter().copied().filter(move |port| *port != ingress)
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

fn put<T>(slots: &mut Vec<Option<T>>, index: u16, value: T) {
    let index = usize::from(index);
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = Some(value);
}

#[cfg(test)]
mod tests;
