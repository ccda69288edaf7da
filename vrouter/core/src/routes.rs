//! Routes the operator gives, beside those that follow from the policy.

mod error;

use crate::PortIndex;
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};
pub use error::RouteError;
use vrouter_net::mpls::Label;
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac};

/// Where a route leads. Routes of an external network lead to [`RouteTarget::Local`], links, nobody, or over several
/// paths that are links; those of others anywhere but to the first two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTarget {
    /// To the port whose own address this is, of either family. While no port has it, the route leads to nobody
    /// and senders are told so.
    Via(IpAddr),
    /// To nobody; senders are told so.
    Unreachable,
    /// To nobody, silently.
    Drop,
    /// Through the network's tunnel. While the underlay has no port that leads there, the route leads to nobody and
    /// senders are told so.
    Vxlan(Vtep),
    /// The same by MPLS over UDP (RFC 7510).
    MplsUdp(MplsEnd),
    /// The same by IP in IP (RFC 2003, RFC 4213, RFC 2473), to the end with this address in the underlay. Who a route leads to
    /// may also send packets to the network.
    Ipip(IpAddr),
    /// To this host: the kernel has the address. (External networks only.)
    Local,
    /// To a neighbour behind an uplink of the network. While the uplink is not there or has no link, the route leads to
    /// nobody. (External networks only.)
    Link {
        /// The uplink.
        port: PortIndex,
        /// The neighbour's MAC address.
        mac: Mac,
    },
    /// To the kernel, which routes the packet: as it is, but for the MAC addresses. While the network has no kernel port,
    /// the route leads to nobody.
    Kernel,
    /// Over several paths, each flow over one of them.
    Multipath(Paths),
}

/// One path of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Where it leads: via a port, through a tunnel, over a link or to the kernel.
    pub target: RouteTarget,
    /// Its share of the flows, beside those of the others; not zero.
    pub weight: u16,
}

/// Several paths to one destination; cheap to clone. Routes over equal paths share all memory that they need.
///
/// A flow stays on its path as long as there is that path, whatever happens to the others: only the flows of a path that
/// goes move, and only to a path that comes. The shares are right but for chance: with 16 paths one has mostly within
/// 12 % of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Paths(Arc<[Path]>);

impl Paths {
    /// Most paths.
    pub const MAX: usize = 128;

    /// The order does not matter: it is sorted away. A path that is given twice counts twice.
    pub fn new(mut paths: alloc::vec::Vec<Path>) -> Self {
        paths.sort();
        Self(paths.into())
    }

    /// The paths, sorted.
    pub fn paths(&self) -> &[Path] {
        &self.0
    }
}

/// The other end of a tunnel of MPLS over UDP. Who a route leads to may also send packets to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MplsEnd {
    /// Its address in the underlay.
    pub address: IpAddr,
    /// The label that it knows the network by.
    pub label: Label,
}

/// The other end of a tunnel. Who a route leads to may also send packets to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vtep {
    /// Its address in the underlay.
    pub address: IpAddr,
    /// Destination of the inner frames: the MAC address of the router behind it. `None`: that of the network's own
    /// gateway, which another vRouter has too that knows the network by the same name.
    pub mac: Option<Mac>,
}

/// One change of a network's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Which addresses.
    pub prefix: IpPrefix,
    /// Where they shall lead; `None`: the route is taken away. That there is none is fine.
    pub target: Option<RouteTarget>,
}

/// Prefixes that no IPv4 host address can come from, RFC 1122 section 3.2.1.3 and RFC 1112 section 4.
pub(crate) fn reserved4() -> [Ipv4Prefix; 3] {
    [
        Ipv4Prefix::containing(Ipv4Addr::UNSPECIFIED, 8),
        Ipv4Prefix::containing(Ipv4Addr::LOCALHOST, 8),
        // Multicast and what was never given out, broadcast included.
        Ipv4Prefix::containing(Ipv4Addr::BROADCAST, 3),
    ]
}

/// Prefixes that no routed IPv6 host address can come from, RFC 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7.
pub(crate) fn reserved6() -> [Ipv6Prefix; 3] {
    use core::net::Ipv6Addr;
    [
        // Unspecified, loopback, and the addresses that once embedded IPv4 ones.
        Ipv6Prefix::containing(Ipv6Addr::UNSPECIFIED, 96),
        LINK_LOCAL,
        MULTICAST,
    ]
}

/// Link-local unicast.
pub(crate) const LINK_LOCAL: Ipv6Prefix =
    Ipv6Prefix::containing(core::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
/// Multicast.
pub(crate) const MULTICAST: Ipv6Prefix =
    Ipv6Prefix::containing(core::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);

/// The reserved prefix that contains this one, for which there can be no route. A shorter prefix, such as the default
/// route, may contain reserved ones: those keep leading nowhere.
pub fn reserved_around(prefix: IpPrefix) -> Option<IpPrefix> {
    match prefix {
        IpPrefix::V4(inner) => {
            let inside =
                |outer: &Ipv4Prefix| outer.length() <= inner.length() && outer.overlaps(inner);
            reserved4().into_iter().find(inside).map(IpPrefix::V4)
        }
        IpPrefix::V6(inner) => {
            let inside =
                |outer: &Ipv6Prefix| outer.length() <= inner.length() && outer.overlaps(inner);
            reserved6().into_iter().find(inside).map(IpPrefix::V6)
        }
    }
}
