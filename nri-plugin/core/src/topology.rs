//! NUMA topology, from the text of sysfs files.
//!
//! Reading the files is the caller's job: it expands [`SYSFS_FILES`] below its sysfs root with [`component_matches`],
//! and hands over whatever exists as [`SysfsText`].

use std::collections::BTreeMap;

use crate::cpuset::{CpuId, CpuSet, NodeId, NodeSet};
use crate::hugepages::PageSize;

/// Files the topology is made of, relative to the sysfs root; `*` stands for digits within one path component. Only
/// the first has to exist.
pub const SYSFS_FILES: [&str; 10] = [
    "devices/system/cpu/online",
    "devices/system/cpu/cpu*/topology/thread_siblings_list",
    "devices/system/node/online",
    "devices/system/node/node*/cpulist",
    "devices/system/node/node*/distance",
    "devices/system/node/node*/meminfo",
    "devices/system/node/node*/hugepages/hugepages-*kB/nr_hugepages",
    "devices/system/node/node*/hugepages/hugepages-*kB/free_hugepages",
    // Machines whose kernel has no NUMA support have only these.
    "kernel/mm/hugepages/hugepages-*kB/nr_hugepages",
    "kernel/mm/hugepages/hugepages-*kB/free_hugepages",
];

/// Distance of a node to itself, and what is assumed for one whose distances are not known (ACPI SLIT).
const LOCAL_DISTANCE: u32 = 10;
const UNKNOWN_DISTANCE: u32 = 255;

/// Whether the file or directory `name` is meant by one component of a pattern of [`SYSFS_FILES`].
#[must_use]
pub fn component_matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)).is_some_and(|middle| {
        !middle.is_empty() && middle.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// What was read: text of each file by its path relative to the sysfs root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysfsText(BTreeMap<String, String>);

impl SysfsText {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the text of the file at `path`, relative to the sysfs root, with `/` and without a leading one.
    pub fn insert(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.insert(path.into(), text.into());
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(|text| text.trim())
    }

    /// Names directly below the directory `path`.
    fn children<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let names =
            self.0.range(path.to_owned()..).map_while(move |(file, _)| file.strip_prefix(path));
        let mut last = None;
        names.filter_map(|rest| rest.strip_prefix('/')?.split('/').next()).filter(move |name| {
            // The map is sorted, so the files of one directory come together.
            last.replace(*name) != Some(*name)
        })
    }
}

/// The CPUs, NUMA nodes and hugepages of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    online: CpuSet,
    nodes: BTreeMap<NodeId, NumaNode>,
    siblings: BTreeMap<CpuId, CpuSet>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// As the kernel numbers it.
    pub id: NodeId,
    /// Its online CPUs. Empty for memory-only nodes (CXL, HBM).
    pub cpus: CpuSet,
    /// Its memory, bytes. `None` where the kernel does not say: machines without NUMA support.
    pub memory: Option<u64>,
    /// Its reserved hugepages, by ascending size.
    pub hugepages: Vec<Hugepages>,
    /// How far each node is, as firmware says; 10 is the node itself.
    pub distances: BTreeMap<NodeId, u32>,
}

/// The pool of one hugepage size on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hugepages {
    /// Of one page.
    pub size: PageSize,
    /// Pages reserved.
    pub total: u64,
    /// Of those, pages nobody uses.
    pub free: u64,
}

/// sysfs does not make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A file that every Linux has is not there.
    #[error("sysfs file {file} is missing; is sysfs_root right?")]
    Missing {
        /// Relative to the sysfs root.
        file: String,
    },
    /// A file does not say what it should.
    #[error("sysfs file {file} says {text:?}, which is not {expected}")]
    Unexpected {
        /// Relative to the sysfs root.
        file: String,
        /// Its text.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No CPU is online.
    #[error("sysfs file devices/system/cpu/online names no CPU")]
    NoCpu,
}

