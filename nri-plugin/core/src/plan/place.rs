//! Which NUMA node, which CPUs, which memory.

use crate::annotations::NumaPolicy;
use crate::cpuset::{CpuSet, NodeId, NodeSet};
use crate::hugepages::HugepageLimit;
use crate::pick;

use super::error::CpuCounts;
use super::{Ask, Cpus, Node, Note, PlanError};

/// A container's place.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// The node that comes first; the pod's from now on.
    pub(super) home: NodeId,
    /// Nodes whose CPUs it may have.
    pub(super) nodes: NodeSet,
    pub(super) mems: NodeSet,
    pub(super) cpus: Cpus,
}

/// Hugepage limits that will hold for the container.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    effective: Vec<HugepageLimit>,
    by_annotation: bool,
}

impl Limits {
    /// An annotation outweighs the container's own limit of the same size.
    pub(super) fn new(annotated: &[HugepageLimit], own: &[HugepageLimit]) -> Self {
        let overridden =
            |own: &&HugepageLimit| annotated.iter().any(|limit| limit.size == own.size);
        let kept = own.iter().filter(|own| !overridden(own));
        let effective = annotated.iter().chain(kept).copied().collect();
        Self { effective, by_annotation: !annotated.is_empty() }
    }

    /// What the container is promised: limits above zero.
    fn wanted(&self) -> impl Iterator<Item = &HugepageLimit> {
        self.effective.iter().filter(|limit| limit.limit > 0)
    }

    /// Whether an annotation says that no hugepages are wanted.
    fn declined(&self) -> bool {
        self.by_annotation && self.wanted().next().is_none()
    }

    pub(super) fn notes(&self) -> Vec<Note> {
        let all_zero = !self.effective.is_empty() && self.wanted().next().is_none();
        if all_zero && !self.by_annotation { vec![Note::HugepageLimitsZero] } else { Vec::new() }
    }
}

