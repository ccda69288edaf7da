//! Containers without CPUs of their own: what they share changes with what others are given.

use std::collections::BTreeMap;

use crate::cpuset::{CpuSet, NodeSet};
use crate::paths::SandboxId;
use crate::pick;

use super::{Cpus, Node};

/// A container on shared CPUs whose CPUs have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedUpdate {
    /// Its pod sandbox.
    pub sandbox: SandboxId,
    /// Its name in the pod.
    pub container: String,
    /// The runtime's id.
    pub container_id: String,
    /// Its CPUs from now on.
    pub cpus: CpuSet,
}

impl Node {
    /// Recomputes the CPUs of every container that shares them, and returns those that changed. To be called after a
    /// release; [`Node::allocate`] does it itself.
    pub fn rebalance(&mut self) -> Vec<SharedUpdate> {
        let exclusive = self.exclusive_except(None);
        let owned = pick::Owned {
            reserved: &self.reserved,
            workers: &self.vrouter.workers,
            exclusive: &exclusive,
        };
        // There are hundreds of containers and few sets of nodes.
        let mut pools: BTreeMap<NodeSet, CpuSet> = BTreeMap::new();
        let mut updates = Vec::new();
        for pod in self.pods.values_mut() {
            for (name, container) in &mut pod.containers {
                let Cpus::Shared(current) = &mut container.cpus else { continue };
                if !pools.contains_key(&container.nodes) {
                    let pool = pick::shared_pool(&self.topology, &container.nodes, owned);
                    pools.insert(container.nodes.clone(), pool);
                }
                let Some(pool) = pools.get(&container.nodes) else { continue };
                // An empty pool cannot be set; it only arises when CPUs went offline or the vRouter took them.
                if pool == current || pool.is_empty() {
                    continue;
                }
                *current = pool.clone();
                updates.push(SharedUpdate {
                    sandbox: pod.sandbox.clone(),
                    container: name.clone(),
                    container_id: container.id.clone(),
                    cpus: pool.clone(),
                });
            }
        }
        updates
    }

    /// Exclusive CPUs of all containers but one (or one pod's, when no container is named).
    pub(super) fn exclusive_except(&self, except: Option<(&SandboxId, Option<&str>)>) -> CpuSet {
        let mut taken = CpuSet::new();
        for pod in self.pods.values() {
            for (name, container) in &pod.containers {
                let skipped = except.is_some_and(|(sandbox, container)| {
                    *sandbox == pod.sandbox && container.is_none_or(|container| container == name)
                });
                if let Cpus::Exclusive(cpus) = &container.cpus
                    && !skipped
                {
                    taken.extend(cpus);
                }
            }
        }
        taken
    }
}
