//! Which CPUs exactly: the shared pool, and CPUs for one container alone.

use std::collections::BTreeMap;

use crate::cpuset::{CpuId, CpuSet, NodeId, NodeSet};
use crate::topology::Topology;

/// CPUs that are not to be had, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owned<'a> {
    /// Set aside by configuration.
    pub(crate) reserved: &'a CpuSet,
    /// The vRouter's.
    pub(crate) workers: &'a CpuSet,
    /// Other containers'.
    pub(crate) exclusive: &'a CpuSet,
}

impl Owned<'_> {
    /// What is left of `cpus`.
    pub(crate) fn free(self, cpus: &CpuSet) -> CpuSet {
        cpus.difference(self.reserved).difference(self.workers).difference(self.exclusive)
    }
}

/// The online CPUs of some nodes.
pub(crate) fn online(topology: &Topology, nodes: &NodeSet) -> CpuSet {
    let mut cpus = CpuSet::new();
    nodes.iter().filter_map(|id| topology.node(id)).for_each(|node| cpus.extend(&node.cpus));
    cpus
}

/// What containers without exclusive CPUs share. On a machine so small that the vRouter's workers have every CPU, they
/// share those with them; exclusive CPUs never come into it.
pub(crate) fn shared_pool(topology: &Topology, nodes: &NodeSet, owned: Owned<'_>) -> CpuSet {
    let unreserved = online(topology, nodes).difference(owned.reserved);
    let idle = unreserved.difference(owned.workers);
    let base = if idle.is_empty() { unreserved } else { idle };
    base.difference(owned.exclusive)
}

/// `count` CPUs of `group`, its nodes in order; `None` when there are not that many.
pub(crate) fn exclusive(
    topology: &Topology,
    group: &[NodeId],
    owned: Owned<'_>,
    count: usize,
) -> Option<CpuSet> {
    let mut taken = CpuSet::new();
    for node in group.iter().filter_map(|id| topology.node(*id)) {
        let free = owned.free(&node.cpus);
        take(topology, &free, owned.workers, count - taken.len(), &mut taken);
    }
    (taken.len() == count).then_some(taken)
}

/// A core of which some CPU is free.
struct Core {
    free: CpuSet,
    whole: bool,
    beside_worker: bool,
}

/// Adds up to `count` of `free` to `taken`: whole cores first, so that no hyperthread of another pod shares them; then
/// what is left of cores that are split already, the vRouter's last; then by splitting whole ones.
fn take(topology: &Topology, free: &CpuSet, workers: &CpuSet, count: usize, taken: &mut CpuSet) {
    let mut cores: BTreeMap<Option<CpuId>, Core> = BTreeMap::new();
    for cpu in free.iter() {
        let all = topology.core_of(cpu);
        let part = all.intersection(free);
        let beside_worker = !all.is_disjoint(workers);
        cores.entry(part.first()).or_insert(Core { whole: part == all, free: part, beside_worker });
    }
    let mut left = count;
    let mut rest = Vec::new();
    for core in cores.into_values() {
        if core.whole && core.free.len() <= left {
            left -= core.free.len();
            taken.extend(&core.free);
        } else {
            rest.push(core);
        }
    }
    rest.sort_by_key(|core| (core.whole, core.beside_worker, core.free.first()));
    for cpu in rest.iter().flat_map(|core| core.free.iter()).take(left) {
        taken.insert(cpu);
    }
}

#[cfg(test)]
mod tests;
