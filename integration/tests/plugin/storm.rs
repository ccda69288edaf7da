//! Many pods at once, again and again: nothing is left behind. How long the plugin took for each is written to a report.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::leftovers::leftovers;
use integration::machine::repository;
use integration::node::Node;
use integration::pod::Pod;
use integration::wait;

use integration::stage::Stage;

/// Pods that are there at the same time.
const AT_ONCE: usize = 32;
/// Callers of CRI; kubelet has as many workers as pods.
const CALLERS: usize = 16;
/// How many pods in all; `make test-deep` sets more.
const PODS: &str = "RINGWAY_STORM_PODS";

pub fn comes_and_goes(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let pods: usize = match std::env::var(PODS) {
        Ok(text) => text.parse().with_context(|| format!("{PODS}={text}"))?,
        Err(_) => AT_ONCE,
    };
    let before = leftovers(node)?;
    let log = node.run().path().join("nri.log");
    let seen = std::fs::read_to_string(&log)?.len();
    for round in 0..pods.div_ceil(AT_ONCE) {
        all_at_once(node, round)?;
        wait::until("nothing is left", Duration::from_secs(20), || {
            Ok((leftovers(node)? == before).then_some(()))
        })?;
        let trash = node.run().path().join("trash");
        wait::until("the trash is empty", Duration::from_secs(20), || {
            Ok(std::fs::read_dir(&trash)?.next().is_none().then_some(()))
        })?;
    }
    // The lowest address is free again, so all are.
    let next = node.start_pod(pod("next"))?;
    let spec = node.vrouter()?.port(&next.sandbox)?.spec.context("no specification")?;
    ensure!((spec.ipv4.as_str(), spec.ipv6.as_str()) == ("10.66.0.2", "fd00:66::2"), "{spec:?}");
    node.delete(&next)?;
    report(&std::fs::read_to_string(&log)?[seen..], pods)
}

fn pod(name: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red")
}

fn all_at_once(node: &Node, round: usize) -> Result<()> {
    let (cri, run) = (&node.containerd()?.cri, node.run());
    let logs = run.path().join("logs");
    let each = |work: &(dyn Fn(usize) -> Result<()> + Sync)| -> Result<()> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            if index >= AT_ONCE {
                                return Ok(());
                            }
                            wait::check_stop()?;
                            work(index)?;
                        }
                    })
                })
                .collect();
            callers.into_iter().try_for_each(|caller| {
                caller.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked")))
            })
        })
    };
    each(&|index| {
        let pod = pod(&format!("storm-{round}-{index}"));
        let config = pod.sandbox(run.id(), &logs, 0);
        let sandbox = cri.run_pod(&config, "")?;
        cri.start(&cri.create(&sandbox, &config, &pod.container(0))?)
    })?;
    let ports = node.vrouter()?.ports()?;
    let addresses: BTreeSet<_> =
        ports.iter().filter_map(|port| Some(port.spec.as_ref()?.ipv4.clone())).collect();
    ensure!(addresses.len() == AT_ONCE, "{} ports have {addresses:?}", ports.len());
    let sandboxes = cri.pods()?;
    ensure!(sandboxes.len() == AT_ONCE, "{} pods", sandboxes.len());
    each(&|index| {
        let sandbox = &sandboxes[index];
        cri.stop_pod(sandbox)?;
        cri.remove_pod(sandbox)
    })
}

/// Percentiles of what the plugin says it took for CreateContainer, waiting for other pods included.
fn report(log: &str, pods: usize) -> Result<()> {
    let mut micros = Vec::new();
    for line in log.lines().filter(|line| line.contains("granted")) {
        let (_, rest) = line.split_once("micros=").context("no time in the log")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        micros.push(digits.parse::<u64>().with_context(|| line.to_owned())?);
    }
    micros.sort_unstable();
    ensure!(micros.len() > pods, "{} containers in the log", micros.len());
    let at = |percent: usize| micros[(micros.len() * percent / 100).min(micros.len() - 1)];
    let report = serde_json::json!({
        "pods": micros.len(), "pods_at_once": AT_ONCE, "callers": CALLERS,
        "create_container_us": {"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)},
    });
    println!("    {report}");
    let file = repository().join("target/storm.json");
    std::fs::write(&file, format!("{report:#}\n")).with_context(|| file.display().to_string())
}
