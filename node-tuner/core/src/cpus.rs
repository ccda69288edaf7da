//! Who gets which CPUs: the system, the vRouter's workers, pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ringway_config::{CpuRules, VrouterNodes};
use serde::Serialize;

use crate::cpuset::CpuSet;
use crate::node::{Core, CoreKind, Node};

/// Who gets which CPUs. Every online CPU is in exactly one of the three sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Division {
    /// The system's.
    pub reserved: CpuSet,
    /// The vRouter's.
    pub vrouter: CpuSet,
    /// The pods'.
    pub pods: CpuSet,
    /// The same, by NUMA node.
    pub by_numa: BTreeMap<u32, NumaDivision>,
}

/// Who gets which CPUs of one NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NumaDivision {
    /// The system's.
    pub reserved: CpuSet,
    /// The vRouter's.
    pub vrouter: CpuSet,
    /// The pods'.
    pub pods: CpuSet,
}

/// Something a profile wants that this node can't or shall not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Key in the profile.
    pub field: String,
    /// What it says.
    pub value: String,
    /// Why not, and what would do.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.field, self.value, self.remedy)
    }
}

impl Refusal {
    pub(crate) fn new(
        field: impl Into<String>,
        value: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.to_string(), remedy: remedy.into() }
    }
}

impl Division {
    /// CPUs that move packets or belong to pods.
    #[must_use]
    pub fn data(&self) -> CpuSet {
        self.vrouter.union(&self.pods)
    }

    /// The reserved CPUs nearest to `numa`: those of the node, or all.
    #[must_use]
    pub fn reserved_near(&self, numa: Option<u32>) -> CpuSet {
        let near = numa.and_then(|numa| self.by_numa.get(&numa)).map(|numa| &numa.reserved);
        near.filter(|cpus| !cpus.is_empty()).unwrap_or(&self.reserved).clone()
    }
}

/// Divides the CPUs of `node` as `rules` say.
///
/// # Errors
/// What does not fit, for each NUMA node.
pub fn divide(node: &Node, rules: &CpuRules) -> Result<Division, Vec<Refusal>> {
    let homes = homes(node, rules.vrouter_nodes);
    let (mut division, mut refusals) = (Division::default(), Vec::new());
    for numa in node.numa.iter().filter(|numa| !numa.cpus.is_empty()) {
        let units = units(node, numa.id, rules.split_cores);
        let what = if rules.split_cores { "CPUs" } else { "cores" };
        let (have, reserved) = (units.len(), count(rules.reserved_cores));
        let workers = if homes.contains(&numa.id) { count(rules.vrouter_cores) } else { 0 };
        if reserved > 0 && reserved >= have {
            let most = have.saturating_sub(1);
            let split = if rules.split_cores { "" } else { split_hint(&units) };
            let remedy = format!(
                "NUMA node {} has {have} {what}, so nothing would be left for packets and pods; reserve at most \
                 {most}{split}",
                numa.id
            );
            refusals.push(Refusal::new("cpus.reserved_cores", rules.reserved_cores, remedy));
            continue;
        }
        if reserved + workers > have {
            let remedy = format!(
                "NUMA node {} has {have} {what}, {reserved} of them reserved; give the vRouter at most {}",
                numa.id,
                have - reserved
            );
            refusals.push(Refusal::new("cpus.vrouter_cores", rules.vrouter_cores, remedy));
            continue;
        }
        let (system, rest) = take_reserved(units, reserved);
        let (vrouter, pods) = take_vrouter(rest, workers);
        let numa_division =
            NumaDivision { reserved: all(&system), vrouter: all(&vrouter), pods: all(&pods) };
        division.reserved.extend(&numa_division.reserved);
        division.vrouter.extend(&numa_division.vrouter);
        division.pods.extend(&numa_division.pods);
        division.by_numa.insert(numa.id, numa_division);
    }
    if refusals.is_empty() { Ok(division) } else { Err(refusals) }
}

fn split_hint(units: &[Core]) -> &'static str {
    let threads = units.iter().any(|core| core.cpus.len() > 1);
    if threads { ", or set cpus.split_cores = true to count hardware threads" } else { "" }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX / 2)
}

fn all(cores: &[Core]) -> CpuSet {
    cores.iter().flat_map(|core| core.cpus.iter()).collect()
}

/// The NUMA nodes on which the vRouter has workers.
fn homes(node: &Node, rule: VrouterNodes) -> BTreeSet<u32> {
    let with_cpus = || node.numa.iter().filter(|numa| !numa.cpus.is_empty()).map(|numa| numa.id);
    let cards = node.nics.iter().filter(|nic| nic.physical).filter_map(|nic| nic.numa);
    let cards: BTreeSet<u32> = cards.filter(|id| with_cpus().any(|other| other == *id)).collect();
    match rule {
        VrouterNodes::Nic if !cards.is_empty() => cards,
        _ => with_cpus().collect(),
    }
}

/// What is given away as a whole: cores, or single CPUs.
fn units(node: &Node, numa: u32, split: bool) -> Vec<Core> {
    let cores = node.cpu.cores.iter().filter(|core| core.numa == numa);
    if !split {
        return cores.cloned().collect();
    }
    let single = |core: &Core, cpu| Core { cpus: CpuSet::from_iter([cpu]), ..core.clone() };
    let mut units: Vec<Core> =
        cores.flat_map(|core| core.cpus.iter().map(move |cpu| single(core, cpu))).collect();
    units.sort_by_key(|core| core.cpus.first());
    units
}

