//! The line between the wire (`vrouter-api`) and the vRouter's own types. Pure.

mod addresses;
pub mod kernel;
mod limits;
mod link;
pub mod mirrored;
mod stats;
mod status;
mod tunnel;
pub mod uplinks;
pub mod workers;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use vrouter_api::v1;
use vrouter_core::{
    FloodEndError, FloodLimit, Ipv6Network, Mode, NetworkIndex, NetworkPolicy, PolicyError,
    PortIndex, PortPolicy, PortRole, PuntRates, Rates, RouteError, Tunnel,
};
use vrouter_dpdk::PoolError;
use vrouter_kernel::fib::Source;
use vrouter_net::{IpPrefix, Ipv4Prefix, Mac};
use vrouter_vhost::port::{SocketError, SocketOwner};
use vrouter_vhost::queues::QUEUE_PAIRS;

use crate::assign::WorkerIndex;
use addresses::{gateway_mac, ipv6_network, named_mac};
pub use kernel::KernelRequest;
pub use link::LinkRequest;
pub use stats::{port_stats, worker_stats};
pub use status::{port, port_state};
use tunnel::KERNEL_BRIDGE_PORT;
pub use tunnel::TunnelRequest;
pub use uplinks::{Driver, Link, UplinkRequest};

/// Longest name of a network, and of the words people see.
const MAX_NAME: usize = 63;
/// Longest port id: a sandbox id (64), slot and interface with room to spare.
const MAX_ID: usize = 200;
/// Default MTU of a network.
const DEFAULT_MTU: u32 = 1500;

