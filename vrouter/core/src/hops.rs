//! Next hops, and the slots that the forwarding tables of one network lead to.

use crate::{DropReason, PortIndex, Vtep};
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::Mac;
use vrouter_net::vxlan::{Encapsulation, Inner, OUTER_ROOM};

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere: the address is on the network but nobody has it. The sender is told so.
    Unreachable,
    /// Nowhere: there is no route. The sender is told so. (IPv6 only: IPv4 packets without a route are dropped.)
    NoRoute,
    /// To the vRouter itself.
    Gateway,
    /// To a port.
    Port(PortHop),
    /// Into a tunnel.
    Vxlan(TunnelHop),
}

/// A port as a next hop, with all that forwarding to it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct PortHop {
    /// Destination and source MAC address as they stand at the start of a frame.
    pub(crate) rewrite: [u8; 12],
    /// The port.
    pub port: PortIndex,
    /// Bytes of the largest IP packet it takes.
    pub mtu: u16,
}

/// A tunnel as a next hop, with all that forwarding into it needs: both headers are made when the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelHop {
    /// The rewrite of the inner frame. Its port and MTU are those that packets of the inner network see: the port of the
    /// underlay through which the endpoint is reached, and what the underlay's MTU leaves for an inner packet.
    pub inner: PortHop,
    pub(crate) outer: Encapsulation,
}

impl TunnelHop {
    /// Writes the outer header; returns its bytes.
    #[inline]
    pub(crate) fn write(&self, out: &mut [u8; OUTER_ROOM], inner: Inner) -> Option<u8> {
        u8::try_from(self.outer.write(out, inner)?).ok()
    }
}

/// Who a slot leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Neighbour {
    /// The port with an address.
    Port(IpAddr),
    /// The other end of a tunnel.
    Vtep(Vtep),
}

impl From<IpAddr> for Neighbour {
    fn from(address: IpAddr) -> Self {
        Self::Port(address)
    }
}

impl PortHop {
    /// In the place of a hop that is no port: no packet is as small as that.
    const NONE: Self = Self { rewrite: [0; 12], port: PortIndex(u16::MAX), mtu: 0 };

    pub(crate) fn new(port: PortIndex, destination: Mac, source: Mac, mtu: u16) -> Self {
        let mut rewrite = [0; 12];
        rewrite[..6].copy_from_slice(&destination.octets());
        rewrite[6..].copy_from_slice(&source.octets());
        Self { rewrite, port, mtu }
    }

    /// The rewrite as two little-endian words; the second is half full.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.rewrite;
        [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from(u32::from_le_bytes([i, j, k, l]))]
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

/// Slot of a next hop in [`Hops`]; below 2^31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HopIndex(pub u32);

impl HopIndex {
    /// IPv4 addresses that no route contains: the default route, if there is one.
    pub const DEFAULT: Self = Self(0);
    /// Addresses that are never routed.
    pub const NEVER: Self = Self(1);
    /// Groups and broadcasts.
    pub const NOT_UNICAST: Self = Self(2);
    /// Addresses that nobody has.
    pub const UNREACHABLE: Self = Self(3);
    /// The vRouter's own.
    pub const GATEWAY: Self = Self(4);
    /// Routes that lead nowhere on purpose.
    pub const BLACKHOLE: Self = Self(5);
    /// IPv6 addresses that no route contains.
    pub const NO_ROUTE: Self = Self(6);

    /// What is in the slots above.
    const FIXED: [NextHop; 7] = [
        NextHop::Drop(DropReason::NoRoute),
        NextHop::Drop(DropReason::NoRoute),
        NextHop::Drop(DropReason::Multicast),
        NextHop::Unreachable,
        NextHop::Gateway,
        NextHop::Drop(DropReason::Blackhole),
        NextHop::NoRoute,
    ];

    fn at(self) -> usize {
        self.0 as usize
    }

