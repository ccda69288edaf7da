//! A node as zones, one for each NUMA node, for schedulers that read `NodeResourceTopology` objects; and its labels.

use std::collections::BTreeMap;

use node_tuner_core::cpuset::CpuSet;

use crate::facts::Facts;

/// vhost-user ports, as a resource.
pub const PORTS: &str = "ringway.dev/ports";
/// Starts all labels that are ours to write.
pub const LABELS: &str = "tuning.ringway.dev/";

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// `node-0`.
    pub name: String,
    /// Distance to the zone of each name.
    pub costs: Vec<(String, u32)>,
    /// What it has.
    pub resources: Vec<Resource>,
}

/// One resource of a zone; CPUs as a number, hugepages in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `cpu`, `memory`, `hugepages-1Gi`, [`PORTS`].
    pub name: String,
    /// All of it.
    pub capacity: u64,
    /// For pods.
    pub allocatable: u64,
    /// Of that, free.
    pub available: u64,
}

/// The zones of a node that is so.
#[must_use]
pub fn zones(facts: &Facts) -> Vec<Zone> {
    let name = |id: u32| format!("node-{id}");
    let count = |list: &str| {
        let cpus: CpuSet = list.parse().unwrap_or_default();
        u64::try_from(cpus.len()).unwrap_or(u64::MAX)
    };
    let zone = |numa: &crate::facts::NumaFacts| {
        let resource = |name: &str, capacity, allocatable, available| Resource {
            name: name.to_owned(),
            capacity,
            allocatable,
            available,
        };
        let pods = count(&numa.pod_cpus);
        let mut resources = vec![resource("cpu", count(&numa.cpus), pods, pods)];
        if numa.memory > 0 {
            let pages = numa.hugepages.iter().map(|pool| pool.size.saturating_mul(pool.total));
            let rest = numa.memory.saturating_sub(pages.fold(0, u64::saturating_add));
            resources.push(resource("memory", numa.memory, rest, rest));
        }
        for pool in &numa.hugepages {
            let (total, free) =
                (pool.size.saturating_mul(pool.total), pool.size.saturating_mul(pool.free));
            resources.push(resource(&format!("hugepages-{}", size(pool.size)), total, total, free));
        }
        let here = facts.vrouters.iter().filter(|one| one.numa.is_none_or(|at| at == numa.id));
        let (most, used) =
            here.filter(|one| one.ports_max > 0).fold((0, 0), |(most, used), one| {
                (most + u64::from(one.ports_max), used + u64::from(one.ports))
            });
        if most > 0 {
            resources.push(resource(PORTS, most, most, most.saturating_sub(used)));
        }
        Zone {
            name: name(numa.id),
            costs: numa.distances.iter().map(|to| (name(to.to), to.distance)).collect(),
            resources,
        }
    };
    facts.numa.iter().map(zone).collect()
}

/// As Kubernetes names sizes of hugepages: `2Mi`.
fn size(bytes: u64) -> String {
    [(30, "Gi"), (20, "Mi"), (10, "Ki")]
        .iter()
        .find(|(shift, _)| bytes >= 1 << shift)
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// Labels of a node that is so, whose profile is `profile`. A label that is not here any more is to be removed.
#[must_use]
pub fn labels(facts: &Facts, profile: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut label = |name: &str, value: &str| {
        // A label's value has at most 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let value: String = value.chars().map(plain).take(63).collect();
        let value = value.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if !value.is_empty() {
            labels.insert(format!("{LABELS}{name}"), value.to_owned());
        }
    };
    label("profile", profile.unwrap_or_default());
    label("cpu-vendor", &facts.cpu.vendor);
    label(
        "numa-nodes",
        &facts.numa.iter().filter(|numa| !numa.cpus.is_empty()).count().to_string(),
    );
    let mut modes: Vec<&str> = facts.vrouters.iter().map(|vrouter| vrouter.mode.as_str()).collect();
    modes.sort_unstable();
    modes.dedup();
    label("vrouter-mode", &modes.join("."));
    let fastest = facts.nics.iter().filter_map(|nic| nic.speed).max();
    label("nic-speed", &fastest.map(|speed| speed.to_string()).unwrap_or_default());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::two_nodes;

    #[test]
    fn a_zone_for_each_numa_node() {
        let mut facts = two_nodes();
        facts.numa[1].hugepages[1].free = 3;
        facts.vrouters[1].ports = 5;
        let zones = zones(&facts);
        assert_eq!(
            zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>(),
            ["node-0", "node-1"]
        );
        assert_eq!(zones[1].costs, [("node-0".to_owned(), 21), ("node-1".to_owned(), 10)]);
        let told: Vec<String> = zones[1]
            .resources
            .iter()
            .map(|it| format!("{} {} {} {}", it.name, it.capacity, it.allocatable, it.available))
            .collect();
        let gib = 1_u64 << 30;
        assert_eq!(
            told,
            [
                "cpu 16 12 12".to_owned(),
                format!("memory {} {} {}", 64 * gib, 46 * gib, 46 * gib),
                format!("hugepages-2Mi {} {} {}", 2 * gib, 2 * gib, 2 * gib),
                format!("hugepages-1Gi {} {} {}", 16 * gib, 16 * gib, 3 * gib),
                "ringway.dev/ports 8 8 3".to_owned(),
            ]
        );
    }

    #[test]
    fn labels_are_legal() {
        let mut facts = two_nodes();
        facts.cpu.vendor = "implementer 0x99!".into();
        let told: Vec<_> = labels(&facts, Some("dpdk-router")).into_iter().collect();
        let wanted = [
            ("tuning.ringway.dev/cpu-vendor", "implementer-0x99"),
            ("tuning.ringway.dev/nic-speed", "100000"),
            ("tuning.ringway.dev/numa-nodes", "2"),
            ("tuning.ringway.dev/profile", "dpdk-router"),
            ("tuning.ringway.dev/vrouter-mode", "dpdk"),
        ];
        assert_eq!(told, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert!(!labels(&Facts::default(), None).contains_key("tuning.ringway.dev/profile"));
    }
}
