//! What each container of an opted-in pod gets, and what is left for the next.
//!
//! [`Node`] is the allocator's whole memory. [`Node::allocate`] either grants everything and remembers it, or changes
//! nothing and says in one line why. A pod keeps one NUMA node over all its containers, and what a container was given
//! stays with the pod until [`Node::release_pod`], so that a restarted container finds the same CPUs and sockets.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};

use crate::annotations::{CpusRequest, Link, NumaPolicy, Request, Scope, SocketOwner};
use crate::cgroup::is_within;
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::eal;
use crate::hugepages::HugepageLimit;
use crate::net::{Mac, Network};
use crate::paths::{PortId, SandboxId, Slot};
use crate::policy::{self, CpuMode, Held, Policy};
use crate::topology::Topology;

mod addresses;
mod error;
mod follow;
mod others;
mod place;
mod served;
mod shared;

pub use error::{AdoptError, Note, PlanError};
pub use others::{Other, Others};
pub use served::{Alignment, Placement, Vrouter};
pub use shared::SharedUpdate;

/// The machine, who has what of it, and what interfaces get when nobody says.
#[derive(Clone, Debug)]
pub struct Node {
    topology: Topology,
    reserved: CpuSet,
    /// By the name each is known by.
    vrouters: BTreeMap<String, Vrouter>,
    /// CPUs of all their workers.
    workers: CpuSet,
    defaults: Defaults,
    policy: Policy,
    pods: BTreeMap<SandboxId, PodRecord>,
    /// Empty unless other containers make way.
    others: Others,
}

/// What an interface gets when its annotation does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Descriptors of each virtqueue.
    pub queue_size: u16,
    /// Who listens.
    pub socket: SocketOwner,
}

/// CPU request of a container as the runtime hands it over (OCI `linux.resources.cpu`); 0 is unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuQuota {
    /// 1024 for each requested CPU.
    pub shares: u64,
    /// µs of CPU time in a period; negative is unlimited.
    pub quota: i64,
    /// µs; unset is the kernel's 100 000.
    pub period: u64,
}

/// One container that is about to be created.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its pod sandbox.
    pub sandbox: &'a SandboxId,
    /// Its pod's namespace, for people.
    pub namespace: &'a str,
    /// Its pod's name, for people.
    pub pod: &'a str,
    /// Its name in the pod; stays the same over restarts.
    pub container: &'a str,
    /// The runtime's id; new with each restart.
    pub container_id: &'a str,
    /// Its absolute cgroup, see [`crate::cgroup::container_cgroup`].
    pub cgroup: &'a str,
    /// What its annotations ask for.
    pub request: &'a Request,
    /// Its own CPU request.
    pub cpu: CpuQuota,
    /// CPUs and memory nodes that somebody else has chosen for it so far; empty where nobody has.
    pub chosen: Chosen<'a>,
    /// Its own hugepage limits. kubelet writes 0 for a size that is not requested.
    pub hugepages: &'a [HugepageLimit],
}

/// CPUs and memory nodes that somebody else has chosen for a container; empty where nobody has.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// `cpuset.cpus`.
    pub cpus: &'a CpuSet,
    /// `cpuset.mems`.
    pub mems: &'a NodeSet,
}

/// What one container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Which of the pod's directories is mounted into it.
    pub slot: Slot,
    /// CPUs; never empty.
    pub cpus: Cpus,
    /// NUMA nodes its memory comes from; never empty.
    pub mems: NodeSet,
    /// The pod's NUMA node; `None` with `numa.ringway.dev: off`.
    pub node: Option<NodeId>,
    /// Hugepage limits to set; those of the container itself stay as they are.
    pub hugepages: Vec<HugepageLimit>,
    /// Interfaces in the slot's directory, in the order asked for.
    pub interfaces: Vec<Interface>,
    /// Arguments for DPDK's EAL, joined by blanks; no word contains blanks or quotes.
    pub eal_args: String,
    /// Whether CPUs and memory are where the vRouter is.
    pub alignment: Alignment,
    /// Where all that is the pod's lies from now on, and who serves it.
    pub placement: Placement,
    /// What the pod's author should know.
    pub notes: Vec<Note>,
    /// Other containers that run on shared CPUs and have to be told their new ones.
    pub updates: Vec<SharedUpdate>,
}

/// CPUs of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// Nobody else is given these.
    Exclusive(CpuSet),
    /// Containers without exclusive CPUs share these.
    Shared(CpuSet),
    /// Chosen by somebody else: the runtime is not told, and nobody is moved off them.
    Followed {
        /// Theirs, or all online ones as long as nobody has chosen.
        cpus: CpuSet,
        /// As many as the container wants for itself, so that each of its threads can have one.
        whole: bool,
    },
}

