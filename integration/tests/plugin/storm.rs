//! Many pods at once, again and again: nothing is left behind. How long the plugin took for each is written to a report, and how
//! that was spent.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::leftovers::leftovers;
use integration::machine::{program, repository};
use integration::node::{Node, RunningPod};
use integration::pod::Pod;
use integration::stopwatch::Stopwatch;
use integration::{readback, traffic, wait};
use serde_json::{Value, json};

use integration::stage::Stage;

/// How many pods in all; `make test-deep` sets more.
const PODS: &str = "RINGWAY_STORM_PODS";
/// Pods that are there at the same time, each with a caller of its own, as kubelet has a worker for each.
const AT_ONCE: &str = "RINGWAY_STORM_AT_ONCE";
/// Set: meanwhile a pod sends to another as fast as it can.
const TRAFFIC: &str = "RINGWAY_STORM_TRAFFIC";
/// Where the report goes, if not to `target/storm.json`.
const REPORT: &str = "RINGWAY_STORM_REPORT";
/// Of both numbers, where nothing is said.
const USUAL: usize = 32;
/// What a plugin says of a creation, µs: the whole, and parts of it.
const TIMES: [&str; 4] = ["micros", "waiting", "vrouter", "files"];
/// For everything of a round to go; hundreds of shims end on two CPUs.
const GONE: Duration = Duration::from_secs(60);

pub fn comes_and_goes(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let (pods, at_once) = (number(PODS)?.unwrap_or(USUAL), number(AT_ONCE)?.unwrap_or(USUAL));
    let busy = std::env::var_os(TRAFFIC).is_some().then(|| Busy::start(node)).transpose()?;
    // From here on the runtime's waits are measured.
    node.stop_plugin()?;
    let socket = node.run().path().join("timed.sock");
    let stopwatch = Stopwatch::start(node.containerd()?.nri_socket(), &socket)?;
    node.start_plugin_at(&socket)?;
    let before = left(node)?;
    let log = node.run().path().join("nri.log");
    let seen = std::fs::read_to_string(&log)?.len();
    let began = Instant::now();
    let mut starting = Duration::ZERO;
    for round in 0..pods.div_ceil(at_once) {
        let busy = busy.as_ref().map_or(0, |_| 2);
        starting += all_at_once(node, round, at_once, busy)?;
        let mut now = String::new();
        let gone = wait::until("nothing is left", GONE, || {
            now = left(node)?;
            Ok((now == before).then_some(()))
        });
        gone.with_context(|| format!("before: {before}\nleft: {now}"))?;
    }
    let took = began.elapsed();
    let waits = stopwatch.take();
    let forwarded = busy.map(|busy| busy.stop(node)).transpose()?;
    if forwarded.is_none() {
        // The lowest address is free again, so all are.
        let next = node.start_pod(pod("next"))?;
        let spec = node.vrouter()?.port(&next.sandbox)?.spec.context("no specification")?;
        ensure!((&*spec.ipv4, &*spec.ipv6) == ("10.66.0.2", "fd00:66::2"), "{spec:?}");
        node.delete(&next)?;
    }
    node.stop_plugin()?;
    stopwatch.finish()?;
    node.start_plugin()?;
    ensure!(waits.len() >= pods, "{} creations were seen", waits.len());
    let waits = waits.into_iter().map(|it| u64::try_from(it.as_micros())).collect::<Result<_, _>>();
    let report = json!({
        "runtime_waited_us": percentiles(waits?),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "pods_at_once": at_once,
        "build": program("ringway-nri")?.parent().and_then(|it| it.file_name()).map(|it| it.to_string_lossy().into_owned()),
        "cpus": std::thread::available_parallelism()?.get(),
        "packets_per_second_meanwhile": forwarded,
        "seconds_starting": starting.as_secs_f64(),
        "seconds": took.as_secs_f64(),
    });
    write(report, &std::fs::read_to_string(&log)?[seen..], pods)
}

/// Pods that start and end while the plugin is killed, and how often that is done.
const UNDER_FIRE: usize = 8;
const KILLS: u64 = 6;

/// The plugin is killed while pods start and end, each time a little later in their lives. Whatever it was at, nothing is left, and no
/// pod fails because of it. It starts again when they are gone: a plugin that registers while others are being killed can leave
/// containerd 2.1 without an answer for anybody.
pub fn plugin_killed_meanwhile(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = left(node)?;
    let cri = node.containerd()?.cri.clone();
    let (run, logs) = (node.run().id().to_owned(), node.run().path().join("logs"));
    for kill in 0..KILLS {
        let live = |index: usize| -> Result<()> {
            let pod = pod(&format!("fire-{kill}-{index}"));
            let config = pod.sandbox(&run, &logs, 0);
            let sandbox = cri.run_pod(&config, "")?;
            cri.start(&cri.create(&sandbox, &config, &pod.container(0))?)?;
            cri.stop_pod(&sandbox)?;
            cri.remove_pod(&sandbox)
        };
        std::thread::scope(|scope| {
            let live = &live;
            let pods: Vec<_> =
                (0..UNDER_FIRE).map(|index| scope.spawn(move || live(index))).collect();
            std::thread::sleep(Duration::from_millis(150 + 270 * kill));
            let killed = node.crash_plugin();
            pods.into_iter().try_for_each(|pod| {
                pod.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked")))
            })?;
            killed
        })?;
        println!("    after kill {}: {}", kill + 1, left(node)?);
        node.start_plugin()?;
    }
    let mut now = String::new();
    let gone = wait::until("nothing is left", GONE, || {
        now = left(node)?;
        Ok((now == before).then_some(()))
    });
    gone.with_context(|| format!("before: {before}\nleft: {now}"))
}

