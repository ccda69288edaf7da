//! What has to be done after the plugin, the vRouter or containerd has started again.
//!
//! Compares what the plugin wrote down, which pods containerd still has and which ports the vRouter has, and lists the
//! steps that make them agree. Doing the steps twice does no harm.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::annotations::SocketOwner;
use crate::net::Mac;
use crate::paths::{self, PathError, PortId, SandboxId};
use crate::plan::PodRecord;

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Names below the directory of all pods.
    pub directories: BTreeSet<String>,
    /// The records in them that could be read.
    pub records: Vec<PodRecord>,
    /// Every sandbox containerd has, running or not.
    pub sandboxes: BTreeSet<SandboxId>,
    /// Ids of every container containerd has.
    pub containers: BTreeSet<String>,
    /// The vRouter's ports; `None` while it cannot be reached.
    pub ports: Option<Vec<Port>>,
}

/// A port as the vRouter has it or shall have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// See [`PortId`]; ports of others have other forms.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// On the host.
    pub socket_path: PathBuf,
    /// Who listens.
    pub socket: SocketOwner,
    /// Queue pairs.
    pub queues: u32,
    /// Absolute cgroups whose processes may connect.
    pub peer_cgroups: BTreeSet<String>,
    /// What it is instead of a socket.
    pub link: Option<PortLink>,
}

/// A port that is an interface of the kernel's in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLink {
    /// Path of the pod's network namespace.
    pub netns: String,
    /// What it is called there.
    pub name: String,
    /// Greatest IP packet, bytes.
    pub mtu: u32,
}

impl PortLink {
    /// That of an interface, if it is one.
    #[must_use]
    pub fn of(interface: &crate::plan::Interface) -> Option<Self> {
        let link = interface.link.as_ref()?;
        let (netns, name) = (link.netns.clone(), interface.name.clone());
        Some(Self { netns, name, mtu: interface.mtu })
    }
}

/// One step. They are listed in the order in which they have to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The port's pod is gone, or the port is not what its pod was given.
    DeletePort {
        /// The vRouter's id.
        id: String,
    },
    /// The pod is gone: remove its directory with everything in it.
    RemovePodDirectory {
        /// Whose.
        sandbox: SandboxId,
    },
    /// The pod is still there: give its record to [`crate::plan::Node::adopt`].
    Adopt {
        /// What it holds.
        record: PodRecord,
    },
    /// The pod is still there and the vRouter lacks the port, or the port has other peers. Creating it again with
    /// other peers replaces them.
    CreatePort {
        /// What it shall be.
        port: Port,
        /// Of which pod, for people.
        namespace: String,
        /// Of which pod, for people.
        pod: String,
    },
    /// The pod is still there but cannot be served: say so in the log and leave it alone.
    Report {
        /// Whose.
        sandbox: SandboxId,
        /// Why.
        problem: Problem,
    },
}

/// Why a pod that is still there cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its directory is there, its record is not.
    #[error("its record is missing or unreadable; recreate the pod")]
    NoRecord,
    /// The run directory has changed.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Lists the steps.
#[must_use]
pub fn plan(run_dir: &Path, observed: Observed) -> Vec<Action> {
    let Observed { directories, records, sandboxes, containers, ports } = observed;
    let (mut delete, mut adopt, mut create, mut report) = (vec![], vec![], vec![], vec![]);
    let mut existing: BTreeMap<PortId, Port> = BTreeMap::new();
    for port in ports.iter().flatten() {
        match PortId::parse(&port.id) {
            Some(id) if sandboxes.contains(&id.sandbox) => {
                existing.insert(id, port.clone());
            }
            Some(_) => delete.push(Action::DeletePort { id: port.id.clone() }),
            // Made by an operator, not by us.
            None => {}
        }
    }
    let mut recorded = BTreeSet::new();
    for record in records {
        if !sandboxes.contains(&record.sandbox) || !recorded.insert(record.sandbox.clone()) {
            continue;
        }
        match wanted_ports(run_dir, &record, &containers) {
            Err(problem) => {
                let sandbox = record.sandbox.clone();
                report.push(Action::Report { sandbox, problem: problem.into() });
            }
            Ok(wanted) if ports.is_some() => {
                for (id, port) in wanted {
                    let found = existing.remove(&id);
                    if found.as_ref() == Some(&port) {
                        continue;
                    }
                    if found.is_some_and(|found| !differs_in_peers_only(&found, &port)) {
                        delete.push(Action::DeletePort { id: port.id.clone() });
                    }
                    let (namespace, pod) = (record.namespace.clone(), record.name.clone());
                    create.push(Action::CreatePort { port, namespace, pod });
                }
                // Ports of this pod that its record does not know: left from a creation that failed.
                let surplus = existing.keys().filter(|id| id.sandbox == record.sandbox);
                delete.extend(surplus.map(|id| Action::DeletePort { id: id.to_string() }));
            }
            Ok(_) => {}
        }
        adopt.push(Action::Adopt { record });
    }
    let mut remove = Vec::new();
    for sandbox in directories.iter().filter_map(|name| SandboxId::new(name).ok()) {
        if !sandboxes.contains(&sandbox) {
            remove.push(Action::RemovePodDirectory { sandbox });
        } else if !recorded.contains(&sandbox) {
            report.push(Action::Report { sandbox, problem: Problem::NoRecord });
        }
    }
    [delete, remove, adopt, create, report].into_iter().flatten().collect()
}

/// The ports a pod shall have. Only containers that exist may use them.
fn wanted_ports(
    run_dir: &Path,
    record: &PodRecord,
    containers: &BTreeSet<String>,
) -> Result<Vec<(PortId, Port)>, PathError> {
    let mut alive = record.clone();
    alive.containers.retain(|_, container| containers.contains(&container.id));
    let port = |(id, interface): (PortId, &crate::plan::Interface)| {
        let port = Port {
            id: id.to_string(),
            network: interface.network.clone(),
            mac: interface.mac,
            ip: interface.ip,
            ipv6: interface.ipv6.map(|ipv6| ipv6.address),
            socket_path: match interface.link {
                Some(_) => PathBuf::new(),
                None => paths::socket(run_dir, &id)?,
            },
            socket: interface.socket,
            queues: interface.queues,
            peer_cgroups: alive.peer_cgroups(id.slot),
            link: PortLink::of(interface),
        };
        Ok((id, port))
    };
    record.ports().map(port).collect()
}

fn differs_in_peers_only(found: &Port, wanted: &Port) -> bool {
    Port { peer_cgroups: wanted.peer_cgroups.clone(), ..found.clone() } == *wanted
}

#[cfg(test)]
mod tests;
