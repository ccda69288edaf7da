//! What is left when something ends that should not have.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::demo::dpdk_pod;
use integration::traffic::UP;
use integration::wait;
use integration::wrapper::{bundle, expect, held, held_of, wait_nothing_left, wrapper};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bare::{Bare, NOTICED, idle, opted_in};
use crate::ctr;
use integration::stage::Stage;

/// The plugin looks every few seconds, and believes it the second time.
const FOUND: Duration = Duration::from_secs(45);

fn red() -> [(&'static str, String); 1] {
    [("network.ringway.dev", "red".to_owned())]
}

/// A plugin that starts again keeps what runs, of the wrapper and of CRI, and gives up what does not.
pub fn plugin_restart(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    ctr::start_idle(node, "stays", &red())?;
    ctr::start_idle(node, "goes", &red())?;
    let pod = node.start_pod(dpdk_pod("pod", "red"))?;
    node.vrouter()?.wait_up(&pod.sandbox, UP)?;
    let before = held_of(node, "stays")?;
    node.crash_plugin()?;
    // While nobody looks: a deletion whose release reaches nobody.
    ctr::remove_container(node, "goes")?;
    node.start_plugin()?;
    ensure!(held_of(node, "stays")? == before, "{:?}", held_of(node, "stays")?);
    node.vrouter()?.port(&before.sandbox)?;
    node.vrouter()?.port(&pod.sandbox)?;
    wait::until("the deleted container is found gone", FOUND, || {
        Ok((held(node)?.len() == 1).then_some(()))
    })?;
    ensure!(held_of(node, "stays")? == before, "{:?}", held_of(node, "stays")?);
    ctr::remove_container(node, "stays")?;
    node.delete(&pod)?;
    wait_nothing_left(node, NOTICED)
}

/// A vRouter that starts again gets the ports of the wrapper's containers, too.
pub fn vrouter_restart(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    ctr::start_idle(node, "served", &red())?;
    let held = held_of(node, "served")?;
    let before = node.vrouter()?.port(&held.sandbox)?.spec;
    node.crash_vrouter()?;
    node.start_vrouter()?;
    wait::until("the port is there again", NOTICED, || {
        Ok(node.vrouter()?.find_port(&held.sandbox)?.filter(|port| port.spec == before))
    })?;
    ctr::remove_container(node, "served")?;
    wait_nothing_left(node, NOTICED)
}

/// A container in the foreground is deleted by its own runtime: no `delete` is ever seen.
pub fn run_without_delete(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let bare = Bare::new(node, wrapper()?);
    let directory = bundle(node, "front", &idle(), opted_in)?.display().to_string();
    let id = format!("{}-front", node.run().id());
    let mut runtime = bare.line(&["run", "--bundle", &directory, &id])?.spawn()?;
    wait::until("the container runs", NOTICED, || {
        let known = bare.line(&["state", &id])?.status()?.success();
        Ok((known && held_of(node, &id)?.running).then_some(()))
    })?;
    bare.done(&["kill", &id, "TERM"])?;
    runtime.wait()?;
    wait_nothing_left(node, NOTICED)
}

/// SIGKILL for the plugin and every process of a container, its shim included: nobody is left to delete anything.
pub fn everything_killed(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    ctr::start_idle(node, "killed", &red())?;
    let pid = ctr::pid(node, "killed")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let shim: i32 = parent.unwrap_or_default().trim().parse()?;
    let name = fs::read_to_string(format!("/proc/{shim}/comm"))?;
    expect(&name, &["containerd-shim"])?;
    node.crash_plugin()?;
    for pid in [shim, pid] {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    node.start_plugin()?;
    wait_nothing_left(node, FOUND)?;
    ctr::remove_container(node, "killed")
}

/// Without the plugin, and without the vRouter: plain containers start, others say what is missing.
pub fn node_down(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let try_all = |node: &integration::node::Node, words: &[&str]| -> Result<()> {
        let text = ctr::refused(node, "early", &red())?;
        println!("    {text}");
        expect(&text, words)?;
        ctr::start_idle(node, "plain", &[])?;
        ctr::remove_container(node, "plain")
    };
    node.stop_vrouter()?;
    try_all(node, &["ringway: ", "cannot reach the vRouter", "start ringway-vrouter"])?;
    node.start_vrouter()?;
    ctr::start_idle(node, "late", &red())?;
    node.stop_plugin()?;
    try_all(node, &["ringway: ", "cannot reach ringway-nri", "node.sock", "start ringway-nri"])?;
    ctr::remove_container(node, "late")?;
    node.start_plugin()?;
    wait_nothing_left(node, FOUND)
}