/// Slow cores first; they do for daemons.
fn take_reserved(mut units: Vec<Core>, wanted: usize) -> (Vec<Core>, Vec<Core>) {
    // The sort keeps the order of CPU numbers within each kind.
    units.sort_by_key(|core| core.kind != CoreKind::Slow);
    let rest = units.split_off(wanted.min(units.len()));
    (units, rest)
}

/// Fast cores that share their last cache, if there are enough behind one.
fn take_vrouter(mut units: Vec<Core>, wanted: usize) -> (Vec<Core>, Vec<Core>) {
    units.sort_by_key(|core| (core.kind, core.cpus.first()));
    let behind = |cache: &CpuSet| {
        units.iter().filter(|core| core.kind == CoreKind::Fast && core.last_cache == *cache).count()
    };
    let enough = units.iter().find(|core| {
        core.kind == CoreKind::Fast
            && !core.last_cache.is_empty()
            && behind(&core.last_cache) >= wanted
    });
    if let Some(cache) = enough.map(|core| core.last_cache.clone()) {
        units.sort_by_key(|core| (core.last_cache != cache, core.kind, core.cpus.first()));
    }
    let rest = units.split_off(wanted.min(units.len()));
    (units, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{SHAPES, node};

    fn rules(reserved_cores: u32, vrouter_cores: u32) -> CpuRules {
        CpuRules { reserved_cores, vrouter_cores, ..CpuRules::default() }
    }

    fn check(shape: &str, rules: CpuRules, reserved: &str, vrouter: &str, pods: &str) {
        let division = divide(&node(shape), &rules).unwrap();
        let sets = [&division.reserved, &division.vrouter, &division.pods];
        assert_eq!(sets.map(ToString::to_string), [reserved, vrouter, pods], "{shape}");
    }

    #[test]
    fn whole_cores_of_each_numa_node() {
        check("two-sockets", rules(1, 1), "0,4,8,12", "1,5,9,13", "2-3,6-7,10-11,14-15");
        check("arm", rules(2, 3), "0-1", "2-4", "5-7");
        // The cards are on nodes 2 and 3.
        check("four-nodes", rules(1, 1), "0-1,4-5,8-9,12-13", "10-11,14-15", "2-3,6-7");
        let all = CpuRules { vrouter_nodes: VrouterNodes::All, ..rules(1, 1) };
        check("four-nodes", all, "0-1,4-5,8-9,12-13", "2-3,6-7,10-11,14-15", "");
        // The memory-only node takes part in nothing.
        check("cxl", rules(1, 1), "0", "1", "2-3");
        check("bare", CpuRules::default(), "", "", "0-3");
    }

    #[test]
    fn slow_cores_are_the_systems_and_fast_ones_the_vrouters() {
        check("hybrid", rules(2, 2), "8-9", "0-3", "4-7,10-11");
        check("hybrid", rules(5, 1), "0-1,8-11", "2-3", "4-7");
    }

    #[test]
    fn a_single_core_can_be_split() {
        let error = divide(&node("vm"), &rules(1, 0)).unwrap_err().remove(0);
        assert_eq!((error.field.as_str(), error.value.as_str()), ("cpus.reserved_cores", "1"));
        assert!(
            error.remedy.contains("has 1 cores") && error.remedy.contains("split_cores = true")
        );
        check("vm", CpuRules { split_cores: true, ..rules(1, 1) }, "0", "1", "");
        let error = divide(&node("vm"), &CpuRules { split_cores: true, ..rules(2, 0) });
        assert!(!error.unwrap_err()[0].remedy.contains("split_cores"));
    }

    #[test]
    fn too_much_is_refused_for_each_node() {
        let errors = divide(&node("two-sockets"), &rules(4, 0)).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(
            errors[1].to_string().starts_with("cpus.reserved_cores = 4: NUMA node 1 has 4 cores")
        );
        let errors = divide(&node("two-sockets"), &rules(2, 3)).unwrap_err();
        assert!(errors[0].to_string().ends_with("give the vRouter at most 2"), "{errors:?}");
    }

    #[test]
    fn every_cpu_is_somebodys_and_cores_stay_whole() {
        bolero::check!().with_type::<(u8, u8, u8, bool, bool)>().for_each(
            |(shape, reserved, vrouter, all, split)| {
                let node = node(SHAPES[usize::from(*shape) % SHAPES.len()].0);
                let rules = CpuRules {
                    reserved_cores: u32::from(*reserved % 10),
                    vrouter_cores: u32::from(*vrouter % 10),
                    vrouter_nodes: if *all { VrouterNodes::All } else { VrouterNodes::Nic },
                    split_cores: *split,
                };
                let Ok(division) = divide(&node, &rules) else { return };
                let sets = [&division.reserved, &division.vrouter, &division.pods];
                let total: usize = sets.iter().map(|set| set.len()).sum();
                assert_eq!(total, node.cpu.online.len());
                assert_eq!(division.data().union(&division.reserved), node.cpu.online);
                assert!(!division.data().is_empty());
                for core in node.cpu.cores.iter().filter(|_| !split) {
                    assert!(sets.iter().any(|set| core.cpus.is_subset(set)));
                }
            },
        );
    }
}
