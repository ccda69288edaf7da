//! The demo: two unprivileged DPDK pods talk through the vRouter, a third and a fourth do not notice.

pub mod isolation;
pub mod report;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::image;
use crate::node::{Node, PluginStart, RunningPod, Setup};
use crate::pod::Pod;
use crate::testpmd::{self, Role};
use crate::traffic::{self, Until};
use crate::wait;
use report::{PodRow, Report};

/// Packets delivered in each direction of red-a <-> red-b: every ring wraps a hundred times.
const PACKETS: Until = Until::Delivered(100_000);
/// Hugepages of each pod: testpmd's buffers take about 25 MiB, EAL's own tables 10 MiB.
const POD_HUGEPAGES: &str = "64Mi";

/// The pods of the demo.
#[derive(Debug)]
pub struct Pods {
    /// Network red, the vRouter listens.
    pub red_a: RunningPod,
    /// Network red, the pod listens.
    pub red_b: RunningPod,
    /// Network blue.
    pub blue_a: RunningPod,
    /// No annotation.
    pub plain: RunningPod,
}

/// A pod whose application is testpmd, on network `network`.
pub fn dpdk_pod(name: &str, network: &str) -> Pod {
    let mut pod = Pod::idle(name)
        .annotate("network.ringway.dev", network)
        .annotate("hugepages-2mi.ringway.dev", POD_HUGEPAGES);
    pod.image = image::TESTPMD;
    pod.command = testpmd::command(&Role::Receive);
    pod
}

/// The same with a socket on which the pod listens.
pub fn listening_pod(name: &str, network: &str) -> Pod {
    dpdk_pod(name, network).annotate(
        "interfaces.ringway.dev",
        format!(r#"[{{"network": "{network}", "socket": "pod"}}]"#),
    )
}

/// Starts everything and shows it; the node still runs when it returns.
///
/// # Errors
/// When a step cannot be done at all. What was done but came out wrong is in the report.
pub fn run(setup: &Setup) -> Result<(Node, Report)> {
    let begin = Instant::now();
    println!("starting ringway-vrouter, containerd {} and ringway-nri", setup.version);
    let mut node = Node::start(setup)?;
    let mut report = Report::begin(&node)?;
    match show(&mut node, &mut report, begin) {
        Ok(()) => {
            report.conclude(setup.version);
            Ok((node, report))
        }
        Err(error) => {
            // Whoever stopped it knows why it ended.
            if wait::check_stop().is_ok() {
                println!("{}", node.log_ends());
            }
            Err(error)
        }
    }
}

fn show(node: &mut Node, report: &mut Report, begin: Instant) -> Result<()> {
    let step = |text: &str| println!("[{:5.1} s] {text}", begin.elapsed().as_secs_f32());

    step(&format!(
        "containerd {} and DPDK {} run; creating four pods",
        report.containerd, report.dpdk
    ));
    let mut pods = start_pods(node)?;
    for pod in [&pods.red_a, &pods.red_b, &pods.blue_a, &pods.plain] {
        report.pods.push(PodRow::read(node, pod)?);
    }
    check_rows(report);

    step("red-a sends to red-b");
    let to = address(node, &pods.red_b)?;
    traffic::become_sender(node, &mut pods.red_a, None, &to)?;
    report.add_traffic(traffic::measure(
        node,
        &pods.red_a,
        &[&pods.red_b, &pods.blue_a],
        &to,
        PACKETS,
    )?);

    step("red-b sends to red-a");
    let to = address(node, &pods.red_a)?;
    traffic::become_receiver(node, &mut pods.red_a)?;
    traffic::become_receiver(node, &mut pods.blue_a)?;
    traffic::become_sender(node, &mut pods.red_b, None, &to)?;
    report.add_traffic(traffic::measure(
        node,
        &pods.red_b,
        &[&pods.red_a, &pods.blue_a],
        &to,
        PACKETS,
    )?);
    for outcome in &report.traffic {
        if outcome.forwarded() == 0 {
            report.problems.push(format!("nothing of {} reached {}", outcome.from, outcome.to));
        }
    }

    step("trying what must not be possible");
    isolation::run(node, &mut pods, report)?;

    step("leaving the pods connected and idle");
    for pod in [&mut pods.red_a, &mut pods.red_b, &mut pods.blue_a] {
        traffic::become_receiver(node, pod)?;
    }
    Ok(())
}

/// The set-up of the demo for a containerd line: the plugin is started by containerd from its plugin directory.
pub fn setup(version: crate::containerd::Version) -> Setup {
    Setup::new(version, PluginStart::PreInstalled)
}

fn start_pods(node: &mut Node) -> Result<Pods> {
    let pods = Pods {
        red_a: node.start_pod(dpdk_pod("red-a", "red"))?,
        red_b: node.start_pod(listening_pod("red-b", "red"))?,
        blue_a: node.start_pod(dpdk_pod("blue-a", "blue"))?,
        plain: node.start_pod(Pod::idle("plain"))?,
    };
    for pod in [&pods.red_a, &pods.red_b, &pods.blue_a] {
        if let Err(error) = node.vrouter()?.wait_up(&pod.sandbox, traffic::UP) {
            bail!("{error:#}\nlog of {}:\n{}", pod.pod.name, node.log(pod)?);
        }
    }
    Ok(pods)
}

fn address(node: &Node, pod: &RunningPod) -> Result<String> {
    Ok(node.vrouter()?.port(&pod.sandbox)?.spec.unwrap_or_default().ipv4)
}

/// What the pods' rows must show.
fn check_rows(report: &mut Report) {
    for row in &report.pods {
        let wrong = match row.name.as_str() {
            "plain" if row.network.is_some() => "has a port",
            _ if row.uid == 0 => "runs as root",
            _ if !row.cap_eff.bytes().all(|digit| digit == b'0') => "has capabilities",
            "red-b" if row.mode.as_deref() != Some("pod") => "does not listen itself",
            "red-a" | "blue-a" if row.mode.as_deref() != Some("vrouter") => "listens itself",
            "red-a" | "red-b" | "blue-a" if row.hugetlb_2mb_limit != 64 << 20 => {
                "has another hugepage limit than asked for"
            }
            "red-a" | "red-b" | "blue-a" if row.cpuset_mems.is_empty() => "has no memory node",
            _ => continue,
        };
        report.problems.push(format!("{} {wrong}", row.name));
    }
}