    fn of(at: usize) -> Self {
        // One slot for each address that a port has or a route leads to, far below 2^31.
        let Ok(index) = u32::try_from(at) else { unreachable!("2^32 next hops") };
        Self(index)
    }
}

/// The next hops of a network. Routes lead to a slot, so that a port that comes, goes or changes changes its
/// slot and no route.
#[derive(Clone, Debug)]
pub(crate) struct Hops {
    /// What the fast path reads: the ports, and [`PortHop::NONE`] for all else.
    ports: Vec<PortHop>,
    /// The same slots in full.
    slots: Vec<Slot>,
    /// The slots that lead to a neighbour, sorted by it.
    neighbours: Vec<(Neighbour, HopIndex)>,
    free: Vec<HopIndex>,
    /// The slot that [`HopIndex::DEFAULT`] repeats.
    default: HopIndex,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hop: NextHop,
    /// Routes and ports that use it.
    users: u32,
}

impl Hops {
    pub fn new() -> Self {
        Self {
            ports: [PortHop::NONE; HopIndex::FIXED.len()].into(),
            slots: HopIndex::FIXED.iter().map(|hop| Slot { hop: *hop, users: 1 }).collect(),
            neighbours: Vec::new(),
            free: Vec::new(),
            default: HopIndex::DEFAULT,
        }
    }

    /// The port in a slot; one with an MTU of 0 if it is anything else.
    #[inline]
    pub fn port(&self, index: HopIndex) -> &PortHop {
        // Every slot in the tables exists; `get` keeps even a mistake there from ending the process.
        self.ports.get(index.at()).unwrap_or(&PortHop::NONE)
    }

    /// All slots as [`Hops::port`] shows them.
    #[inline]
    pub fn ports(&self) -> &[PortHop] {
        &self.ports
    }

    /// The next hop in a slot.
    pub fn get(&self, index: HopIndex) -> &NextHop {
        const NO_ROUTE: NextHop = NextHop::Drop(DropReason::NoRoute);
        self.slots.get(index.at()).map_or(&NO_ROUTE, |slot| &slot.hop)
    }

