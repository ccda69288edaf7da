//! Next hops, and the slots that the forwarding tables of one network lead to.

use crate::group::{Group, Way, identity};
use crate::{DropReason, MplsEnd, Paths, PortIndex, RouteTarget, Vtep};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use vrouter_net::vxlan::{Inner, OUTER_ROOM};
use vrouter_net::{Mac, ipip, mpls, vxlan};

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere: the address is on the network but nobody has it. The sender is told so.
    Unreachable,
    /// Nowhere: there is no route. The sender is told so. (IPv6 only: IPv4 packets without a route are dropped.)
    NoRoute,
    /// To the vRouter itself.
    Gateway,
    /// To a port; behind an uplink to a neighbour.
    Port(PortHop),
    /// Into a tunnel.
    Tunnel(TunnelHop),
    /// To this host, whose kernel has the address.
    Local,
    /// To the kernel, which routes it.
    Kernel(PortHop),
    /// One of several ways.
    Multipath(Arc<Group>),
}

impl NextHop {
    /// Itself, or the way of several that a flow takes.
    #[inline]
    pub fn of_flow(&self, flow: impl FnOnce() -> u32) -> &Self {
        match self {
            Self::Multipath(group) => group.choose(flow()),
            single => single,
        }
    }

    /// Whether it, or one of its ways, is a port for which this holds, the kernel's included, or leads into a tunnel: to somebody
    /// whom the gateway speaks for.
    pub(crate) fn is_somebody(&self, holds: impl Fn(&PortHop) -> bool) -> bool {
        let is = |hop: &Self| match hop {
            Self::Port(hop) | Self::Kernel(hop) => holds(hop),
            Self::Tunnel(_) => true,
            _ => false,
        };
        match self {
            Self::Multipath(group) => group.ways().iter().any(|way| is(&way.hop)),
            single => is(single),
        }
    }

    /// Whether it, or one of its ways, leads into a tunnel.
    pub(crate) fn is_tunnel(&self) -> bool {
        match self {
            Self::Multipath(group) => {
                group.ways().iter().any(|way| matches!(way.hop, Self::Tunnel(_)))
            }
            single => matches!(single, Self::Tunnel(_)),
        }
    }
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
    /// Bytes that the underlay's MTU leaves for what is behind the Ethernet header of an inner frame, whatever the inner
    /// network takes.
    pub(crate) room: u16,
    pub(crate) outer: Outer,
}

/// What is put in front of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    Vxlan(vxlan::Encapsulation),
    Mpls(mpls::Encapsulation),
    Ipip(ipip::Encapsulation),
}

impl TunnelHop {
    /// Writes the outer header; returns its bytes. All but that of VXLAN takes the place of the inner Ethernet header.
    #[inline]
    pub(crate) fn write(&self, out: &mut [u8; OUTER_ROOM], inner: Inner) -> Option<u8> {
        let bytes = match &self.outer {
            Outer::Vxlan(outer) => outer.write(out, inner),
            Outer::Mpls(outer) => outer.write(out, inner),
            Outer::Ipip(outer) => outer.write(out, inner),
        };
        u8::try_from(bytes?).ok()
    }
}

