//! What goes in: the kernel's objects, each as far as forwarding depends on it.

use super::{Mac, Prefix};
use std::net::IpAddr;

/// One thing the kernel says, in a dump or because something has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is there, or differs.
    Link(Link),
    /// A link is gone, by index.
    LinkGone(u32),
    /// A link has an address.
    Address {
        /// The link's index.
        link: u32,
        /// Its own address, not a peer's.
        address: IpAddr,
    },
    /// A link has an address no more.
    AddressGone {
        /// The link's index.
        link: u32,
        /// Its own address, not a peer's.
        address: IpAddr,
    },
    /// A neighbour, with its MAC address while that is known.
    Neighbour {
        /// The link it is behind.
        link: u32,
        /// Its address.
        address: IpAddr,
        /// `None`: being asked for, failed or gone.
        mac: Option<Mac>,
    },
    /// Which tunnel end a VXLAN device has behind a MAC address.
    Remote(Remote),
    /// It has none any more. A device's entry for a MAC address that another has replaced stays.
    RemoteGone(Remote),
    /// A nexthop object is there, or differs.
    Object {
        /// Its number.
        id: u32,
        /// What it is.
        object: Object,
    },
    /// A nexthop object is gone, by number, and with it all routes through it.
    ObjectGone(u32),
    /// A route is there.
    Route(Route, How),
    /// A route is gone.
    RouteGone(Route),
    /// A rule that sends what comes from a device to a table.
    Rule(Rule),
    /// It is gone.
    RuleGone(Rule),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether somebody has set it up.
    pub up: bool,
    /// Whether the kernel thinks that frames get through.
    pub running: bool,
    /// The bridge or VRF device it belongs to.
    pub master: Option<u32>,
    /// What it is, where forwarding depends on that.
    pub kind: LinkKind,
}

/// Kinds of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A VRF device.
    Vrf {
        /// Its table.
        table: u32,
    },
    /// A VXLAN device.
    Vxlan {
        /// Its network identifier; `None`: routes and entries say it ("external", "collect metadata").
        vni: Option<u32>,
        /// UDP port it sends to.
        port: u16,
        /// The address it sends from, where it has one of its own.
        local: Option<IpAddr>,
    },
    /// Anything else.
    Other,
}

/// An entry of a VXLAN device's forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The device.
    pub link: u32,
    /// Who is behind the tunnel.
    pub mac: Mac,
    /// The network identifier frames belong to, on a device with several.
    pub of: Option<u32>,
    /// The other end; `None`: several, or none that is an address.
    pub address: Option<IpAddr>,
    /// The network identifier to send with, where it is not the device's.
    pub vni: Option<u32>,
    /// The UDP port to send to, where it is not the device's.
    pub port: Option<u16>,
}

/// What a nexthop object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// One way.
    Hop(Hop),
    /// Several objects, each with its weight.
    Group(Vec<(u32, u32)>),
    /// Silence.
    Blackhole,
    /// One that no route may have: a group of tunnel ends for forwarding databases.
    Other,
}

/// One way to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The link.
    pub link: u32,
    /// The router behind it, of either family; `None`: whom it is for is there himself.
    pub gateway: Option<IpAddr>,
    /// What has to be put around the packet.
    pub encap: Encap,
}

/// An encapsulation by route ("lightweight tunnel").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encap {
    /// None.
    None,
    /// For a device that takes tunnel end and identifier from the route.
    Ip {
        /// Key or network identifier.
        id: u64,
        /// The other end.
        remote: IpAddr,
        /// This end, where the route says it.
        local: Option<IpAddr>,
    },
    /// Another one, as the kernel says it: kind, then attributes.
    Other(u16, Box<[u8]>),
}

/// Ways of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// None: the kind of the route says all.
    Nothing,
    /// One.
    Hop(Hop),
    /// Several, each with its weight.
    Hops(Box<[(Hop, u32)]>),
    /// Those of a nexthop object.
    Object(u32),
}

/// `RTN_*` of rtnetlink(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kernel's words")]
pub enum Kind {
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    /// The next rule decides; also kinds not known here.
    Other,
}

/// A route, as the kernel tells it apart from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// For which addresses.
    pub prefix: Prefix,
    /// Only for packets with these bits of the traffic class; 0: for all.
    pub tos: u8,
    /// The lower, the better.
    pub metric: u32,
    /// Way, and all else that makes two routes differ.
    pub path: Path,
    /// Links of its hops that the kernel has taken out of use.
    pub dead: Vec<u32>,
}

/// What routes have in common that differ in prefix and metric only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Whether it is of IPv6. A gateway may be of the other family.
    pub v6: bool,
    /// What it does with packets.
    pub kind: Kind,
    /// Whether its scope is the host itself: such a route outlives its link being set down.
    pub on_host: bool,
    /// Whether a router's advertisement made it: such routes don't join into one of several ways.
    pub advertised: bool,
    /// Only for packets from there.
    pub from: Option<Prefix>,
    /// The address the node itself sends from. An IPv4 route goes when that address goes.
    pub source: Option<IpAddr>,
    /// Its ways.
    pub via: Via,
}

/// How a route has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was there. Those of one prefix come in the order in which the kernel tries them.
    Dumped,
    /// Before others like it, if there are any.
    Added,
    /// After others like it, or as one more way of theirs.
    Appended,
    /// In place of the first like it.
    Replaced,
}

/// A routing rule that looks at where a packet comes from, and at nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The lower, the earlier.
    pub priority: u32,
    /// Whether it is for IPv6.
    pub v6: bool,
    /// The device packets come from.
    pub device: String,
    /// Where their routes are.
    pub table: u32,
}
