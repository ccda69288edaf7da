//! Which vRouter serves a pod, and how all that is the pod's lies to each other.

use crate::annotations::NumaPolicy;
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::paths::SandboxId;
use crate::policy::CpuMode;

use super::place::Placed;
use super::{Ask, Node, Note, PodRecord};

/// A vRouter, as it says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vrouter {
    /// CPUs of its workers: never given to pods, as long as there are others.
    pub workers: CpuSet,
    /// Its NUMA node; `None` when it spans all.
    pub node: Option<NodeId>,
    /// Nodes of the NICs that its uplinks are, as far as they are known.
    pub nics: NodeSet,
    /// It did not answer when last asked: no pod comes to it.
    pub away: bool,
}

/// How well a container's CPUs and memory lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// All on one node, and on the vRouter's where it has one.
    Aligned,
    /// All on one node, but not the vRouter's: packets cross between nodes.
    Remote {
        /// The vRouter's.
        vrouter: NodeId,
    },
    /// As [`Alignment::Aligned`], but the vRouter's NICs are elsewhere: packets of other hosts cross between nodes.
    FarNic {
        /// The first of the nodes where they are.
        nic: NodeId,
    },
    /// Over several nodes.
    Spread,
}

/// Where all that is a pod's lies: each with its NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The vRouter that serves it, by the name it is known by.
    pub vrouter: String,
    /// That one's node; `None` when it spans all.
    pub vrouter_node: Option<NodeId>,
    /// Nodes of that one's NICs.
    pub nics: NodeSet,
    /// Nodes of its containers' CPUs.
    pub cpus: NodeSet,
    /// Nodes of their memory.
    pub memory: NodeSet,
    /// Whether all of it is on one node, as far as it is known.
    pub aligned: bool,
}

impl Node {
    /// Takes over what the vRouter that is known by `name` says about itself.
    pub fn set_vrouter(&mut self, name: &str, vrouter: Vrouter) {
        self.vrouters.insert(name.to_owned(), vrouter);
        self.workers = CpuSet::new();
        for vrouter in self.vrouters.values() {
            self.workers.extend(&vrouter.workers);
        }
    }

    /// Whether a vRouter answers, as long as it does not say so itself.
    pub fn set_away(&mut self, name: &str, away: bool) {
        if let Some(vrouter) = self.vrouters.get_mut(name) {
            vrouter.away = away;
        }
    }

    /// The vRouter that serves a pod already.
    fn serving(&self, sandbox: &SandboxId) -> Option<(&str, &Vrouter)> {
        let name = &self.pod(sandbox)?.placement.as_ref()?.vrouter;
        self.vrouters.get_key_value(name).map(|(name, vrouter)| (name.as_str(), vrouter))
    }

    fn there(&self) -> impl Iterator<Item = (&str, &Vrouter)> {
        let there = self.vrouters.iter().filter(|(_, vrouter)| !vrouter.away);
        there.map(|(name, vrouter)| (name.as_str(), vrouter))
    }

    /// Nodes, with CPUs, of the vRouters that can serve the pod; none where one of them spans all.
    pub(super) fn served_from(&self, sandbox: &SandboxId) -> Vec<NodeId> {
        let candidates: Vec<_> = match self.serving(sandbox) {
            Some((_, vrouter)) => vec![vrouter],
            None => self.there().map(|(_, vrouter)| vrouter).collect(),
        };
        if candidates.iter().any(|vrouter| vrouter.node.is_none()) {
            return Vec::new();
        }
        let nodes: NodeSet = candidates.iter().filter_map(|vrouter| vrouter.node).collect();
        nodes.iter().filter(|node| self.has_cpus(*node)).collect()
    }

    /// How far one node is from another, as the firmware says.
    pub(super) fn distance(&self, from: NodeId, to: NodeId) -> u32 {
        if from == to {
            return 0;
        }
        let known = self.topology.node(from).and_then(|node| node.distances.get(&to));
        known.copied().unwrap_or(u32::MAX)
    }

