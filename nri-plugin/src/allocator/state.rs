//! What the allocator knows: the node, what may exist on it, and what has yet to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nri_plugin_core::cpuset::CpuSet;
use nri_plugin_core::net::Network;
use nri_plugin_core::paths::{SandboxId, Slot};
use nri_plugin_core::plan::{
    AdoptError, Allocation, Ask, Node, PlanError, PodRecord, SharedUpdate,
};
use nri_plugin_core::recovery::{self, Action, Observed};
use nri_plugin_core::routes::Ends;
use ringway_config::NriConfig;

use super::{Refusal, StartError};
use crate::convert;
use crate::files::{Files, Found};
use crate::sysfs;
use crate::unserved::Unserved;
use crate::vrouter::VRouterError;

/// How long what was seen of the machine, of the vRouter's workers and of its networks counts: pods that start together share one
/// look.
pub(super) const FRESH: Duration = Duration::from_secs(2);
/// The same of the machine and the workers for a container whose pod was prepared, which looked. What a pod is refused because of is
/// looked at again first.
pub(super) const SETTLED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct State {
    pub node: Node,
    /// Every sandbox that may exist, ours and others'.
    pub sandboxes: BTreeSet<SandboxId>,
    /// Of those, the ones from before the plugin or its connection to the runtime. containerd does not announce the end of a
    /// sandbox that is older than itself (containerd issue 8426).
    pub inherited: BTreeSet<SandboxId>,
    /// Inherited ones that seemed to be gone when last looked at.
    pub gone: BTreeSet<SandboxId>,
    /// Every container that may exist.
    pub containers: BTreeSet<String>,
    /// The vRouters that have said which CPUs they use. Until all have, shared CPUs are left as they are.
    pub known: BTreeSet<String>,
    /// Their ends of tunnels.
    pub ends: Ends,
    /// Processes that are just creating or deleting containers of the wrapper, by container.
    pub callers: BTreeMap<SandboxId, u32>,
    /// What containers of pods have to be told with the next answer to the runtime.
    pub untold: Vec<SharedUpdate>,
    /// The same for containers that are not ours.
    pub untold_others: Vec<(String, CpuSet)>,
    /// When the machine and the vRouter's workers were last looked at.
    pub looked: Option<Instant>,
    /// The vRouter's networks and when they were last asked for. The addresses in use there are those of ports that are on no
    /// record of ours.
    pub networks: Option<(Instant, Vec<Network>)>,
    /// Containers that run without what they opted in to.
    pub unserved: Vec<Unserved>,
    /// Who has taken the plugin in, for people.
    pub runtime: Option<String>,
    /// Pods that have interfaces and no container yet, and since when.
    pub prepared: BTreeMap<SandboxId, Instant>,
}

impl State {
    /// From what is on disk and what may exist. Directories of pods that do not exist are removed.
    pub fn restore(
        settings: &NriConfig,
        files: &Files,
        found: Found,
        sandboxes: BTreeSet<SandboxId>,
        containers: BTreeSet<String>,
    ) -> Result<Self, StartError> {
        let topology = sysfs::topology(&settings.sysfs_root)?;
        let mut node = Node::new(
            topology,
            convert::reserved(settings)?,
            convert::defaults(settings),
            convert::policy(settings),
        );
        let observed = Observed {
            directories: found.directories,
            records: found.records,
            sandboxes: sandboxes.clone(),
            containers: containers.clone(),
            ports: None,
        };
        for action in recovery::plan(files.run_dir(), observed) {
            match action {
                Action::RemovePodDirectory { sandbox } => {
                    tracing::info!(%sandbox, "removing what a pod that is gone has left");
                    files.remove_pod(&sandbox)?;
                }
                Action::Adopt { record } => {
                    if let Err(error) = node.adopt(record) {
                        tracing::error!(%error, "cannot serve a pod");
                    }
                }
                Action::Report { sandbox, problem } => {
                    tracing::error!(%sandbox, %problem, "cannot serve a pod");
                }
                // Without the vRouter's ports there is nothing to do to them.
                Action::DeletePort { .. } | Action::CreatePort { .. } => {}
            }
        }
        let inherited = sandboxes.clone();
        Ok(Self {
            node,
            sandboxes,
            inherited,
            gone: BTreeSet::new(),
            containers,
            known: BTreeSet::new(),
            ends: Ends::default(),
            looked: None,
            networks: None,
            unserved: Vec::new(),
            runtime: None,
            prepared: BTreeMap::new(),
            callers: BTreeMap::new(),
            untold: Vec::new(),
            untold_others: Vec::new(),
        })
    }