fn number(variable: &str) -> Result<Option<usize>> {
    let text = std::env::var(variable).ok();
    text.map(|text| text.parse().with_context(|| format!("{variable}={text}"))).transpose()
}

fn pod(name: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red")
}

/// All that pods could leave on the machine: ports, directories, leases, what is on its way out, mounts, cgroups.
fn left(node: &Node) -> Result<String> {
    let run = node.run().path();
    let in_directory = |name: &str| -> Result<usize> {
        match std::fs::read_dir(run.join(name)) {
            Ok(entries) => Ok(entries.count()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).with_context(|| name.to_owned()),
        }
    };
    let (ports, directories) = leftovers(node)?;
    let mounts = readback::mounts(None)?;
    let mounts = mounts.iter().filter(|mount| mount.target.starts_with(&run)).count();
    Ok(format!(
        "{ports} ports, directories {directories:?}, {} leases, {} in the trash, {} guards, {mounts} mounts, {} pods",
        in_directory("leases")?,
        in_directory("trash")?,
        in_directory("guard")?,
        node.containerd()?.cri.pods()?.len(),
    ))
}

/// Starts the pods of a round and ends them; returns how long the first took.
fn all_at_once(node: &Node, round: usize, at_once: usize, others: usize) -> Result<Duration> {
    let (cri, run) = (&node.containerd()?.cri, node.run());
    let logs = run.path().join("logs");
    let each = |work: &(dyn Fn(usize) -> Result<()> + Sync)| -> Result<()> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..at_once)
                .map(|_| {
                    scope.spawn(|| {
                        wait::check_stop()?;
                        work(next.fetch_add(1, Ordering::Relaxed))
                    })
                })
                .collect();
            callers.into_iter().try_for_each(|caller| {
                caller.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked")))
            })
        })
    };
    let there: BTreeSet<_> = cri.pods()?.into_iter().collect();
    let began = Instant::now();
    each(&|index| {
        let pod = pod(&format!("storm-{round}-{index}"));
        let config = pod.sandbox(run.id(), &logs, 0);
        let sandbox = cri.run_pod(&config, "")?;
        cri.start(&cri.create(&sandbox, &config, &pod.container(0))?)
    })?;
    let took = began.elapsed();
    let ports = node.vrouter()?.ports()?;
    let addresses: BTreeSet<_> =
        ports.iter().filter_map(|port| Some(port.spec.as_ref()?.ipv4.clone())).collect();
    let expected = at_once + others;
    ensure!(addresses.len() == expected, "{} ports have {addresses:?}", ports.len());
    let sandboxes: Vec<_> =
        cri.pods()?.into_iter().filter(|sandbox| !there.contains(sandbox)).collect();
    ensure!(sandboxes.len() == at_once, "{} pods", sandboxes.len());
    each(&|index| {
        let sandbox = &sandboxes[index];
        cri.stop_pod(sandbox)?;
        cri.remove_pod(sandbox)
    })?;
    Ok(took)
}

/// Two pods, of which one sends to the other.
struct Busy {
    sender: RunningPod,
    receiver: RunningPod,
    port: String,
    packets: u64,
    since: Instant,
}

impl Busy {
    fn start(node: &mut Node) -> Result<Self> {
        let mut receiver = node.start_pod(listening_pod("receiver", "red"))?;
        let mut sender = node.start_pod(dpdk_pod("sender", "red"))?;
        traffic::become_receiver(node, &mut receiver)?;
        let spec = node.vrouter()?.port(&receiver.sandbox)?.spec.unwrap_or_default();
        traffic::become_sender(node, &mut sender, None, &spec.ipv4)?;
        node.tell(&receiver, "start")?;
        node.tell(&sender, "start")?;
        let port = spec.id;
        let packets = wait::until("packets flow", Duration::from_secs(30), || {
            let packets = node.vrouter()?.port_stats(&port)?.tx_packets;
            Ok((packets > 0).then_some(packets))
        })?;
        Ok(Self { sender, receiver, port, packets, since: Instant::now() })
    }

    /// Ends both; returns how many packets were delivered in a second.
    fn stop(self, node: &Node) -> Result<u64> {
        let packets = node.vrouter()?.port_stats(&self.port)?.tx_packets - self.packets;
        let seconds = self.since.elapsed().as_secs().max(1);
        node.delete(&self.sender)?;
        node.delete(&self.receiver)?;
        ensure!(packets > 0, "no packet was delivered meanwhile");
        Ok(packets / seconds)
    }
}

fn percentiles(mut times: Vec<u64>) -> Value {
    times.sort_unstable();
    // The least that so many of a hundred do not exceed.
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
    json!({"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)})
}

/// Percentiles of what the plugin says it took for CreateContainer, waiting for other pods included.
fn write(mut report: Value, log: &str, pods: usize) -> Result<()> {
    let granted: Vec<_> = log.lines().filter(|line| line.contains("granted")).collect();
    ensure!(granted.len() >= pods, "{} containers in the log", granted.len());
    report["pods"] = granted.len().into();
    for name in TIMES {
        let mut times = Vec::new();
        for line in &granted {
            let (_, rest) = line.split_once(&format!(" {name}=")).context("no time in the log")?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            times.push(digits.parse::<u64>().with_context(|| (*line).to_owned())?);
        }
        let name = if name == "micros" { "create_container_us" } else { name };
        report[name] = percentiles(times);
    }
    println!("    {report}");
    let file =
        std::env::var_os(REPORT).map_or_else(|| repository().join("target/storm.json"), Into::into);
    file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(&file, format!("{report:#}\n")).with_context(|| file.display().to_string())
}
