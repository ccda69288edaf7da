//! The kernel's routes, neighbours and links, turned into the routes of virtual networks, and forwarding databases of VXLAN
//! devices, turned into their stations.
//!
//! [`Mirror`] decides: fed with [`Event`]s, it says what has changed for which network. It knows what the kernel does
//! without saying so: a link that is set down takes its IPv4 routes along, a nexthop object all of its own. [`reader`]
//! acts: it has the kernel dump its tables, listens to what changes, and hands the changes on.

mod bridge;
mod event;
mod mirror;
mod network;
mod paths;
mod prefix;
pub mod reader;
mod target;
mod wire;
mod world;

#[cfg(test)]
mod tests;

pub use bridge::{BridgeSpec, BridgeState, BridgeUpdate};
pub use event::{
    Encap, Event, Hop, How, Kind, Link, LinkKind, Object, Path, Remote, Route, Rule, Via,
};
pub use mirror::{Doubt, Mirror, NetworkName};
pub use prefix::{NoPrefix, Prefix};
pub use target::{Change, Mac, NetworkSpec, Source, Target, Tunnel};

/// Number of the table `main` (`RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;
/// Number of the table `local` (`RT_TABLE_LOCAL`).
pub const LOCAL: u32 = 255;
