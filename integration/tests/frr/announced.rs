//! Kernel routes of pods: as long as the pod has a port, and found again by a vRouter that starts after one was killed.

use anyhow::{Context, Result, ensure};
use integration::wait;

use crate::rig::{Node, PATIENCE, Rig, Which};
use integration::space::traffic;

const MAC: &str = "02:00:00:00:77:09";

/// Addresses that are announced in a node's table.
fn announced(node: &Node) -> Result<Vec<String>> {
    let shown = node.space.ip("route show table 77 proto 83")?;
    let second = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let mut all: Vec<_> = shown.lines().filter_map(second).collect();
    all.sort();
    Ok(all)
}

fn wait_announced(node: &Node, wanted: &[&str]) -> Result<()> {
    let mut seen = Vec::new();
    let waited = wait::until("pods are announced", PATIENCE, || {
        seen = announced(node).unwrap_or_default();
        Ok((seen == wanted).then_some(()))
    });
    waited.with_context(|| format!("{wanted:?} were to be there, {seen:?} are"))
}

/// A pod comes and goes.
pub fn come_and_go(rig: &mut Rig) -> Result<()> {
    let node = &rig.a;
    wait_announced(node, &["10.66.1.2"])?;
    let socket = node.file("other.sock").display().to_string();
    node.create_pod_port("other/0/net0", "10.66.1.9", MAC, &socket, &rig.cgroups)?;
    wait_announced(node, &["10.66.1.2", "10.66.1.9"])?;
    let shown = node.space.ip("route show table 77 10.66.1.9")?;
    let words: Vec<_> = shown.split_whitespace().collect();
    ensure!(words == ["unreachable", "10.66.1.9", "proto", "83", "metric", "9999"], "{shown}");
    // They are no routes of the network's: a pod is reached by its port.
    let routes = node.vrouter()?.routes("red")?;
    ensure!(routes.iter().all(|route| !route.prefix.starts_with("10.66.1.")), "{routes:?}");
    // Taken away by hand, it comes again.
    node.space.ip("route del 10.66.1.9 proto 83 table 77")?;
    wait_announced(node, &["10.66.1.2", "10.66.1.9"])?;
    node.vrouter()?.delete_port("other/0/net0")?;
    wait_announced(node, &["10.66.1.2"])
}

/// The vRouter is killed with a pod that does not come back.
pub fn killed(rig: &mut Rig) -> Result<()> {
    let node = &mut rig.b;
    let socket = node.file("other.sock").display().to_string();
    node.create_pod_port("other/0/net0", "10.66.2.9", MAC, &socket, &rig.cgroups)?;
    wait_announced(node, &["10.66.2.2", "10.66.2.9"])?;
    node.vrouter.as_mut().context("no vRouter")?.process().crash()?;
    ensure!(announced(node)? == ["10.66.2.2", "10.66.2.9"], "somebody has taken them away");
    rig.restart(Which::B)?;
    let node = &rig.b;
    wait_announced(node, &["10.66.2.2"])?;
    if node.frr.is_some() {
        // The routers find each other again over the new host interface, and the pods, too.
        let there = |route: Option<&vrouter_api::v1::Route>| route.is_some_and(|it| it.mirrored);
        rig.a.wait_route("10.66.2.2/32", there)?;
        node.wait_route("10.66.1.2/32", there)?;
        traffic::ping(&rig.a.pod, "10.66.2.2", 56).context("after the vRouter's restart")?;
    }
    // One that ends in order leaves nothing.
    let node = &mut rig.b;
    let ended = node.vrouter.as_mut().context("no vRouter")?.process().stop(PATIENCE)?;
    ensure!(ended.success(), "the vRouter ended with {ended}");
    let left = announced(node)?;
    ensure!(left.is_empty(), "{left:?} are left");
    rig.restart(Which::B)
}
