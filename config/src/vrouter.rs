//! The schema of `vrouter.toml`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::instance::{InstanceSettings, LinkSettings};
use crate::kernel_port::KernelPortSettings;
use crate::tunnel::TunnelSettings;
use crate::uplink::UplinkSettings;
use crate::{ConfigError, Ipv4Prefix, Ipv6Prefix, locate};

mod check;

/// Configuration of `ringway-vrouter`. `VrouterConfig::default()` is what runs without a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VrouterConfig {
    /// Unix socket of the control API; shorter than 108 bytes.
    pub control_socket: PathBuf,
    /// Group that may use the control socket besides root.
    pub control_group: Option<String>,
    /// Directory below which the pods' socket directories are. Must be that of the NRI plugin.
    pub run_dir: PathBuf,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or `target=level,...`.
    pub log: String,
    /// How DPDK is started.
    pub dpdk: DpdkSettings,
    /// The threads that move packets.
    pub workers: WorkerSettings,
    /// What the tables are sized for.
    pub limits: LimitSettings,
    /// Networks that exist from the start.
    pub networks: Vec<NetworkSettings>,
    /// Ways out of this host that exist from the start.
    pub uplinks: Vec<UplinkSettings>,
    /// The vRouters of this machine, if there are several.
    pub instances: Vec<InstanceSettings>,
    /// Which of them this is, if it is one.
    #[serde(skip)]
    pub instance: Option<u32>,
    /// Its links to the others.
    #[serde(skip)]
    pub links: Vec<LinkSettings>,
}

/// `[dpdk]`: how DPDK is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpdkSettings {
    /// Memory of the vRouter's own buffers, MiB.
    pub memory_mb: u32,
    /// The only NUMA node whose memory and CPUs are used. Default: all of them.
    pub numa_node: Option<u32>,
    /// Further EAL arguments, one word each.
    pub extra_args: Vec<String>,
    /// Whether that memory is hugepages. Without, DPDK runs on ordinary pages: slower, and no NIC can be used.
    pub hugepages: bool,
    /// Packet buffers of all uplinks together, made with the first of them. Part of `memory_mb`.
    pub buffers: u32,
    /// Bytes that each holds: a frame of the largest MTU of an uplink, and 200 more.
    pub buffer_bytes: u32,
    /// Whether uplinks may use the driver `af_xdp`. The vRouter then keeps what loading programs into the kernel takes (CAP_SYS_ADMIN,
    /// CAP_IPC_LOCK), and uses it while it opens and closes such an uplink only.
    pub af_xdp: bool,
}

/// `[workers]`: the threads that move packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// One worker is pinned to each of these CPUs. Empty: one worker, on the last online CPU.
    pub cpus: Vec<u32>,
    /// How long a worker without packets keeps polling before it sleeps, µs.
    pub idle_spin_us: u32,
    /// The longest a worker sleeps at a time, ms; a packet wakes it at once.
    pub max_sleep_ms: u32,
    /// How long a frame may wait in its pod's ring, once its worker has much to do, µs: a large one to leave the cache of the CPU
    /// that wrote it, as copying it costs a third then; others for more of them. 0: not at all.
    pub max_rest_us: u32,
    /// How often a sleeping worker looks at uplinks whose driver does not tell of packets (af_packet, af_xdp), µs: what their first
    /// packet may have to wait.
    pub uplink_poll_us: u32,
    /// How queues get their workers.
    pub assignment: Assignment,
}

/// How queues that nobody has pinned get their workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assignment {
    /// In turn: each worker gets as many as the others, and they stay there.
    RoundRobin,
    /// To whoever has least to do; they move when the load becomes uneven.
    #[default]
    Load,
}

/// `[limits]`: what the tables are sized for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Greatest number of ports.
    pub ports: u32,
}

/// `[[networks]]`: one virtual network. Networks may overlap; they never meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// What annotations call it: lower case letters, digits and `-`, at most 63.
    pub name: String,
    /// Its addresses belong to the kernel, and its ports are uplinks: it connects this host to others, and carries the
    /// tunnels of other networks. It has a name and an `mtu`, and nothing else of what follows.
    #[serde(default)]
    pub external: bool,
    /// Where its addresses come from; every network but an external one needs it.
    #[serde(default)]
    pub ipv4: Option<Ipv4Prefix>,
    /// The address at which the vRouter answers. Default: the first host address.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Greatest IP packet, bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Where its IPv6 addresses come from. Default: it has none.
    #[serde(default)]
    pub ipv6: Option<Ipv6Prefix>,
    /// The IPv6 address at which the vRouter answers. Default: the one after the prefix's first.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// What happens to frames that are not for the gateway.
    #[serde(default)]
    pub mode: NetworkMode,
    /// In a bridged network: how many frames are repeated. Default: 1000 per second, 100 at once.
    #[serde(default)]
    pub flood_limit: Option<FloodSettings>,
    /// What each of its ports may send, unless the port says otherwise. Default: no limit.
    #[serde(default)]
    pub policer: Option<PolicerSettings>,
    /// Routes that exist from the start, beside those to its pods.
    #[serde(default)]
    pub routes: Vec<RouteSettings>,
    /// How it reaches other hosts. Default: not at all.
    #[serde(default)]
    pub tunnel: Option<TunnelSettings>,
    /// Which of the kernel's routing tables it has besides: routes there are its own, as long as none of `routes` or of the
    /// control API is for the same prefix. Default: none.
    #[serde(default)]
    pub kernel_table: Option<KernelTable>,
    /// The same by name: the table of the VRF device that is called so, whenever there is one.
    #[serde(default)]
    pub kernel_vrf: Option<String>,
    /// A TAP by which the kernel routes for it by that table. Default: none, so that routes to what only the kernel can do lead
    /// nowhere.
    #[serde(default)]
    pub kernel_port: Option<KernelPortSettings>,
    /// Whether the addresses of its pods are announced: each has a route in the kernel table, for routing daemons to
    /// redistribute.
    #[serde(default)]
    pub announce_pods: bool,
}

