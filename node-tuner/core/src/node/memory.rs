//! NUMA nodes, their hugepages, and machine-wide memory settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Files, NodeError, chosen};
use crate::cpuset::CpuSet;

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// As the kernel numbers it.
    pub id: u32,
    /// Its online CPUs. Empty for memory-only nodes (CXL, HBM).
    pub cpus: CpuSet,
    /// Its memory, bytes. `None` where the kernel does not say.
    pub memory: Option<u64>,
    /// Of that, unused, bytes.
    pub memory_free: Option<u64>,
    /// How far each node is; 10 is the node itself.
    pub distances: BTreeMap<u32, u32>,
    /// Its pools of hugepages, by the size of one page in bytes.
    pub hugepages: BTreeMap<u64, HugepagePool>,
}

/// The hugepages of one size on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepagePool {
    /// Pages reserved.
    pub total: u64,
    /// Of those, pages nobody uses.
    pub free: u64,
}

/// Machine-wide memory settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Transparent hugepages: `always`, `madvise`, `never`.
    pub transparent_hugepages: Option<String>,
    /// How hard the kernel tries for them.
    pub transparent_hugepages_defrag: Option<String>,
    /// Automatic NUMA balancing.
    pub numa_balancing: Option<String>,
}

pub(super) fn parse(files: Files<'_>) -> Memory {
    let choice = |file| files.text(file).map(|text| chosen(text).to_owned());
    Memory {
        transparent_hugepages: choice("sys/kernel/mm/transparent_hugepage/enabled"),
        transparent_hugepages_defrag: choice("sys/kernel/mm/transparent_hugepage/defrag"),
        numa_balancing: files.owned("proc/sys/kernel/numa_balancing"),
    }
}

pub(super) fn nodes(files: Files<'_>, online: &CpuSet) -> Result<Vec<NumaNode>, NodeError> {
    let file = "sys/devices/system/node/online";
    let Some(ids) = files.cpus(file)? else {
        // A kernel without NUMA support.
        return Ok(vec![NumaNode {
            id: 0,
            cpus: online.clone(),
            memory: None,
            memory_free: None,
            distances: BTreeMap::from([(0, 10)]),
            hugepages: BTreeMap::new(),
        }]);
    };
    let mut nodes = Vec::new();
    for id in ids.iter() {
        let folder = format!("sys/devices/system/node/node{id}");
        let cpus = files.cpus(&format!("{folder}/cpulist"))?.unwrap_or_default();
        let meminfo = format!("{folder}/meminfo");
        nodes.push(NumaNode {
            id,
            cpus: cpus.intersection(online),
            memory: bytes(files, &meminfo, "MemTotal:")?,
            memory_free: bytes(files, &meminfo, "MemFree:")?,
            distances: distances(files, &folder, &ids)?,
            hugepages: pools(files, &format!("{folder}/hugepages"))?,
        });
    }
    Ok(nodes)
}

/// `Node 0 MemTotal:       5726788 kB`.
fn bytes(files: Files<'_>, file: &str, key: &str) -> Result<Option<u64>, NodeError> {
    let Some(text) = files.text(file) else { return Ok(None) };
    let value = |line: &str| {
        let (_, value) = line.split_once(key)?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let found = text.lines().find_map(value);
    found.map(Some).ok_or_else(|| files.unexpected(file, "a node's meminfo in kB"))
}

/// One number for each online node, in their order.
fn distances(
    files: Files<'_>,
    folder: &str,
    ids: &CpuSet,
) -> Result<BTreeMap<u32, u32>, NodeError> {
    let file = format!("{folder}/distance");
    let Some(text) = files.text(&file) else { return Ok(BTreeMap::new()) };
    let wrong = || files.unexpected(&file, "one distance for each online node");
    let numbers: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    let numbers = numbers.map_err(|_| wrong())?;
    if numbers.len() != ids.len() {
        return Err(wrong());
    }
    Ok(ids.iter().zip(numbers).collect())
}

fn pools(files: Files<'_>, folder: &str) -> Result<BTreeMap<u64, HugepagePool>, NodeError> {
    let mut pools = BTreeMap::new();
    for name in files.0.names(folder) {
        let kib = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
        let size = kib.and_then(|kib| kib.parse::<u64>().ok()?.checked_mul(1024));
        let file = format!("{folder}/{name}/nr_hugepages");
        let (Some(size), Some(total)) = (size, files.number(&file)?) else {
            return Err(files.unexpected(&file, "the number of pages of a pool"));
        };
        let free = files.number(&format!("{folder}/{name}/free_hugepages"))?.unwrap_or(0);
        pools.insert(size, HugepagePool { total, free });
    }
    Ok(pools)
}
