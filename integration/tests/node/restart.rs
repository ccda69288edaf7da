//! Daemons that are restarted while pods run.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::{traffic, wait};
use vrouter_api::v1::PortState;

use crate::pods::{addresses, one_way};
use integration::stage::Stage;

/// Time for a restarted daemon to find what it must do.
const RECOVERY: Duration = Duration::from_secs(30);

pub fn plugin(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let mut one = node.start_pod(dpdk_pod("one", "red"))?;
    let mut two = node.start_pod(listening_pod("two", "red"))?;
    let leaves = node.start_pod(dpdk_pod("leaves", "red"))?;
    for pod in [&one, &two, &leaves] {
        node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
    }
    let before = node.vrouter()?.port(&one.sandbox)?;
    node.crash_plugin()?;
    // Nobody tells the plugin of this one.
    node.delete(&leaves)?;
    ensure!(
        node.vrouter()?.port(&one.sandbox)?.peer_pid == before.peer_pid,
        "the pod lost its connection with the plugin"
    );
    node.start_plugin()?;
    wait::until("the port of the removed pod goes", RECOVERY, || {
        Ok(node.vrouter()?.find_port(&leaves.sandbox)?.is_none().then_some(()))
    })?;
    let after = node.vrouter()?.port(&one.sandbox)?;
    ensure!(after.spec == before.spec, "the port changed: {after:?}, before {before:?}");
    ensure!(after.peer_pid == before.peer_pid, "the pod lost its connection by the plugin's start");

    // Its addresses are still taken.
    let new = node.start_pod(dpdk_pod("new", "red"))?;
    node.vrouter()?.wait_up(&new.sandbox, traffic::UP)?;
    let taken = [addresses(node, &one)?, addresses(node, &two)?].concat();
    let given = addresses(node, &new)?;
    ensure!(given.iter().all(|address| !taken.contains(address)), "{taken:?} are in use");

    // And in order as well as by a crash.
    node.stop_plugin()?;
    node.start_plugin()?;
    one_way(node, &mut one, &mut two)?;
    for pod in [&one, &two, &new] {
        node.delete(pod)?;
        ensure!(node.vrouter()?.find_port(&pod.sandbox)?.is_none(), "{} left a port", pod.pod.name);
    }
    Ok(())
}

pub fn vrouter(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let mut connects = node.start_pod(dpdk_pod("connects", "red"))?;
    let mut listens = node.start_pod(listening_pod("listens", "red"))?;
    for pod in [&connects, &listens] {
        node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
    }
    let pid = node.pid(&listens)?;
    let before = [addresses(node, &connects)?, addresses(node, &listens)?];
    node.crash_vrouter()?;
    node.start_vrouter()?;

    // The pod that listens gets its port back and does nothing for it.
    node.vrouter()?.wait_up(&listens.sandbox, RECOVERY)?;
    ensure!(node.pid(&listens)? == pid, "the listening pod was restarted");
    // The other one has its port again, but virtio-user does not connect a second time.
    let port = wait::until("the port of the connecting pod is back", RECOVERY, || {
        node.vrouter()?.find_port(&connects.sandbox)
    })?;
    ensure!(port.state() == PortState::Waiting, "{port:?}");
    let after = [addresses(node, &connects)?, addresses(node, &listens)?];
    ensure!(after == before, "addresses moved: {after:?}, before {before:?}");

    // A new container in the same sandbox is enough.
    one_way(node, &mut connects, &mut listens)?;
    node.delete(&connects)?;
    node.delete(&listens)
}
