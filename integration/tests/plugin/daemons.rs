//! Daemons that hang, die, come twice and come again.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::Version;
use integration::leftovers::leftovers;
use integration::machine::program;
use integration::node::{Node, PluginStart, Setup};
use integration::pod::Pod;
use integration::wait;
use nix::sys::signal::Signal;

use integration::stage::Stage;

const RECOVERY: Duration = Duration::from_secs(40);

fn pod(name: &str) -> Pod {
    Pod::idle(name).annotate("network.ringway.dev", "red")
}

pub fn second_plugin(stage: &mut Stage) -> Result<()> {
    second_refuses(stage.usual()?)
}

/// During an upgrade the new plugin may start before the old one has ended. Two that are registered would fail every pod.
pub fn second_refuses(node: &mut Node) -> Result<()> {
    let config = node.run().path().join("nri.toml");
    let second = Command::new(program("ringway-nri")?).arg("--config").arg(&config).output()?;
    let error = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success() && error.contains("another ringway-nri"), "{error}");
    let running = node.start_pod(pod("unaware"))?;
    node.vrouter()?.port(&running.sandbox)?;
    node.delete(&running)
}

pub fn hanging_vrouter(stage: &mut Stage) -> Result<()> {
    stage.usual()?;
    vrouter_hangs(stage)
}

/// One clear failure for each pod that needs it, none for others, and the plugin keeps its place.
pub fn vrouter_hangs(stage: &mut Stage) -> Result<()> {
    let node = stage.current()?;
    let before = leftovers(node)?;
    // Its interfaces are made and its processes let in: its container needs nothing more of the vRouter.
    let mut prepared = node.start_sandbox(pod("prepared"))?;
    // The plugin has just seen what the vRouter has, so that for the first pod it is the port that is never made, and what was made
    // can't be taken back either.
    let seen = node.start_pod(pod("seen"))?;
    node.delete(&seen)?;
    node.vrouter_mut()?.process().signal(Signal::SIGSTOP)?;
    let container = node.add_container(&prepared, "app", 0);
    let outcome = container.and_then(|id| {
        prepared.container = id;
        hang(node)
    });
    node.vrouter_mut()?.process().signal(Signal::SIGCONT)?;
    outcome?;
    node.pid(&prepared)?;
    node.vrouter()?.port(&prepared.sandbox)?;
    node.delete(&prepared)?;
    // containerd would have dropped a plugin that was late, and this pod would start without interfaces.
    let served = node.start_pod(pod("served"))?;
    node.vrouter()?.port(&served.sandbox)?;
    node.delete(&served)?;
    wait::until("nothing is left", RECOVERY, || Ok((leftovers(node)? == before).then_some(())))
}

fn hang(node: &mut Node) -> Result<()> {
    for name in ["first", "second"] {
        let began = Instant::now();
        let error = match node.start_pod(pod(name)) {
            Ok(_) => bail!("a pod was created while the vRouter hung"),
            Err(error) => format!("{error:#}"),
        };
        println!("    after {:?}: {error}", began.elapsed());
        ensure!(error.contains("did not answer within") && !error.contains('\n'), "{error}");
    }
    let plain = node.start_pod(Pod::idle("plain"))?;
    node.pid(&plain)?;
    node.delete(&plain)
}

/// What was made with the sandbox is gone with the vRouter: a container that comes then finds it made again.
pub fn vrouter_dies_in_between(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let before = leftovers(node)?;
    let mut prepared = node.start_sandbox(pod("prepared"))?;
    let made = node.vrouter()?.port(&prepared.sandbox)?;
    node.crash_vrouter()?;
    node.start_vrouter()?;
    prepared.container = node.add_container(&prepared, "app", 0)?;
    let again = node.vrouter()?.port(&prepared.sandbox)?;
    ensure!(again.spec == made.spec, "{again:?}, before {made:?}");
    node.delete(&prepared)?;
    wait::until("nothing is left", RECOVERY, || Ok((leftovers(node)? == before).then_some(())))
}

/// Where in a pod's life the plugin dies, and what the pod has of it.
pub fn killed_plugin(stage: &mut Stage) -> Result<()> {
    plugin_dies(stage.usual()?)
}

