//! The forwarding table beside longest prefix match as it is defined.

use super::*;
use bolero::TypeGenerator;
use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Tries every length; the network's own routes come first.
#[derive(Default)]
struct SlowFib {
    own: BTreeMap<Ipv4Prefix, HopIndex>,
    fixed: BTreeMap<Ipv4Prefix, HopIndex>,
}

impl SlowFib {
    fn entry_of(&self, address: Ipv4Addr) -> Option<(Ipv4Prefix, bool)> {
        (0..=32).rev().find_map(|length| {
            let prefix = Ipv4Prefix::containing(address, length);
            let own = self.own.contains_key(&prefix);
            (own || self.fixed.contains_key(&prefix)).then_some((prefix, own))
        })
    }

    fn lookup(&self, address: Ipv4Addr) -> Option<HopIndex> {
        (0..=32).rev().find_map(|length| {
            let prefix = Ipv4Prefix::containing(address, length);
            self.own.get(&prefix).or(self.fixed.get(&prefix)).copied()
        })
    }
}

/// One change. Few distinct octets, so that prefixes nest and meet often.
#[derive(Clone, Copy, Debug, TypeGenerator)]
struct Change {
    insert: bool,
    own: bool,
    octets: [u8; 4],
    length: u8,
    hop: u16,
}

const OCTETS: [u8; 4] = [0, 1, 127, 255];

fn address(octets: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::from(octets.map(|octet| OCTETS[usize::from(octet & 3)]))
}

impl Change {
    fn prefix(self) -> Ipv4Prefix {
        // Lengths over 32 fold onto the boundaries of the trie's levels and their neighbours.
        let length = match self.length & 0x3f {
            length @ 0..=32 => length,
            length => [8, 15, 16, 17, 23, 24, 25, 31, 32][usize::from(length) % 9],
        };
        // The network itself has no default route.
        let length = if self.own { length.max(1) } else { length };
        Ipv4Prefix::containing(address(self.octets), length)
    }

    /// The slot of a neighbour; the slots of the tests are never given back.
    fn hop(self, hops: &mut Hops) -> HopIndex {
        hops.acquire(core::net::IpAddr::V4(Ipv4Addr::from_bits((self.hop % 16).into())))
    }
}

/// What a slot number means, with the default route's resolved as `Hops` does.
fn lookup(fib: &Fib, default: Option<HopIndex>, address: Ipv4Addr) -> Option<HopIndex> {
    match fib.lookup(address.to_bits()) {
        HopIndex::DEFAULT => default,
        hop => Some(hop),
    }
}

#[test]
fn agrees_with_the_slow_match_through_any_changes() {
    bolero::check!().with_type().for_each(|(changes, probes): &(Vec<Change>, [u32; 8])| {
        let mut hops = Hops::new();
        let (mut fast, mut slow) = (Fib::new(), SlowFib::default());
        let (mut before, mut before_default) = (fast.clone(), None);
        for (i, change) in changes.iter().enumerate() {
            if i + 1 == changes.len() {
                before = fast.clone();
                before_default = slow.fixed.get(&Ipv4Prefix::ALL).copied();
            }
            let map = if change.own { &mut slow.own } else { &mut slow.fixed };
            let (prefix, hop) = if change.insert {
                (change.prefix(), Some(change.hop(&mut hops)))
            } else {
                // Take away one that is there, if any is.
                let prefix = map.keys().nth(usize::from(change.hop) % map.len().max(1));
                (prefix.copied().unwrap_or(change.prefix()), None)
            };
            match hop {
                Some(hop) => map.insert(prefix, hop),
                None => map.remove(&prefix),
            };
            if change.own {
                fast.set_own(prefix, hop);
            } else {
                fast.set_fixed(&mut hops, prefix, hop);
            }
        }
        assert_eq!(fast.fixed_routes(), slow.fixed.len());
        let default = slow.fixed.get(&Ipv4Prefix::ALL).copied();
        assert_eq!(
            hops.get(HopIndex::DEFAULT),
            hops.get(default.unwrap_or(HopIndex::NEVER)),
            "the default slot repeats the default route"
        );
        let mut edges = Vec::from(probes.map(Ipv4Addr::from_bits));
        let prefixes: Vec<_> = slow.own.keys().chain(slow.fixed.keys()).copied().collect();
        for prefix in prefixes.iter().copied().chain(changes.iter().map(|c| c.prefix())) {
            for bits in [prefix.network().to_bits(), prefix.last().to_bits()] {
                for bits in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                    edges.push(Ipv4Addr::from_bits(bits));
                }
            }
        }
        for &address in &edges {
            assert_eq!(lookup(&fast, default, address), slow.lookup(address), "{address}");
            assert_eq!(fast.entry_of(address), slow.entry_of(address), "{address}");
        }
        // What workers still use does not change under them.
        let look = |address: &Ipv4Addr| lookup(&before, before_default, *address);
        let kept: Vec<_> = edges.iter().map(look).collect();
        let mut changed = before.clone();
        changed.set_own(Ipv4Prefix::containing(edges[0], 1), Some(HopIndex::GATEWAY));
        changed.set_own(Ipv4Prefix::host(edges[0]), Some(HopIndex::GATEWAY));
        assert_eq!(kept, edges.iter().map(look).collect::<Vec<_>>());
        // Nothing is left behind when all routes are gone.
        for prefix in prefixes {
            fast.set_own(prefix, None);
            fast.set_fixed(&mut hops, prefix, None);
        }
        assert_eq!(fast.trie.live_blocks(), 0);
        for address in edges {
            assert_eq!(lookup(&fast, None, address), None);
        }
    });
}

#[test]
fn blocks_are_used_again() {
    let mut fib = Fib::new();
    let host = Ipv4Prefix::host(Ipv4Addr::new(10, 66, 0, 2));
    for _ in 0..1000 {
        fib.set_own(host, Some(HopIndex::GATEWAY));
        fib.set_own(host, None);
    }
    assert_eq!(fib.trie.all_blocks(), 2);
}

#[test]
fn one_change_copies_little() {
    let mut fib = Fib::new();
    let mut hops = Hops::new();
    let prefix = |i: u32| Ipv4Prefix::host(Ipv4Addr::from_bits(0x0a00_0000 | i << 7));
    for i in 0..100_000 {
        fib.set_fixed(&mut hops, prefix(i), Some(HopIndex::BLACKHOLE));
    }
    let old = fib.clone();
    fib.set_fixed(&mut hops, prefix(55_555), None);
    let (same, all) = fib.trie.shared_chunks(&old.trie);
    assert!(all > 700 && same + 1 == all, "{same} of {all} chunks are shared");
    // The default route changes nothing at all.
    let old = fib.clone();
    fib.set_fixed(&mut hops, Ipv4Prefix::ALL, Some(HopIndex::BLACKHOLE));
    let (same, all) = fib.trie.shared_chunks(&old.trie);
    assert_eq!(same, all);
}