    /// The vRouter for a pod whose containers are on `home`, if that is known: the one that it has, else the nearest, and of those
    /// the one with the fewest pods.
    fn vrouter_for(&self, sandbox: &SandboxId, home: Option<NodeId>) -> Option<(&str, &Vrouter)> {
        let pods = |name: &str| {
            let served =
                |pod: &&PodRecord| pod.placement.as_ref().is_some_and(|it| it.vrouter == name);
            self.pods().filter(served).count()
        };
        self.serving(sandbox).or_else(|| {
            self.there().min_by_key(|(name, vrouter)| {
                let distance = match (vrouter.node, home) {
                    (Some(node), Some(home)) => self.distance(node, home),
                    _ => 0,
                };
                (distance, pods(name))
            })
        })
    }

    pub(super) fn alignment(&self, placed: &Placed, vrouter: &Vrouter) -> Alignment {
        let used = placed.cpus.set();
        let touches = |node: &NodeId| {
            self.topology.node(*node).is_some_and(|node| !node.cpus.is_disjoint(used))
        };
        if placed.nodes.iter().filter(touches).count() > 1 || placed.mems.len() > 1 {
            return Alignment::Spread;
        }
        match (vrouter.node, vrouter.nics.first()) {
            (Some(vrouter), _) if !placed.nodes.contains(vrouter) => Alignment::Remote { vrouter },
            (_, Some(nic)) if !placed.nodes.iter().any(|node| vrouter.nics.contains(node)) => {
                Alignment::FarNic { nic }
            }
            _ => Alignment::Aligned,
        }
    }

    /// The vRouter for the container's pod and how the container lies to it.
    pub(super) fn serve(
        &self,
        sandbox: &SandboxId,
        placed: &Placed,
    ) -> (String, Vrouter, Alignment) {
        let (name, vrouter) = self
            .vrouter_for(sandbox, Some(placed.home))
            .map_or_else(Default::default, |(name, vrouter)| (name.to_owned(), vrouter.clone()));
        let alignment = self.alignment(placed, &vrouter);
        (name, vrouter, alignment)
    }

    /// Chooses who serves a pod that has no container yet. The CPUs that it gets later follow that choice.
    pub fn choose_vrouter(&mut self, sandbox: &SandboxId, numa: NumaPolicy) {
        let home = match numa {
            NumaPolicy::Node(node) => Some(node),
            NumaPolicy::Preferred | NumaPolicy::Strict | NumaPolicy::Off => None,
        };
        if let Some(name) = self.vrouter_for(sandbox, home).map(|(name, _)| name.to_owned()) {
            self.settle(sandbox, name);
        }
    }

    /// Writes down where all of a pod lies that the vRouter `name` serves from now on.
    pub(super) fn settle(&mut self, sandbox: &SandboxId, name: String) -> Placement {
        let Some(pod) = self.pods.get(sandbox) else { return Placement::default() };
        let placement = self.placement(pod, name);
        if let Some(pod) = self.pods.get_mut(sandbox) {
            pod.placement = Some(placement.clone());
        }
        placement
    }

    /// Where all of a pod lies that the vRouter `name` serves.
    fn placement(&self, pod: &PodRecord, name: String) -> Placement {
        let vrouter = self.vrouters.get(&name).cloned().unwrap_or_default();
        let (mut cpus, mut memory) = (NodeSet::new(), NodeSet::new());
        for container in pod.containers.values() {
            cpus = cpus.union(&self.nodes_of(container.cpus.set()));
            memory = memory.union(&container.mems);
        }
        let one = if cpus.len() == 1 { cpus.first() } else { None };
        let aligned = one.is_some_and(|home| {
            memory.iter().all(|node| node == self.topology.memory_for(home))
                && vrouter.node.is_none_or(|node| node == home)
                && (vrouter.nics.is_empty() || vrouter.nics.contains(home))
        });
        Placement {
            vrouter: name,
            vrouter_node: vrouter.node,
            nics: vrouter.nics,
            cpus,
            memory,
            aligned,
        }
    }

    /// What the pod's author should know of a fallback. Where others choose CPUs, [`Node::followed_note`] says so.
    pub(super) fn fallback_note(
        &self,
        ask: &Ask<'_>,
        placed: &Placed,
        vrouter: &Vrouter,
        alignment: Alignment,
    ) -> Option<Note> {
        let asked = !matches!(ask.request.numa, NumaPolicy::Off);
        let ours = self.policy.cpu_mode == CpuMode::Own;
        (asked && ours && alignment != Alignment::Aligned).then(|| Note::Unaligned {
            cpus: self.nodes_of(placed.cpus.set()),
            memory: placed.mems.clone(),
            vrouter: vrouter.node,
            nics: vrouter.nics.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
