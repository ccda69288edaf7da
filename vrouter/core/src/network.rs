//! One virtual network: what it is, who is in it, and where its addresses lead.

use crate::fib::Fib;
use crate::hops::{HopIndex, Hops, NextHop, PortHop};
use crate::routes::{RouteChange, RouteError, RouteTarget, reserved_around};
use crate::{NetworkPolicy, PortPolicy};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use vrouter_net::{IpPrefix, Ipv4Prefix};

/// A network in the tables.
#[derive(Clone, Debug)]
pub struct Network {
    policy: NetworkPolicy,
    /// Sorted by address.
    members: Vec<PortPolicy>,
    hops: Hops,
    fib: Fib,
}

impl Network {
    pub(crate) fn new(policy: NetworkPolicy, members: &[PortPolicy]) -> Self {
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
        let mut network = Self { policy, members: Vec::new(), hops: Hops::new(), fib };
        for (prefix, hop) in own_routes(&policy) {
            network.fib.set_own(prefix, Some(hop));
        }
        network.change_members(members);
        network
    }

    /// The same network, changed. The operator's routes stay.
    pub(crate) fn changed(&self, policy: NetworkPolicy, members: &[PortPolicy]) -> Self {
        let mut network = self.clone();
        if policy != self.policy {
            // All ports leave and come again: their hops hold values of the policy.
            network.change_members(&[]);
            for (prefix, _) in own_routes(&self.policy) {
                network.fib.set_own(prefix, None);
            }
            for (prefix, hop) in own_routes(&policy) {
                network.fib.set_own(prefix, Some(hop));
            }
            network.policy = policy;
        }
        network.change_members(members);
        network
    }

    /// Changes ports and what leads to them by what differs between the two lists, both sorted by address.
    fn change_members(&mut self, members: &[PortPolicy]) {
        let old_members = core::mem::replace(&mut self.members, members.to_vec());
        let find = |list: &[PortPolicy], address: Ipv4Addr| {
            list.binary_search_by_key(&address, |port| port.ipv4).ok().map(|at| list[at])
        };
        for old in &old_members {
            if find(members, old.ipv4).is_none() {
                self.fib.set_own(Ipv4Prefix::host(old.ipv4), None);
                self.hops.leave(old.ipv4.into());
            }
        }
        let NetworkPolicy { gateway_mac, mtu, .. } = self.policy;
        for new in members {
            let old = find(&old_members, new.ipv4);
            if old == Some(*new) {
                continue;
            }
            let hop = NextHop::Port(PortHop::new(new.index, new.mac, gateway_mac, mtu));
            let index = self.hops.join(new.ipv4.into(), hop);
            self.fib.set_own(Ipv4Prefix::host(new.ipv4), Some(index));
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
            _ => Ok(()),
        }
    }

    fn change_route(&mut self, change: &RouteChange) {
        let hop = change.target.map(|target| match target {
            RouteTarget::Via(via) => self.hops.acquire(via),
            RouteTarget::Unreachable => HopIndex::UNREACHABLE,
            RouteTarget::Drop => HopIndex::BLACKHOLE,
        });
        let old = match change.prefix {
            IpPrefix::V4(prefix) => self.fib.set_fixed(&mut self.hops, prefix, hop),
            IpPrefix::V6(_) => None,
        };
        if let Some(old) = old {
            self.hops.release(old);
        }
    }

    /// What the network is.
    pub fn policy(&self) -> &NetworkPolicy {
        &self.policy
    }

    /// Its ports, sorted by address.
    pub fn ports(&self) -> &[PortPolicy] {
        &self.members
    }

    /// Where an address leads in this network.
    pub fn next_hop(&self, address: Ipv4Addr) -> &NextHop {
        self.hops.get(self.fib.lookup(address.to_bits()))
    }

    /// How many routes the operator gave it.
    pub fn routes(&self) -> usize {
        self.fib.fixed_routes()
    }

    #[inline]
    pub(crate) fn fib(&self) -> &Fib {
        &self.fib
    }

    #[inline]
    pub(crate) fn hops(&self) -> &Hops {
        &self.hops
    }
}

/// The routes that follow from a network's own addresses.
fn own_routes(policy: &NetworkPolicy) -> [(Ipv4Prefix, HopIndex); 4] {
    let NetworkPolicy { prefix, gateway, .. } = *policy;
    [
        (prefix, HopIndex::UNREACHABLE),
        // RFC 1812 sections 4.2.2.11 and 4.2.3.1: the network's own address counts as a broadcast too.
        (Ipv4Prefix::host(prefix.network()), HopIndex::NOT_UNICAST),
        (Ipv4Prefix::host(prefix.last()), HopIndex::NOT_UNICAST),
        (Ipv4Prefix::host(gateway), HopIndex::GATEWAY),
    ]
}

impl NetworkPolicy {
    /// Whether a port of the network could have this address.
    pub(crate) fn may_have(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.prefix.contains(address)
                    && address != self.prefix.network()
                    && address != self.prefix.last()
                    && address != self.gateway
            }
            IpAddr::V6(_) => false,
        }
    }
}