/// One interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its socket is `<name>.sock`.
    pub name: String,
    /// The network it is in.
    pub network: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// The vRouter's address in that network.
    pub gateway: Ipv4Addr,
    /// The same in IPv6, if the network had it when the interface was made.
    pub ipv6: Option<Ipv6>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Queue pairs.
    pub queues: u32,
    /// Descriptors of each virtqueue.
    pub queue_size: u16,
    /// Greatest IP packet, bytes.
    pub mtu: u32,
    /// Who listens on its socket.
    pub socket: SocketOwner,
    /// By what its addresses are given back, where an address plugin gave them.
    pub lease: Option<String>,
    /// It is an interface of the kernel's: it has no socket.
    pub link: Option<Link>,
}

/// The IPv6 side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// The vRouter's address in that network.
    pub gateway: Ipv6Addr,
}

/// What a pod holds: what the plugin keeps on disk, and all it needs after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Its namespace, for people.
    pub namespace: String,
    /// Its name, for people.
    pub name: String,
    /// The NUMA node all its containers keep; `None` as long as none needs one.
    pub node: Option<NodeId>,
    /// By name.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Its interfaces.
    pub slots: BTreeMap<Slot, Vec<Interface>>,
    /// Who serves it, and how all that is its lies; `None` before its first container.
    pub placement: Option<Placement>,
    /// The absolute cgroup of all its containers and of nobody else, where that was known when what they share was made: their
    /// processes may use it.
    pub cgroup: Option<String>,
}

/// What a container holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRecord {
    /// The runtime's id of its latest start.
    pub id: String,
    /// Its absolute cgroup.
    pub cgroup: String,
    /// Which directory it has mounted.
    pub slot: Slot,
    /// Its CPUs.
    pub cpus: Cpus,
    /// Nodes whose CPUs it may have.
    pub nodes: NodeSet,
    /// Nodes its memory comes from.
    pub mems: NodeSet,
    /// Bytes of hugepage limits that its annotations asked for.
    pub hugepages: u64,
}

impl Cpus {
    /// The CPUs, whoever else has them.
    #[must_use]
    pub fn set(&self) -> &CpuSet {
        match self {
            Self::Exclusive(cpus) | Self::Shared(cpus) | Self::Followed { cpus, .. } => cpus,
        }
    }
}

impl Interface {
    /// Its addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv6 = self.ipv6.map(|ipv6| ipv6.address.into());
        core::iter::once(self.ip.into()).chain(ipv6)
    }
}

impl PodRecord {
    /// Absolute cgroups whose processes may use the sockets of `slot`.
    #[must_use]
    pub fn peer_cgroups(&self, slot: Slot) -> BTreeSet<String> {
        let own = self.cgroup.as_deref().filter(|_| slot == Slot::POD);
        let within = |cgroup: &str| own.is_some_and(|own| is_within(cgroup, own));
        let using = self.containers.values().filter(|container| container.slot == slot);
        let using = using.map(|container| &*container.cgroup).filter(|cgroup| !within(cgroup));
        own.into_iter().chain(using).map(str::to_owned).collect()
    }

    /// The vRouter's ports of the pod.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Interface)> {
        self.slots.iter().flat_map(|(slot, interfaces)| {
            interfaces.iter().map(|interface| (self.port_id(*slot, interface), interface))
        })
    }

    fn port_id(&self, slot: Slot, interface: &Interface) -> PortId {
        PortId { sandbox: self.sandbox.clone(), slot, interface: interface.name.clone() }
    }
}

impl Node {
    /// A machine on which nothing of ours runs yet. `reserved` CPUs are never given to pods.
    #[must_use]
    pub fn new(topology: Topology, reserved: CpuSet, defaults: Defaults, policy: Policy) -> Self {
        let (vrouters, workers) = (BTreeMap::new(), CpuSet::new());
        let (pods, others) = (BTreeMap::new(), Others::new());
        Self { topology, reserved, vrouters, workers, defaults, policy, pods, others }
    }

    /// Takes a fresh look at sysfs: hugepages and online CPUs change.
    pub fn set_topology(&mut self, topology: Topology) {
        self.topology = topology;
    }

    /// The machine as it was last seen.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What the pod holds.
    #[must_use]
    pub fn pod(&self, sandbox: &SandboxId) -> Option<&PodRecord> {
        self.pods.get(sandbox)
    }

