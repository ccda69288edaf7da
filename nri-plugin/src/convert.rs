//! Between the wire (NRI, the vRouter's API, the configuration) and `nri-plugin-core`. By hand, without IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nri_plugin_core::annotations::{INTERFACES, NETWORK, SocketOwner};
use nri_plugin_core::cgroup;
use nri_plugin_core::cpuset::{CpuId, CpuSet, ListError, NodeId, NodeSet};
use nri_plugin_core::hugepages::HugepageLimit;
use nri_plugin_core::net::{AddressError, Network, Network6};
use nri_plugin_core::paths::{self, MOUNT_POINT, PathError, PortId};
use nri_plugin_core::plan::{
    Allocation, CpuQuota, Cpus, Defaults, Interface, PodRecord, SharedUpdate, Vrouter,
};
use nri_plugin_core::policy::{CpuMode, Patterns, Policy};
use nri_plugin_core::recovery::{Port, PortLink};
use nri_plugin_core::routes::Change;
use nri_plugin_proto::adjust::Duplicate;
use nri_plugin_proto::{Adjustment, AdjustmentBuilder, api};
use ringway_config::NriConfig;
use vrouter_api::v1;

use crate::describe::interfaces_file_in_container;

/// Environment variable with the path of `interfaces.json`.
const ENV_INTERFACES: &str = "RINGWAY_INTERFACES";
/// Environment variable with the arguments for DPDK's EAL.
const ENV_EAL_ARGS: &str = "RINGWAY_EAL_ARGS";

/// The vRouter says something that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// An address or a prefix.
    #[error("the vRouter's network {network}: {source}")]
    Network {
        /// Its name.
        network: String,
        /// What is wrong.
        source: AddressError,
    },
    /// The gateway.
    #[error("the vRouter's network {network}: {gateway:?} is no IPv4 address")]
    Gateway {
        /// Its name.
        network: String,
        /// As it was.
        gateway: String,
    },
}

