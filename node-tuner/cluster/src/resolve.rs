//! What a profile comes to on a node: its formulas become numbers, and what can't be or is not safe is refused.

use std::collections::BTreeMap;

use node_tuner_core::cpuset::CpuSet;
use ringway_config::{Amount, Bytes, HugepageRule, NodeProfile, ProfileParameters};

use crate::facts::{Facts, NumaFacts};
use crate::formula;

/// What formulas can set: a key, and which of `memory`, `cores` and `cpus` are NUMA node by NUMA node there.
const KEYS: [&str; 5] = [
    "cpus.reserved_cores",
    "cpus.vrouter_cores",
    "hugepages.2Mi",
    "hugepages.1Gi",
    "agent.workers.max",
];

/// The parameters for a node that is so: those of the profile, with each formula's value put in.
///
/// Formulas know, of each NUMA node with CPUs, `memory` (bytes), `cores`, `cpus`, `nics` (network cards on it), and of the
/// machine `nodes` (NUMA nodes with CPUs) and `total_memory`. Hugepages are computed for each NUMA node; what a profile
/// has one number for is computed for each, and the least counts.
///
/// # Errors
/// Each thing that can't be, in one line with its remedy.
pub fn resolve(
    name: &str,
    parameters: &ProfileParameters,
    formulas: &BTreeMap<String, String>,
    facts: &Facts,
) -> Result<ProfileParameters, Vec<String>> {
    let (mut resolved, mut refused) = (parameters.clone(), Vec::new());
    let numa: Vec<&NumaFacts> = facts.numa.iter().filter(|numa| !numa.cpus.is_empty()).collect();
    if numa.is_empty() {
        return Err(vec!["the node reports no NUMA node with CPUs".to_owned()]);
    }
    for (key, text) in formulas {
        let values: Result<Vec<u64>, _> =
            numa.iter().map(|one| formula::evaluate(text, &names(facts, &numa, one))).collect();
        let values = match values {
            Ok(values) => values,
            Err(error) => {
                refused.push(format!("formulas.{key} = {error}"));
                continue;
            }
        };
        let least = values.iter().copied().min().unwrap_or(0);
        let count = u32::try_from(least).unwrap_or(u32::MAX);
        match key.as_str() {
            "cpus.reserved_cores" => resolved.cpus.reserved_cores = count,
            "cpus.vrouter_cores" => resolved.cpus.vrouter_cores = count,
            "agent.workers.max" => resolved.agent.workers.max = count,
            "hugepages.2Mi" => pages(&mut resolved, &numa, &values, 2 << 20),
            "hugepages.1Gi" => pages(&mut resolved, &numa, &values, 1 << 30),
            _ => refused.push(format!(
                "formulas.{key} = {text:?}: no formula can set it; they can set {}",
                KEYS.join(", ")
            )),
        }
    }
    resolved.hugepages = numbers(&resolved.hugepages, facts);
    if let Err(why) = NodeProfile::from_parameters(name, resolved.clone()) {
        refused.push(why);
    }
    check_cpus(&resolved, &numa, &mut refused);
    check_hugepages(&resolved, facts, &mut refused);
    if refused.is_empty() { Ok(resolved) } else { Err(refused) }
}

fn names(facts: &Facts, all: &[&NumaFacts], numa: &NumaFacts) -> BTreeMap<&'static str, u64> {
    let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let cpus: CpuSet = numa.cpus.parse().unwrap_or_default();
    let nics = facts.nics.iter().filter(|nic| nic.numa == Some(numa.id)).count();
    let total = facts.numa.iter().map(|numa| numa.memory).fold(0, u64::saturating_add);
    BTreeMap::from([
        ("memory", numa.memory),
        ("cores", u64::from(numa.cores)),
        ("cpus", wide(cpus.len())),
        ("nics", wide(nics)),
        ("nodes", wide(all.len())),
        ("total_memory", total),
    ])
}

