//! What an operator or a pod author writes: the opt-in annotations and the TOML schema of Ringway's daemons, with
//! defaults that work without any file.
//!
//! Does not read files, sockets or the environment, and decides nothing: it takes text and returns checked types or
//! one clear error. Binaries may depend on it; the pure crates (`*-core`, `vrouter-net`) may not.
#![forbid(unsafe_code)]

pub mod annotations;
mod check;
mod error;
mod locate;
mod nri;
mod prefix;
mod vrouter;

pub use error::ConfigError;
pub use nri::{CpuSettings, InterfaceDefaults, NriConfig, SocketOwner};
pub use prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix, PrefixError};
pub use vrouter::{
    Assignment, DpdkSettings, FloodSettings, LimitSettings, NetworkMode, NetworkSettings,
    PolicerSettings, RouteAction, RouteSettings, VrouterConfig, WorkerSettings,
};

/// Where the packages put the configuration of the vRouter.
pub const VROUTER_FILE: &str = "/etc/ringway/vrouter.toml";
/// Where the packages put the configuration of the NRI plugin.
pub const NRI_FILE: &str = "/etc/ringway/nri.toml";

#[cfg(test)]
mod tests;