/// Who a slot leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Neighbour {
    /// The port with an address.
    Port(IpAddr),
    /// The other end of a tunnel.
    Vtep(Vtep),
    /// The other end of a tunnel of MPLS over UDP.
    Mpls(MplsEnd),
    /// The same of IP in IP.
    Ipip(IpAddr),
    /// Behind an uplink.
    Link(PortIndex, Mac),
    /// The network's kernel port.
    Kernel,
    /// Several of the above.
    Paths(Paths),
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
    /// The kernel's own.
    pub const LOCAL: Self = Self(7);

    /// What is in the slots above.
    const FIXED: [NextHop; 8] = [
        NextHop::Drop(DropReason::NoRoute),
        NextHop::Drop(DropReason::NoRoute),
        NextHop::Drop(DropReason::Multicast),
        NextHop::Unreachable,
        NextHop::Gateway,
        NextHop::Drop(DropReason::Blackhole),
        NextHop::NoRoute,
        NextHop::Local,
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

#[derive(Clone, Debug)]
struct Slot {
    hop: NextHop,
    /// Routes and ports that use it, and slots that lead to it among others.
    users: u32,
    /// The slots it leads to if it leads to several: who is there, and its weight.
    paths: Option<Arc<[(HopIndex, u64, u16)]>>,
}

impl Slot {
    fn new(hop: NextHop) -> Self {
        Self { hop, users: 1, paths: None }
    }
}

impl Hops {
    pub fn new() -> Self {
        Self {
            ports: [PortHop::NONE; HopIndex::FIXED.len()].into(),
            slots: HopIndex::FIXED.into_iter().map(Slot::new).collect(),
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
        static NO_ROUTE: NextHop = NextHop::Drop(DropReason::NoRoute);
        self.slots.get(index.at()).map_or(&NO_ROUTE, |slot| &slot.hop)
    }

    /// The slot of the neighbour with this address, for one more user. A new one leads to nobody.
    pub fn acquire(&mut self, neighbour: impl Into<Neighbour>) -> HopIndex {
        let neighbour = neighbour.into();
        let at = match self.find(&neighbour) {
            Ok(at) => {
                let index = self.neighbours[at].1;
                self.slots[index.at()].users += 1;
                return index;
            }
            Err(at) => at,
        };
        let mut slot = Slot::new(NextHop::Unreachable);
        if let Neighbour::Paths(paths) = &neighbour {
            slot.paths = Some(self.acquire_paths(paths));
        }
        let slot = slot;
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
        // The paths have come before it, if there are any.
        let at = self.find(&neighbour).map_or_else(|at| at, |_| at);
        self.neighbours.insert(at, (neighbour, index));
        index
    }

    /// The slot that a target leads to, for one more user.
    pub fn acquire_target(&mut self, target: &RouteTarget) -> HopIndex {
        match target {
            RouteTarget::Via(via) => self.acquire(*via),
            RouteTarget::Unreachable => HopIndex::UNREACHABLE,
            RouteTarget::Drop => HopIndex::BLACKHOLE,
            RouteTarget::Vxlan(vtep) => self.acquire(Neighbour::Vtep(*vtep)),
            RouteTarget::MplsUdp(end) => self.acquire(Neighbour::Mpls(*end)),
            RouteTarget::Ipip(end) => self.acquire(Neighbour::Ipip(*end)),
            RouteTarget::Local => HopIndex::LOCAL,
            RouteTarget::Link { port, mac } => self.acquire(Neighbour::Link(*port, *mac)),
            RouteTarget::Kernel => self.acquire(Neighbour::Kernel),
            RouteTarget::Multipath(paths) => self.acquire(Neighbour::Paths(paths.clone())),
        }
    }

    fn acquire_paths(&mut self, paths: &Paths) -> Arc<[(HopIndex, u64, u16)]> {
        let slots = paths
            .paths()
            .iter()
            .map(|path| (self.acquire_target(&path.target), identity(&path.target), path.weight));
        slots.collect()
    }

    /// Takes one user from a slot; without users it is free.
    pub fn release(&mut self, index: HopIndex) {
        if index.at() < HopIndex::FIXED.len() {
            return;
        }
        let slot = &mut self.slots[index.at()];
        slot.users -= 1;
        if slot.users == 0 {
            let paths = slot.paths.take();
            self.set(index, NextHop::Unreachable);
            // Rare enough to search: the last route or port of an address goes.
            self.neighbours.retain(|(_, neighbour)| *neighbour != index);
            self.free.push(index);
            for (path, ..) in paths.iter().flat_map(|paths| paths.iter()) {
                self.release(*path);
            }
        }
    }

    /// A port with this address is there, or has changed. Returns its slot.
    pub fn join(&mut self, neighbour: impl Into<Neighbour>, hop: NextHop) -> HopIndex {
        let index = self.acquire(neighbour);
        // A port is one user of its slot, however often it changes.
        if matches!(self.slots[index.at()].hop, NextHop::Port(_) | NextHop::Kernel(_)) {
            self.slots[index.at()].users -= 1;
        }
        self.set(index, hop);
        index
    }

    /// The port with this address is gone; routes via it lead to nobody from now on.
    pub fn leave(&mut self, neighbour: impl Into<Neighbour>) {
        if let Ok(at) = self.find(&neighbour.into()) {
            let index = self.neighbours[at].1;
            self.set(index, NextHop::Unreachable);
            self.release(index);
        }
    }

    /// All neighbours, with their slots.
    pub fn neighbours(&self) -> impl Iterator<Item = (&Neighbour, HopIndex)> {
        self.neighbours.iter().map(|(neighbour, index)| (neighbour, *index))
    }

    /// The addresses of the other ends of tunnels that routes lead to; one may come several times.
    pub fn tunnel_ends(&self) -> impl Iterator<Item = IpAddr> {
        self.neighbours.iter().filter_map(|(neighbour, _)| match neighbour {
            Neighbour::Vtep(vtep) => Some(vtep.address),
            Neighbour::Mpls(end) => Some(end.address),
            Neighbour::Ipip(end) => Some(*end),
            _ => None,
        })
    }

    /// What a slot that leads to several is, as those are now.
    pub fn over_paths(&self, index: HopIndex) -> NextHop {
        /// Unit of the weights, so that parts of one can be told.
        const ONE: u32 = 1 << 15;
        let paths = self.slots.get(index.at()).and_then(|slot| slot.paths.as_deref());
        let mut ways = Vec::new();
        for (path, who, weight) in paths.unwrap_or(&[]) {
            let (who, weight) = (*who, u32::from(*weight) * ONE);
            match self.get(*path) {
                NextHop::Multipath(group) => {
                    let all: u64 = group.ways().iter().map(|way| u64::from(way.weight)).sum();
                    ways.extend(group.ways().iter().map(|way| {
                        let part = u64::from(weight) * u64::from(way.weight) / all.max(1);
                        let weight = u32::try_from(part).unwrap_or(u32::MAX).max(1);
                        Way { who: identity(&(who, way.who)), weight, hop: way.hop.clone() }
                    }));
                }
                hop @ (NextHop::Port(_) | NextHop::Kernel(_) | NextHop::Tunnel(_)) => {
                    ways.push(Way { who, weight, hop: hop.clone() });
                }
                _ => {}
            }
        }
        Group::next_hop(ways, self.get(index))
    }

    /// Gives the neighbour in a slot another next hop.
    pub fn set(&mut self, index: HopIndex, hop: NextHop) {
        let indexes = [Some(index), (self.default == index).then_some(HopIndex::DEFAULT)];
        for index in indexes.into_iter().flatten() {
            self.ports[index.at()] = match hop {
                NextHop::Port(port) => port,
                _ => PortHop::NONE,
            };
            self.slots[index.at()].hop = hop.clone();
        }
    }

    /// Makes the default route lead where another slot leads; `None`: there is none.
    pub fn set_default(&mut self, index: Option<HopIndex>) {
        self.default = HopIndex::DEFAULT;
        let hop = self.get(index.unwrap_or(HopIndex::NEVER)).clone();
        self.set(HopIndex::DEFAULT, hop);
        self.default = index.unwrap_or(HopIndex::DEFAULT);
    }

    fn find(&self, neighbour: &Neighbour) -> Result<usize, usize> {
        self.neighbours.binary_search_by(|(other, _)| other.cmp(neighbour))
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
        assert_eq!((hops.get(a).clone(), hops.port(a).mtu), (NextHop::Unreachable, 0));
        for index in [1, 7, 3] {
            assert_eq!(hops.join(neighbour(1), port(index)), a);
            assert_eq!((hops.get(a).clone(), hops.port(a).port), (port(index), PortIndex(index)));
        }
        hops.leave(neighbour(1));
        assert_eq!((hops.get(a).clone(), hops.port(a).mtu), (NextHop::Unreachable, 0));
        assert_eq!(hops.join(neighbour(1), port(2)), a);
        hops.release(a);
        assert_eq!((hops.get(a).clone(), hops.used()), (port(2), 2));
        hops.leave(neighbour(1));
        hops.leave(neighbour(1));
        assert_eq!((hops.used(), hops.find(&neighbour(1).into()).is_err()), (1, true));
        // Its slot is used again, for whoever is next.
        assert_eq!(hops.acquire(neighbour(3)), a);
        assert_eq!(hops.used(), 2);
        for fixed in 0..8 {
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
        assert_eq!((hops.get(HopIndex::DEFAULT).clone(), hops.get(a).clone()), (none, port(2)));
        assert_eq!(hops.port(HopIndex::DEFAULT).mtu, 0);
    }
}
