//! Routes the operator gives, beside those that follow from the policy.

use crate::NetworkIndex;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use vrouter_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac};

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Which addresses.
    pub prefix: IpPrefix,
    /// Where they shall lead; `None`: the route is taken away. That there is none is fine.
    pub target: Option<RouteTarget>,
}

/// A change of routes contradicts the network. Nothing is changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say what each field is")]
pub enum RouteError {
    /// No such network.
    UnknownNetwork { network: NetworkIndex },
    /// A prefix of addresses that no host can have.
    Reserved { prefix: IpPrefix, reserved: IpPrefix },
    /// A next hop that can never be a port of the network.
    Via { prefix: IpPrefix, via: IpAddr, network: NetworkIndex },
    /// A route into a tunnel in a network without one.
    NoTunnel { prefix: IpPrefix, network: NetworkIndex },
    /// The other end of a tunnel that can never be: of another family than this end, this end itself, or no host.
    Vtep { prefix: IpPrefix, address: IpAddr, local: IpAddr },
    /// A MAC address that no station can have.
    VtepMac { prefix: IpPrefix, mac: Mac },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNetwork { network } => {
                write!(f, "network slot {} does not exist: create the network first", network.0)
            }
            Self::Reserved { prefix, reserved } => write!(
                f,
                "route {prefix} lies in {reserved}, which hosts cannot use: choose a unicast prefix"
            ),
            Self::Via { prefix, via, .. } => write!(
                f,
                "route {prefix} leads via {via}, which no port of its network can have: choose the \
                 address of a port"
            ),
            Self::NoTunnel { prefix, .. } => write!(
                f,
                "route {prefix} leads into a tunnel, but its network has none: give it `tunnel` when it \
                 is created"
            ),
            Self::Vtep { prefix, address, local } => write!(
                f,
                "route {prefix} leads to the tunnel endpoint {address}, which cannot be one for this \
                 end, {local}: choose another host's address of the same family"
            ),
            Self::VtepMac { prefix, mac } => write!(
                f,
                "route {prefix} leads to mac {mac}, a group or zero address: choose the router's behind \
                 the tunnel"
            ),
        }
    }
}

impl core::error::Error for RouteError {}

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

/// The reserved prefix that contains this one. A shorter prefix, such as the default route, may contain
/// reserved ones: those keep leading nowhere.
pub(crate) fn reserved_around(prefix: IpPrefix) -> Option<IpPrefix> {
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
