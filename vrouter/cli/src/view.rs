//! What is shown, as documented by `--help`: serializable twins of the wire's messages, converted by hand and sorted.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use vrouter_api::v1;

pub(crate) mod explain;
mod latency;
mod networks;
pub(crate) mod pods;
mod rates;
pub(crate) mod uplinks;

pub(crate) use latency::Latency;
pub(crate) use networks::{KernelBridge, KernelPort, Network, NetworkMode, Policer, Tunnel};
pub(crate) use rates::Rates;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Info {
    pub(crate) version: String,
    pub(crate) dpdk_version: String,
    pub(crate) numa_node: Option<i32>,
    pub(crate) pid: u32,
    pub(crate) instance_id: String,
    pub(crate) instance: Option<u32>,
    pub(crate) nic_nodes: Vec<u32>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) worker_mode: WorkerMode,
}

/// What workers do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerMode {
    Adaptive,
    Poll,
    Sleep,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) cpu: u32,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Port {
    pub(crate) id: String,
    pub(crate) sandbox: Option<String>,
    pub(crate) slot: Option<u16>,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) interface: String,
    pub(crate) network: String,
    pub(crate) ip: String,
    pub(crate) ipv6: Option<String>,
    pub(crate) allowed_sources: Vec<String>,
    pub(crate) mac: String,
    pub(crate) trunk: bool,
    pub(crate) policer: Option<Policer>,
    pub(crate) mode: Mode,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) queue_pairs: u32,
    pub(crate) active_queue_pairs: u32,
    pub(crate) features: String,
    pub(crate) memory_regions: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) peer_pid: Option<u32>,
    pub(crate) worker: u32,
    pub(crate) workers: Vec<u32>,
    pub(crate) pinned_worker: Option<u32>,
    pub(crate) numa_node: Option<i32>,
    pub(crate) socket_path: String,
    pub(crate) peer_cgroups: Vec<String>,
}

/// Who listens on a port's socket, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Vrouter,
    Pod,
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Waiting,
    Connected,
    Up,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Stats {
    pub(crate) ports: Vec<PortStats>,
    pub(crate) workers: Vec<WorkerStats>,
    pub(crate) ticks_per_second: u64,
}

/// A worker as `ringway workers` shows it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct WorkerQueues {
    pub(crate) index: u32,
    pub(crate) cpu: u32,
    pub(crate) queues: u32,
    pub(crate) mode: WorkerMode,
}

/// One queue that a pod sends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct QueueStats {
    pub(crate) pair: u32,
    pub(crate) worker: u32,
    pub(crate) rx_packets: u64,
    pub(crate) busy_ticks: u64,
}

/// Whose a port is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Owner {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) interface: String,
    pub(crate) network: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PortStats {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) owner: Owner,
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) busy_ticks: u64,
    pub(crate) cycles_per_packet: f64,
    pub(crate) ring_full_ns: u64,
    pub(crate) numa_crossings: u64,
    pub(crate) burst_sizes: Vec<u64>,
    pub(crate) latency: Latency,
    pub(crate) queues: Vec<QueueStats>,
    pub(crate) punts: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WorkerStats {
    pub(crate) index: u32,
    pub(crate) cpu: u32,
    pub(crate) packets: u64,
    pub(crate) bursts: u64,
    pub(crate) sleeps: u64,
    pub(crate) busy_ns: u64,
    pub(crate) forwarded: u64,
    pub(crate) replied: u64,
    pub(crate) originated: u64,
    pub(crate) flooded: u64,
    pub(crate) flooded_into_tunnels: u64,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) busy_ticks: u64,
    pub(crate) cycles_per_packet: f64,
    pub(crate) burst_sizes: Vec<u64>,
    pub(crate) latency: Latency,
    pub(crate) queues: u32,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Drops {
    pub(crate) ports: Vec<PortDrops>,
    pub(crate) workers: Vec<WorkerDrops>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct PortDrops {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) owner: Owner,
    pub(crate) reason: String,
    pub(crate) packets: u64,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct WorkerDrops {
    pub(crate) worker: u32,
    pub(crate) reason: String,
    pub(crate) packets: u64,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    NetworkAdded { network: Box<Network> },
    NetworkRemoved { name: String },
    PortAdded { port: Box<Port> },
    PortChanged { port: Box<Port> },
    PortRemoved { id: String },
    Synced,
    PeerRefused { id: String, pid: u32, why: String },
    WorkersChanged { workers: Vec<Worker>, mode: WorkerMode },
    UplinkAdded { uplink: Box<uplinks::Uplink> },
    UplinkChanged { uplink: Box<uplinks::Uplink> },
    UplinkRemoved { name: String },
}

impl From<v1::QueueStats> for QueueStats {
    fn from(queue: v1::QueueStats) -> Self {
        let v1::QueueStats { pair, worker, rx_packets, busy_ticks } = queue;
        Self { pair, worker, rx_packets, busy_ticks }
    }
}

impl From<v1::WorkerMode> for WorkerMode {
    fn from(mode: v1::WorkerMode) -> Self {
        match mode {
            v1::WorkerMode::Adaptive => Self::Adaptive,
            v1::WorkerMode::Poll => Self::Poll,
            v1::WorkerMode::Sleep => Self::Sleep,
        }
    }
}

impl From<WorkerMode> for v1::WorkerMode {
    fn from(mode: WorkerMode) -> Self {
        match mode {
            WorkerMode::Adaptive => Self::Adaptive,
            WorkerMode::Poll => Self::Poll,
            WorkerMode::Sleep => Self::Sleep,
        }
    }
}

impl fmt::Display for WorkerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adaptive => "adaptive",
            Self::Poll => "poll",
            Self::Sleep => "sleep",
        })
    }
}

