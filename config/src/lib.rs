//! What an operator or a pod author writes: the opt-in annotations and the TOML schema of Ringway's daemons, with
//! defaults that work without any file.
//!
//! Does not read files, sockets or the environment, and decides nothing: it takes text and returns checked types or
//! one clear error. Binaries may depend on it; the pure crates (`*-core`, `vrouter-net`) may not, but for
//! `node-tuner-core`, whose input is a [`NodeProfile`] as a whole (ADR 13).
#![forbid(unsafe_code)]

mod amount;
pub mod annotations;
mod check;
mod error;
mod instance;
mod kernel_port;
mod locate;
mod nri;
mod prefix;
mod profile;
mod runtime;
#[cfg(feature = "schema")]
mod schema;
mod tunnel;
mod uplink;
mod vrouter;

pub use amount::{Amount, Bytes};
pub use error::ConfigError;
pub use instance::{InstanceSettings, LINK_NETWORK, LinkSettings};
pub use kernel_port::KernelPortSettings;
pub use nri::{
    CpuMode, CpuSettings, InterfaceDefaults, IpamSettings, Limits, NetworkRules, NriConfig,
    SocketOwner,
};
pub use prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix, PrefixError};
pub use profile::{
    AgentRules, Count, CountRule, CpuRules, HandoverRules, HugepageRule, IrqRules, Isolated,
    KernelRules, KubeletManagers, ManagerPolicy, MemoryRules, NicRule, NodeProfile,
    PROFILE_VERSION, PowerCpus, PowerRules, ProfileLimits, ProfileParameters, RingRules, Spread,
    SteeringRules, SysctlValue, TopologyPolicy, VrouterNodes, WorkerModeRule, WorkerRules,
};
pub use runtime::RuntimeConfig;
pub use uplink::{HostInterface, NO_BOND, UplinkDriver, UplinkSettings, is_pci};
pub use vrouter::{
    Assignment, DpdkSettings, FloodSettings, KernelTable, LimitSettings, MAIN_TABLE, NamedTable,
    NetworkMode, NetworkSettings, PolicerSettings, RouteAction, RouteSettings, VrouterConfig,
    WorkerSettings,
};

/// Where the packages put the configuration of the vRouter.
pub const VROUTER_FILE: &str = "/etc/ringway/vrouter.toml";
/// Where the packages put the configuration of the NRI plugin.
pub const NRI_FILE: &str = "/etc/ringway/nri.toml";
/// Where the packages put the configuration of the runtime wrapper.
pub const RUNTIME_FILE: &str = "/etc/ringway/runtime.toml";
/// Where the packages put the node's profile.
pub const PROFILE_FILE: &str = "/etc/ringway/profile.toml";
/// Profiles that come with Ringway: their names and texts.
pub const PROFILES: [(&str, &str); 4] = [
    ("dpdk-router", include_str!("../profiles/dpdk-router.toml")),
    ("low-latency", include_str!("../profiles/low-latency.toml")),
    ("balanced", include_str!("../profiles/balanced.toml")),
    ("power-saving", include_str!("../profiles/power-saving.toml")),
];

#[cfg(test)]
mod profile_tests;
#[cfg(test)]
mod tests;
