//! The IPv6 forwarding table of one network: longest prefix match to a next hop slot.
//!
//! One hash table for all lengths, asked for each length in use from the longest on. Hosts are found at the first
//! try; each other length that is in use costs one more. That is less memory by far than a trie for sparse
//! prefixes of 48 to 64 bits, and a change is one entry.

use crate::hops::HopIndex;
use crate::index::{Index, Key};
use crate::routes::{LINK_LOCAL, MULTICAST};
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use vrouter_net::Ipv6Prefix;

/// Where a prefix leads.
#[derive(Clone, Copy, Debug, Default)]
struct Leads {
    /// What the network itself says. Comes first.
    own: Option<HopIndex>,
    /// What the operator says.
    fixed: Option<HopIndex>,
}

/// A prefix length below 128 that is in use.
#[derive(Clone, Copy, Debug)]
struct Length {
    mask: u128,
    bits: u8,
    routes: u32,
}

/// The forwarding table. Cloning it is the first step of changing it: the large parts are shared.
#[derive(Clone, Debug)]
pub(crate) struct Fib6 {
    routes: Index<Leads>,
    /// Longest first.
    lengths: Vec<Length>,
    fixed: usize,
}

impl Fib6 {
    pub fn new() -> Self {
        Self { routes: Index::new(), lengths: Vec::new(), fixed: 0 }
    }

    /// Routes the operator gave.
    pub fn fixed_routes(&self) -> usize {
        self.fixed
    }

    /// Slot of the next hop of an address.
    #[inline]
    pub fn lookup(&self, address: Ipv6Addr) -> HopIndex {
        let bits = address.to_bits();
        if let Some(leads) = self.routes.get(Key { bits, kind: 128 }) {
            return leads.hop();
        }
        if MULTICAST.contains(address) {
            return HopIndex::NOT_UNICAST;
        }
        // RFC 4291 sections 2.5.6 and 2.5.2 to 2.5.5: routers must not forward these.
        if LINK_LOCAL.contains(address) || bits >> 32 == 0 {
            return HopIndex::NEVER;
        }
        let found = self.lengths.iter().find_map(|length| {
            self.routes.get(Key { bits: bits & length.mask, kind: length.bits })
        });
        found.map_or(HopIndex::NO_ROUTE, |leads| leads.hop())
    }

    /// The entry that an address is found by, and whether it is the network's own.
    pub fn entry_of(&self, address: Ipv6Addr) -> Option<(Ipv6Prefix, bool)> {
        let get = |length: u8| {
            let prefix = Ipv6Prefix::containing(address, length);
            let leads = self.routes.get(Key { bits: prefix.network().to_bits(), kind: length })?;
            Some((prefix, leads.own.is_some()))
        };
        let never = address.to_bits() >> 32 == 0
            || LINK_LOCAL.contains(address)
            || MULTICAST.contains(address);
        let shorter = || self.lengths.iter().find_map(|length| get(length.bits));
        get(128).or_else(|| if never { None } else { shorter() })
    }

    /// Sets or takes away a route of the network itself, which comes before one of the operator.
    pub fn set_own(&mut self, prefix: Ipv6Prefix, hop: Option<HopIndex>) {
        self.change(prefix, |leads| leads.own = hop);
    }

    /// Sets or takes away a route of the operator. Returns where it led.
    pub fn set_fixed(&mut self, prefix: Ipv6Prefix, hop: Option<HopIndex>) -> Option<HopIndex> {
        let old = self.change(prefix, |leads| leads.fixed = hop).fixed;
        self.fixed += usize::from(hop.is_some());
        self.fixed -= usize::from(old.is_some());
        old
    }

    fn change(&mut self, prefix: Ipv6Prefix, change: impl FnOnce(&mut Leads)) -> Leads {
        let key = Key { bits: prefix.network().to_bits(), kind: prefix.length() };
        let mut leads = self.routes.get(key).unwrap_or_default();
        change(&mut leads);
        let empty = leads.own.is_none() && leads.fixed.is_none();
        let old = self.routes.set(key, (!empty).then_some(leads));
        self.count(prefix, old.is_some(), !empty);
        old.unwrap_or_default()
    }

