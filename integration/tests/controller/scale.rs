//! A thousand nodes: what the controller asks of the API server, how much memory it needs, how long it takes.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::machine::repository;
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, CONTROLLER, PATIENCE, profile, says, server};

const NODES: u32 = 1000;
/// On two busy CPUs, with unoptimised programs.
const LONG: Duration = Duration::from_secs(600);
/// Writes of the controller for each node and rollout: what it is given, its conditions; and once its zones and labels. Each change of
/// what the controller knows may be told once more.
const WRITES_PER_NODE: u64 = 8;
/// Bytes that the controller may need, for a thousand nodes.
const MEMORY: u64 = 256 << 20;

fn peak(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Requests of the controller since `before`.
fn requests(api: &Api, before: &BTreeMap<(String, String), u64>) -> Result<BTreeMap<String, u64>> {
    let now = api.requests()?;
    let ours = now.into_iter().filter(|((user, _), _)| user == CONTROLLER);
    Ok(ours
        .map(|(key, count)| {
            let since = count - before.get(&key).copied().unwrap_or(0);
            (key.1, since)
        })
        .filter(|(_, count)| *count > 0)
        .collect())
}

pub fn a_thousand_agents(api: &mut Api) -> Result<()> {
    let count = NODES.to_string();
    let started = Instant::now();
    let _agents = api.agents(&server(24), &["--count", &count, "--label", "role=played"])?;
    let reported = started.elapsed();
    let before = api.requests()?;
    let mut controller = api.controller("one")?;
    let started = Instant::now();
    let spec = |seconds: u32| {
        profile(
            "p",
            &json!({
                "selector": {"matchLabels": {"role": "played"}},
                "parameters": {"sysctls": {"vm.stat_interval": seconds}},
                "formulas": {"hugepages.1Gi": "memory / 4"},
                "rollout": {"maxConcurrent": 100},
            }),
        )
    };
    let done = |what: &str| -> Result<()> {
        wait::until(what, LONG, || {
            let it = api.find("nodeprofile", "p")?.context("no profile")?;
            let all = it["status"]["observedGeneration"] == it["metadata"]["generation"]
                && says(&it, "Complete", "True", &format!("{NODES} of {NODES} nodes done"));
            wait::pause(Duration::from_secs(1))?;
            Ok(all.then_some(()))
        })
    };
    api.apply(&spec(5))?;
    done("the profile has reached all nodes")?;
    let first = started.elapsed();
    let labelled = || -> Result<Option<()>> {
        wait::pause(Duration::from_secs(1))?;
        let zones = api.kubectl(&["get", "noderesourcetopologies", "-o", "name"])?;
        Ok((zones.lines().count() == NODES as usize).then_some(()))
    };
    wait::until("all zones are there", LONG, labelled)?;
    let after_first = requests(api, &before)?;
    let middle = api.requests()?;
    let started = Instant::now();
    api.apply(&spec(6))?;
    done("a change has reached all nodes")?;
    let second = started.elapsed();
    let after_second = requests(api, &middle)?;
    // Nothing changes any more: nothing is asked any more but for the lease and watches that end.
    wait::pause(Duration::from_secs(5))?;
    let quiet = api.requests()?;
    wait::pause(Duration::from_secs(10))?;
    let idle = requests(api, &quiet)?;
    let memory = peak(controller.pid())?;
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");

    let writes = |of: &BTreeMap<String, u64>| -> u64 {
        let writing = |verb: &str| {
            !["get", "list", "watch"].iter().any(|it| verb.starts_with(it))
                && !verb.contains("leases")
        };
        of.iter().filter(|(verb, _)| writing(verb)).map(|(_, count)| count).sum()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let cpus = std::thread::available_parallelism()?.get();
    let report = json!({
        "conditions": {
            "nodes": NODES, "rollout_at_once": 100, "cpus": cpus, "kernel": kernel, "profile": "cargo's dev",
            "note": "etcd, API server, the agents' process and the controller share the CPUs; etcd does not sync",
        },
        "all_nodes_reported_s": reported.as_secs_f64(),
        "first_rollout": {"seconds": first.as_secs_f64(), "controller_requests": after_first, "writes": writes(&after_first)},
        "second_rollout": {"seconds": second.as_secs_f64(), "controller_requests": after_second, "writes": writes(&after_second)},
        "idle_10_s": {"controller_requests": idle},
        "controller_peak_memory_bytes": memory,
    });
    let directory = repository().join("target/bench");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("report-controller.json"), format!("{report:#}\n"))?;
    println!("{report:#}");
    for rollout in [&after_first, &after_second] {
        let limit = WRITES_PER_NODE * u64::from(NODES);
        ensure!(
            writes(rollout) <= limit,
            "{} writes for {NODES} nodes: {rollout:#?}",
            writes(rollout)
        );
    }
    ensure!(writes(&idle) == 0, "it writes while nothing changes: {idle:#?}");
    ensure!(memory <= MEMORY, "it needs {memory} bytes");
    let _: Value = report;
    api.clear()
}
