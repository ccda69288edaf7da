//! The forwarding table of one network: longest prefix match to a next hop.

mod trie;

use crate::{DropReason, PortIndex};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use trie::Trie;
use vrouter_net::{Ipv4Prefix, Mac};

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere: the address is on the network but nobody has it. The sender is told so.
    Unreachable,
    /// To the vRouter itself.
    Gateway,
    /// To a port.
    Port(PortHop),
}

/// A port as a next hop, with all that forwarding to it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortHop {
    /// The port.
    pub port: PortIndex,
    /// Bytes of the largest IP packet it takes.
    pub mtu: u16,
    /// Destination and source MAC address as they stand at the start of a frame.
    pub(crate) rewrite: [u8; 12],
}

impl PortHop {
    pub(crate) fn new(port: PortIndex, destination: Mac, source: Mac, mtu: u16) -> Self {
        let mut rewrite = [0; 12];
        rewrite[..6].copy_from_slice(&destination.octets());
        rewrite[6..].copy_from_slice(&source.octets());
        Self { port, mtu, rewrite }
    }

    /// MAC address of the port's pod.
    pub fn destination_mac(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.rewrite;
        Mac::new([a, b, c, d, e, f])
    }

    /// MAC address of the gateway.
    pub fn source_mac(&self) -> Mac {
        let [.., a, b, c, d, e, f] = self.rewrite;
        Mac::new([a, b, c, d, e, f])
    }
}

/// Slot in the next hop array of a [`Fib`]; below 2^31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HopIndex(u32);

const NO_ROUTE: NextHop = NextHop::Drop(DropReason::NoRoute);

/// A route: prefixes are unique and sorted, so those inside a prefix follow it without a gap.
#[derive(Clone, Copy, Debug)]
struct Route {
    prefix: Ipv4Prefix,
    hop: HopIndex,
}

/// The forwarding table of one network. Cloning it is the first step of changing it: the 256 KiB root
/// level is shared until the clone changes it.
#[derive(Clone, Debug)]
pub(crate) struct Fib {
    routes: Vec<Route>,
    /// Slot 0 is for addresses without a route.
    hops: Vec<NextHop>,
    free_hops: Vec<HopIndex>,
    trie: Trie,
}

impl Fib {
    pub fn new() -> Self {
        Self {
            routes: Vec::new(),
            hops: [NO_ROUTE].into(),
            free_hops: Vec::new(),
            trie: Trie::new(),
        }
    }

    /// Index of the next hop of an address.
    #[inline]
    pub fn lookup(&self, address: u32) -> HopIndex {
        self.trie.lookup(address)
    }

    /// The next hop in a slot.
    #[inline]
    pub fn hop(&self, index: HopIndex) -> &NextHop {
        // Every slot in the trie exists; `get` keeps even a mistake there from ending the process.
        self.hops.get(index.0 as usize).unwrap_or(&NO_ROUTE)
    }

    /// The next hop of an address.
    pub fn next_hop(&self, address: Ipv4Addr) -> &NextHop {
        self.hop(self.lookup(address.to_bits()))
    }

    /// Adds a route, or gives the one there is another next hop.
    pub fn insert(&mut self, prefix: Ipv4Prefix, next_hop: NextHop) {
        match self.find(prefix) {
            Ok(at) => {
                let hop = self.routes[at].hop;
                if let Some(slot) = self.hops.get_mut(hop.0 as usize) {
                    *slot = next_hop;
                }
            }
            Err(at) => {
                let hop = self.new_hop(next_hop);
                self.routes.insert(at, Route { prefix, hop });
                self.trie.paint(prefix, hop);
                self.paint_inside(prefix, at + 1);
            }
        }
    }

    /// Takes a route away; addresses in it fall back to the next shorter route.
    pub fn remove(&mut self, prefix: Ipv4Prefix) {
        let Ok(at) = self.find(prefix) else { return };
        let route = self.routes.remove(at);
        self.free_hops.push(route.hop);
        self.trie.paint(prefix, self.cover(prefix));
        self.paint_inside(prefix, at);
    }

    fn find(&self, prefix: Ipv4Prefix) -> Result<usize, usize> {
        self.routes.binary_search_by_key(&prefix, |route| route.prefix)
    }

    fn new_hop(&mut self, next_hop: NextHop) -> HopIndex {
        if let Some(free) = self.free_hops.pop()
            && let Some(slot) = self.hops.get_mut(free.0 as usize)
        {
            *slot = next_hop;
            return free;
        }
        // A network holds at most a few routes for each of 65536 ports: far below 2^31.
        let Ok(index) = u32::try_from(self.hops.len()) else { unreachable!("2^32 next hops") };
        self.hops.push(next_hop);
        HopIndex(index)
    }

