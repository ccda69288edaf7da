//! Pods that work.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::containerd::Version;
use integration::demo::{self, dpdk_pod, listening_pod};
use integration::machine::program;
use integration::node::{Node, PluginStart, RunningPod, Setup};
use integration::pod::Pod;
use integration::readback;
use integration::traffic::{self, Until};

use integration::stage::Stage;

/// Enough for every ring to wrap many times.
const PACKETS: Until = Until::Delivered(50_000);

/// The port's address of a pod.
pub fn address(node: &Node, pod: &RunningPod) -> Result<String> {
    Ok(node.vrouter()?.port(&pod.sandbox)?.spec.unwrap_or_default().ipv4)
}

/// The port's addresses of a pod, of both families.
pub fn addresses(node: &Node, pod: &RunningPod) -> Result<Vec<String>> {
    let spec = node.vrouter()?.port(&pod.sandbox)?.spec.unwrap_or_default();
    ensure!(!spec.ipv6.is_empty(), "no IPv6 address: {spec:?}");
    Ok(vec![spec.ipv4, spec.ipv6])
}

/// One way between two pods, every packet accounted for.
pub fn one_way(node: &Node, sender: &mut RunningPod, receiver: &mut RunningPod) -> Result<()> {
    traffic::become_receiver(node, receiver)?;
    let to = address(node, receiver)?;
    traffic::become_sender(node, sender, None, &to)?;
    let outcome = traffic::measure(node, sender, &[receiver], &to, PACKETS)?;
    println!("    {outcome:?}");
    outcome.check()?;
    ensure!(outcome.forwarded() > 0, "nothing arrived: {outcome:?}");
    Ok(())
}

pub fn traffic(stage: &mut Stage, version: Version, plugin: PluginStart) -> Result<()> {
    let node = stage.node(&Setup::new(version, plugin))?;
    let mut listens = node.start_pod(listening_pod("listens", "red"))?;
    let mut connects = node.start_pod(dpdk_pod("connects", "red"))?;
    one_way(node, &mut connects, &mut listens)?;
    one_way(node, &mut listens, &mut connects)?;
    node.delete(&connects)?;
    node.delete(&listens)?;
    let ports = node.vrouter()?.ports()?;
    ensure!(ports.is_empty(), "ports of removed pods: {ports:?}");
    let pods = node.run().path().join("pods");
    let left = fs::read_dir(&pods).with_context(|| pods.display().to_string())?.count();
    ensure!(left == 0, "{left} directories of removed pods in {}", pods.display());
    Ok(())
}

/// The whole demo, its plugin started by containerd.
pub fn demo(stage: &mut Stage, version: Version) -> Result<()> {
    stage.clear();
    let (node, report) = demo::run(&demo::setup(version))?;
    println!("{}", report.table());
    drop(node);
    ensure!(report.ok, "{:?}", report.problems);
    ensure!(report.pods.len() == 4 && report.forwarded_packets > 0, "{report:?}");
    Ok(())
}

pub fn what_a_pod_sees(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    // The value for the container wins over the one for the pod, that one over the bare one.
    let pod = dpdk_pod("sees", "green")
        .annotate("network.ringway.dev/pod", "blue")
        .annotate("network.ringway.dev/container.app", "red");
    let running = node.start_pod(pod)?;
    let port = node.vrouter()?.wait_up(&running.sandbox, traffic::UP)?;
    let spec = port.spec.unwrap_or_default();
    ensure!(spec.network == "red", "{spec:?}");
    ensure!(spec.socket_path.len() < 108, "{} is too long", spec.socket_path);

    let pid = node.pid(&running)?;
    let mounts = readback::mounts(Some(pid))?;
    let ours = mounts.iter().find(|mount| mount.target.starts_with("/run/ringway"));
    let ours = ours.context("nothing is mounted at /run/ringway")?;
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        ensure!(ours.options.split(',').any(|it| it == option), "no {option}: {ours:?}");
    }
    let environment = readback::environment(pid)?;
    let value = |key: &str| {
        let line = environment.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.with_context(|| format!("no {key} in {environment:?}"))
    };
    let arguments = value("RINGWAY_EAL_ARGS")?;
    for word in
        ["--in-memory", "--single-file-segments", "--no-pci", "/run/ringway/net0.sock", &spec.mac]
    {
        ensure!(arguments.contains(word), "no {word} in {arguments}");
    }

    let cri = &node.containerd()?.cri;
    let file = cri.exec(&running.container, &["cat", "/run/ringway/interfaces.json"], 10)?;
    ensure!(file.code == 0, "{}", file.stderr);
    let text = &file.stdout;
    serde_json::from_str::<serde_json::Value>(text)?;
    for word in [&spec.ipv4, &spec.mac, "red", "/run/ringway/net0.sock", "vhost-adaptor-path"] {
        ensure!(text.contains(word), "no {word} in {text}");
    }
    ensure!(spec.ipv6.starts_with("fd00:66::"), "no IPv6 address of network red: {spec:?}");
    for word in [format!("\"ipv6\": \"{}/64\"", spec.ipv6), "\"gateway6\": \"fd00:66::1\"".into()] {
        ensure!(text.contains(&word), "no {word} in {text}");
    }
    let write = cri.exec(&running.container, &["sh", "-c", "echo x >/run/ringway/x"], 10)?;
    ensure!(write.code != 0, "the pod could write to /run/ringway");

    let neighbour = node.start_pod(Pod::idle("neighbour"))?;
    let parent = node.run().path().join("pods");
    let look = ["ls".to_owned(), parent.display().to_string()];
    let look: Vec<&str> = look.iter().map(String::as_str).collect();
    let seen = node.containerd()?.cri.exec(&neighbour.container, &look, 10)?;
    ensure!(seen.code != 0, "another pod sees {}: {}", parent.display(), seen.stdout);
    node.delete(&neighbour)?;
    node.delete(&running)
}

pub fn command_line(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let pod = node.start_pod(dpdk_pod("listed", "red"))?;
    let spec = node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?.spec.unwrap_or_default();
    let ringway = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(program("ringway")?)
            .arg("--socket")
            .arg(node.vrouter()?.socket())
            .args(arguments)
            .output()?;
        ensure!(
            output.status.success(),
            "ringway {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    for (command, words) in [
        ("ports", vec!["listed", spec.ipv4.as_str()]),
        ("networks", vec!["red", "blue", "10.66.0.0/24"]),
        ("stats", vec!["listed"]),
        ("drops", vec![]),
    ] {
        let table = ringway(&[command])?;
        let json = ringway(&[command, "--json"])?;
        serde_json::from_str::<serde_json::Value>(&json)
            .with_context(|| format!("ringway {command} --json: {json}"))?;
        for word in words {
            ensure!(table.contains(word), "no {word} in ringway {command}:\n{table}");
            ensure!(json.contains(word), "no {word} in ringway {command} --json:\n{json}");
        }
    }
    node.delete(&pod)
}
