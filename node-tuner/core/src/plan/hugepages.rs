//! Hugepages of each NUMA node.

use std::collections::BTreeMap;

use ringway_config::{Amount, Bytes};

use super::Planner;
use crate::cpuset::CpuSet;
use crate::knob::Form;
use crate::node::NumaNode;

const WHY: &str = "pods and the vRouter keep packets in hugepages of their own NUMA node";

/// What a size of hugepages shall be on one node.
struct Wanted {
    /// Index of the rule.
    rule: usize,
    pages: u64,
}

impl Planner<'_> {
    pub(super) fn hugepages(&mut self) {
        let node = self.node;
        let mut wanted: BTreeMap<(u32, u64), Wanted> = BTreeMap::new();
        for (index, rule) in self.profile.hugepages.iter().enumerate() {
            let listed: CpuSet = rule.nodes.parse().unwrap_or_default();
            for id in listed.iter().filter(|id| node.numa_node(*id).is_none()) {
                let remedy =
                    format!("there is no NUMA node {id} here; name existing ones, or none for all");
                self.refuse(format!("hugepages[{index}].nodes"), &rule.nodes, remedy);
            }
            for numa in &node.numa {
                let meant = if listed.is_empty() {
                    !numa.cpus.is_empty() && numa.memory != Some(0)
                } else {
                    listed.contains(numa.id)
                };
                if !meant {
                    continue;
                }
                match pages(rule.amount, rule.size, numa) {
                    Some(pages) => {
                        wanted.insert((numa.id, rule.size.0), Wanted { rule: index, pages });
                    }
                    None => self.no_size_of_memory(rule.size, rule.amount, numa.id),
                }
            }
        }
        for numa in &node.numa {
            self.check_limit(numa, &wanted);
        }
        for ((id, size), wanted) in &wanted {
            if let Some(numa) = node.numa_node(*id) {
                self.pool(numa, *size, wanted.pages);
            }
        }
    }

    fn no_size_of_memory(&mut self, size: Bytes, amount: Amount, node: u32) {
        let reason = "the kernel does not say how much memory the node has; give a number of pages";
        let what = format!("{size} pages of NUMA node {node}");
        self.not_applicable("hugepages", what, amount.to_string(), WHY, reason);
    }

    /// All sizes of one node together, those that no rule mentions included.
    fn check_limit(&mut self, numa: &NumaNode, wanted: &BTreeMap<(u32, u64), Wanted>) {
        let rules = wanted.range((numa.id, 0)..=(numa.id, u64::MAX));
        let planned: Vec<(u64, &Wanted)> = rules
            .filter(|((_, size), _)| numa.hugepages.contains_key(size))
            .map(|((_, size), wanted)| (*size, wanted))
            .collect();
        let Some((largest, last)) = planned
            .iter()
            .map(|(size, wanted)| (size.saturating_mul(wanted.pages), *wanted))
            .max_by_key(|(bytes, wanted)| (*bytes, wanted.rule))
        else {
            return;
        };
        let others =
            numa.hugepages.iter().filter(|(size, _)| !planned.iter().any(|(s, _)| s == *size));
        let others: u64 = others.map(|(size, pool)| size.saturating_mul(pool.total)).sum();
        let sizes = planned.iter().map(|(size, wanted)| size.saturating_mul(wanted.pages));
        let total = sizes.fold(others, u64::saturating_add);
        let Some(memory) = numa.memory else { return };
        let percent = self.profile.limits.hugepage_percent;
        // Half of a node's memory is allowed where half may be: not rounded before it is multiplied.
        let most = u128::from(memory) * u128::from(percent) / 100;
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        if total <= most || largest == 0 {
            return;
        }
        let amount = self.profile.hugepages.get(last.rule).map(|rule| rule.amount.to_string());
        let remedy = format!(
            "would make {} MiB of NUMA node {}'s {} MiB hugepages, all sizes together; at most {} MiB \
             (limits.hugepage_percent = {percent}) may be",
            total >> 20,
            numa.id,
            memory >> 20,
            most >> 20,
        );
        self.refuse(format!("hugepages[{}].amount", last.rule), amount.unwrap_or_default(), remedy);
    }

    fn pool(&mut self, numa: &NumaNode, size: u64, wanted: u64) {
        let path = format!(
            "sys/devices/system/node/node{}/hugepages/hugepages-{}kB/nr_hugepages",
            numa.id,
            size >> 10
        );
        let Some(pool) = numa.hugepages.get(&size) else {
            return self.attribute("hugepages", &path, Form::Words, &wanted.to_string(), WHY);
        };
        if self.at_boot(size) && pool.total < wanted {
            // `boot` proposes them.
            return;
        }
        let used = pool.total.saturating_sub(pool.free);
        if wanted < used {
            self.notes.push(format!(
                "NUMA node {} keeps {used} pages of {} that are in use, although {wanted} are wanted",
                numa.id,
                Bytes(size)
            ));
        }
        self.attribute("hugepages", &path, Form::Words, &wanted.max(used).to_string(), WHY);
    }

    /// Whether pages of this size are left to the kernel's command line: it has nothing of them yet, and they are hard to
    /// find later.
    pub(super) fn at_boot(&self, size: u64) -> bool {
        let given = self.node.kernel.command_line.iter();
        let mut given = given.filter_map(|word| word.strip_prefix("hugepagesz="));
        self.profile.kernel.boot_hugepages && size >= 1 << 30 && !given.any(|size| size == "1G")
    }

    /// Pages of 1 GiB that are to be there from the start, by NUMA node.
    pub(super) fn boot_pages(&self) -> BTreeMap<u32, u64> {
        let size = Bytes(1 << 30);
        let mut pages_of = BTreeMap::new();
        for rule in self.profile.hugepages.iter().filter(|rule| rule.size == size) {
            let listed: CpuSet = rule.nodes.parse().unwrap_or_default();
            for numa in self.node.numa.iter().filter(|numa| numa.hugepages.contains_key(&size.0)) {
                let all = listed.is_empty() && !numa.cpus.is_empty();
                if all || listed.contains(numa.id) {
                    pages_of.extend(pages(rule.amount, size, numa).map(|pages| (numa.id, pages)));
                }
            }
        }
        pages_of.retain(|_, pages| *pages > 0);
        pages_of
    }
}

/// Whole pages of that amount; `None` for a share of unknown memory.
fn pages(amount: Amount, Bytes(size): Bytes, numa: &NumaNode) -> Option<u64> {
    Some(match amount {
        Amount::Pages(pages) => pages,
        Amount::Bytes(Bytes(bytes)) => bytes / size,
        Amount::Percent(percent) => numa.memory? / 100 * u64::from(percent) / size,
    })
}
