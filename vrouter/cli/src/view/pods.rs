//! Pods, and where all that they have lies.

use nri_plugin_api::v1;
use serde::Serialize;

use super::filled;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Pod {
    pub(crate) sandbox: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) numa_node: Option<u32>,
    pub(crate) vrouter: Option<String>,
    pub(crate) instance: Option<u32>,
    pub(crate) vrouter_node: Option<u32>,
    pub(crate) cpu_nodes: String,
    pub(crate) memory_nodes: String,
    pub(crate) nic_nodes: String,
    pub(crate) aligned: Option<bool>,
    pub(crate) containers: Vec<Container>,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) numa_crossings: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) cpus: String,
    pub(crate) exclusive: bool,
    pub(crate) mems: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) mac: String,
    pub(crate) ip: String,
    pub(crate) ipv6: Option<String>,
}

/// One of them. Its vRouter's number and counters are for others to say.
pub(crate) fn pod(wire: v1::Pod) -> Pod {
    let placed = wire.placement.is_some();
    let placement = wire.placement.unwrap_or_default();
    let container = |it: v1::PodContainer| {
        let v1::PodContainer { name, id, cpus, exclusive, mems } = it;
        Container { name, id, cpus, exclusive, mems }
    };
    let interface = |it: v1::Interface| Interface {
        name: it.name,
        network: it.network,
        mac: it.mac,
        ip: it.ipv4,
        ipv6: filled(it.ipv6),
    };
    Pod {
        sandbox: wire.sandbox,
        namespace: wire.namespace,
        pod: wire.name,
        numa_node: wire.numa_node,
        vrouter: filled(placement.vrouter),
        instance: None,
        vrouter_node: placement.vrouter_node,
        cpu_nodes: placement.cpus,
        memory_nodes: placement.memory,
        nic_nodes: placement.nics,
        aligned: placed.then_some(placement.aligned),
        containers: wire.containers.into_iter().map(container).collect(),
        interfaces: wire.interfaces.into_iter().map(interface).collect(),
        numa_crossings: None,
    }
}