fn pages(resolved: &mut ProfileParameters, numa: &[&NumaFacts], bytes: &[u64], size: u64) {
    // The formula stands for all rules of its size.
    resolved.hugepages.retain(|rule| rule.size.0 != size);
    for (numa, bytes) in numa.iter().zip(bytes) {
        resolved.hugepages.push(HugepageRule {
            size: Bytes(size),
            amount: Amount::Pages(bytes / size),
            nodes: numa.id.to_string(),
        });
    }
}

/// Each rule as a number of pages of one NUMA node. A share of memory that the node does not tell stays a share: the agent
/// says so.
fn numbers(rules: &[HugepageRule], facts: &Facts) -> Vec<HugepageRule> {
    let mut pages: BTreeMap<(u32, u64), HugepageRule> = BTreeMap::new();
    for rule in rules {
        let Bytes(size) = rule.size;
        let listed: CpuSet = rule.nodes.parse().unwrap_or_default();
        let there = |id: u32| facts.numa.iter().any(|numa| numa.id == id);
        for numa in &facts.numa {
            let meant = if listed.is_empty() {
                !numa.cpus.is_empty() && numa.memory > 0
            } else {
                listed.contains(numa.id)
            };
            if !meant || size == 0 {
                continue;
            }
            let amount = match rule.amount {
                Amount::Percent(percent) => {
                    Amount::Pages(numa.memory / 100 * u64::from(percent) / size)
                }
                Amount::Bytes(Bytes(bytes)) => Amount::Pages(bytes / size),
                pages @ Amount::Pages(_) => pages,
            };
            let nodes = numa.id.to_string();
            pages.insert((numa.id, size), HugepageRule { size: rule.size, amount, nodes });
        }
        // The agent refuses a NUMA node that is not there, by name.
        for id in listed.iter().filter(|id| !there(*id)) {
            pages.insert((id, size), HugepageRule { nodes: id.to_string(), ..rule.clone() });
        }
    }
    pages.into_values().collect()
}

fn check_cpus(resolved: &ProfileParameters, numa: &[&NumaFacts], refused: &mut Vec<String>) {
    let rules = &resolved.cpus;
    for one in numa {
        let cpus: CpuSet = one.cpus.parse().unwrap_or_default();
        let (have, what) = if rules.split_cores {
            (u32::try_from(cpus.len()).unwrap_or(u32::MAX), "CPUs")
        } else {
            (one.cores, "cores")
        };
        let reserved = rules.reserved_cores;
        if reserved > 0 && reserved >= have {
            refused.push(format!(
                "cpus.reserved_cores = {reserved}: NUMA node {} has {have} {what}, so nothing would be left for \
                 packets and pods; reserve at most {}",
                one.id,
                have.saturating_sub(1)
            ));
        } else if reserved.saturating_add(rules.vrouter_cores) > have {
            refused.push(format!(
                "cpus.vrouter_cores = {}: NUMA node {} has {have} {what}, {reserved} of them reserved; give the \
                 vRouter at most {}",
                rules.vrouter_cores,
                one.id,
                have - reserved
            ));
        }
    }
}

