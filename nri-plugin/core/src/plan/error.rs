//! Why a container cannot have what it asks for, in one line that a pod's author understands.

use core::net::{IpAddr, Ipv6Addr};
use std::fmt;

use crate::annotations::{CPUS, INTERFACES, NETWORK, NUMA};
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::hugepages::{PageSize, show_bytes};
use crate::net::{AnyPrefix, Mac};
use crate::paths::SandboxId;
use crate::policy::PolicyError;

/// Why a container cannot have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The administrator does not allow it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Somebody else chose CPUs that the annotation rules out.
    #[error(
        "annotation {NUMA}: NUMA node {wanted} wanted, but the node's CPU manager has chosen CPUs {cpus} on node {nodes}; have it place the pod there, or set {NUMA} to preferred"
    )]
    ChosenElsewhere {
        /// Where they had to be.
        wanted: NodeId,
        /// As chosen.
        cpus: CpuSet,
        /// Where those are.
        nodes: NodeSet,
    },
    /// No such network.
    #[error(
        "network {network:?} does not exist on this node; known networks: {}; correct annotation {NETWORK} or create it with `ringway networks add {network}`",
        list(known)
    )]
    UnknownNetwork {
        /// As asked for.
        network: String,
        /// All the vRouter has.
        known: Vec<String>,
    },
    /// What an address plugin gave cannot be used.
    #[error(
        "the address plugin of network {network} gave {ip}, which is no free address of it ({prefix}, without network, broadcast and gateway address); correct the plugin's settings"
    )]
    Leased {
        /// The network.
        network: String,
        /// Its prefix.
        prefix: AnyPrefix,
        /// As the plugin gave it.
        ip: IpAddr,
    },
    /// More exclusive CPUs than are left.
    #[error(
        "no CPUs left: {wanted} exclusive wanted, {counts}; lower {CPUS}, set it to shared, or free reserved CPUs in nri.toml"
    )]
    NotEnoughCpus {
        /// Exclusive CPUs asked for.
        wanted: usize,
        /// What there is.
        counts: CpuCounts,
    },
    /// Nothing is left to share.
    #[error(
        "no CPUs left: {counts}, so nothing is left to share; remove a pod with exclusive CPUs, lower its {CPUS}, or free reserved CPUs in nri.toml"
    )]
    NoSharedCpus {
        /// What there is.
        counts: CpuCounts,
    },
    /// Pods on shared CPUs would have none.
    #[error(
        "no CPUs left: {wanted} exclusive wanted, {counts}, but the last one is shared by running pods (first: {first}); lower {CPUS} or set it to shared"
    )]
    SharedWouldStarve {
        /// Exclusive CPUs asked for.
        wanted: usize,
        /// What there is.
        counts: CpuCounts,
        /// `namespace/pod` of one of them.
        first: String,
    },
    /// The annotation names a node that has no CPUs or is not there.
    #[error("annotation {NUMA}: NUMA node {node} has no online CPUs; nodes with CPUs: {with_cpus}")]
    NoSuchNode {
        /// As asked for.
        node: NodeId,
        /// Those that can be named.
        with_cpus: NodeSet,
    },
    /// One container of the pod is elsewhere.
    #[error(
        "NUMA node {wanted} wanted, but the pod's other containers are on node {home} and a pod keeps one node; set {NUMA} for the whole pod"
    )]
    PodElsewhere {
        /// Node asked for.
        wanted: NodeId,
        /// Node of the pod.
        home: NodeId,
    },
    /// More hugepages than there are.
    #[error(
        "{} of {size} hugepages wanted, but NUMA node {nodes} has {} in total; lower the limit or reserve more: echo N > /sys/devices/system/node/node{first}/hugepages/hugepages-{}kB/nr_hugepages",
        show_bytes(*wanted), show_bytes(*total), size.bytes() / 1024
    )]
    NotEnoughHugepages {
        /// Where.
        nodes: NodeSet,
        /// The first of them, for the remedy.
        first: NodeId,
        /// Which pages.
        size: PageSize,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes reserved there, used or not.
        total: u64,
    },
    /// No hugepages at all.
    #[error(
        "no hugepages are reserved on NUMA node {nodes}, and DPDK needs some; reserve them, e.g. `sysctl -w vm.nr_hugepages=1024`"
    )]
    NoHugepages {
        /// Where.
        nodes: NodeSet,
    },
    /// The address is not in the network.
    #[error(
        "annotation {INTERFACES}: address {ip} is not in network {network} ({prefix}); choose one inside or leave ip out"
    )]
    AddressOutside {
        /// The network.
        network: String,
        /// Its prefix.
        prefix: AnyPrefix,
        /// As asked for.
        ip: IpAddr,
    },
    /// An IPv6 address in a network that has none.
    #[error(
        "annotation {INTERFACES}: address {ip} is IPv6, which network {network} has not; leave it out or use a network with an IPv6 prefix"
    )]
    NoIpv6 {
        /// The network.
        network: String,
        /// As asked for.
        ip: Ipv6Addr,
    },
    /// The address is the network's, the broadcast or the gateway's.
    #[error(
        "annotation {INTERFACES}: address {ip} is the network, broadcast or gateway address of network {network}; choose another or leave ip out"
    )]
    AddressReserved {
        /// The network.
        network: String,
        /// As asked for.
        ip: IpAddr,
    },
    /// Another pod has the address.
    #[error(
        "annotation {INTERFACES}: address {ip} of network {network} is in use; choose another or leave ip out"
    )]
    AddressInUse {
        /// The network.
        network: String,
        /// As asked for.
        ip: IpAddr,
    },
    /// Another pod, or the gateway, has the Ethernet address.
    #[error(
        "annotation {INTERFACES}: MAC address {mac} is in use in network {network}; choose another or leave mac out"
    )]
    MacInUse {
        /// The network.
        network: String,
        /// As asked for.
        mac: Mac,
    },
    /// Every address of the network is taken.
    #[error(
        "network {network} ({prefix}) has no free address; remove pods or use a network with a shorter prefix"
    )]
    NetworkFull {
        /// The network.
        network: String,
        /// Its prefix.
        prefix: AnyPrefix,
    },
    /// Packets would not fit the network.
    #[error(
        "annotation {INTERFACES}: mtu {mtu} is greater than the {network_mtu} of network {network}; lower it or leave mtu out"
    )]
    MtuTooGreat {
        /// The network.
        network: String,
        /// As asked for.
        mtu: u32,
        /// The network's.
        network_mtu: u32,
    },
}