/// Whether any container of the pod may be ours: all other pods are left alone without a further look.
pub fn pod_opted_in(pod: &api::PodSandbox) -> bool {
    let names = |key: &str| {
        [NETWORK, INTERFACES].iter().any(|ours| {
            key.strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    pod.annotations.keys().any(|key| names(key))
}

/// What an interface gets when its annotation does not say.
pub fn defaults(config: &NriConfig) -> Defaults {
    Defaults {
        queue_size: config.defaults.queue_size,
        socket: match config.defaults.socket {
            ringway_config::SocketOwner::Vrouter => SocketOwner::Vrouter,
            ringway_config::SocketOwner::Pod => SocketOwner::Pod,
        },
    }
}

/// What the administrator lets pods have.
pub fn policy(config: &NriConfig) -> Policy {
    let limits = &config.limits;
    let networks = config.networks.iter();
    Policy {
        namespaces: Patterns::new(limits.namespaces.clone()),
        networks: networks
            .map(|(name, network)| (name.clone(), Patterns::new(network.namespaces.clone())))
            .collect(),
        unlisted_networks: limits.unlisted_networks,
        // u32 fits usize on every machine with NUMA; a smaller one would only allow less.
        interfaces: usize::try_from(limits.interfaces).unwrap_or(usize::MAX),
        queues: limits.queues,
        cpus: usize::try_from(limits.cpus).unwrap_or(usize::MAX),
        hugepages: limits.hugepage_bytes(),
        mac: limits.mac,
        ip: limits.ip,
        cpu_mode: match config.cpus.mode {
            ringway_config::CpuMode::Own => CpuMode::Own,
            ringway_config::CpuMode::Follow => CpuMode::Follow,
            ringway_config::CpuMode::Off => CpuMode::Off,
        },
    }
}

/// CPUs and memory nodes that somebody else has chosen for a container. A list that cannot be read counts as none.
pub fn chosen(container: &api::Container) -> (CpuSet, NodeSet) {
    resources(container).map(chosen_in).unwrap_or_default()
}

/// The same of resources that a container is about to get.
pub fn chosen_in(resources: &api::LinuxResources) -> (CpuSet, NodeSet) {
    let Some(cpu) = &resources.cpu else { return Default::default() };
    (cpu.cpus.parse().unwrap_or_default(), cpu.mems.parse().unwrap_or_default())
}

/// CPUs no pod is given.
pub fn reserved(config: &NriConfig) -> Result<CpuSet, ListError> {
    match config.cpus.reserved.trim() {
        "" => Ok(CpuSet::new()),
        list => list.parse(),
    }
}

/// A container's own CPU request.
pub fn cpu_quota(container: &api::Container) -> CpuQuota {
    let Some(cpu) = resources(container).and_then(|resources| resources.cpu.as_ref()) else {
        return CpuQuota::default();
    };
    CpuQuota {
        shares: cpu.shares.map_or(0, |shares| shares.value),
        quota: cpu.quota.map_or(0, |quota| quota.value),
        period: cpu.period.map_or(0, |period| period.value),
    }
}

/// A container's own hugepage limits; a size no Linux has is left out.
pub fn hugepage_limits(container: &api::Container) -> Vec<HugepageLimit> {
    let limits = resources(container).map_or(&[][..], |resources| &resources.hugepage_limits);
    let known = |limit: &api::HugepageLimit| {
        Some(HugepageLimit { size: limit.page_size.parse().ok()?, limit: limit.limit })
    };
    limits.iter().filter_map(known).collect()
}

/// The pod's own cgroup, if it has one that is nobody else's.
pub fn pod_cgroup(pod: &api::PodSandbox) -> Option<String> {
    cgroup::pod_cgroup(&pod.linux.as_ref()?.cgroup_parent, &pod.uid)
}

/// `linux.cgroups_path` of a container.
pub fn cgroups_path(container: &api::Container) -> &str {
    container.linux.as_ref().map_or("", |linux| &linux.cgroups_path)
}

fn resources(container: &api::Container) -> Option<&api::LinuxResources> {
    container.linux.as_ref()?.resources.as_ref()
}

/// Where the vRouter runs.
pub fn vrouter(info: &v1::Info) -> Vrouter {
    let mut workers = CpuSet::new();
    for worker in &info.workers {
        workers.insert(CpuId(worker.cpu));
    }
    // -1: it spans all.
    let node = u32::try_from(info.numa_node).ok().map(NodeId);
    let nics = info.nic_nodes.iter().copied().map(NodeId).collect();
    Vrouter { workers, node, nics, away: false }
}

/// A vRouter's ends of its networks' tunnels, as far as they speak VXLAN.
pub fn ends(networks: &[v1::Network]) -> BTreeMap<String, IpAddr> {
    let end = |network: &v1::Network| {
        let tunnel = network.tunnel.as_ref().filter(|tunnel| !tunnel.no_vni)?;
        let local = tunnel.local.parse().ok()?;
        Some((network.name.clone(), local))
    };
    networks.iter().filter_map(end).collect()
}

/// The way to a single address through a tunnel, if a route is one; those that the vRouter finds in the kernel's tables are not
/// ours.
pub fn way_to_host(route: &v1::Route) -> Option<(IpAddr, IpAddr)> {
    let (address, length) = route.prefix.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { "32" } else { "128" };
    let ours = route.kind() == v1::RouteKind::Vxlan && !route.mirrored && length == whole;
    ours.then(|| Some((address, route.via.parse().ok()?))).flatten()
}

/// The request for a change of routes.
pub fn route_change(change: &Change) -> v1::ChangeRoutesRequest {
    let prefix = |address: &IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("{address}/{length}")
    };
    let route = |(address, end): &(IpAddr, IpAddr)| v1::Route {
        prefix: prefix(address),
        kind: v1::RouteKind::Vxlan.into(),
        via: end.to_string(),
        ..Default::default()
    };
    v1::ChangeRoutesRequest {
        network: change.network.clone(),
        remove: change.remove.iter().map(prefix).collect(),
        set: change.set.iter().map(route).collect(),
        only_new: false,
    }
}

/// The vRouter's networks and what its ports take of them.
pub fn networks(list: &[v1::Network], ports: &[v1::Port]) -> Result<Vec<Network>, WireError> {
    // Pods have no addresses in an external one.
    let inside = list.iter().filter(|network| !network.external);
    inside.map(|network| self::network(network, ports)).collect()
}

fn network(wire: &v1::Network, ports: &[v1::Port]) -> Result<Network, WireError> {
    let bad = |source| WireError::Network { network: wire.name.clone(), source };
    let specs = || {
        ports.iter().filter_map(|port| port.spec.as_ref()).filter(|spec| spec.network == wire.name)
    };
    let gateway_mac = match wire.gateway_mac.as_str() {
        "" => None,
        mac => Some(mac.parse().map_err(bad)?),
    };
    Ok(Network {
        name: wire.name.clone(),
        prefix: wire.ipv4.parse().map_err(bad)?,
        gateway: wire.gateway.parse().map_err(|_| WireError::Gateway {
            network: wire.name.clone(),
            gateway: wire.gateway.clone(),
        })?,
        gateway_mac,
        mtu: wire.mtu,
        used_addresses: specs().filter_map(|spec| spec.ipv4.parse().ok()).collect(),
        used_macs: specs().filter_map(|spec| spec.mac.parse().ok()).collect(),
        ipv6: match wire.ipv6.as_str() {
            "" => None,
            prefix => Some(Network6 {
                prefix: prefix.parse().map_err(bad)?,
                gateway: wire
                    .gateway6
                    .parse()
                    .map_err(|_| bad(AddressError::Ipv6(wire.gateway6.clone())))?,
                used_addresses: specs().filter_map(|spec| spec.ipv6.parse().ok()).collect(),
            }),
        },
    })
}

/// A port of the vRouter that is ours: its id starts with a sandbox id as every container runtime makes them, 64
/// hexadecimal digits, or came by the node API. `None` for any other: an operator's ports are not touched.
pub fn own_port(wire: v1::Port) -> Option<Port> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let id = PortId::parse(&wire.spec.as_ref()?.id)?;
    let sandbox = id.sandbox.as_str();
    let is_ours = sandbox.len() == 64 && sandbox.chars().all(hex);
    if is_ours || nri_plugin_api::is_ours_alone(sandbox) { port(wire) } else { None }
}

fn port(wire: v1::Port) -> Option<Port> {
    let spec = wire.spec?;
    let socket = match spec.socket_owner() {
        v1::SocketOwner::Pod => SocketOwner::Pod,
        v1::SocketOwner::Vrouter | v1::SocketOwner::Unspecified => SocketOwner::Vrouter,
    };
    Some(Port {
        mac: spec.mac.parse().ok()?,
        ip: spec.ipv4.parse().ok()?,
        ipv6: match spec.ipv6.as_str() {
            "" => None,
            address => Some(address.parse().ok()?),
        },
        link: (spec.kind() == v1::PortKind::Kernel).then(|| PortLink {
            netns: spec.netns.clone(),
            name: spec.link.clone(),
            mtu: spec.mtu,
        }),
        socket_path: spec.socket_path.into(),
        socket,
        queues: spec.queue_pairs.max(1),
        peer_cgroups: spec.peer_cgroups.into_iter().collect(),
        id: spec.id,
        network: spec.network,
    })
}

/// The port that serves an interface of a pod.
pub fn wanted_port(
    run_dir: &Path,
    record: &PodRecord,
    id: &PortId,
    interface: &Interface,
) -> Result<Port, PathError> {
    Ok(Port {
        id: id.to_string(),
        network: interface.network.clone(),
        mac: interface.mac,
        ip: interface.ip,
        ipv6: interface.ipv6.map(|ipv6| ipv6.address),
        socket_path: match interface.link {
            Some(_) => PathBuf::new(),
            None => paths::socket(run_dir, id)?,
        },
        socket: interface.socket,
        queues: interface.queues,
        peer_cgroups: record.peer_cgroups(id.slot),
        link: PortLink::of(interface),
    })
}

/// The request that makes a port.
pub fn port_spec(port: Port, namespace: &str, pod: &str) -> v1::PortSpec {
    let owner = match port.socket {
        SocketOwner::Vrouter => v1::SocketOwner::Vrouter,
        SocketOwner::Pod => v1::SocketOwner::Pod,
    };
    let kind = match port.link {
        Some(_) => v1::PortKind::Kernel,
        None => v1::PortKind::VhostUser,
    };
    let (netns, link, mtu) = match port.link {
        Some(PortLink { netns, name, mtu }) => (netns, name, mtu),
        None => Default::default(),
    };
    v1::PortSpec {
        kind: kind.into(),
        netns,
        link,
        mtu,
        interface: port.id.rsplit('/').next().unwrap_or_default().to_owned(),
        id: port.id,
        network: port.network,
        mac: port.mac.to_string(),
        ipv4: port.ip.to_string(),
        ipv6: port.ipv6.map(|address| address.to_string()).unwrap_or_default(),
        // A run_dir that is not text is refused when the configuration is read.
        socket_path: port.socket_path.to_string_lossy().into_owned(),
        socket_owner: owner.into(),
        queue_pairs: port.queues,
        peer_cgroups: port.peer_cgroups.into_iter().collect(),
        pod_namespace: namespace.to_owned(),
        pod_name: pod.to_owned(),
        ..Default::default()
    }
}

/// Whether the pod makes sockets in the directory of these interfaces.
pub fn pod_listens(interfaces: &[Interface]) -> bool {
    interfaces.iter().any(|interface| interface.socket == SocketOwner::Pod)
}

/// Path of the pod's own network namespace; `None` if it is the node's.
pub fn netns(pod: &api::PodSandbox) -> Option<&str> {
    let namespaces = &pod.linux.as_ref()?.namespaces;
    let network = namespaces.iter().find(|namespace| namespace.r#type == "network")?;
    Some(network.path.as_str()).filter(|path| path.starts_with('/'))
}

/// What to change of a container that gets `allocation`: only what differs from what it has.
pub fn adjustment(
    container: &api::Container,
    allocation: &Allocation,
    slot_directory: PathBuf,
) -> Result<Adjustment, Duplicate> {
    let mut builder = AdjustmentBuilder::new();
    builder.mount(mount(&allocation.interfaces, slot_directory))?;
    builder.env(ENV_INTERFACES, &interfaces_file_in_container())?;
    builder.env(ENV_EAL_ARGS, &allocation.eal_args)?;

    if let Cpus::Exclusive(cpus) | Cpus::Shared(cpus) = &allocation.cpus {
        let cpu = resources(container).and_then(|resources| resources.cpu.as_ref());
        let (cpus, mems) = (cpus.to_string(), allocation.mems.to_string());
        if cpu.is_none_or(|cpu| cpu.cpus != cpus) {
            builder.cpuset_cpus(&cpus)?;
        }
        if cpu.is_none_or(|cpu| cpu.mems != mems) {
            builder.cpuset_mems(&mems)?;
        }
    }
    let own = hugepage_limits(container);
    for limit in allocation.hugepages.iter().filter(|limit| !own.contains(limit)) {
        builder.hugepage_limit(&limit.size.to_string(), limit.limit)?;
    }
    Ok(builder.build())
}

/// A slot's directory, where containers find it.
fn mount(interfaces: &[Interface], slot_directory: PathBuf) -> api::Mount {
    let access = if pod_listens(interfaces) { "rw" } else { "ro" };
    api::Mount {
        destination: MOUNT_POINT.to_owned(),
        r#type: "bind".to_owned(),
        source: slot_directory.to_string_lossy().into_owned(),
        options: ["rbind", "rprivate", access, "nosuid", "nodev", "noexec"]
            .map(str::to_owned)
            .to_vec(),
    }
}

/// What a container that is given a device has to have: all that is known before there is a container.
pub fn device_adjustment(
    interfaces: &[Interface],
    slot_directory: PathBuf,
) -> Result<Adjustment, Duplicate> {
    let mut builder = AdjustmentBuilder::new();
    builder.mount(mount(interfaces, slot_directory))?;
    builder.env(ENV_INTERFACES, &interfaces_file_in_container())?;
    builder.env(ENV_EAL_ARGS, &nri_plugin_core::eal::args(None, interfaces))?;
    Ok(builder.build())
}

/// Sets a container's CPUs, and its memory nodes where they are given.
pub fn cpuset_update(id: &str, cpus: &CpuSet, mems: Option<&NodeSet>) -> api::ContainerUpdate {
    let cpu = api::LinuxCpu {
        cpus: cpus.to_string(),
        mems: mems.map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    };
    let resources = api::LinuxResources { cpu: Some(cpu), ..Default::default() };
    api::ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(api::LinuxContainerUpdate { resources: Some(resources) }),
        // It may have ended meanwhile.
        ignore_failure: true,
    }
}

/// The updates for containers whose shared CPUs have changed, but not for `except`, which is answered for itself, and not for those
/// that the runtime does not know by CRI.
pub fn shared_updates(updates: &[SharedUpdate], except: &str) -> Vec<api::ContainerUpdate> {
    let mut seen = BTreeSet::from([except]);
    updates
        .iter()
        .filter(|update| !nri_plugin_api::is_ours_alone(update.sandbox.as_str()))
        .filter(|update| seen.insert(&update.container_id))
        .map(|update| cpuset_update(&update.container_id, &update.cpus, None))
        .collect()
}

/// The updates for containers that are not ours, but not for `except`.
pub fn other_updates(updates: &[(String, CpuSet)], except: &str) -> Vec<api::ContainerUpdate> {
    let others = updates.iter().filter(|(id, _)| id != except);
    others.map(|(id, cpus)| cpuset_update(id, cpus, None)).collect()
}

#[cfg(test)]
mod tests;