fn check_hugepages(resolved: &ProfileParameters, facts: &Facts, refused: &mut Vec<String>) {
    let percent = resolved.limits.hugepage_percent;
    for numa in facts.numa.iter().filter(|numa| numa.memory > 0) {
        let here = resolved.hugepages.iter().filter(|rule| rule.nodes == numa.id.to_string());
        let wanted: BTreeMap<u64, u64> = here
            .filter_map(|rule| match rule.amount {
                Amount::Pages(pages) => Some((rule.size.0, rule.size.0.saturating_mul(pages))),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let others = numa.hugepages.iter().filter(|pool| !wanted.contains_key(&pool.size));
        let others = others.map(|pool| pool.size.saturating_mul(pool.total));
        let total = others.chain(wanted.values().copied()).fold(0, u64::saturating_add);
        let most = u128::from(numa.memory) * u128::from(percent) / 100;
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        if total > most {
            refused.push(format!(
                "hugepages: {} MiB of NUMA node {}'s {} MiB would become hugepages, all sizes together; at most {} \
                 MiB (limits.hugepage_percent = {percent}) may be",
                total >> 20,
                numa.id,
                numa.memory >> 20,
                most >> 20
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::two_nodes;

    fn formulas(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    fn rule(size: u64, amount: Amount, nodes: &str) -> HugepageRule {
        HugepageRule { size: Bytes(size), amount, nodes: nodes.into() }
    }

    #[test]
    fn half_of_each_numa_nodes_memory_as_pages_of_1_gib() {
        let mut facts = two_nodes();
        // What is there in other sizes counts against the limit.
        facts.numa.iter_mut().for_each(|numa| numa.hugepages[0].total = 0);
        facts.numa[1].memory = 32 << 30;
        let formulas = formulas(&[
            ("hugepages.1Gi", "memory / 2"),
            ("cpus.reserved_cores", "max(1, cores / 8)"),
        ]);
        let resolved = resolve("half", &ProfileParameters::default(), &formulas, &facts).unwrap();
        let pages = |numa: &str, pages| rule(1 << 30, Amount::Pages(pages), numa);
        assert_eq!(resolved.hugepages, [pages("0", 32), pages("1", 16)]);
        assert_eq!(resolved.cpus.reserved_cores, 1);
    }

    #[test]
    fn a_formula_stands_for_all_rules_of_its_size() {
        let facts = two_nodes();
        let parameters = ProfileParameters {
            hugepages: vec![
                rule(1 << 30, Amount::Percent(40), ""),
                rule(2 << 20, Amount::Bytes(Bytes(5 << 20)), "1"),
            ],
            ..ProfileParameters::default()
        };
        let formulas = formulas(&[("hugepages.1Gi", "min(nics * 4Gi, 8Gi)")]);
        let resolved = resolve("p", &parameters, &formulas, &facts).unwrap();
        assert_eq!(
            resolved.hugepages,
            [
                rule(1 << 30, Amount::Pages(4), "0"),
                rule(2 << 20, Amount::Pages(2), "1"),
                rule(1 << 30, Amount::Pages(0), "1"),
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_remedy() {
        let facts = two_nodes();
        let mut parameters = ProfileParameters::default();
        parameters.cpus.vrouter_cores = 8;
        let formulas = formulas(&[
            ("hugepages.1Gi", "90% memory"),
            ("cpus.reserved_cores", "cores / 4"),
            ("power.governor", "1"),
            ("agent.workers.max", "cores / (nodes - 2)"),
        ]);
        let refused = resolve("p", &parameters, &formulas, &facts).unwrap_err();
        for (told, part) in refused.iter().zip([
            "formulas.agent.workers.max = \"cores / (nodes - 2)\", at 19: divides by 0 here",
            "formulas.power.governor = \"1\": no formula can set it; they can set cpus.reserved_cores",
            "cpus.vrouter_cores = 8: NUMA node 0 has 8 cores, 2 of them reserved; give the vRouter at most 6",
            "cpus.vrouter_cores = 8: NUMA node 1 has 8 cores",
            "hugepages: 60416 MiB of NUMA node 0's 65536 MiB would become hugepages",
            "hugepages: 60416 MiB of NUMA node 1's",
        ]) {
            assert!(told.starts_with(part), "{told}\n{part}");
        }
        assert_eq!(refused.len(), 6, "{refused:#?}");
        let bad = ProfileParameters {
            hugepages: vec![rule(3 << 20, Amount::Pages(1), "0")],
            ..ProfileParameters::default()
        };
        let refused = resolve("p", &bad, &BTreeMap::new(), &facts).unwrap_err();
        assert!(refused[0].starts_with("hugepages[0].size = 3Mi: must be"), "{refused:?}");
    }

    #[test]
    fn shipped_profiles_come_to_something_on_a_server() {
        for (name, text) in ringway_config::PROFILES {
            let profile = NodeProfile::from_toml(text, std::path::Path::new(name)).unwrap();
            let parameters = profile.into_parameters();
            let resolved = resolve(name, &parameters, &BTreeMap::new(), &two_nodes()).unwrap();
            let open =
                resolved.hugepages.iter().any(|rule| !matches!(rule.amount, Amount::Pages(_)));
            assert!(!open, "{name}: {:?}", resolved.hugepages);
        }
    }
}