    fn count(&mut self, prefix: Ipv6Prefix, before: bool, now: bool) {
        let bits = prefix.length();
        if bits == 128 || before == now {
            return;
        }
        let at = self.lengths.partition_point(|length| length.bits > bits);
        if self.lengths.get(at).is_none_or(|length| length.bits != bits) {
            let mask = !Ipv6Prefix::containing(Ipv6Addr::UNSPECIFIED, bits).last().to_bits();
            self.lengths.insert(at, Length { mask, bits, routes: 0 });
        }
        let length = &mut self.lengths[at];
        if now {
            length.routes += 1;
        } else {
            length.routes -= 1;
        }
        if length.routes == 0 {
            self.lengths.remove(at);
        }
    }
}

impl Leads {
    #[inline]
    fn hop(self) -> HopIndex {
        self.own.or(self.fixed).unwrap_or(HopIndex::NO_ROUTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolero::TypeGenerator;
    use std::collections::BTreeMap;

    /// One change. Few distinct addresses, so that prefixes nest and meet often.
    #[derive(Clone, Copy, Debug, TypeGenerator)]
    struct Change {
        hop: Option<u16>,
        own: bool,
        near: [u8; 3],
        length: u8,
    }

    impl Change {
        fn prefix(self) -> Ipv6Prefix {
            let [a, b, c] = self.near.map(|near| u128::from(near % 3));
            let bits = 0x2001 << 112 | a << 80 | b << 64 | c;
            Ipv6Prefix::containing(Ipv6Addr::from_bits(bits), self.length % 129)
        }
    }

    #[test]
    fn agrees_with_the_slow_match_through_any_changes() {
        bolero::check!().with_type().for_each(|changes: &Vec<Change>| {
            let mut fib = Fib6::new();
            let (mut own, mut fixed) = (BTreeMap::new(), BTreeMap::new());
            for change in changes {
                let prefix = change.prefix();
                let hop = change.hop.map(|hop| HopIndex(u32::from(hop) + 100));
                let map = if change.own { &mut own } else { &mut fixed };
                let old = match hop {
                    Some(hop) => map.insert(prefix, hop),
                    None => map.remove(&prefix),
                };
                if change.own {
                    fib.set_own(prefix, hop);
                } else {
                    assert_eq!(fib.set_fixed(prefix, hop), old);
                }
            }
            assert_eq!(fib.fixed_routes(), fixed.len());
            for change in changes {
                let prefix = change.prefix();
                let edges = [prefix.network().to_bits(), prefix.last().to_bits()];
                for bits in
                    edges.into_iter().flat_map(|b| [b.wrapping_sub(1), b, b.wrapping_add(1)])
                {
                    let address = Ipv6Addr::from_bits(bits);
                    let expected = (0..=128).rev().find_map(|length| {
                        let prefix = Ipv6Prefix::containing(address, length);
                        own.get(&prefix).or(fixed.get(&prefix)).copied()
                    });
                    let never = |hop| {
                        Some(hop) == expected || {
                            // A host route comes before what is never routed, no other does.
                            !own.contains_key(&Ipv6Prefix::host(address))
                        }
                    };
                    match fib.lookup(address) {
                        hop @ (HopIndex::NEVER | HopIndex::NOT_UNICAST) => {
                            assert!(
                                never(hop) && bits >> 32 == 0
                                    || bits >> 118 == 0x3fa
                                    || bits >> 120 == 0xff
                            );
                        }
                        hop => {
                            assert_eq!(hop, expected.unwrap_or(HopIndex::NO_ROUTE), "{address}");
                            let entry = fib.entry_of(address);
                            assert_eq!(entry.is_some(), expected.is_some(), "{address}");
                            let of = |map: &BTreeMap<_, _>, prefix| map.get(&prefix).copied();
                            let leads = entry.map(|(prefix, is_own)| {
                                assert!(prefix.contains(address));
                                of(if is_own { &own } else { &fixed }, prefix)
                            });
                            assert_eq!(leads.flatten(), expected, "{address}");
                        }
                    }
                }
            }
            let all: Vec<_> = own.keys().chain(fixed.keys()).copied().collect();
            for prefix in all {
                fib.set_own(prefix, None);
                fib.set_fixed(prefix, None);
            }
            assert!(fib.lengths.is_empty());
        });
    }
}