impl From<v1::Info> for Info {
    fn from(info: v1::Info) -> Self {
        let worker_mode = info.worker_mode().into();
        let workers = workers(&info.workers);
        Self {
            version: info.version,
            dpdk_version: info.dpdk_version,
            numa_node: (info.numa_node >= 0).then_some(info.numa_node),
            pid: info.pid,
            instance_id: info.instance_id,
            instance: info.instance,
            nic_nodes: info.nic_nodes,
            workers,
            worker_mode,
        }
    }
}

impl From<v1::Port> for Port {
    fn from(port: v1::Port) -> Self {
        let state = match port.state() {
            v1::PortState::Unspecified | v1::PortState::Waiting => State::Waiting,
            v1::PortState::Connected => State::Connected,
            v1::PortState::Up => State::Up,
        };
        let spec = port.spec.unwrap_or_default();
        let mode = match (spec.kind(), spec.socket_owner()) {
            (v1::PortKind::Kernel, _) => Mode::Kernel,
            (_, v1::SocketOwner::Unspecified | v1::SocketOwner::Vrouter) => Mode::Vrouter,
            (_, v1::SocketOwner::Pod) => Mode::Pod,
        };
        let (sandbox, slot) = split_id(&spec.id);
        Self {
            sandbox,
            slot,
            id: spec.id,
            namespace: spec.pod_namespace,
            pod: spec.pod_name,
            interface: spec.interface,
            network: spec.network,
            ip: spec.ipv4,
            ipv6: filled(spec.ipv6),
            allowed_sources: spec.allowed_sources,
            mac: spec.mac,
            trunk: spec.trunk,
            policer: port.policer.map(Policer::from),
            mode,
            state,
            reason: filled(port.reason),
            // 0 in a request stands for 1.
            queue_pairs: spec.queue_pairs.max(1),
            active_queue_pairs: port.active_queue_pairs,
            features: format!("{:#x}", port.features),
            memory_regions: port.memory_regions,
            memory_bytes: port.memory_bytes,
            peer_pid: (port.peer_pid != 0).then_some(port.peer_pid),
            worker: port.worker,
            workers: port.workers,
            pinned_worker: spec.worker,
            numa_node: (port.numa_node >= 0).then_some(port.numa_node),
            socket_path: spec.socket_path,
            peer_cgroups: spec.peer_cgroups,
        }
    }
}

impl Event {
    /// `None` for an event of a newer vRouter.
    pub(crate) fn from_wire(event: v1::Event) -> Option<Self> {
        use v1::event::Event as Wire;
        Some(match event.event? {
            Wire::NetworkAdded(network) => Self::NetworkAdded { network: Box::new(network.into()) },
            Wire::NetworkRemoved(name) => Self::NetworkRemoved { name },
            Wire::PortAdded(port) => Self::PortAdded { port: Box::new(port.into()) },
            Wire::PortChanged(port) => Self::PortChanged { port: Box::new(port.into()) },
            Wire::PortRemoved(id) => Self::PortRemoved { id },
            Wire::Synced(v1::Synced {}) => Self::Synced,
            Wire::PeerRefused(refused) => {
                Self::PeerRefused { id: refused.port, pid: refused.pid, why: refused.why }
            }
            Wire::UplinkAdded(uplink) => {
                Self::UplinkAdded { uplink: Box::new(uplinks::Uplink::new(uplink, None)) }
            }
            Wire::UplinkChanged(uplink) => {
                Self::UplinkChanged { uplink: Box::new(uplinks::Uplink::new(uplink, None)) }
            }
            Wire::UplinkRemoved(name) => Self::UplinkRemoved { name },
            Wire::WorkersChanged(changed) => {
                let mode = changed.mode().into();
                Self::WorkersChanged { workers: workers(&changed.workers), mode }
            }
        })
    }
}