pub fn plugin_dies(node: &mut Node) -> Result<()> {
    let before = leftovers(node)?;

    // Between sandbox and container: the container starts without, and that is said.
    let unserved = node.start_sandbox(pod("unserved"))?;
    // With interfaces, and gone before the plugin is back.
    let gone = node.start_pod(pod("gone"))?;
    let kept = node.start_pod(pod("kept"))?;
    // Started while the plugin is away, gone before it is back.
    node.crash_plugin()?;
    node.add_container(&unserved, "app", 0)?;
    node.delete(&gone)?;
    let missed = node.start_pod(pod("missed"))?;
    node.delete(&missed)?;
    node.start_plugin()?;

    let status = std::fs::read_to_string(node.run().path().join("nri-status.json"))?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let list = status["unserved"].as_array().context("no list")?;
    ensure!(list.len() == 1 && list[0]["pod"] == "unserved", "{status:#}");
    println!("    {}", list[0]["reason"]);
    wait::until("the port of the pod that is gone goes", RECOVERY, || {
        Ok(node.vrouter()?.find_port(&gone.sandbox)?.is_none().then_some(()))
    })?;
    node.vrouter()?.port(&kept.sandbox)?;
    node.delete(&unserved)?;
    let status = std::fs::read_to_string(node.run().path().join("nri-status.json"))?;
    ensure!(!status.contains("\"pod\": \"unserved\""), "{status}");

    // While the pod ends: killed between the stop and the removal.
    let cri = node.containerd()?.cri.clone();
    cri.stop(&kept.container, 10)?;
    node.crash_plugin()?;
    cri.stop_pod(&kept.sandbox)?;
    node.start_plugin()?;
    cri.remove_pod(&kept.sandbox)?;
    wait::until("nothing is left", RECOVERY, || Ok((leftovers(node)? == before).then_some(())))
}

/// With the operator's drop-in a pod can say that it does not start without the plugin, and the runtime keeps to it.
pub fn required_plugin(stage: &mut Stage, version: Version) -> Result<()> {
    let node = stage.node(&Setup::new(version, PluginStart::External))?;
    let before = leftovers(node)?;
    let needs = || pod("needs").annotate("required-plugins.noderesource.dev", "[\"ringway\"]");
    let served = node.start_pod(needs())?;
    node.vrouter()?.port(&served.sandbox)?;
    node.delete(&served)?;
    node.crash_plugin()?;
    let error = match node.start_pod(needs()) {
        Ok(_) => bail!("a pod that needs the plugin was created without it"),
        Err(error) => format!("{error:#}"),
    };
    println!("    {error}");
    ensure!(error.contains("required plugin") && error.contains("ringway"), "{error}");
    let plain = node.start_pod(Pod::idle("plain"))?;
    node.pid(&plain)?;
    node.delete(&plain)?;
    node.start_plugin()?;
    let served = node.start_pod(needs())?;
    node.vrouter()?.port(&served.sandbox)?;
    node.delete(&served)?;
    wait::until("nothing is left", RECOVERY, || Ok((leftovers(node)? == before).then_some(())))
}

pub fn restarted_containerd(stage: &mut Stage) -> Result<()> {
    containerd_comes_again(stage.usual()?)
}

pub fn comes_again(stage: &mut Stage, version: Version) -> Result<()> {
    containerd_comes_again(stage.node(&Setup::new(version, PluginStart::External))?)
}

/// Pods live on; the plugin is there again for new ones, and what old ones had comes back.
fn containerd_comes_again(node: &mut Node) -> Result<()> {
    let before = leftovers(node)?;
    let old = node.start_pod(pod("old"))?;
    let pid = node.pid(&old)?;
    let port = node.vrouter()?.port(&old.sandbox)?;
    node.restart_containerd()?;
    ensure!(node.pid(&old)? == pid, "the pod was restarted");
    ensure!(node.vrouter()?.port(&old.sandbox)?.spec == port.spec, "the port changed");
    let new = node.start_pod(pod("new"))?;
    let (old_spec, new_spec) = (port.spec, node.vrouter()?.port(&new.sandbox)?.spec);
    ensure!(old_spec.map(|spec| spec.ipv4) != new_spec.map(|spec| spec.ipv4), "one address twice");
    node.delete(&new)?;
    // containerd does not announce the end of a sandbox that is older than itself.
    node.delete(&old)?;
    wait::until("nothing is left", RECOVERY, || Ok((leftovers(node)? == before).then_some(())))
}
