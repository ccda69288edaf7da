//! The IPv4 forwarding table of one network: longest prefix match to a next hop slot.

mod rib;
mod trie;

use crate::hops::{HopIndex, Hops};
use core::net::Ipv4Addr;
use rib::Rib;
use trie::Trie;
use vrouter_net::Ipv4Prefix;

/// The forwarding table. Cloning it is the first step of changing it: all large parts are shared until the clone
/// changes them.
///
/// The default route is a slot of its own ([`HopIndex::DEFAULT`]), so that changing it touches no address.
/// Changing another short route takes time in proportion to the routes inside it.
#[derive(Clone, Debug)]
pub(crate) struct Fib {
    rib: Rib,
    trie: Trie,
}

impl Fib {
    pub fn new() -> Self {
        Self { rib: Rib::new(), trie: Trie::new() }
    }

    /// Slot of the next hop of an address.
    #[inline]
    pub fn lookup(&self, address: u32) -> HopIndex {
        self.trie.lookup(address)
    }

    /// The entry that an address is found by, and whether it is the network's own.
    pub fn entry_of(&self, address: Ipv4Addr) -> Option<(Ipv4Prefix, bool)> {
        let host = Ipv4Prefix::host(address);
        let (rib, all) = (&self.rib, Ipv4Prefix::ALL);
        let route = rib.get(host).or_else(|| rib.cover(host)).or_else(|| rib.get(all))?;
        Some((route.prefix, route.own.is_some()))
    }

    /// Routes the operator gave.
    pub fn fixed_routes(&self) -> usize {
        self.rib.fixed()
    }

    /// Sets or takes away a route of the network itself, which comes before one of the operator.
    pub fn set_own(&mut self, prefix: Ipv4Prefix, hop: Option<HopIndex>) {
        let old = self.rib.change(prefix, |route| route.own = hop);
        self.painted(prefix, old.own.or(old.fixed), hop.or(old.fixed));
    }

    /// Sets or takes away a route of the operator. Returns where it led.
    pub fn set_fixed(
        &mut self,
        hops: &mut Hops,
        prefix: Ipv4Prefix,
        hop: Option<HopIndex>,
    ) -> Option<HopIndex> {
        let old = self.rib.change(prefix, |route| route.fixed = hop);
        if prefix == Ipv4Prefix::ALL {
            hops.set_default(hop);
        } else {
            self.painted(prefix, old.own.or(old.fixed), old.own.or(hop));
        }
        old.fixed
    }

    /// Brings the trie along after a route changed.
    fn painted(&mut self, prefix: Ipv4Prefix, old: Option<HopIndex>, new: Option<HopIndex>) {
        if old == new {
            return;
        }
        let hop = new.or_else(|| Some(self.rib.cover(prefix)?.hop())).unwrap_or_default();
        self.trie.paint(prefix, hop);
        for route in self.rib.from(prefix).skip_while(|route| route.prefix == prefix) {
            if !prefix.contains(route.prefix.network()) {
                break;
            }
            self.trie.paint(route.prefix, route.hop());
        }
    }
}

#[cfg(test)]
mod tests;
