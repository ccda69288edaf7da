//! What comes out: where a network's prefixes lead.

use super::Prefix;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where packets to a prefix go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// To the node itself.
    Local,
    /// To the neighbour `mac` behind an uplink.
    Link {
        /// Index of the uplink's host interface.
        uplink: u32,
        /// The neighbour.
        mac: Mac,
    },
    /// Through the network's VXLAN tunnel.
    Vxlan {
        /// The other end.
        remote: IpAddr,
        /// The router behind it; `None`: whoever has the MAC address of the network's own gateway there.
        mac: Option<Mac>,
    },
    /// To the kernel, which knows a way that the vRouter has not, or does not know the neighbour yet and asks for it.
    Kernel,
    /// To the kernel, whose route says how it puts the packet into a tunnel, or takes it out of one, that the vRouter does not
    /// speak: `encap seg6`, `encap seg6local`, `encap mpls` and the like.
    KernelTunnel,
    /// To nobody; senders are told so.
    Unreachable,
    /// To nobody, silently.
    Blackhole,
    /// To one of several, each with its weight (1 to 65,536); sorted, each target once, at least two, none a multipath itself.
    Multipath(Vec<(Target, u32)>),
}

/// One change of a network's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which addresses.
    pub prefix: Prefix,
    /// Where they lead from now on, shared by all prefixes that lead there; `None`: there is no route any more.
    pub target: Option<Arc<Target>>,
}

/// Which of the kernel's tables a network has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `main`, and `local` before it: the node's own network.
    Main,
    /// A table by number.
    Table(u32),
    /// The table of a VRF device, whenever there is one of this name.
    Vrf(String),
    /// The table that an `ip rule` gives to what comes from a device of this name: the first that asks for nothing else.
    Rule(String),
}

/// A network's tunnel, as far as the kernel's tables have to agree with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// This end's address.
    pub local: IpAddr,
    /// A router behind an uplink that a route of the network names is the other end of this tunnel. That is what a
    /// routing protocol says that knows nothing of tunnels.
    pub gateways: bool,
}

/// What has to be known of a network to mirror the kernel's routes into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkSpec {
    /// Where its routes are.
    pub source: Source,
    /// The tunnel it has in the vRouter; without one, what the kernel sends into tunnels is left to the kernel.
    pub tunnel: Option<Tunnel>,
    /// The kernel's own port of the network. Routes that lead there would lead back to where they are asked for, so
    /// they are left out: behind it are the vRouter's pods, which the vRouter knows itself.
    pub device: Option<String>,
}