impl Stats {
    /// Counters, with the owners of their ports from `ports`.
    pub(crate) fn new(stats: v1::Stats, ports: &[Port]) -> Self {
        let owner = |id: &str| {
            let port = ports.iter().find(|port| port.id == id);
            port.map_or_else(Owner::default, |port| Owner {
                namespace: port.namespace.clone(),
                pod: port.pod.clone(),
                interface: port.interface.clone(),
                network: port.network.clone(),
            })
        };
        let port = |owner: Owner, port: v1::PortStats| PortStats {
            owner,
            id: port.id,
            rx_packets: port.rx_packets,
            rx_bytes: port.rx_bytes,
            tx_packets: port.tx_packets,
            tx_bytes: port.tx_bytes,
            drops: by_reason(port.drops),
            busy_ticks: port.busy_ticks,
            cycles_per_packet: port.cycles_per_packet,
            ring_full_ns: port.ring_full_ns,
            numa_crossings: port.numa_crossings,
            burst_sizes: port.burst_sizes,
            latency: Latency(port.latency),
            queues: port.queues.into_iter().map(QueueStats::from).collect(),
            punts: port.punts.into_iter().map(|it| (it.name, it.value)).collect(),
        };
        let worker = |worker: v1::WorkerStats| WorkerStats {
            index: worker.index,
            cpu: worker.cpu,
            packets: worker.packets,
            bursts: worker.bursts,
            sleeps: worker.sleeps,
            busy_ns: worker.busy_ns,
            forwarded: worker.forwarded,
            replied: worker.replied,
            originated: worker.originated,
            flooded: worker.flooded,
            flooded_into_tunnels: worker.flooded_into_tunnels,
            drops: by_reason(worker.drops),
            busy_ticks: worker.busy_ticks,
            cycles_per_packet: worker.cycles_per_packet,
            burst_sizes: worker.burst_sizes,
            latency: Latency(worker.latency),
            queues: worker.queues,
        };
        let kernel = |kernel: v1::KernelPortStats| {
            let (interface, network) = (kernel.name, kernel.network);
            Some(port(Owner { interface, network, ..Owner::default() }, kernel.port?))
        };
        let pods = stats.ports.into_iter().map(|it| port(owner(&it.id), it));
        let mut ports: Vec<_> =
            pods.chain(stats.kernel_ports.into_iter().filter_map(kernel)).collect();
        ports.sort_by(|a, b| (&a.owner, &a.id).cmp(&(&b.owner, &b.id)));
        let mut workers: Vec<_> = stats.workers.into_iter().map(worker).collect();
        workers.sort_by_key(|worker| worker.index);
        Self { ports, workers, ticks_per_second: stats.ticks_per_second }
    }

    pub(crate) fn workers(&self, mode: WorkerMode) -> Vec<WorkerQueues> {
        let queues = |worker: &WorkerStats| WorkerQueues {
            index: worker.index,
            cpu: worker.cpu,
            queues: worker.queues,
            mode,
        };
        self.workers.iter().map(queues).collect()
    }

    pub(crate) fn drops(&self) -> Drops {
        let of_port = |port: &PortStats| {
            let drops = port.drops.clone().into_iter();
            let (id, owner) = (port.id.clone(), port.owner.clone());
            drops.map(move |(reason, packets)| PortDrops {
                id: id.clone(),
                owner: owner.clone(),
                reason,
                packets,
            })
        };
        let of_worker = |worker: &WorkerStats| {
            let (drops, worker) = (worker.drops.clone().into_iter(), worker.index);
            drops.map(move |(reason, packets)| WorkerDrops { worker, reason, packets })
        };
        Drops {
            ports: self.ports.iter().flat_map(of_port).collect(),
            workers: self.workers.iter().flat_map(of_worker).collect(),
        }
    }
}

fn workers(wire: &[v1::Worker]) -> Vec<Worker> {
    let mut workers: Vec<_> =
        wire.iter().map(|worker| Worker { index: worker.index, cpu: worker.cpu }).collect();
    workers.sort_by_key(|worker| worker.index);
    workers
}

pub(crate) fn ports(ports: Vec<v1::Port>) -> Vec<Port> {
    let mut ports: Vec<Port> = ports.into_iter().map(Port::from).collect();
    ports.sort_by(|a, b| {
        (&a.namespace, &a.pod, &a.interface, &a.id).cmp(&(
            &b.namespace,
            &b.pod,
            &b.interface,
            &b.id,
        ))
    });
    ports
}

pub(crate) fn networks(networks: Vec<v1::Network>) -> Vec<Network> {
    let mut networks: Vec<Network> = networks.into_iter().map(Network::from).collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    networks
}

/// The same reason twice is added up.
fn by_reason(drops: Vec<v1::DropCount>) -> BTreeMap<String, u64> {
    drops.into_iter().fold(BTreeMap::new(), |mut sum, drop| {
        let packets: &mut u64 = sum.entry(drop.reason).or_default();
        *packets = packets.saturating_add(drop.packets);
        sum
    })
}

/// `<sandbox id>/<slot>/<interface>`, if it is of that form.
fn split_id(id: &str) -> (Option<String>, Option<u16>) {
    let mut parts = id.split('/');
    match (
        parts.next(),
        parts.next().and_then(|slot| slot.parse().ok()),
        parts.next(),
        parts.next(),
    ) {
        (Some(sandbox), Some(slot), Some(_), None) => (Some(sandbox.to_owned()), Some(slot)),
        _ => (None, None),
    }
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
