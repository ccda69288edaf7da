//! What can be wrong with a change of routes.

use super::Paths;
use crate::NetworkIndex;
use core::fmt;
use core::net::IpAddr;
use vrouter_net::{IpPrefix, Mac};

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
    /// A route into a tunnel of another kind than the network's.
    TunnelKind { prefix: IpPrefix, network: NetworkIndex, needs: &'static str },
    /// A target that only external networks can have, or that they cannot.
    Kind { prefix: IpPrefix, external: bool },
    /// Several paths that are none, too many, of weight zero or no single paths.
    Paths { prefix: IpPrefix, count: usize },
    /// A neighbour's MAC address that no station can have.
    LinkMac { prefix: IpPrefix, mac: Mac },
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
            Self::TunnelKind { prefix, needs, .. } => write!(
                f,
                "route {prefix} leads into a tunnel of a kind for which its network's has to have {needs}: give \
                 it that when it is created"
            ),
            Self::Kind { prefix, external: true } => write!(
                f,
                "route {prefix} leads to a port, a tunnel or the kernel, which an external network has \
                 not: use a link, local, unreachable or drop"
            ),
            Self::Kind { prefix, external: false } => write!(
                f,
                "route {prefix} leads to a link or to this host itself, which only an external network \
                 has: use a port, a tunnel or the kernel"
            ),
            Self::Paths { prefix, count } => write!(
                f,
                "route {prefix} leads over {count} paths: use 1 to {} single ones, each of a weight of at \
                 least 1",
                Paths::MAX
            ),
            Self::LinkMac { prefix, mac } => write!(
                f,
                "route {prefix} leads to mac {mac}, a group or zero address: choose the neighbour's"
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