/// A request can't be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field has a value that is not allowed.
    #[error("{field} {value:?}: {remedy}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it said.
        value: String,
        /// What it should be.
        remedy: String,
    },
    /// No network has this name.
    #[error("unknown network {name:?}; known networks: {known}")]
    UnknownNetwork {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// The network still has ports.
    #[error("network {name:?} still has {ports} ports; delete them first")]
    NetworkInUse {
        /// The name.
        name: String,
        /// How many.
        ports: usize,
    },
    /// It exists, but not like this.
    #[error("{what} {name:?} exists with other parameters; delete it first")]
    Exists {
        /// Network or port.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The network cannot go.
    #[error("network {name:?} carries the tunnel of network {carried:?}; delete that one first")]
    NetworkCarries {
        /// Its name.
        name: String,
        /// The name of one that it carries.
        carried: String,
    },
    /// Two networks with one number on one underlay.
    #[error("{what} {number} is network {other:?}'s on {underlay:?}; choose another")]
    NumberTaken {
        /// `vni`, `label` or what stands for a number of IP in IP.
        what: &'static str,
        /// The number.
        number: String,
        /// Whose it is.
        other: String,
        /// Where.
        underlay: String,
    },
    /// No room.
    #[error("all {limit} ports are in use; raise limits.ports")]
    Full {
        /// How many there can be.
        limit: usize,
    },
    /// A packet can't come in there.
    #[error("unknown {what} {name:?}; known ones: {known}")]
    UnknownIngress {
        /// Port or uplink.
        what: &'static str,
        /// The name.
        name: String,
        /// Some that there are.
        known: String,
    },
    /// No worker has the number.
    #[error("worker {worker}: no such worker; use one of {known}, or leave it out")]
    UnknownWorker {
        /// The number.
        worker: u32,
        /// Those that run.
        known: String,
    },
    /// A worker can't end.
    #[error(
        "port {port:?} is pinned to worker {worker} on CPU {cpu}; unpin it (ringway workers pin {port} auto) or keep that CPU"
    )]
    Pinned {
        /// The port.
        port: String,
        /// The worker.
        worker: WorkerIndex,
        /// Its CPU.
        cpu: u16,
    },
    /// A worker can't start.
    #[error(
        "cannot start a worker on CPU {cpu}: {source}; free what is missing, or name another CPU"
    )]
    Worker {
        /// Its CPU.
        cpu: u16,
        /// What the system or DPDK said.
        source: io::Error,
    },
    /// Two uplinks on one device.
    #[error(
        "device {device:?} is in use by uplink {uplink:?}; delete that first, or choose another"
    )]
    DeviceTaken {
        /// The device.
        device: String,
        /// Whose it is.
        uplink: String,
    },
    /// An uplink's device can't be had.
    #[error("uplink {name:?}: {why}")]
    Uplink {
        /// The uplink.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The same, and it may be otherwise in a moment.
    #[error("uplink {name:?}: {why}")]
    UplinkBusy {
        /// The uplink.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A port's interface can't be had.
    #[error("interface {link:?} of port {port}: {why}")]
    Link {
        /// What it is called in the pod.
        link: String,
        /// The port.
        port: String,
        /// What is wrong.
        why: String,
    },
    /// A network's kernel port can't be had.
    #[error("kernel port {name:?} of network {network:?}: {why}")]
    KernelPort {
        /// The TAP.
        name: String,
        /// The network.
        network: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// There is no memory for packets.
    #[error("no packet buffers for uplinks (dpdk.buffers): {0}")]
    Buffers(#[from] PoolError),
    /// The network can't have the route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The network can't be bridged to the ends that are named.
    #[error(transparent)]
    FloodEnd(#[from] FloodEndError),
    /// The tables can't hold it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        use tonic::Code;
        let code = match &refusal {
            Refusal::Invalid { .. }
            | Refusal::Socket(SocketError::TooLong { .. } | SocketError::NotAbsolute { .. }) => {
                Code::InvalidArgument
            }
            Refusal::UnknownNetwork { .. } | Refusal::UnknownIngress { .. } => Code::NotFound,
            Refusal::NetworkInUse { .. }
            | Refusal::NetworkCarries { .. }
            | Refusal::Socket(_)
            | Refusal::Pinned { .. }
            | Refusal::Worker { .. }
            | Refusal::Uplink { .. }
            | Refusal::UplinkBusy { .. }
            | Refusal::KernelPort { .. }
            | Refusal::Link { .. }
            | Refusal::Buffers(_) => Code::FailedPrecondition,
            Refusal::Exists { .. }
            | Refusal::DeviceTaken { .. }
            | Refusal::NumberTaken { .. }
            | Refusal::Policy(
                PolicyError::DuplicateAddress { .. }
                | PolicyError::DuplicateMac { .. }
                | PolicyError::AddressOfGateway { .. }
                | PolicyError::MacOfGateway { .. }
                | PolicyError::DuplicateIpv6 { .. }
                | PolicyError::Ipv6OfGateway { .. }
                | PolicyError::TunnelAddressTaken { .. }
                | PolicyError::DuplicateVni { .. }
                | PolicyError::DuplicateLabel { .. }
                | PolicyError::DuplicateKernel { .. },
            ) => Code::AlreadyExists,
            Refusal::Policy(_)
            | Refusal::UnknownWorker { .. }
            | Refusal::Route(_)
            | Refusal::FloodEnd(_) => Code::InvalidArgument,
            Refusal::Full { .. } => Code::ResourceExhausted,
        };
        Self::new(code, refusal.to_string())
    }
}

fn invalid(field: &'static str, value: impl ToString, remedy: impl Into<String>) -> Refusal {
    Refusal::Invalid { field, value: value.to_string(), remedy: remedy.into() }
}

/// A network as asked for, checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub prefix: Ipv4Prefix,
    /// Where the vRouter answers.
    pub gateway: Ipv4Addr,
    /// The vRouter's MAC address in it.
    pub gateway_mac: Mac,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Its IPv6 addresses, if it has any.
    pub ipv6: Option<Ipv6Network>,
    /// What happens to frames that are not for the gateway.
    pub mode: Mode,
    /// How many of those are repeated.
    pub floods: FloodLimit,
    /// What a port may send that does not say so itself.
    pub rates: Rates,
    /// How it reaches other hosts.
    pub tunnel: Option<TunnelRequest>,
    /// Its addresses are the kernel's.
    pub external: bool,
    /// Which of the kernel's tables it has.
    pub table: Option<Source>,
    /// The kernel as a router of it.
    pub kernel: Option<KernelRequest>,
}

impl NetworkRequest {
    /// Reads a request; fills in what it leaves out.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn read(wire: &v1::Network) -> Result<Self, Refusal> {
        let name = wire.name.clone();
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.len() > MAX_NAME
            || !edge(name.chars().next())
            || !edge(name.chars().last())
            || !name.chars().all(inside)
        {
            let remedy = "use 1 to 63 lower case letters, digits and `-`, not at an end";
            return Err(invalid("name", name, remedy));
        }
        let mtu = if wire.mtu == 0 { DEFAULT_MTU } else { wire.mtu };
        let mtu = u16::try_from(mtu)
            .ok()
            .filter(|m| (68..=9216).contains(m))
            .ok_or_else(|| invalid("mtu", mtu, "use 68 to 9216"))?;
        if wire.external {
            return Self::read_external(wire, mtu);
        }
        let prefix: Ipv4Prefix = wire
            .ipv4
            .parse()
            .map_err(|e| invalid("ipv4", &wire.ipv4, format!("{e}; for example 10.66.0.0/24")))?;
        let gateway = match wire.gateway.as_str() {
            "" => prefix.first_host().ok_or_else(|| {
                invalid("ipv4", &wire.ipv4, "has no room for hosts; use a shorter prefix")
            })?,
            text => text.parse().map_err(|_| {
                invalid("gateway", text, "use an IPv4 address inside the network's prefix")
            })?,
        };
        let gateway_mac = gateway_mac(&name, &wire.gateway_mac)?;
        let ipv6 = ipv6_network(&wire.ipv6, &wire.gateway6)?;
        let mode = match v1::NetworkMode::try_from(wire.mode) {
            Ok(v1::NetworkMode::Unspecified | v1::NetworkMode::Routed) => Mode::Routed,
            Ok(v1::NetworkMode::Bridged) => Mode::Bridged,
            Err(_) => return Err(invalid("mode", wire.mode, "use routed or bridged")),
        };
        let floods = limits::floods(wire.flood_limit, mode)?;
        let rates = limits::network_rates(wire.policer.as_ref(), mtu)?;
        let tunnel = wire.tunnel.as_ref().map(TunnelRequest::read).transpose()?;
        let bridge_port = tunnel.as_ref().and_then(|tunnel| tunnel.kernel_bridge_port.clone());
        if let Some(port) = bridge_port.filter(|_| mode == Mode::Routed) {
            let remedy = "only a bridged network has stations; make it bridged, or leave it out";
            return Err(invalid(KERNEL_BRIDGE_PORT, port, remedy));
        }
        let external = false;
        let table = kernel::table(wire)?;
        let kernel = kernel::read(wire, mtu, table.is_some())?;
        Ok(Self {
            name,
            prefix,
            gateway,
            gateway_mac,
            mtu,
            ipv6,
            mode,
            floods,
            rates,
            tunnel,
            external,
            table,
            kernel,
        })
    }

    fn read_external(wire: &v1::Network, mtu: u16) -> Result<Self, Refusal> {
        let asked = v1::Network {
            name: wire.name.clone(),
            mtu: wire.mtu,
            external: true,
            mode: wire.mode,
            kernel_table: wire.kernel_table,
            kernel_vrf: wire.kernel_vrf.clone(),
            ..v1::Network::default()
        };
        let routed = wire.mode != i32::from(v1::NetworkMode::Bridged);
        if *wire != asked || !routed {
            let remedy = "an external network has a name, an mtu and a table only: its addresses are the kernel's";
            return Err(invalid("external", "true", remedy));
        }
        let NetworkPolicy { prefix, gateway, gateway_mac, ipv6, mode, floods, .. } =
            NetworkPolicy::external(NetworkIndex::default(), mtu);
        Ok(Self {
            name: wire.name.clone(),
            prefix,
            gateway,
            gateway_mac,
            mtu,
            ipv6,
            mode,
            floods,
            rates: Rates::default(),
            tunnel: None,
            external: true,
            table: kernel::table(wire)?,
            kernel: None,
        })
    }

    /// What the tables are to know of it. `find`: the slot of a network.
    pub fn policy(
        &self,
        index: NetworkIndex,
        find: impl Fn(&str) -> Option<NetworkIndex>,
    ) -> NetworkPolicy {
        let Self { prefix, gateway, gateway_mac, mtu, ipv6, mode, floods, external, .. } = *self;
        let tunnel = self.tunnel.as_ref().map(
            |TunnelRequest { vni, label, ipip, underlay, local, .. }| {
                // A network over itself: refused like any other that is not there.
                let underlay = find(underlay).unwrap_or(index);
                Tunnel { vni: *vni, label: *label, ipip: *ipip, underlay, local: *local }
            },
        );
        let punts = self.kernel.as_ref().map_or_else(PuntRates::default, KernelRequest::punts);
        NetworkPolicy {
            index,
            prefix,
            gateway,
            gateway_mac,
            mtu,
            ipv6,
            mode,
            floods,
            tunnel,
            external,
            punts,
        }
    }

    /// Writes it with everything filled in. `routes`: how many it has; `stations`: how many its trunks lead to.
    pub fn write(&self, routes: usize, stations: usize) -> v1::Network {
        let mode = match self.mode {
            Mode::Routed => v1::NetworkMode::Routed,
            Mode::Bridged => v1::NetworkMode::Bridged,
        };
        if self.external {
            return v1::Network {
                name: self.name.clone(),
                mtu: u32::from(self.mtu),
                mode: mode.into(),
                routes: u64::try_from(routes).unwrap_or(u64::MAX),
                external: true,
                kernel_table: kernel::table_number(self.table.as_ref()),
                kernel_vrf: kernel::vrf(self.table.as_ref()),
                kernel_bridge: None,
                ..v1::Network::default()
            };
        }
        v1::Network {
            name: self.name.clone(),
            ipv4: self.prefix.to_string(),
            gateway: self.gateway.to_string(),
            mtu: u32::from(self.mtu),
            gateway_mac: self.gateway_mac.to_string(),
            routes: u64::try_from(routes).unwrap_or(u64::MAX),
            ipv6: self.ipv6.map(|ipv6| ipv6.prefix.to_string()).unwrap_or_default(),
            gateway6: self.ipv6.map(|ipv6| ipv6.gateway.to_string()).unwrap_or_default(),
            mode: mode.into(),
            flood_limit: limits::flood_limit(self.floods, self.mode),
            policer: limits::policer(self.rates),
            stations: u64::try_from(stations).unwrap_or(u64::MAX),
            tunnel: self.tunnel.as_ref().map(TunnelRequest::write),
            external: false,
            kernel_port: self.kernel.as_ref().map(KernelRequest::write),
            kernel_table: kernel::table_number(self.table.as_ref()),
            kernel_vrf: kernel::vrf(self.table.as_ref()),
            kernel_bridge: None,
        }
    }
}

/// A port as asked for, checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// As it was asked for, with defaults filled in and addresses in their usual spelling.
    pub spec: v1::PortSpec,
    /// The pod's MAC address.
    pub mac: Mac,
    /// The pod's address.
    pub ipv4: Ipv4Addr,
    /// The pod's IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// Source addresses it may use besides.
    pub allowed: Vec<IpPrefix>,
    /// What it may send; `None`: what its network says.
    pub rates: Option<Rates>,
    /// Its socket.
    pub socket: PathBuf,
    /// Who listens.
    pub owner: SocketOwner,
    /// Queue pairs the pod is meant to use.
    pub pairs: usize,
    /// What is at its other end, if that is an interface of the kernel's.
    pub link: Option<LinkRequest>,
}

