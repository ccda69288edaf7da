//! A thousand nodes: what the controller asks of the API server, how much memory it needs, how long it takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::machine::{program, repository};
use integration::wait;
use serde_json::{Value, json};

use crate::api::{Api, CONTROLLER, PATIENCE, profile, says, server};
use crate::extender;
use crate::placement::{pod, strict};

const NODES: u32 = 1000;
/// On each node, for the extender's books.
const PODS: u32 = 3;
/// CPUs of each of these pods, of the 24 of each NUMA node; they count on every NUMA node, as nothing was promised to them.
const POD_CPUS: u32 = 4;
/// Nodes that are tuned at the same time.
const AT_ONCE: u32 = 100;
/// On two busy CPUs, with unoptimised programs.
const LONG: Duration = Duration::from_secs(600);
/// Writes of the controller for each node and rollout: what it is given, its conditions; and once its zones and labels. Each change of
/// what the controller knows may be told once more.
const WRITES_PER_NODE: u64 = 8;
/// Bytes that the controller may need, for a thousand nodes.
const MEMORY: u64 = 256 << 20;

/// Greatest memory so far, bytes.
pub fn peak(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// CPU time so far of those who share the machine's CPUs.
#[derive(Clone, Copy)]
struct Cpu([(&'static str, u32, f64); 4]);

impl Cpu {
    fn of(api: &Api, agents: u32, controller: u32) -> Result<Self> {
        let [etcd, server] = api.pids();
        Self([
            ("etcd", etcd, 0.0),
            ("kube-apiserver", server, 0.0),
            ("agents", agents, 0.0),
            ("controller", controller, 0.0),
        ])
        .now()
    }

    fn now(mut self) -> Result<Self> {
        for (_, pid, seconds) in &mut self.0 {
            *seconds = cpu_seconds(*pid)?;
        }
        Ok(self)
    }

    /// Of each, s.
    fn since(&self, before: &Self) -> Value {
        let of = self.0.iter().zip(&before.0).map(|((name, _, now), (_, _, then))| {
            ((*name).to_owned(), json!(((now - then) * 100.0).round() / 100.0))
        });
        Value::Object(of.collect())
    }
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name, in parentheses; utime and stime are the 14th and 15th.
    let (_, rest) = text.rsplit_once(')').context("stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("stat")?.parse()?) };
    let both = ticks()? + ticks()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(both / per_second as f64)
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
    let template = api.run.path().join("pod.json");
    fs::write(&template, pod("any", &strict(POD_CPUS, 1)).to_string())?;
    let (template, pods) = (template.display().to_string(), PODS.to_string());
    let words = ["--count", &count, "--label", "role=played", "--pod", &template, "--pods", &pods];
    let agents = api.agents(&server(24), &words)?;
    let reported = started.elapsed();
    let before = api.requests()?;
    let mut controller = api.daemon(CONTROLLER, CONTROLLER, &["run", "--identity", "one"])?;
    let at_first = Cpu::of(api, agents.pid(), controller.pid())?;
    let started = Instant::now();
    let spec = |seconds: u32| {
        profile(
            "p",
            &json!({
                "selector": {"matchLabels": {"role": "played"}},
                "parameters": {"sysctls": {"vm.stat_interval": seconds}},
                "formulas": {"hugepages.1Gi": "memory / 4"},
                "rollout": {"maxConcurrent": AT_ONCE},
            }),
        )
    };
    let done = |what: &str| -> Result<()> {
        wait::until(what, LONG, || {
            wait::pause(Duration::from_secs(1))?;
            let it = api.find("nodeprofile", "p")?.context("no profile")?;
            let all = it["status"]["observedGeneration"] == it["metadata"]["generation"]
                && says(&it, "Complete", "True", &format!("{NODES} of {NODES} nodes done"));
            Ok(all.then_some(()))
        })
    };
    api.apply(&spec(5))?;
    done("the profile has reached all nodes")?;
    let first = started.elapsed();
    let zones = || -> Result<Option<()>> {
        wait::pause(Duration::from_secs(1))?;
        let zones = api.kubectl(&["get", "noderesourcetopologies", "-o", "name"])?;
        Ok((zones.lines().count() == NODES as usize).then_some(()))
    };
    wait::until("all zones are there", LONG, zones)?;
    let told = started.elapsed();
    settled(api)?;
    let after_first = requests(api, &before)?;
    let cpu_first = at_first.now()?;
    let middle = api.requests()?;
    let started = Instant::now();
    api.apply(&spec(6))?;
    done("a change has reached all nodes")?;
    let second = started.elapsed();
    settled(api)?;
    let after_second = requests(api, &middle)?;
    let cpu_second = cpu_first.now()?;
    // Nothing changes any more: nothing is asked any more but for the lease and watches that end.
    let quiet = api.requests()?;
    wait::pause(Duration::from_secs(10))?;
    let idle = requests(api, &quiet)?;
    let cpu_idle = cpu_second.now()?;
    let memory = peak(controller.pid())?;
    ensure!(controller.stop(PATIENCE)?.success(), "the controller failed");
    // The server does nothing else while the extender is asked.
    drop(agents);
    let free = 24 - PODS * POD_CPUS;
    let extender = extender::measure(api, NODES, (NODES * PODS) as usize, free, free + 1)?;

    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let load = fs::read_to_string("/proc/loadavg")?.trim().to_owned();
    let cpus = std::thread::available_parallelism()?.get();
    let built = program(CONTROLLER)?;
    let built = built.parent().and_then(Path::file_name).map(|name| name.display().to_string());
    let rollout = |seconds: Duration, of: &BTreeMap<String, u64>, cpu: Value| json!({"seconds": rounded(seconds), "controller_requests": of, "writes": writes(of), "cpu_seconds": cpu});
    let report = json!({
        "conditions": {
            "nodes": NODES, "rollout_at_once": AT_ONCE, "pods": NODES * PODS, "cpus": cpus, "kernel": kernel, "built": built,
            "load_average_at_the_end": load,
            "note": "etcd, API server, the agents' process and the controller share the CPUs; etcd does not sync; cpu_seconds of a rollout go on until nothing is written any more",
        },
        "all_nodes_and_pods_made_s": rounded(reported),
        "first_rollout": rollout(first, &after_first, cpu_first.since(&at_first)),
        "all_zones_there_s": rounded(told),
        "second_rollout": rollout(second, &after_second, cpu_second.since(&cpu_first)),
        "idle_10_s": {"controller_requests": idle, "cpu_seconds": cpu_idle.since(&cpu_second)},
        "controller_peak_memory_bytes": memory,
        "extender": extender,
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
    Ok(())
}

/// Waits until the controller has written nothing for a while.
fn settled(api: &Api) -> Result<()> {
    wait::until("nothing is written any more", LONG, || {
        let before = api.requests()?;
        wait::pause(Duration::from_secs(3))?;
        Ok((writes(&requests(api, &before)?) == 0).then_some(()))
    })
}

/// Those that change something, but for the lease.
fn writes(of: &BTreeMap<String, u64>) -> u64 {
    let writing = |verb: &str| {
        !["get", "list", "watch"].iter().any(|it| verb.starts_with(it)) && !verb.contains("leases")
    };
    of.iter().filter(|(verb, _)| writing(verb)).map(|(_, count)| count).sum()
}

/// Seconds, to the hundredth.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}