/// Where the CPUs of some NUMA nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuCounts {
    /// Which nodes.
    pub nodes: NodeSet,
    /// Online CPUs there.
    pub online: usize,
    /// Of those, set aside by configuration.
    pub reserved: usize,
    /// Of the rest, the vRouter's workers'.
    pub workers: usize,
    /// Of the rest, exclusive to other containers.
    pub exclusive: usize,
    /// Of the rest, to be had.
    pub free: usize,
}

impl fmt::Display for CpuCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, online, reserved, workers, exclusive, free } = self;
        write!(
            f,
            "NUMA node {nodes} has {free} free of {online} online ({reserved} reserved, {workers} of the vRouter, {exclusive} exclusive to pods)"
        )
    }
}

/// Something that works but that the pod's author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The container's own hugepage limits are all zero: kubelet writes that when none are requested.
    HugepageLimitsZero,
    /// The CPUs that somebody else chose are not where the vRouter is.
    ChosenUnaligned {
        /// As chosen.
        cpus: CpuSet,
        /// Where those are.
        nodes: NodeSet,
        /// The vRouter's node; `None` when it spans all.
        vrouter: Option<NodeId>,
    },
    /// No node could have all of it.
    Unaligned {
        /// Nodes of its CPUs.
        cpus: NodeSet,
        /// Nodes of its memory.
        memory: NodeSet,
        /// The vRouter's node; `None` when it spans all.
        vrouter: Option<NodeId>,
        /// Nodes of the vRouter's NICs.
        nics: NodeSet,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HugepageLimitsZero => f.write_str(
                "the container's hugepage limits are all 0, so DPDK in it will find no memory; request hugepages-2Mi in the pod or set hugepages-2mi.ringway.dev",
            ),
            Self::ChosenUnaligned { cpus, nodes, vrouter } => {
                write!(f, "CPUs {cpus}, which the node's CPU manager has chosen, are on NUMA node {nodes}")?;
                match vrouter {
                    Some(vrouter) => write!(f, ", the vRouter is on {vrouter}: packets cross between nodes"),
                    None => f.write_str(": packets cross between nodes"),
                }
            }
            Self::Unaligned { cpus, memory, vrouter, nics } => {
                write!(f, "not all on one NUMA node: CPUs on node {cpus}, memory on {memory}")?;
                if let Some(vrouter) = vrouter {
                    write!(f, ", the vRouter on {vrouter}")?;
                }
                if !nics.is_empty() {
                    write!(f, ", its NICs on {nics}")?;
                }
                write!(f, ": packets cross between nodes; {NUMA}: strict would have refused it")
            }
        }
    }
}

/// A pod's record contradicts what is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Two containers hold the same CPUs.
    #[error(
        "pod {sandbox}: exclusive CPUs {taken} of its container {container} belong to another container too; recreate the pod"
    )]
    Cpus {
        /// The pod that was to be adopted.
        sandbox: SandboxId,
        /// Its container.
        container: String,
        /// CPUs with two owners.
        taken: CpuSet,
    },
    /// Two pods hold the same address.
    #[error(
        "pod {sandbox}: its address {ip} in network {network} belongs to another pod too; recreate the pod"
    )]
    Address {
        /// The pod that was to be adopted.
        sandbox: SandboxId,
        /// The network.
        network: String,
        /// The address with two owners.
        ip: IpAddr,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
