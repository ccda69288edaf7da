//! Where a pod's parts are: as the kernel shows it, and as Ringway says.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use integration::instances::shown;
use integration::node::{Node, RunningPod};
use integration::readback;
use serde::Serialize;

const NODES: [u32; 2] = [0, 1];

/// A pod's placement.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    pub pod: String,
    /// What its annotation asks for.
    pub asked: String,
    /// By its cgroup.
    pub cpus: String,
    pub cpu_nodes: BTreeSet<u32>,
    /// Nodes it may have memory of, by its cgroup.
    pub memory_nodes: BTreeSet<u32>,
    /// Nodes that its hugepages are on.
    pub hugepage_nodes: BTreeSet<u32>,
    /// Number of its vRouter, and that one's node, as `ringway pods` says.
    pub vrouter: Option<u64>,
    pub vrouter_node: Option<u64>,
    /// Nodes of that one's NICs.
    pub nic_nodes: String,
    pub aligned: Option<bool>,
    /// The same, as it is stored with the pod.
    pub stored_aligned: Option<bool>,
}

impl Seen {
    /// Reads it of a pod that runs.
    pub fn read(node: &Node, pod: &RunningPod, asked: &str) -> Result<Self> {
        let pid = node.pid(pod)?;
        let cpus = readback::cpuset_cpus(pid)?;
        let mut cpu_nodes = BTreeSet::new();
        for node in NODES {
            if !cpus_of(node)?.is_disjoint(&list(&cpus)?) {
                cpu_nodes.insert(node);
            }
        }
        let memory_nodes = list(&readback::cpuset_mems(pid)?)?;
        // `7f.. bind:1 file=.. huge dirty=3 N1=3 kernelpagesize_kB=2048` for each mapping.
        let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps"))?;
        let huge = maps.lines().filter(|line| line.contains("kernelpagesize_kB=2048"));
        let words = huge.flat_map(str::split_whitespace);
        let on = words.filter_map(|word| word.strip_prefix('N')?.split_once('=')?.0.parse().ok());
        let hugepage_nodes: BTreeSet<u32> = on.collect();
        let said = shown(node, pod)?;
        let record = node.run().path().join("pods").join(&pod.sandbox).join("record.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record)?)?;
        Ok(Self {
            pod: pod.pod.name.clone(),
            asked: asked.to_owned(),
            cpus,
            cpu_nodes,
            memory_nodes,
            hugepage_nodes,
            vrouter: said["instance"].as_u64(),
            vrouter_node: said["vrouter_node"].as_u64(),
            nic_nodes: said["nic_nodes"].as_str().unwrap_or_default().to_owned(),
            aligned: said["aligned"].as_bool(),
            stored_aligned: record["placement"]["aligned"].as_bool(),
        })
    }

    /// Whether all of it is on one node.
    pub fn is_all_on(&self, node: u32) -> bool {
        let only = BTreeSet::from([node]);
        let of = [&self.cpu_nodes, &self.memory_nodes, &self.hugepage_nodes];
        of.iter().all(|nodes| **nodes == only)
            && self.vrouter == Some(node.into())
            && self.vrouter_node == Some(node.into())
            && self.nic_nodes == node.to_string()
            && self.aligned == Some(true)
            && self.stored_aligned == Some(true)
    }
}

/// CPUs of a node.
fn cpus_of(node: u32) -> Result<BTreeSet<u32>> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    list(fs::read_to_string(&path).context(path)?.trim())
}

/// `0-1,4` as numbers.
fn list(text: &str) -> Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<u32>()?..=last.parse()?);
    }
    Ok(all)
}
