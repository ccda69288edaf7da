//! A pod's record as it is kept on disk: the JSON form of [`PodRecord`], and nothing but that.
//!
//! The shape is ours alone: no other program reads it. A record of another version is refused, which makes its pod one
//! to be created again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use nri_plugin_core::annotations::{self, SocketOwner};
use nri_plugin_core::cpuset::{CpuSet, ListError, NodeId, NodeSet};
use nri_plugin_core::net::{AddressError, AnyPrefix};
use nri_plugin_core::paths::{PathError, SandboxId, Slot};
use nri_plugin_core::plan::{ContainerRecord, Cpus, Interface, Ipv6, Placement, PodRecord};
use serde::{Deserialize, Serialize};

/// Of the shape below.
const VERSION: u32 = 1;

/// A text is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of this shape.
    #[error("not a record: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by another version of the plugin.
    #[error("record of version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// Of another pod than its directory says.
    #[error("record of pod {0:?} in the directory of another")]
    Sandbox(String),
    /// A value that cannot be.
    #[error(transparent)]
    Id(#[from] PathError),
    /// A value that cannot be.
    #[error(transparent)]
    List(#[from] ListError),
    /// A value that cannot be.
    #[error(transparent)]
    Address(#[from] AddressError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pod {
    version: u32,
    sandbox: String,
    namespace: String,
    name: String,
    node: Option<u32>,
    containers: BTreeMap<String, Container>,
    slots: BTreeMap<u16, Vec<Link>>,
    // Absent before the first container, and in records of plugins that knew one vRouter only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement: Option<Place>,
    // Absent where containers are let in one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

/// [`Placement`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    vrouter: String,
    vrouter_node: Option<u32>,
    nics: String,
    cpus: String,
    memory: String,
    aligned: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Container {
    id: String,
    cgroup: String,
    slot: u16,
    cpus: String,
    exclusive: bool,
    // Absent unless somebody else chose the CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    followed: Option<Followed>,
    nodes: String,
    mems: String,
    // Absent unless annotations asked for some.
    #[serde(default, skip_serializing_if = "is_zero")]
    hugepages: u64,
}

/// [`Cpus::Followed`] beside its CPUs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Followed {
    whole: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    name: String,
    network: String,
    ip: Ipv4Addr,
    prefix_len: u8,
    gateway: Ipv4Addr,
    // Absent in records of plugins that knew IPv4 only, and of pods in networks without IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6: Option<Link6>,
    mac: String,
    queues: u32,
    queue_size: u16,
    mtu: u32,
    pod_listens: bool,
    // Absent unless an address plugin gave the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    // Absent unless it is an interface of the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelLink>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelLink {
    netns: String,
    routes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link6 {
    ip: Ipv6Addr,
    prefix_len: u8,
    gateway: Ipv6Addr,
}

/// The text to write.
pub fn encode(record: &PodRecord) -> String {
    let containers = record.containers.iter().map(|(name, container)| {
        let ContainerRecord { id, cgroup, slot, cpus, nodes, mems, hugepages } = container;
        let container = Container {
            id: id.clone(),
            cgroup: cgroup.clone(),
            slot: slot.0,
            cpus: cpus.set().to_string(),
            exclusive: matches!(cpus, Cpus::Exclusive(_)),
            followed: match cpus {
                Cpus::Followed { whole, .. } => Some(Followed { whole: *whole }),
                Cpus::Exclusive(_) | Cpus::Shared(_) => None,
            },
            nodes: nodes.to_string(),
            mems: mems.to_string(),
            hugepages: *hugepages,
        };
        (name.clone(), container)
    });
    let link = |interface: &Interface| Link {
        name: interface.name.clone(),
        network: interface.network.clone(),
        ip: interface.ip,
        prefix_len: interface.prefix_len,
        gateway: interface.gateway,
        ipv6: interface.ipv6.map(|Ipv6 { address, prefix_len, gateway }| Link6 {
            ip: address,
            prefix_len,
            gateway,
        }),
        mac: interface.mac.to_string(),
        queues: interface.queues,
        queue_size: interface.queue_size,
        mtu: interface.mtu,
        pod_listens: interface.socket == SocketOwner::Pod,
        lease: interface.lease.clone(),
        kernel: interface.link.as_ref().map(|link| KernelLink {
            netns: link.netns.clone(),
            routes: link.routes.iter().map(ToString::to_string).collect(),
        }),
    };
    let pod = Pod {
        version: VERSION,
        sandbox: record.sandbox.to_string(),
        namespace: record.namespace.clone(),
        name: record.name.clone(),
        node: record.node.map(|node| node.0),
        containers: containers.collect(),
        slots: record
            .slots
            .iter()
            .map(|(slot, interfaces)| (slot.0, interfaces.iter().map(link).collect()))
            .collect(),
        placement: record.placement.as_ref().map(|it| Place {
            vrouter: it.vrouter.clone(),
            vrouter_node: it.vrouter_node.map(|node| node.0),
            nics: it.nics.to_string(),
            cpus: it.cpus.to_string(),
            memory: it.memory.to_string(),
            aligned: it.aligned,
        }),
        cgroup: record.cgroup.clone(),
    };
    // Every key is a string or a number, so this cannot fail; an empty text would be refused when read.
    serde_json::to_string_pretty(&pod).unwrap_or_default()
}

/// A list that may be empty, as for a vRouter without NICs.
fn nodes(list: &str) -> Result<NodeSet, ListError> {
    if list.is_empty() { Ok(NodeSet::new()) } else { list.parse() }
}

fn kernel_link(KernelLink { netns, routes }: KernelLink) -> Result<annotations::Link, RecordError> {
    let route = |text: &String| match text.parse() {
        Ok(prefix) => Ok(AnyPrefix::V4(prefix)),
        Err(_) => text.parse().map(AnyPrefix::V6),
    };
    let routes = routes.iter().map(route).collect::<Result<_, _>>()?;
    Ok(annotations::Link { netns, routes })
}

/// The record in `text`, which was found in the directory of `sandbox`.
pub fn decode(text: &str, sandbox: &SandboxId) -> Result<PodRecord, RecordError> {
    #[derive(Deserialize)]
    struct Any {
        version: u32,
    }
    let Any { version } = serde_json::from_str(text)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let pod: Pod = serde_json::from_str(text)?;
    if pod.sandbox != sandbox.as_str() {
        return Err(RecordError::Sandbox(pod.sandbox));
    }
    let container = |(name, container): (String, Container)| {
        let cpus: CpuSet = container.cpus.parse()?;
        let record = ContainerRecord {
            id: container.id,
            cgroup: container.cgroup,
            slot: Slot(container.slot),
            cpus: match container.followed {
                Some(Followed { whole }) => Cpus::Followed { cpus, whole },
                None if container.exclusive => Cpus::Exclusive(cpus),
                None => Cpus::Shared(cpus),
            },
            nodes: container.nodes.parse::<NodeSet>()?,
            mems: container.mems.parse::<NodeSet>()?,
            hugepages: container.hugepages,
        };
        Ok::<_, RecordError>((name, record))
    };
    let interface = |link: Link| {
        Ok::<_, RecordError>(Interface {
            name: link.name,
            network: link.network,
            ip: link.ip,
            prefix_len: link.prefix_len,
            gateway: link.gateway,
            ipv6: link.ipv6.map(|Link6 { ip, prefix_len, gateway }| Ipv6 {
                address: ip,
                prefix_len,
                gateway,
            }),
            mac: link.mac.parse()?,
            queues: link.queues,
            queue_size: link.queue_size,
            mtu: link.mtu,
            socket: if link.pod_listens { SocketOwner::Pod } else { SocketOwner::Vrouter },
            lease: link.lease,
            link: link.kernel.map(kernel_link).transpose()?,
        })
    };
    let slot = |(slot, links): (u16, Vec<Link>)| {
        let interfaces: Result<Vec<_>, RecordError> = links.into_iter().map(interface).collect();
        Ok::<_, RecordError>((Slot(slot), interfaces?))
    };
    let placement = |it: Place| {
        Ok::<_, RecordError>(Placement {
            vrouter: it.vrouter,
            vrouter_node: it.vrouter_node.map(NodeId),
            nics: nodes(&it.nics)?,
            cpus: nodes(&it.cpus)?,
            memory: nodes(&it.memory)?,
            aligned: it.aligned,
        })
    };
    Ok(PodRecord {
        sandbox: SandboxId::new(&pod.sandbox)?,
        namespace: pod.namespace,
        name: pod.name,
        node: pod.node.map(NodeId),
        containers: pod.containers.into_iter().map(container).collect::<Result<_, _>>()?,
        slots: pod.slots.into_iter().map(slot).collect::<Result<_, _>>()?,
        placement: pod.placement.map(placement).transpose()?,
        cgroup: pod.cgroup,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A pod with every kind of content.
    pub fn sample(sandbox: &str) -> PodRecord {
        let interface = |name: &str, ip: [u8; 4], socket| Interface {
            name: name.into(),
            network: "red".into(),
            ip: ip.into(),
            prefix_len: 24,
            gateway: [10, 66, 0, 1].into(),
            ipv6: (name == "wan").then(|| Ipv6 {
                address: "fd00:66::4".parse().unwrap(),
                prefix_len: 64,
                gateway: "fd00:66::1".parse().unwrap(),
            }),
            mac: "02:00:0a:42:00:02".parse().unwrap(),
            queues: 2,
            queue_size: 1024,
            mtu: 1500,
            socket,
            lease: None,
            link: None,
        };
        let container = |id: &str, slot, cpus| ContainerRecord {
            id: id.into(),
            cgroup: format!("/kubepods/pod1/{id}"),
            slot,
            cpus,
            nodes: "0-1".parse().unwrap(),
            mems: "1".parse().unwrap(),
            hugepages: 0,
        };
        PodRecord {
            sandbox: SandboxId::new(sandbox).unwrap(),
            namespace: "demo".into(),
            name: "red-a".into(),
            node: Some(NodeId(1)),
            containers: BTreeMap::from([
                ("app".into(), container("c1", Slot(0), Cpus::Exclusive("2-3".parse().unwrap()))),
                ("log".into(), container("c2", Slot(1), Cpus::Shared("0,4-7".parse().unwrap()))),
            ]),
            slots: BTreeMap::from([
                (Slot(0), vec![interface("net0", [10, 66, 0, 2], SocketOwner::Vrouter)]),
                (
                    Slot(1),
                    vec![
                        interface("net0", [10, 66, 0, 3], SocketOwner::Pod),
                        interface("wan", [10, 66, 0, 4], SocketOwner::Vrouter),
                    ],
                ),
            ]),
            placement: None,
            cgroup: None,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = sample("abc");
        assert_eq!(decode(&encode(&record), &record.sandbox).unwrap(), record);
    }

    #[test]
    fn cpus_of_others_and_hugepages_come_back() {
        let mut record = sample("abc");
        let app = record.containers.get_mut("app").unwrap();
        app.cpus = Cpus::Followed { cpus: "2-3".parse().unwrap(), whole: true };
        app.hugepages = 1 << 30;
        record.placement = Some(Placement {
            vrouter: "/run/ringway/vrouter-1/api.sock".into(),
            vrouter_node: Some(NodeId(1)),
            nics: NodeSet::new(),
            cpus: "0-1".parse().unwrap(),
            memory: "1".parse().unwrap(),
            aligned: false,
        });
        record.cgroup = Some("/kubepods/pod1".into());
        let interface = &mut record.slots.get_mut(&Slot(0)).unwrap()[0];
        interface.lease = Some("abc-1-2".into());
        let routes = vec![
            AnyPrefix::V4("0.0.0.0/0".parse().unwrap()),
            AnyPrefix::V6("fd00::/16".parse().unwrap()),
        ];
        interface.link = Some(annotations::Link { netns: "/run/netns/a".into(), routes });
        assert_eq!(decode(&encode(&record), &record.sandbox).unwrap(), record);
    }

    /// As the first version of the plugin wrote it.
    #[test]
    fn a_record_without_ipv6_is_read() {
        let text = include_str!("../testdata/record-ipv4-only.json");
        let record = decode(text, &SandboxId::new("abc").unwrap()).unwrap();
        let mut expected = sample("abc");
        for interface in expected.slots.values_mut().flatten() {
            interface.ipv6 = None;
        }
        assert_eq!(record, expected);
        assert_eq!(encode(&record), text.trim_end());
    }

    #[test]
    fn what_is_no_record_of_this_pod_is_refused() {
        let sandbox = SandboxId::new("abc").unwrap();
        let good = encode(&sample("abc"));
        for (from, to, expected) in [
            ("\"version\": 1", "\"version\": 2", "version 2"),
            ("\"sandbox\": \"abc\"", "\"sandbox\": \"abd\"", "abd"),
            ("\"cpus\": \"2-3\"", "\"cpus\": \"3-2\"", "3-2"),
            ("02:00:0a:42:00:02", "02:00", "02:00"),
            ("\"queues\": 2", "\"queues\": -2", "not a record"),
            ("\"queues\": 2", "\"quues\": 2", "quues"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let error = decode(&bad, &sandbox).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for cut in [0, 1, good.len() / 2, good.len() - 1] {
            assert!(decode(&good[..cut], &sandbox).is_err(), "cut at {cut}");
        }
    }
}
