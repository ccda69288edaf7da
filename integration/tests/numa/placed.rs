//! Which vRouter a pod gets, and how that is shown.

use anyhow::{Context, Result, ensure};
use integration::demo::dpdk_pod;
use integration::instances::{instance_of, ringway, shown};
use integration::node::Node;
use integration::stage::Stage;
use integration::{traffic, wait};
use serde_json::Value;

use crate::node;

/// Pods are shared out; the record, the CLI and the log say the same; what can't be is refused in one line.
pub fn and_told_where(stage: &mut Stage) -> Result<()> {
    let node = node(stage)?;
    let pods = [node.start_pod(dpdk_pod("one", "red"))?, node.start_pod(dpdk_pod("two", "red"))?];
    let mut homes = Vec::new();
    for pod in &pods {
        let number = instance_of(node, pod)?;
        node.instance(number)?.wait_up(&pod.sandbox, traffic::UP)?;
        let it = shown(node, pod)?;
        let socket = format!("vrouter-{number}/api.sock");
        ensure!(it["vrouter"].as_str().is_some_and(|path| path.ends_with(&socket)), "{it}");
        ensure!(it["instance"] == number && it["vrouter_node"] == 0, "{it}");
        ensure!(it["cpu_nodes"] == "0" && it["memory_nodes"] == "0", "{it}");
        ensure!(it["aligned"] == true && it["numa_crossings"] == 0, "{it}");
        let record = node.run().path().join("pods").join(&pod.sandbox).join("record.json");
        let record: Value = serde_json::from_slice(&std::fs::read(&record)?)?;
        let stored = &record["placement"];
        ensure!(stored["aligned"] == true && stored["vrouter_node"] == 0, "{record}");
        ensure!(stored["vrouter"] == it["vrouter"], "{record}");
        homes.push(number);
    }
    homes.sort_unstable();
    ensure!(homes == [0, 1], "both pods went to the same vRouter: {homes:?}");

    // Lists are of both, and what only one can do asks which.
    let ports = ringway(node, &["ports"])?;
    let mut numbers: Vec<_> =
        ports.as_array().context("no list")?.iter().map(|port| port["instance"].as_u64()).collect();
    numbers.sort_unstable();
    ensure!(numbers == [Some(0), Some(1)], "{ports}");
    let info = ringway(node, &["info"])?;
    ensure!(info[0]["instance"] == 0 && info[1]["instance"] == 1, "{info}");
    ensure!(info[1]["numa_node"] == 0, "{info}");
    let only = ringway(node, &["--instance", "1", "ports"])?;
    ensure!(only.as_array().is_some_and(|list| list.len() == 1), "{only}");
    let error = ringway(node, &["workers", "set", "0"]);
    let error = error.err().context("it chose a vRouter itself")?.to_string();
    ensure!(error.contains("say which one is meant with --instance"), "{error}");

    strict(node)?;
    for pod in &pods {
        node.delete(pod)?;
    }
    wait::until("no routes between the vRouters are left", traffic::UP, || {
        let left = [0, 1].map(|number| node.instance(number)?.routes("red"));
        let [zero, one] = left;
        Ok((zero?.is_empty() && one?.is_empty()).then_some(()))
    })
}

/// What strict cannot have, and a node that is not there.
fn strict(node: &mut Node) -> Result<()> {
    let many = dpdk_pod("many", "red")
        .annotate("numa.ringway.dev", "strict")
        .annotate("cpus.ringway.dev", "99");
    let error = format!("{:#}", node.start_pod(many).err().context("99 CPUs were given")?);
    ensure!(error.contains("no CPUs left: 99 exclusive wanted, NUMA node 0 has"), "{error}");
    let nowhere = dpdk_pod("nowhere", "red").annotate("numa.ringway.dev", "7");
    let error = format!("{:#}", node.start_pod(nowhere).err().context("there is a node 7")?);
    ensure!(error.contains("NUMA node 7 has no online CPUs"), "{error}");
    let there = dpdk_pod("there", "red").annotate("numa.ringway.dev", "strict");
    let there = node.start_pod(there)?;
    ensure!(shown(node, &there)?["aligned"] == true, "strict, and not aligned");
    node.delete(&there)
}