/// `kernel_table` of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "use the number of a table, or \"main\"")]
pub enum KernelTable {
    /// By number.
    Number(u32),
    /// By name.
    Named(NamedTable),
}

/// The table with a name that is the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedTable {
    /// The node's own, with its addresses.
    Main,
}

impl KernelTable {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Named(NamedTable::Main) => MAIN_TABLE,
        }
    }
}

/// `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;
/// `RT_TABLE_LOCAL`, which belongs to `main`.
const LOCAL_TABLE: u32 = 255;

/// What a network does with frames that are not for the gateway. Those that are, are routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// They are dropped: pods reach each other through the gateway.
    #[default]
    Routed,
    /// They go to the pod with their MAC address, and to all pods if they are for a group.
    Bridged,
}

/// `flood_limit` of a network: how many broadcast, multicast and unknown unicast frames of one port one worker repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloodSettings {
    /// In the long run.
    pub frames_per_second: u32,
    /// At once after a rest.
    pub burst_frames: u32,
}

/// `policer` of a network: what each of its ports may send. 0 is no limit of this kind, and a burst of 0 what belongs
/// to 10 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicerSettings {
    /// Packets in the long run.
    pub packets_per_second: u64,
    /// Packets at once after a rest.
    pub burst_packets: u64,
    /// Bits of Ethernet frames, without preamble and frame check sequence, in the long run.
    pub bits_per_second: u64,
    /// Bits at once after a rest.
    pub burst_bits: u64,
}

/// One of `routes` of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Which destinations, `10.1.0.0/16`; IPv4 or IPv6.
    pub prefix: String,
    /// What becomes of packets to them.
    #[serde(default)]
    pub action: RouteAction,
    /// With the action `via`: the pod's address they go to. With `vxlan`, `mpls` and `ipip`: that of the tunnel's other end.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// With the action `vxlan`: MAC address of the router behind the tunnel. Default: that of the network's gateway.
    #[serde(default)]
    pub mac: Option<String>,
    /// With the action `mpls`: the label that the other end knows the network by.
    #[serde(default)]
    pub label: Option<u32>,
}

/// What becomes of packets that match a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteAction {
    /// They go to the pod with the address `via`.
    #[default]
    Via,
    /// Nowhere; their senders get an ICMP error.
    Unreachable,
    /// Nowhere, silently.
    Drop,
    /// Through the network's tunnel, to the end with the address `via`.
    Vxlan,
    /// The same by MPLS over UDP.
    Mpls,
    /// The same by IP in IP.
    Ipip,
}

fn default_mtu() -> u32 {
    1500
}

impl NetworkSettings {
    /// One with a name, and with defaults for all that has some.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            external: false,
            ipv4: None,
            gateway: None,
            mtu: default_mtu(),
            ipv6: None,
            gateway6: None,
            mode: NetworkMode::default(),
            flood_limit: None,
            policer: None,
            routes: Vec::new(),
            tunnel: None,
            kernel_table: None,
            kernel_vrf: None,
            kernel_port: None,
            announce_pods: false,
        }
    }
}

impl Default for VrouterConfig {
    fn default() -> Self {
        Self {
            control_socket: "/run/ringway/vrouter.sock".into(),
            control_group: None,
            run_dir: "/run/ringway".into(),
            log: "info".into(),
            dpdk: DpdkSettings::default(),
            workers: WorkerSettings::default(),
            limits: LimitSettings::default(),
            networks: Vec::new(),
            uplinks: Vec::new(),
            instances: Vec::new(),
            instance: None,
            links: Vec::new(),
        }
    }
}

impl Default for DpdkSettings {
    fn default() -> Self {
        Self {
            memory_mb: 64,
            numa_node: None,
            extra_args: Vec::new(),
            hugepages: true,
            buffers: 8191,
            buffer_bytes: 2048,
            af_xdp: false,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            cpus: Vec::new(),
            idle_spin_us: 50,
            max_sleep_ms: 1000,
            max_rest_us: 300,
            uplink_poll_us: 100,
            assignment: Assignment::Load,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { ports: 1024 }
    }
}

impl VrouterConfig {
    /// Reads `text`, which came from `file`; the name is only for messages.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not TOML, an unknown key or a value that is not allowed.
    pub fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        locate::read(text, file, Self::check)
    }
}