    /// What the vRouter known by `name` says of itself.
    pub fn learn(&mut self, name: &str, info: &vrouter_api::v1::Info) {
        self.node.set_vrouter(name, convert::vrouter(info));
        self.known.insert(name.to_owned());
    }

    /// The vRouter's networks as last seen.
    pub fn networks(&self) -> &[Network] {
        self.networks.as_ref().map_or(&[], |(_, networks)| networks)
    }

    /// When that was.
    pub fn networks_seen(&self) -> Option<Instant> {
        self.networks.as_ref().map(|(at, _)| *at)
    }

    /// Decides what a container gets, in the networks as last seen.
    pub fn grant(&mut self, ask: &Ask<'_>) -> Result<Allocation, PlanError> {
        let networks = self.networks.as_ref().map_or(&[][..], |(_, networks)| networks);
        self.node.allocate(ask, networks)
    }

    /// Whether something was refused that the vRouter may have by now: the networks were not asked for since `seen`. They are
    /// forgotten then.
    pub fn may_be_outdated(&mut self, refusal: &Refusal, seen: Option<Instant>) -> bool {
        let by_them =
            matches!(refusal, Refusal::Plan(_) | Refusal::VRouter(VRouterError::Refused { .. }));
        let outdated = by_them && seen.is_some() && seen == self.networks_seen();
        if outdated {
            self.networks = None;
        }
        outdated
    }
}

/// A pod without one of its containers.
pub(super) struct Removed {
    pub record: PodRecord,
    /// What the container used.
    pub slot: Slot,
    /// Fewer may connect to that than before.
    pub narrower: bool,
}

/// Takes one container out of its pod, with its slot if that was its own. `None` when there is no such container: it
/// was replaced by a newer one of the same name, or is none of ours.
pub(super) fn forget_container(
    node: &mut Node,
    sandbox: &SandboxId,
    id: &str,
) -> Option<Result<Removed, AdoptError>> {
    let removed = without(node.pod(sandbox)?.clone(), id)?;
    node.release_pod(sandbox);
    Some(node.adopt(removed.record.clone()).map(|()| removed))
}

fn without(mut record: PodRecord, id: &str) -> Option<Removed> {
    let name = record.containers.iter().find(|(_, container)| container.id == id)?.0.clone();
    let slot = record.containers.get(&name)?.slot;
    let before = record.peer_cgroups(slot);
    record.containers.remove(&name);
    if slot != Slot::POD && record.containers.values().all(|other| other.slot != slot) {
        record.slots.remove(&slot);
    }
    let narrower = record.peer_cgroups(slot) != before;
    Some(Removed { record, slot, narrower })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn a_container_goes_with_what_was_its_own() {
        let pods = [None, Some("/kubepods/pod1"), Some("/kubepods/pod2")];
        for cgroup in pods {
            let record = PodRecord { cgroup: cgroup.map(str::to_owned), ..sample("a") };
            assert!(without(record.clone(), "c3").is_none());

            let Removed { record: left, slot, narrower } = without(record.clone(), "c1").unwrap();
            assert_eq!((slot, left.containers.len(), left.slots.len()), (Slot::POD, 1, 2));
            // Where the pod's cgroup has them all in it, who may connect is the same as before.
            assert_eq!(narrower, cgroup != Some("/kubepods/pod1"), "{cgroup:?}");

            let Removed { record: left, slot, narrower } = without(record, "c2").unwrap();
            assert_eq!((slot, left.containers.len(), left.slots.len()), (Slot(1), 1, 1));
            assert!(narrower);
        }
    }
}
