//! CPUs that somebody else chooses: kubelet's CPU manager, another NRI plugin, a DRA driver.
//!
//! They are taken as they are. What is left to decide is whether they lie well, and what the application is told about them.

use crate::annotations::NumaPolicy;
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::paths::SandboxId;
use crate::policy::CpuMode;

use super::place::{Limits, Placed};
use super::{Alignment, Ask, Chosen, Cpus, Node, Note, PlanError, Vrouter};

impl Node {
    /// The place that others have chosen for the container; all of the machine, as long as they have not.
    pub(super) fn follow(
        &self,
        ask: &Ask<'_>,
        wanted: Option<usize>,
        limits: &Limits,
    ) -> Result<Placed, PlanError> {
        let cpus = ask.chosen.cpus.intersection(self.topology.online());
        let whole = !cpus.is_empty() && wanted == Some(cpus.len());
        let cpus = if cpus.is_empty() { self.topology.online().clone() } else { cpus };
        let nodes = self.nodes_of(&cpus);
        // Where nobody restricts memory, hugepages may come from any node.
        let allowed = if ask.chosen.mems.is_empty() {
            self.topology.nodes().map(|node| node.id).collect()
        } else {
            ask.chosen.mems.clone()
        };
        self.check_hugepages(&allowed, limits)?;
        let mems = self.mems(&nodes, ask.chosen.mems);
        let required = match ask.request.numa {
            NumaPolicy::Node(node) => Some(node),
            // Of the vRouters the one that is where the CPUs are, if one is.
            NumaPolicy::Strict => {
                let from = self.served_from(ask.sandbox);
                let there = from.iter().copied().find(|node| nodes.contains(*node));
                there.or_else(|| from.first().copied()).or_else(|| nodes.first())
            }
            NumaPolicy::Preferred | NumaPolicy::Off => None,
        };
        if let Some(wanted) = required.filter(|wanted| nodes.iter().any(|node| node != *wanted)) {
            return Err(PlanError::ChosenElsewhere { wanted, cpus, nodes });
        }
        let share = |node: &NodeId| {
            self.topology.node(*node).map_or(0, |node| node.cpus.intersection(&cpus).len())
        };
        // The lowest of those with the most CPUs.
        let home = nodes.iter().rev().max_by_key(share).unwrap_or(NodeId(0));
        Ok(Placed { home, nodes, mems, cpus: Cpus::Followed { cpus, whole } })
    }

    /// Takes over CPUs that others have chosen anew for a container that follows them. `None` when it does not, or has them
    /// already; else how they lie.
    pub fn followed(
        &mut self,
        sandbox: &SandboxId,
        container_id: &str,
        chosen: Chosen<'_>,
    ) -> Option<(CpuSet, Alignment)> {
        let cpus = chosen.cpus.intersection(self.topology.online());
        if cpus.is_empty() {
            return None;
        }
        let nodes = self.nodes_of(&cpus);
        let mems = self.mems(&nodes, chosen.mems);
        let containers = self.pods.get_mut(sandbox)?.containers.values_mut();
        let record = containers.into_iter().find(|record| record.id == container_id)?;
        let Cpus::Followed { cpus: before, .. } = &mut record.cpus else { return None };
        if *before == cpus {
            return None;
        }
        before.clone_from(&cpus);
        record.nodes.clone_from(&nodes);
        record.mems.clone_from(&mems);
        let home = nodes.first().unwrap_or(NodeId(0));
        let placed = Placed { home, mems, nodes, cpus: record.cpus.clone() };
        let (name, _, alignment) = self.serve(sandbox, &placed);
        self.settle(sandbox, name);
        Some((cpus, alignment))
    }

    /// Where memory comes from: as chosen, else near the CPUs.
    fn mems(&self, nodes: &NodeSet, chosen: &NodeSet) -> NodeSet {
        if chosen.is_empty() {
            nodes.iter().map(|node| self.topology.memory_for(node)).collect()
        } else {
            chosen.clone()
        }
    }

    pub(super) fn followed_note(
        &self,
        placed: &Placed,
        vrouter: &Vrouter,
        alignment: Alignment,
    ) -> Option<Note> {
        let Cpus::Followed { cpus, .. } = &placed.cpus else { return None };
        let matters = self.policy.cpu_mode == CpuMode::Follow && alignment != Alignment::Aligned;
        let (nodes, vrouter) = (placed.nodes.clone(), vrouter.node);
        matters.then(|| Note::ChosenUnaligned { cpus: cpus.clone(), nodes, vrouter })
    }

    /// Nodes that have some of these CPUs.
    pub(super) fn nodes_of(&self, cpus: &CpuSet) -> NodeSet {
        let touched = self.topology.nodes().filter(|node| !node.cpus.is_disjoint(cpus));
        touched.map(|node| node.id).collect()
    }
}

#[cfg(test)]
mod tests;
