//! Host interfaces: a TAP that carries on what the kernel had on an uplink.
//!
//! When DPDK serves a network interface by its kernel name, or owns the card outright, the node's own traffic still has
//! to use it. [`HostInterface`] takes the interface's name, addresses, routes and neighbours off it and gives them to a
//! TAP; what the vRouter does not forward itself it passes through there. Who puts everything back is the [`keeper`]: a
//! process that outlives the vRouter by a second or two.
//!
//! `snapshot` and `plan` decide and are pure; `kernel` acts; [`keeper`] and [`handle`] are the two ends of a socket.

mod ethtool;
mod filter;
pub mod handle;
pub mod keeper;
mod kernel;
mod names;
pub(crate) mod netlink;
mod plan;
mod protocol;
mod put_back;
mod record;
pub(crate) mod settings;
mod settling;
mod snapshot;
mod take;
pub(crate) mod wire;

pub use handle::{Event, HostError, HostInterface, Options, Releasing, repair};
