//! What a node has for pods, from what its agent reports.

use std::collections::{BTreeMap, BTreeSet};

use node_tuner_core::cpuset::CpuSet;

use crate::facts::Facts;

/// What a node has for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// NUMA nodes with CPUs, ascending.
    pub numa: Vec<NumaOffer>,
    /// vRouters that answer.
    pub vrouters: Vec<VrouterOffer>,
}

/// What a NUMA node has for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaOffer {
    /// As the kernel numbers it.
    pub id: u32,
    /// CPUs that pods may have.
    pub cpus: u32,
    /// Hugepages by the bytes of one page.
    pub hugepages: BTreeMap<u64, Pool>,
}

/// Hugepages of one size, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// All of them.
    pub total: u64,
    /// Of those, what nobody uses.
    pub free: u64,
}

/// What a vRouter has for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VrouterOffer {
    /// `dpdk` or `kernel`.
    pub mode: String,
    /// The NUMA node it is for; `None`: all.
    pub numa: Option<u32>,
    /// Ports that exist.
    pub ports: u32,
    /// Most that can exist.
    pub ports_max: u32,
    /// Networks it has.
    pub networks: BTreeSet<String>,
}

impl Offer {
    /// What a node that is so has for pods.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let numa = facts.numa.iter().filter(|numa| !numa.cpus.is_empty()).map(|numa| {
            let cpus: CpuSet = numa.pod_cpus.parse().unwrap_or_default();
            let pool = |pages: u64, size: u64| pages.saturating_mul(size);
            let hugepages = numa.hugepages.iter().map(|one| {
                (
                    one.size,
                    Pool { total: pool(one.total, one.size), free: pool(one.free, one.size) },
                )
            });
            NumaOffer {
                id: numa.id,
                cpus: u32::try_from(cpus.len()).unwrap_or(u32::MAX),
                hugepages: hugepages.collect(),
            }
        });
        let vrouters = facts.vrouters.iter().map(|vrouter| VrouterOffer {
            mode: vrouter.mode.clone(),
            numa: vrouter.numa,
            ports: vrouter.ports,
            ports_max: if vrouter.ports_max == 0 { u32::MAX } else { vrouter.ports_max },
            networks: vrouter.networks.iter().cloned().collect(),
        });
        Self { numa: numa.collect(), vrouters: vrouters.collect() }
    }
}
