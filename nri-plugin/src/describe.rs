//! JSON between a pod and us: the annotation it writes, the file it reads.

use nri_plugin_core::annotations::{RawInterface, SocketOwner};
use nri_plugin_core::cpuset::NodeId;
use nri_plugin_core::paths::{INTERFACES_FILE, MOUNT_POINT, socket_in_container};
use nri_plugin_core::plan::Interface;
use ringway_config::annotations::WrittenInterface;
use serde::Serialize;

/// Version of the device information specification (k8snetworkplumbingwg) that an entry follows.
const DEVICE_INFO_VERSION: &str = "1.1.0";

/// The interfaces of one slot and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// In the order asked for.
    pub interfaces: &'a [Interface],
    /// The pod's NUMA node.
    pub node: Option<NodeId>,
    /// CPUs and EAL arguments of the container, when the slot is used by one container only: two have different ones,
    /// and each finds its own in its environment.
    pub container: Option<(&'a str, &'a str)>,
}

/// One element of `interfaces.json` that has a vhost-user socket.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry<'a> {
    // Device information, sections 3.1.1, 3.1.2 and 3.1.5.
    r#type: &'static str,
    version: &'static str,
    vhost_user: VhostUser<'a>,
    // What existing DPDK workloads read. The "adaptor" is the vRouter, so its mode is the opposite of ours.
    vhost_adaptor_path: &'a str,
    vhost_adaptor_mode: &'static str,
    #[serde(flatten)]
    addressed: Addressed<'a>,
    queues: u32,
    queue_size: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa_node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eal_args: Option<&'a str>,
}

/// One that is an interface of the kernel's; it has no device information.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct KernelEntry<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    addressed: Addressed<'a>,
    routes: Vec<String>,
}

/// What every interface has.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Addressed<'a> {
    name: &'a str,
    mac_address: String,
    network: &'a str,
    ip: String,
    gateway: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway6: Option<String>,
    mtu: u32,
}

impl<'a> Addressed<'a> {
    fn new(interface: &'a Interface) -> Self {
        Self {
            name: &interface.name,
            mac_address: interface.mac.to_string(),
            network: &interface.network,
            ip: format!("{}/{}", interface.ip, interface.prefix_len),
            gateway: interface.gateway.to_string(),
            ipv6: interface.ipv6.map(|ipv6| format!("{}/{}", ipv6.address, ipv6.prefix_len)),
            gateway6: interface.ipv6.map(|ipv6| ipv6.gateway.to_string()),
            mtu: interface.mtu,
        }
    }
}

#[derive(Serialize)]
struct VhostUser<'a> {
    mode: &'static str,
    path: &'a str,
}

/// Reads the annotation. The error is one line.
pub fn decode_interfaces(text: &str) -> Result<Vec<RawInterface>, String> {
    let raw = |it: WrittenInterface| {
        let WrittenInterface { name, network, ip, mac, queues, mtu, socket, kind, routes } = it;
        RawInterface { name, network, ip, mac, queues, mtu, socket, kind, routes }
    };
    let written: Vec<_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(written.into_iter().map(raw).collect())
}

/// Where a container finds the file, the value of `RINGWAY_INTERFACES`.
pub fn interfaces_file_in_container() -> String {
    format!("{MOUNT_POINT}/{INTERFACES_FILE}")
}

/// The text of `interfaces.json`: a list with one entry per interface.
pub fn interfaces_json(description: Description<'_>) -> String {
    let Description { interfaces, node, container } = description;
    let paths: Vec<String> =
        interfaces.iter().map(|interface| socket_in_container(&interface.name)).collect();
    let entry = |(interface, path): (&'_ Interface, &'_ String)| {
        let addressed = Addressed::new(interface);
        if let Some(link) = &interface.link {
            let routes = link.routes.iter().map(ToString::to_string).collect();
            let entry = KernelEntry { r#type: "kernel", addressed, routes };
            // Strings and numbers only, here and below: it cannot fail.
            return serde_json::to_value(&entry).unwrap_or_default();
        }
        let (mode, adaptor) = match interface.socket {
            SocketOwner::Vrouter => ("client", "server"),
            SocketOwner::Pod => ("server", "client"),
        };
        let entry = Entry {
            r#type: "vhost-user",
            version: DEVICE_INFO_VERSION,
            vhost_user: VhostUser { mode, path },
            vhost_adaptor_path: path,
            vhost_adaptor_mode: adaptor,
            addressed,
            queues: interface.queues,
            queue_size: interface.queue_size,
            numa_node: node.map(|node| node.0),
            cpus: container.map(|(cpus, _)| cpus),
            eal_args: container.map(|(_, eal_args)| eal_args),
        };
        serde_json::to_value(&entry).unwrap_or_default()
    };
    let list = interfaces.iter().zip(&paths).map(entry).collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}

#[cfg(test)]
mod tests {
    use nri_plugin_core::annotations::Link;
    use nri_plugin_core::paths::Slot;

    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn entries_are_device_information_and_more() {
        let record = sample("abc");
        let text = interfaces_json(Description {
            interfaces: &record.slots[&Slot(1)],
            node: record.node,
            container: Some(("2-3", "--in-memory")),
        });
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            list[0],
            serde_json::json!({
                "type": "vhost-user", "version": "1.1.0",
                "vhost-user": {"mode": "server", "path": "/run/ringway/net0.sock"},
                "name": "net0",
                "vhost-adaptor-path": "/run/ringway/net0.sock", "vhost-adaptor-mode": "client",
                "mac-address": "02:00:0a:42:00:02",
                "network": "red", "ip": "10.66.0.3/24", "gateway": "10.66.0.1",
                "mtu": 1500, "queues": 2, "queue-size": 1024, "numa-node": 1,
                "cpus": "2-3", "eal-args": "--in-memory",
            })
        );
        assert_eq!(list[1]["ipv6"], "fd00:66::4/64");
        assert_eq!(list[1]["gateway6"], "fd00:66::1");
        assert_eq!(list[1]["vhost-user"]["mode"], "client");
        assert_eq!(list[1]["vhost-adaptor-mode"], "server");

        let mut interface = record.slots[&Slot(1)][1].clone();
        let routes = vec![nri_plugin_core::net::AnyPrefix::V4("0.0.0.0/0".parse().unwrap())];
        interface.link = Some(Link { netns: "/run/netns/a".into(), routes });
        let kernel = Description { interfaces: &[interface], node: None, container: None };
        let list: serde_json::Value = serde_json::from_str(&interfaces_json(kernel)).unwrap();
        assert_eq!(
            list[0],
            serde_json::json!({
                "type": "kernel", "name": "wan", "mac-address": "02:00:0a:42:00:02", "network": "red",
                "ip": "10.66.0.4/24", "gateway": "10.66.0.1", "ipv6": "fd00:66::4/64",
                "gateway6": "fd00:66::1", "mtu": 1500, "routes": ["0.0.0.0/0"],
            })
        );

        let shared =
            Description { interfaces: &record.slots[&Slot(0)], node: None, container: None };
        let list: serde_json::Value = serde_json::from_str(&interfaces_json(shared)).unwrap();
        for absent in ["cpus", "eal-args", "numa-node"] {
            assert!(list[0].get(absent).is_none(), "{absent}");
        }
    }
}