impl Topology {
    /// Makes sense of what was read.
    ///
    /// # Errors
    /// [`TopologyError`] when the list of online CPUs is missing or any file does not have its known form.
    pub fn parse(sysfs: &SysfsText) -> Result<Self, TopologyError> {
        let file = "devices/system/cpu/online";
        let text = sysfs.get(file).ok_or_else(|| TopologyError::Missing { file: file.into() })?;
        let online = cpus(file, text)?;
        if online.is_empty() {
            return Err(TopologyError::NoCpu);
        }
        let mut siblings = BTreeMap::new();
        for cpu in online.iter() {
            let file = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            if let Some(text) = sysfs.get(&file) {
                siblings.insert(cpu, cpus(&file, text)?.intersection(&online));
            }
        }
        let nodes = match sysfs.get("devices/system/node/online") {
            Some(text) => parse_nodes(sysfs, text, &online)?,
            None => BTreeMap::from([(NodeId(0), lone_node(sysfs, &online)?)]),
        };
        Ok(Self { online, nodes, siblings })
    }

    /// Every online CPU.
    #[must_use]
    pub fn online(&self) -> &CpuSet {
        &self.online
    }

    /// The nodes, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = &NumaNode> {
        self.nodes.values()
    }

    /// The node with that number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NumaNode> {
        self.nodes.get(&id)
    }

    /// The online CPUs of one core, `cpu` among them.
    #[must_use]
    pub fn core_of(&self, cpu: CpuId) -> CpuSet {
        let alone = || CpuSet::from_iter([cpu]);
        self.siblings.get(&cpu).filter(|core| core.contains(cpu)).cloned().unwrap_or_else(alone)
    }

    /// The nodes that have CPUs, nearest to `from` first, `from` itself at the head.
    #[must_use]
    pub fn nearest_with_cpus(&self, from: NodeId) -> Vec<NodeId> {
        self.nearest(from, |node| !node.cpus.is_empty())
    }

    /// Where memory for CPUs of `node` comes from: the node itself, or the nearest that has memory and CPUs, or the
    /// nearest that has memory. Memory-only nodes come last because they are slower (CXL) or scarce (HBM).
    #[must_use]
    pub fn memory_for(&self, node: NodeId) -> NodeId {
        let has_memory = |node: &NumaNode| node.memory != Some(0);
        self.nearest(node, |other| has_memory(other) && !other.cpus.is_empty())
            .first()
            .or(self.nearest(node, has_memory).first())
            .copied()
            .unwrap_or(node)
    }

    /// Every node that has memory and CPUs.
    #[must_use]
    pub fn memory_nodes(&self) -> NodeSet {
        self.nodes()
            .filter(|node| !node.cpus.is_empty())
            .map(|node| self.memory_for(node.id))
            .collect()
    }

    fn nearest(&self, from: NodeId, wanted: impl Fn(&NumaNode) -> bool) -> Vec<NodeId> {
        let distances = self.node(from).map(|node| &node.distances);
        let distance = |id: NodeId| match distances.and_then(|known| known.get(&id)) {
            _ if id == from => 0,
            Some(distance) => *distance,
            None => UNKNOWN_DISTANCE,
        };
        let mut ids: Vec<_> =
            self.nodes().filter(|node| wanted(node)).map(|node| node.id).collect();
        ids.sort_by_key(|id| (distance(*id), *id));
        ids
    }
}

impl NumaNode {
    /// Bytes of pages of that size reserved on the node; 0 when there are none.
    #[must_use]
    pub fn hugepage_bytes(&self, size: PageSize) -> u64 {
        self.pool(size).map_or(0, |pool| pool.total.saturating_mul(size.bytes()))
    }

    /// Bytes of pages of that size that nobody uses.
    #[must_use]
    pub fn free_hugepage_bytes(&self, size: PageSize) -> u64 {
        self.pool(size).map_or(0, |pool| pool.free.saturating_mul(size.bytes()))
    }

    fn pool(&self, size: PageSize) -> Option<&Hugepages> {
        self.hugepages.iter().find(|pool| pool.size == size)
    }
}