impl Node {
    /// Tries the sets of nodes the policy allows, best first; reports what the best one lacks.
    pub(super) fn place(
        &self,
        ask: &Ask<'_>,
        wanted: Option<usize>,
        limits: &Limits,
    ) -> Result<Placed, PlanError> {
        let mut refused = None;
        for group in self.groups(ask, limits)? {
            match self.place_on(&group, ask, wanted, limits) {
                Ok(placed) => return Ok(placed),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        // Every machine has a node with CPUs, so there is a group and a reason; the counts say so should there be none.
        Err(refused.unwrap_or_else(|| PlanError::NoSharedCpus {
            counts: self.counts(&NodeSet::new(), &CpuSet::new()),
        }))
    }

    /// The sets of nodes to try, in order; inside a set the first is to be filled first.
    fn groups(&self, ask: &Ask<'_>, limits: &Limits) -> Result<Vec<Vec<NodeId>>, PlanError> {
        let home = self.pod(ask.sandbox).and_then(|pod| pod.node);
        let vrouter = self.vrouter.node.filter(|node| self.has_cpus(*node));
        let only = |node: NodeId| match home {
            Some(home) if home != node => Err(PlanError::PodElsewhere { wanted: node, home }),
            _ => Ok(vec![vec![node]]),
        };
        match ask.request.numa {
            NumaPolicy::Node(node) if self.has_cpus(node) => only(node),
            NumaPolicy::Node(node) => {
                let with_cpus = self.ranked(limits).into_iter().collect();
                Err(PlanError::NoSuchNode { node, with_cpus })
            }
            NumaPolicy::Strict => match (vrouter, home) {
                (Some(vrouter), _) => only(vrouter),
                (None, Some(home)) => only(home),
                (None, None) => {
                    Ok(self.ranked_for(ask, limits).into_iter().map(|node| vec![node]).collect())
                }
            },
            NumaPolicy::Off => Ok(vec![self.ranked_for(ask, limits)]),
            NumaPolicy::Preferred => {
                let mut groups: Vec<Vec<NodeId>> = match home {
                    Some(home) => vec![vec![home]],
                    None => {
                        self.ranked_for(ask, limits).into_iter().map(|node| vec![node]).collect()
                    }
                };
                let first = groups.first().and_then(|group| group.first()).copied();
                let near =
                    first.map(|node| self.topology.nearest_with_cpus(node)).unwrap_or_default();
                groups.extend(
                    (2..=near.len()).filter_map(|count| near.get(..count)).map(<[_]>::to_vec),
                );
                Ok(groups)
            }
        }
    }

    fn has_cpus(&self, node: NodeId) -> bool {
        self.topology.node(node).is_some_and(|node| !node.cpus.is_empty())
    }

    /// Nodes with CPUs, best first: with free hugepages for this container, near the vRouter, with few pods.
    fn ranked(&self, limits: &Limits) -> Vec<NodeId> {
        let from = self.vrouter.node.filter(|node| self.has_cpus(*node));
        let start = from.or_else(|| self.topology.nodes().map(|node| node.id).next());
        let mut nodes = start.map(|node| self.topology.nearest_with_cpus(node)).unwrap_or_default();
        let distance = |node: NodeId| {
            let distances =
                from.and_then(|from| self.topology.node(from)).map(|from| &from.distances);
            match distances {
                Some(_) if from == Some(node) => 0,
                Some(known) => known.get(&node).copied().unwrap_or(u32::MAX),
                None => 0,
            }
        };
        let pods = |node: NodeId| self.pods().filter(|pod| pod.node == Some(node)).count();
        nodes.sort_by_key(|node| {
            (!self.has_free_hugepages(*node, limits), distance(*node), pods(*node), *node)
        });
        nodes
    }

    /// The same, with the node that placement has promised first.
    fn ranked_for(&self, ask: &Ask<'_>, limits: &Limits) -> Vec<NodeId> {
        let mut nodes = self.ranked(limits);
        nodes.sort_by_key(|node| ask.request.promised != Some(*node));
        nodes
    }

    fn has_free_hugepages(&self, node: NodeId, limits: &Limits) -> bool {
        let Some(memory) = self.topology.node(self.topology.memory_for(node)) else { return false };
        let mut wanted = limits.wanted().peekable();
        if limits.declined() {
            true
        } else if wanted.peek().is_none() {
            memory.hugepages.iter().any(|pool| pool.free > 0)
        } else {
            wanted.all(|limit| memory.free_hugepage_bytes(limit.size) >= limit.limit)
        }
    }

    fn place_on(
        &self,
        group: &[NodeId],
        ask: &Ask<'_>,
        wanted: Option<usize>,
        limits: &Limits,
    ) -> Result<Placed, PlanError> {
        let nodes: NodeSet = group.iter().copied().collect();
        let mems: NodeSet = group.iter().map(|node| self.topology.memory_for(*node)).collect();
        let exclusive = self.exclusive_except(Some((ask.sandbox, Some(ask.container))));
        let cpus = match wanted {
            None => Cpus::Shared(self.share(&nodes, &exclusive)?),
            Some(count) => Cpus::Exclusive(self.take(group, count, &exclusive, ask)?),
        };
        self.check_hugepages(&mems, limits)?;
        let home = group.first().copied().unwrap_or(NodeId(0));
        Ok(Placed { home, nodes, mems, cpus })
    }

    fn owned<'a>(&'a self, exclusive: &'a CpuSet) -> pick::Owned<'a> {
        pick::Owned { reserved: &self.reserved, workers: &self.vrouter.workers, exclusive }
    }

    fn share(&self, nodes: &NodeSet, exclusive: &CpuSet) -> Result<CpuSet, PlanError> {
        let pool = pick::shared_pool(&self.topology, nodes, self.owned(exclusive));
        if pool.is_empty() {
            return Err(PlanError::NoSharedCpus { counts: self.counts(nodes, exclusive) });
        }
        Ok(pool)
    }

    fn take(
        &self,
        group: &[NodeId],
        wanted: usize,
        exclusive: &CpuSet,
        ask: &Ask<'_>,
    ) -> Result<CpuSet, PlanError> {
        let nodes: NodeSet = group.iter().copied().collect();
        let owned = self.owned(exclusive);
        let counts = || self.counts(&nodes, exclusive);
        let before = self.pod(ask.sandbox).and_then(|pod| pod.containers.get(ask.container));
        let kept = before.and_then(|before| match &before.cpus {
            Cpus::Exclusive(cpus) if cpus.len() == wanted => Some(cpus),
            _ => None,
        });
        let free = owned.free(&pick::online(&self.topology, &nodes));
        let taken = match kept {
            Some(cpus) if cpus.is_subset(&free) => Some(cpus.clone()),
            _ => pick::exclusive(&self.topology, group, owned, wanted),
        };
        let Some(taken) = taken else {
            return Err(PlanError::NotEnoughCpus { wanted, counts: counts() });
        };
        let after = exclusive.union(&taken);
        for pod in self.pods() {
            for (name, container) in &pod.containers {
                let itself = pod.sandbox == *ask.sandbox && name == ask.container;
                let shares = matches!(container.cpus, Cpus::Shared(_));
                let starves = || {
                    pick::shared_pool(&self.topology, &container.nodes, self.owned(&after))
                        .is_empty()
                };
                if !itself && shares && starves() {
                    let first = format!("{}/{}", pod.namespace, pod.name);
                    return Err(PlanError::SharedWouldStarve { wanted, counts: counts(), first });
                }
            }
        }
        Ok(taken)
    }

    pub(super) fn check_hugepages(&self, mems: &NodeSet, limits: &Limits) -> Result<(), PlanError> {
        let reserved = || mems.iter().filter_map(|id| self.topology.node(id));
        for limit in limits.wanted() {
            let total = reserved()
                .fold(0_u64, |sum, node| sum.saturating_add(node.hugepage_bytes(limit.size)));
            if limit.limit > total {
                return Err(PlanError::NotEnoughHugepages {
                    nodes: mems.clone(),
                    first: mems.first().unwrap_or(NodeId(0)),
                    size: limit.size,
                    wanted: limit.limit,
                    total,
                });
            }
        }
        let any = reserved().any(|node| node.hugepages.iter().any(|pool| pool.total > 0));
        if any || limits.declined() || limits.wanted().next().is_some() {
            return Ok(());
        }
        Err(PlanError::NoHugepages { nodes: mems.clone() })
    }

    /// Each CPU is counted once: reserved before the vRouter's before exclusive.
    fn counts(&self, nodes: &NodeSet, exclusive: &CpuSet) -> CpuCounts {
        let online = pick::online(&self.topology, nodes);
        let unreserved = online.difference(&self.reserved);
        let idle = unreserved.difference(&self.vrouter.workers);
        let free = idle.difference(exclusive);
        CpuCounts {
            nodes: nodes.clone(),
            online: online.len(),
            reserved: online.len() - unreserved.len(),
            workers: unreserved.len() - idle.len(),
            exclusive: idle.len() - free.len(),
            free: free.len(),
        }
    }
}