impl PortRequest {
    /// Reads a request; fills in what it leaves out.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn read(wire: v1::PortSpec) -> Result<Self, Refusal> {
        let plain = |c: char| c.is_ascii_graphic();
        if wire.id.is_empty() || wire.id.len() > MAX_ID || !wire.id.chars().all(plain) {
            let remedy = format!("use 1 to {MAX_ID} printable characters without blanks");
            return Err(invalid("id", wire.id, remedy));
        }
        let mac: Mac = wire
            .mac
            .parse()
            .map_err(|_| invalid("mac", &wire.mac, "use the form 02:00:00:00:00:01"))?;
        let ipv4: Ipv4Addr = wire
            .ipv4
            .parse()
            .map_err(|_| invalid("ipv4", &wire.ipv4, "use an IPv4 address without a length"))?;
        let ipv6: Option<Ipv6Addr> = match wire.ipv6.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                invalid("ipv6", text, "use an IPv6 address without a length, or leave it out")
            })?),
        };
        let allowed = wire.allowed_sources.iter().map(|text| {
            text.parse::<IpPrefix>().map_err(|e| invalid("allowed_sources", text, e.to_string()))
        });
        let allowed = allowed.collect::<Result<Vec<_>, _>>()?;
        let rates = wire.policer.as_ref().map(limits::rates).transpose()?;
        let owner = match wire.socket_owner() {
            v1::SocketOwner::Pod => SocketOwner::Pod,
            v1::SocketOwner::Vrouter | v1::SocketOwner::Unspecified => SocketOwner::Vrouter,
        };
        let queue_pairs = wire.queue_pairs.max(1);
        let pairs =
            usize::try_from(queue_pairs).ok().filter(|n| *n <= QUEUE_PAIRS).ok_or_else(|| {
                invalid("queue_pairs", queue_pairs, format!("use 1 to {QUEUE_PAIRS}"))
            })?;
        if let Some(bad) = wire.peer_cgroups.iter().find(|c| !c.starts_with('/') || c.len() < 2) {
            let remedy = "use absolute cgroup paths below the root, as in /proc/PID/cgroup";
            return Err(invalid("peer_cgroups", bad, remedy));
        }
        let link = LinkRequest::read(&wire)?;
        let socket = PathBuf::from(&wire.socket_path);
        let wire_owner = match owner {
            SocketOwner::Pod => v1::SocketOwner::Pod,
            SocketOwner::Vrouter => v1::SocketOwner::Vrouter,
        };
        let spec = v1::PortSpec {
            mac: mac.to_string(),
            ipv4: ipv4.to_string(),
            ipv6: ipv6.map(|address| address.to_string()).unwrap_or_default(),
            allowed_sources: allowed.iter().map(IpPrefix::to_string).collect(),
            // One that limits nothing says that the network's shall not hold.
            policer: rates.map(|rates| limits::policer(rates).unwrap_or_default()),
            socket_owner: wire_owner.into(),
            queue_pairs,
            kind: if link.is_some() { v1::PortKind::Kernel } else { v1::PortKind::VhostUser }
                .into(),
            ..wire
        };
        Ok(Self { spec, mac, ipv4, ipv6, allowed, rates, socket, owner, pairs, link })
    }

    /// Takes over from its network what it leaves to it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn join(&mut self, network: &NetworkRequest) -> Result<(), Refusal> {
        self.rates.get_or_insert(network.rates);
        if let Some(link) = &mut self.link {
            link.join(network)?;
            self.spec.mtu = u32::from(link.mtu);
        }
        Ok(())
    }

    /// What the tables are to know of it.
    pub fn policy(&self, index: PortIndex, network: NetworkIndex) -> PortPolicy {
        let Self { mac, ipv4, ipv6, .. } = *self;
        let (allowed, trunk) = (self.allowed.clone(), self.spec.trunk);
        let rates = self.rates.unwrap_or_default();
        let role = PortRole::Pod;
        let mtu = self.link.as_ref().map(|link| link.mtu);
        PortPolicy { index, network, role, mac, ipv4, ipv6, allowed, trunk, rates, mtu }
    }

    /// Whether another request is for the same port, whoever may connect and whoever polls it.
    pub fn same_port(&self, other: &Self) -> bool {
        let strip =
            |r: &Self| v1::PortSpec { peer_cgroups: Vec::new(), worker: None, ..r.spec.clone() };
        strip(self) == strip(other)
    }
}

#[cfg(test)]
mod tests;