    /// What all pods hold, by sandbox id.
    pub fn pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.values()
    }

    /// Decides what the container gets, and remembers it. A container that was here before keeps its CPUs as far as
    /// its new request allows, and its interfaces.
    ///
    /// # Errors
    /// [`PlanError`], naming what is wanted, what there is and the remedy; nothing has changed then.
    pub fn allocate(
        &mut self,
        ask: &Ask<'_>,
        networks: &[Network],
    ) -> Result<Allocation, PlanError> {
        let request = ask.request;
        let limits = place::Limits::new(&request.hugepages, ask.hugepages);
        let wanted = wanted_cpus(request.cpus, ask.cpu);
        let slot = self.slot_of(ask.sandbox, ask.container, request.scope);
        self.policy.check(ask.namespace, request, wanted.unwrap_or(0), self.held(ask, slot))?;
        let placed = match self.policy.cpu_mode {
            CpuMode::Own => self.place(ask, wanted, &limits)?,
            CpuMode::Follow | CpuMode::Off => self.follow(ask, wanted, &limits)?,
        };
        let interfaces = match self.pods.get(ask.sandbox).and_then(|pod| pod.slots.get(&slot)) {
            Some(interfaces) => interfaces.clone(),
            None => self.assign(&request.interfaces, networks)?,
        };
        let node = match request.numa {
            NumaPolicy::Off => None,
            _ => Some(placed.home),
        };
        let (name, vrouter, alignment) = self.serve(ask.sandbox, &placed);
        let mut notes = limits.notes();
        notes.extend(self.followed_note(&placed, &vrouter, alignment));
        notes.extend(self.fallback_note(ask, &placed, &vrouter, alignment));
        let allocation = Allocation {
            slot,
            node,
            hugepages: request.hugepages.clone(),
            eal_args: eal::args(Some(&placed.cpus), &interfaces),
            alignment,
            placement: Placement::default(),
            notes,
            cpus: placed.cpus.clone(),
            mems: placed.mems.clone(),
            interfaces: interfaces.clone(),
            updates: Vec::new(),
        };
        let pod = self.pods.entry(ask.sandbox.clone()).or_insert_with(|| PodRecord {
            sandbox: ask.sandbox.clone(),
            namespace: ask.namespace.to_owned(),
            name: ask.pod.to_owned(),
            node: None,
            containers: BTreeMap::new(),
            slots: BTreeMap::new(),
            placement: None,
            cgroup: None,
        });
        pod.node = pod.node.or(node);
        pod.slots.insert(slot, interfaces);
        pod.containers.insert(
            ask.container.to_owned(),
            ContainerRecord {
                id: ask.container_id.to_owned(),
                cgroup: ask.cgroup.to_owned(),
                slot,
                cpus: placed.cpus,
                nodes: placed.nodes,
                mems: placed.mems,
                hugepages: policy::annotated_hugepages(request),
            },
        );
        let updates = self.rebalance();
        let placement = self.settle(ask.sandbox, name);
        Ok(Allocation { updates, placement, ..allocation })
    }

    /// Gives a new pod the interfaces its containers will share, before any of them is created; `cgroup` as in its record.
    ///
    /// # Errors
    /// [`PlanError`]; nothing has changed then. A pod that is known is left as it is.
    pub fn prepare(
        &mut self,
        sandbox: &SandboxId,
        namespace: &str,
        name: &str,
        cgroup: Option<String>,
        request: &Request,
        networks: &[Network],
    ) -> Result<(), PlanError> {
        if self.pods.contains_key(sandbox) {
            return Ok(());
        }
        self.policy.check(namespace, request, 0, Held::default())?;
        let interfaces = self.assign(&request.interfaces, networks)?;
        let record = PodRecord {
            sandbox: sandbox.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: None,
            containers: BTreeMap::new(),
            slots: BTreeMap::from([(Slot::POD, interfaces)]),
            placement: None,
            cgroup,
        };
        self.pods.insert(sandbox.clone(), record);
        Ok(())
    }

    /// Whether the interfaces that `request` is about are there: [`Node::allocate`] then looks at no network.
    #[must_use]
    pub fn has_interfaces(&self, sandbox: &SandboxId, container: &str, request: &Request) -> bool {
        let slot = self.slot_of(sandbox, container, request.scope);
        self.pods.get(sandbox).is_some_and(|pod| pod.slots.contains_key(&slot))
    }

    /// By what the addresses of all interfaces are given back that an address plugin gave.
    #[must_use]
    pub fn leases(&self) -> BTreeSet<&str> {
        let interfaces = self.pods.values().flat_map(|pod| pod.slots.values().flatten());
        interfaces.filter_map(|interface| interface.lease.as_deref()).collect()
    }

    /// Takes back what a container was given whose creation failed, and returns the ports nobody uses any more. Not for
    /// a container that stopped: it may start again, and its pod keeps everything until [`Node::release_pod`].
    pub fn release_container(&mut self, sandbox: &SandboxId, container: &str) -> Vec<PortId> {
        let Some(pod) = self.pods.get_mut(sandbox) else { return Vec::new() };
        let Some(record) = pod.containers.remove(container) else { return Vec::new() };
        let mut unused = Vec::new();
        if pod.containers.values().all(|other| other.slot != record.slot)
            && let Some(interfaces) = pod.slots.remove(&record.slot)
        {
            unused =
                interfaces.iter().map(|interface| pod.port_id(record.slot, interface)).collect();
        }
        if pod.containers.is_empty() {
            self.pods.remove(sandbox);
        }
        unused
    }

    /// Takes back everything the pod was given and returns it. `None` when it held nothing.
    pub fn release_pod(&mut self, sandbox: &SandboxId) -> Option<PodRecord> {
        self.pods.remove(sandbox)
    }

    /// Makes a pod hold again what it held before a creation that could not be carried out, and returns what it holds now. Containers
    /// that made way for it come back with the next [`Node::rebalance`].
    pub fn put_back(
        &mut self,
        sandbox: &SandboxId,
        before: Option<PodRecord>,
    ) -> Option<PodRecord> {
        let failed = self.pods.remove(sandbox);
        if let Some(before) = before {
            self.pods.insert(sandbox.clone(), before);
        }
        failed
    }

    /// Takes over a pod from before a restart.
    ///
    /// # Errors
    /// [`AdoptError`] when its exclusive CPUs or its addresses belong to a pod that is already known; nothing has
    /// changed then.
    pub fn adopt(&mut self, record: PodRecord) -> Result<(), AdoptError> {
        let exclusive = self.exclusive_except(Some((&record.sandbox, None)));
        let mut own = CpuSet::new();
        for (name, container) in &record.containers {
            if let Cpus::Exclusive(cpus) = &container.cpus {
                let taken = cpus.intersection(&exclusive.union(&own));
                if !taken.is_empty() {
                    let container = name.clone();
                    return Err(AdoptError::Cpus { sandbox: record.sandbox, container, taken });
                }
                own.extend(cpus);
            }
        }
        let others = || self.pods.values().filter(|pod| pod.sandbox != record.sandbox);
        for (_, interface) in record.ports() {
            let others = || others().flat_map(PodRecord::ports).map(|(_, other)| other);
            let taken = |ip: &IpAddr| {
                let mut others = others().filter(|other| other.network == interface.network);
                others.any(|other| other.addresses().any(|other| other == *ip))
            };
            if let Some(ip) = interface.addresses().find(taken) {
                let (network, sandbox) = (interface.network.clone(), record.sandbox.clone());
                return Err(AdoptError::Address { network, ip, sandbox });
            }
        }
        self.pods.insert(record.sandbox.clone(), record);
        Ok(())
    }

    /// The container's slot: the pod's, the one it had before, or the lowest that is free.
    fn slot_of(&self, sandbox: &SandboxId, container: &str, scope: Scope) -> Slot {
        if scope == Scope::Pod {
            return Slot::POD;
        }
        let Some(pod) = self.pods.get(sandbox) else { return Slot(1) };
        if let Some(before) = pod.containers.get(container)
            && before.slot != Slot::POD
        {
            return before.slot;
        }
        let free = (1..=u16::MAX).map(Slot).find(|slot| !pod.slots.contains_key(slot));
        // 65 535 containers of one pod: sharing the last slot is all that is left.
        free.unwrap_or(Slot(u16::MAX))
    }

    /// What the pod holds beside the container that is being created.
    fn held(&self, ask: &Ask<'_>, slot: Slot) -> Held {
        let Some(pod) = self.pods.get(ask.sandbox) else { return Held::default() };
        let slots = pod.slots.iter().filter(|(other, _)| **other != slot);
        let mut held =
            Held { interfaces: slots.map(|(_, slot)| slot.len()).sum(), ..Held::default() };
        for (_, container) in pod.containers.iter().filter(|(name, _)| *name != ask.container) {
            if let Cpus::Exclusive(cpus) = &container.cpus {
                held.cpus += cpus.len();
            }
            held.hugepages = held.hugepages.saturating_add(container.hugepages);
        }
        held
    }
}

/// How many CPUs for itself; `None` is shared.
fn wanted_cpus(request: CpusRequest, cpu: CpuQuota) -> Option<usize> {
    match request {
        CpusRequest::Shared => None,
        CpusRequest::Exclusive(count) => usize::try_from(count.get()).ok(),
        CpusRequest::Default => {
            let period = if cpu.period == 0 { 100_000 } else { cpu.period };
            let count = cpu.shares / 1024;
            let whole = count >= 1 && cpu.shares.is_multiple_of(1024);
            let equal = u64::try_from(cpu.quota)
                .ok()
                .is_some_and(|quota| quota > 0 && count.checked_mul(period) == Some(quota));
            usize::try_from(count).ok().filter(|_| whole && equal)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