fn parse_nodes(
    sysfs: &SysfsText,
    listed: &str,
    online: &CpuSet,
) -> Result<BTreeMap<NodeId, NumaNode>, TopologyError> {
    let file = "devices/system/node/online";
    let ids: NodeSet = listed.parse().map_err(|_| unexpected(file, listed, "a list of nodes"))?;
    let mut nodes = BTreeMap::new();
    for id in ids.iter() {
        let directory = format!("devices/system/node/node{id}");
        let file = format!("{directory}/cpulist");
        let text = sysfs.get(&file).ok_or_else(|| TopologyError::Missing { file: file.clone() })?;
        let node = NumaNode {
            id,
            cpus: cpus(&file, text)?.intersection(online),
            memory: memory(sysfs, &directory)?,
            hugepages: hugepages(sysfs, &format!("{directory}/hugepages"))?,
            distances: distances(sysfs, &directory, &ids)?,
        };
        nodes.insert(id, node);
    }
    Ok(nodes)
}

/// A kernel without NUMA support: everything is on node 0.
fn lone_node(sysfs: &SysfsText, online: &CpuSet) -> Result<NumaNode, TopologyError> {
    Ok(NumaNode {
        id: NodeId(0),
        cpus: online.clone(),
        memory: None,
        hugepages: hugepages(sysfs, "kernel/mm/hugepages")?,
        distances: BTreeMap::from([(NodeId(0), LOCAL_DISTANCE)]),
    })
}

fn cpus(file: &str, text: &str) -> Result<CpuSet, TopologyError> {
    text.parse().map_err(|_| unexpected(file, text, "a list of CPUs"))
}

/// `Node 0 MemTotal:       5726788 kB`.
fn memory(sysfs: &SysfsText, directory: &str) -> Result<Option<u64>, TopologyError> {
    let file = format!("{directory}/meminfo");
    let Some(text) = sysfs.get(&file) else { return Ok(None) };
    let total = |line: &str| {
        let (_, value) = line.split_once("MemTotal:")?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let found = text.lines().find_map(total);
    found.map(Some).ok_or_else(|| unexpected(&file, text, "the node's meminfo with MemTotal in kB"))
}

/// One number per online node, in their order.
fn distances(
    sysfs: &SysfsText,
    directory: &str,
    ids: &NodeSet,
) -> Result<BTreeMap<NodeId, u32>, TopologyError> {
    let file = format!("{directory}/distance");
    let Some(text) = sysfs.get(&file) else { return Ok(BTreeMap::new()) };
    let wrong = || unexpected(&file, text, "one distance per online node");
    let numbers: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    let numbers = numbers.map_err(|_| wrong())?;
    if numbers.len() != ids.len() {
        return Err(wrong());
    }
    Ok(ids.iter().zip(numbers).collect())
}

fn hugepages(sysfs: &SysfsText, directory: &str) -> Result<Vec<Hugepages>, TopologyError> {
    let mut pools = Vec::new();
    for name in sysfs.children(directory) {
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB")?.parse().ok())
            .and_then(PageSize::from_kib);
        let Some(size) = size else {
            let file = format!("{directory}/{name}");
            return Err(unexpected(&file, name, "a directory as hugepages-2048kB"));
        };
        let count = |what: &str| {
            let file = format!("{directory}/{name}/{what}");
            let text =
                sysfs.get(&file).ok_or_else(|| TopologyError::Missing { file: file.clone() })?;
            text.parse::<u64>().map_err(|_| unexpected(&file, text, "a number of pages"))
        };
        pools.push(Hugepages {
            size,
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?,
        });
    }
    pools.sort_by_key(|pool| pool.size);
    Ok(pools)
}

fn unexpected(file: &str, text: &str, expected: &'static str) -> TopologyError {
    // Long enough to recognise the file's content, short enough for one line of a log.
    let text = text.chars().take(80).collect();
    TopologyError::Unexpected { file: file.into(), text, expected }
}

#[cfg(test)]
pub(crate) mod tests;
