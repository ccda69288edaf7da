//! The vRouter's decisions: immutable tables and the stages that turn a batch of packet heads into verdicts.
//!
//! Does: check a [`Policy`] (networks and ports) and build [`Tables`] from it, also incrementally, with static routes
//! by the million; check, look up and rewrite IPv4 and IPv6 packets, switch frames of bridged networks, answer ARP,
//! Neighbor Discovery and ping for the gateway, and limit what a port sends ([`process`], [`Policer`]); put packets into
//! tunnels between networks and take them out (VXLAN, MPLS over UDP, IP in IP); forward between uplinks and hand to the kernel what is
//! its own ([`PortRole`]); spread flows over several paths and around links that are down; write ICMP errors
//! ([`icmp_error`]); limit those, floods and what the kernel gets ([`PortLimits`]); name every reason a packet is dropped for
//! ([`DropReason`]); say what would become of a packet and why ([`explain()`]).
//!
//! Does not: touch guest memory, rings, threads, clocks or sockets; count (the caller counts verdicts in
//! [`Counters`]). It sees a
//! private copy of the first [`HEADER_BYTES`] of each frame, never guest memory, so that what it decided on is what is
//! sent.
//!
//! May be used by: the crates that move packets and `vrouterd`. Uses: `vrouter-net`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod counters;
mod explain;
mod fib;
mod fib6;
mod group;
mod hops;
mod icmp;
mod index;
mod limiter;
mod network;
mod packet;
mod policer;
mod policy;
mod process;
mod punts;
mod routes;
mod stations;
mod tables;
mod tunnels;
mod verdict;

pub use counters::Counters;
pub use explain::{Asked, Explanation, Found, Lookup, OuterHeader, TunnelNumber, explain};
pub use group::Group;
pub use hops::{NextHop, PortHop, TunnelHop};
pub use icmp::{ICMP_ERROR_BYTES, icmp_error};
pub use limiter::{FloodLimiter, IcmpLimiter, PortLimits, Timestamp};
pub use network::{FloodEndError, Network, StationChange};
pub use packet::{HEADER_BYTES, Packet};
pub use policer::{Policer, Rate, Rates};
pub use policy::{
    FloodLimit, Ipv6Network, Mode, NetworkIndex, NetworkPolicy, Policy, PolicyError, PortIndex,
    PortPolicy, PortRole, Tunnel,
};
pub use process::{Outcome, process};
pub use punts::{PuntClass, PuntLimiter, PuntRate, PuntRates};
pub use routes::{
    MplsEnd, Path, Paths, RouteChange, RouteError, RouteTarget, Vtep, reserved_around,
};
pub use tables::Tables;
pub use verdict::{DropReason, Flood, IcmpError, Verdict};