    /// The slot of the neighbour with this address, for one more user. A new one leads to nobody.
    pub fn acquire(&mut self, neighbour: impl Into<Neighbour>) -> HopIndex {
        let neighbour = neighbour.into();
        let at = match self.find(neighbour) {
            Ok(at) => {
                let index = self.neighbours[at].1;
                self.slots[index.at()].users += 1;
                return index;
            }
            Err(at) => at,
        };
        let slot = Slot { hop: NextHop::Unreachable, users: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index.at()] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.ports.push(PortHop::NONE);
                HopIndex::of(self.slots.len() - 1)
            }
        };
        self.neighbours.insert(at, (neighbour, index));
        index
    }

    /// Takes one user from a slot; without users it is free.
    pub fn release(&mut self, index: HopIndex) {
        if index.at() < HopIndex::FIXED.len() {
            return;
        }
        let slot = &mut self.slots[index.at()];
        slot.users -= 1;
        if slot.users == 0 {
            self.set(index, NextHop::Unreachable);
            // Rare enough to search: the last route or port of an address goes.
            self.neighbours.retain(|(_, neighbour)| *neighbour != index);
            self.free.push(index);
        }
    }

    /// A port with this address is there, or has changed. Returns its slot.
    pub fn join(&mut self, neighbour: IpAddr, hop: NextHop) -> HopIndex {
        let index = self.acquire(neighbour);
        // A port is one user of its slot, however often it changes.
        if matches!(self.slots[index.at()].hop, NextHop::Port(_)) {
            self.slots[index.at()].users -= 1;
        }
        self.set(index, hop);
        index
    }

    /// The port with this address is gone; routes via it lead to nobody from now on.
    pub fn leave(&mut self, neighbour: IpAddr) {
        if let Ok(at) = self.find(neighbour.into()) {
            let index = self.neighbours[at].1;
            self.set(index, NextHop::Unreachable);
            self.release(index);
        }
    }

    /// The other ends of tunnels that routes lead to, with their slots.
    pub fn vteps(&self) -> impl Iterator<Item = (Vtep, HopIndex)> {
        self.neighbours.iter().filter_map(|(neighbour, index)| match neighbour {
            Neighbour::Vtep(vtep) => Some((*vtep, *index)),
            Neighbour::Port(_) => None,
        })
    }

    /// Gives the neighbour in a slot another next hop.
    pub fn set(&mut self, index: HopIndex, hop: NextHop) {
        let indexes = [Some(index), (self.default == index).then_some(HopIndex::DEFAULT)];
        for index in indexes.into_iter().flatten() {
            self.slots[index.at()].hop = hop;
            self.ports[index.at()] = match hop {
                NextHop::Port(port) => port,
                _ => PortHop::NONE,
            };
        }
    }

    /// Makes the default route lead where another slot leads; `None`: there is none.
    pub fn set_default(&mut self, index: Option<HopIndex>) {
        self.default = HopIndex::DEFAULT;
        let hop = *self.get(index.unwrap_or(HopIndex::NEVER));
        self.set(HopIndex::DEFAULT, hop);
        self.default = index.unwrap_or(HopIndex::DEFAULT);
    }

    fn find(&self, neighbour: Neighbour) -> Result<usize, usize> {
        self.neighbours.binary_search_by_key(&neighbour, |(neighbour, _)| *neighbour)
    }

    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.slots.len() - self.free.len() - HopIndex::FIXED.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const MAC: Mac = Mac::new([2, 1, 2, 3, 4, 5]);

    fn port(index: u16) -> NextHop {
        NextHop::Port(PortHop::new(PortIndex(index), MAC, Mac::new([2, 9, 8, 7, 6, 5]), 1500))
    }

    fn neighbour(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 66, 0, last).into()
    }

    #[test]
    fn port_hop_keeps_its_addresses() {
        let NextHop::Port(hop) = port(3) else { unreachable!() };
        assert_eq!((hop.destination_mac(), hop.source_mac()), (MAC, Mac::new([2, 9, 8, 7, 6, 5])));
        assert_eq!(size_of::<PortHop>(), 16);
    }

    #[test]
    fn a_slot_lives_as_long_as_it_has_users() {
        let mut hops = Hops::new();
        let a = hops.acquire(neighbour(1));
        let b = hops.acquire(neighbour(2));
        assert_ne!(a, b);
        assert_eq!((*hops.get(a), hops.port(a).mtu), (NextHop::Unreachable, 0));
        for index in [1, 7, 3] {
            assert_eq!(hops.join(neighbour(1), port(index)), a);
            assert_eq!((*hops.get(a), hops.port(a).port), (port(index), PortIndex(index)));
        }
        hops.leave(neighbour(1));
        assert_eq!((*hops.get(a), hops.port(a).mtu), (NextHop::Unreachable, 0));
        assert_eq!(hops.join(neighbour(1), port(2)), a);
        hops.release(a);
        assert_eq!((*hops.get(a), hops.used()), (port(2), 2));
        hops.leave(neighbour(1));
        hops.leave(neighbour(1));
        assert_eq!((hops.used(), hops.find(neighbour(1).into()).is_err()), (1, true));
        // Its slot is used again, for whoever is next.
        assert_eq!(hops.acquire(neighbour(3)), a);
        assert_eq!(hops.used(), 2);
        for fixed in 0..7 {
            hops.release(HopIndex(fixed));
        }
        assert_eq!(*hops.get(HopIndex::GATEWAY), NextHop::Gateway);
    }

    #[test]
    fn the_default_follows_its_slot() {
        let mut hops = Hops::new();
        let none = NextHop::Drop(DropReason::NoRoute);
        let a = hops.acquire(neighbour(1));
        hops.set_default(Some(a));
        assert_eq!(*hops.get(HopIndex::DEFAULT), NextHop::Unreachable);
        hops.set(a, port(1));
        assert_eq!(*hops.get(HopIndex::DEFAULT), port(1));
        assert_eq!(hops.port(HopIndex::DEFAULT).port, PortIndex(1));
        hops.set_default(Some(HopIndex::BLACKHOLE));
        assert_eq!(*hops.get(HopIndex::DEFAULT), NextHop::Drop(DropReason::Blackhole));
        hops.set(a, port(2));
        assert_eq!(*hops.get(HopIndex::DEFAULT), NextHop::Drop(DropReason::Blackhole));
        hops.set_default(None);
        assert_eq!((*hops.get(HopIndex::DEFAULT), *hops.get(a)), (none, port(2)));
        assert_eq!(hops.port(HopIndex::DEFAULT).mtu, 0);
    }
}
