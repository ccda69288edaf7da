//! Pods on a machine with two NUMA nodes: containerd, the plugin, and the vRouter place them where they ask for, and everything of a pod
//! is on that node. Runs in the machine of `make test-numa`, or on any other with two nodes and four CPUs.
//!
//! What was found is written to `target/numa/report.json`: the demo's report, and for each pod where its parts are.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::demo::dpdk_pod;
use integration::demo::report::{PodRow, Report};
use integration::machine::{self, Hugepages, repository};
use integration::node::{Node, PluginStart, RunningPod, Setup};
use integration::readback;
use integration::suite::{self, Case};
use integration::traffic::{self, Until};
use serde::Serialize;

/// Each node has one CPU for pods' applications beside the vRouter's and the system's.
const NODES: [u32; 2] = [0, 1];
/// Half of them on each node: 256 MiB.
const HUGEPAGES: Hugepages = Hugepages::Free(512);
/// Packets delivered in each direction.
const PACKETS: Until = Until::Delivered(20_000);

/// The demo's report, and more.
#[derive(Debug, Serialize)]
struct Numa {
    #[serde(flatten)]
    report: Report,
    placement: Vec<Placement>,
}

/// Where the parts of a pod are, as the kernel shows it.
#[derive(Debug, Serialize)]
struct Placement {
    pod: String,
    /// What its annotation asks for.
    asked: u32,
    cpus: String,
    cpu_nodes: BTreeSet<u32>,
    /// Nodes it may have memory of.
    memory_nodes: String,
    /// Nodes that its hugepages are on.
    hugepage_nodes: BTreeSet<u32>,
    aligned: bool,
}

fn main() -> ExitCode {
    let unfit = unfit();
    let case = Case::new("pods_are_where_they_ask_to_be", unfit, |_: &mut ()| placed());
    suite::run((), vec![case], |()| {})
}

fn unfit() -> Option<String> {
    let node = |node: u32| Path::new("/sys/devices/system/node").join(format!("node{node}"));
    if !NODES.iter().all(|&it| node(it).exists()) {
        return Some("needs two NUMA nodes; `make test-numa` boots a machine with them".to_owned());
    }
    machine::unfit(Version::V2_1)
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

impl Placement {
    fn read(node: &Node, pod: &RunningPod, asked: u32) -> Result<Self> {
        let pid = node.pid(pod)?;
        let cpus = readback::cpuset_cpus(pid)?;
        let mut cpu_nodes = BTreeSet::new();
        for node in NODES {
            if !cpus_of(node)?.is_disjoint(&list(&cpus)?) {
                cpu_nodes.insert(node);
            }
        }
        let memory_nodes = readback::cpuset_mems(pid)?;
        // `7f.. bind:1 file=.. huge dirty=3 N1=3 kernelpagesize_kB=2048` for each mapping.
        let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps"))?;
        let huge = maps.lines().filter(|line| line.contains("kernelpagesize_kB=2048"));
        let words = huge.flat_map(str::split_whitespace);
        let on = words.filter_map(|word| word.strip_prefix('N')?.split_once('=')?.0.parse().ok());
        let hugepage_nodes: BTreeSet<u32> = on.collect();
        let only = BTreeSet::from([asked]);
        let aligned = cpu_nodes == only && list(&memory_nodes)? == only && hugepage_nodes == only;
        let pod = pod.pod.name.clone();
        Ok(Self { pod, asked, cpus, cpu_nodes, memory_nodes, hugepage_nodes, aligned })
    }
}

fn placed() -> Result<()> {
    let setup = Setup { hugepages: HUGEPAGES, ..Setup::new(Version::V2_1, PluginStart::External) };
    let mut node = Node::start(&setup)?;
    let mut report = Report::begin(&node)?;
    let ended = show(&mut node, &mut report);
    match ended {
        Ok(placement) => {
            report.conclude(setup.version);
            println!("{}", report.table());
            let numa = Numa { report, placement };
            let directory = repository().join("target/numa/report");
            fs::create_dir_all(&directory)?;
            let text = serde_json::to_string_pretty(&numa)?;
            fs::write(directory.join("report.json"), format!("{text}\n"))?;
            ensure!(numa.report.ok, "{:?}", numa.report.problems);
            Ok(())
        }
        Err(error) => Err(error).with_context(|| node.log_ends()),
    }
}

fn show(node: &mut Node, report: &mut Report) -> Result<Vec<Placement>> {
    let pod = |name: &str, on: u32| {
        dpdk_pod(name, "red")
            .annotate("numa.ringway.dev", on.to_string())
            .annotate("cpus.ringway.dev", "1")
    };
    let mut on_0 = node.start_pod(pod("on-node-0", 0))?;
    let mut on_1 = node.start_pod(pod("on-node-1", 1))?;
    let mut placement = Vec::new();
    for (pod, asked) in [(&on_0, 0), (&on_1, 1)] {
        node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
        let mut row = PodRow::read(node, pod)?;
        row.network.get_or_insert_default();
        report.pods.push(row);
        let found = Placement::read(node, pod, asked)?;
        if !found.aligned {
            report.problems.push(format!("{} is not where it asked to be: {found:?}", found.pod));
        }
        placement.push(found);
    }
    // There is no third node, and a node has no hundred CPUs.
    for (key, value, expected) in
        [("numa.ringway.dev", "2", "2"), ("cpus.ringway.dev", "100", "CPU")]
    {
        let wanted = pod("nowhere", 1).annotate(key, value);
        let got = match node.start_pod(wanted) {
            Ok(running) => {
                node.delete(&running)?;
                "it was created".to_owned()
            }
            Err(error) => format!("{error:#}"),
        };
        let ok = got.contains(expected) && got != "it was created";
        report.add_attempt(&format!("{key}: {value}"), "the pod is refused", got, ok);
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let [sender, receiver] =
            if from < to { [&mut on_0, &mut on_1] } else { [&mut on_1, &mut on_0] };
        let spec = node.vrouter()?.port(&receiver.sandbox)?.spec.unwrap_or_default();
        if from > to {
            traffic::become_receiver(node, receiver)?;
        }
        traffic::become_sender(node, sender, None, &spec.ipv4)?;
        let outcome = traffic::measure(node, sender, &[receiver], &spec.ipv4, PACKETS)?;
        report.add_traffic(outcome);
    }
    Ok(placement)
}