    /// Next hop of the longest route that is shorter than `prefix` and contains it.
    fn cover(&self, prefix: Ipv4Prefix) -> HopIndex {
        (0..prefix.length())
            .rev()
            .find_map(|length| self.find(Ipv4Prefix::containing(prefix.network(), length)).ok())
            .map_or(HopIndex::default(), |at| self.routes[at].hop)
    }

    /// Paints the routes inside `prefix` again, which start at `from`. In their order a route comes after
    /// all that contain it.
    fn paint_inside(&mut self, prefix: Ipv4Prefix, from: usize) {
        for route in self.routes.iter().skip(from) {
            if !prefix.contains(route.prefix.network()) {
                break;
            }
            self.trie.paint(route.prefix, route.hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolero::TypeGenerator;
    use std::collections::BTreeMap;

    /// Longest prefix match as it is defined: try every length.
    #[derive(Default)]
    struct SlowFib(BTreeMap<Ipv4Prefix, NextHop>);

    impl SlowFib {
        fn next_hop(&self, address: Ipv4Addr) -> NextHop {
            (0..=32)
                .rev()
                .find_map(|length| self.0.get(&Ipv4Prefix::containing(address, length)))
                .copied()
                .unwrap_or(NO_ROUTE)
        }
    }

    /// One change. Few distinct octets, so that prefixes nest and meet often.
    #[derive(Clone, Copy, Debug, TypeGenerator)]
    struct Change {
        insert: bool,
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
            Ipv4Prefix::containing(address(self.octets), length)
        }

        fn hop(self) -> NextHop {
            let mac = Mac::new([2, 0, 0, 0, 0, 1]);
            NextHop::Port(PortHop::new(PortIndex(self.hop), mac, mac, 1500))
        }
    }

    #[test]
    fn agrees_with_the_slow_match_through_any_changes() {
        bolero::check!().with_type().for_each(|(changes, probes): &(Vec<Change>, [u32; 8])| {
            let (mut fast, mut slow) = (Fib::new(), SlowFib::default());
            let mut before = fast.clone();
            for (i, change) in changes.iter().enumerate() {
                if i + 1 == changes.len() {
                    before = fast.clone();
                }
                if change.insert {
                    fast.insert(change.prefix(), change.hop());
                    slow.0.insert(change.prefix(), change.hop());
                } else {
                    // Take away one that is there, if any is.
                    let routes = slow.0.len();
                    let prefix = slow.0.keys().nth(usize::from(change.hop) % routes.max(1));
                    let prefix = prefix.copied().unwrap_or(change.prefix());
                    fast.remove(prefix);
                    slow.0.remove(&prefix);
                }
            }
            let mut edges = Vec::from(probes.map(Ipv4Addr::from_bits));
            for prefix in slow.0.keys().copied().chain(changes.iter().map(|c| c.prefix())) {
                for bits in [prefix.network().to_bits(), prefix.last().to_bits()] {
                    for bits in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                        edges.push(Ipv4Addr::from_bits(bits));
                    }
                }
            }
            for &address in &edges {
                assert_eq!(*fast.next_hop(address), slow.next_hop(address), "{address}");
            }
            // What workers still use does not change under them.
            let kept: Vec<_> = edges.iter().map(|a| *before.next_hop(*a)).collect();
            let mut changed = before.clone();
            changed.insert(Ipv4Prefix::ALL, NextHop::Gateway);
            changed.insert(Ipv4Prefix::host(edges[0]), NextHop::Gateway);
            assert_eq!(kept, edges.iter().map(|a| *before.next_hop(*a)).collect::<Vec<_>>());
            // Nothing is left behind when all routes are gone.
            for prefix in slow.0.keys() {
                fast.remove(*prefix);
            }
            assert_eq!(fast.trie.live_blocks(), 0);
            assert_eq!(fast.free_hops.len() + 1, fast.hops.len());
            for address in edges {
                assert_eq!(*fast.next_hop(address), NO_ROUTE);
            }
        });
    }

    #[test]
    fn hop_slots_and_blocks_are_used_again() {
        let mut fib = Fib::new();
        let host = Ipv4Prefix::host(Ipv4Addr::new(10, 66, 0, 2));
        for _ in 0..1000 {
            fib.insert(host, NextHop::Gateway);
            fib.remove(host);
        }
        assert_eq!(fib.hops.len(), 2);
        assert_eq!(fib.trie.all_blocks(), 2);
    }

    #[test]
    fn port_hop_keeps_its_addresses() {
        let (to, from) = (Mac::new([2, 1, 2, 3, 4, 5]), Mac::new([2, 9, 8, 7, 6, 5]));
        let hop = PortHop::new(PortIndex(3), to, from, 1500);
        assert_eq!((hop.destination_mac(), hop.source_mac()), (to, from));
    }
}
