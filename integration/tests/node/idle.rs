//! What the vRouter costs when nothing happens, and what happens then.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::demo::{dpdk_pod, listening_pod};
use integration::testpmd::SEND_ONE;
use integration::{readback, traffic, wait};

use crate::pods::address;
use integration::stage::Stage;

const WATCHED: Duration = Duration::from_secs(5);
/// 5 % of one CPU.
const ALLOWED: Duration = Duration::from_millis(250);
/// Far longer than a worker polls before it sleeps (50 us by default).
const ASLEEP: Duration = Duration::from_secs(2);

pub fn vrouter_sleeps(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let pods = [
        node.start_pod(dpdk_pod("idle-1", "red"))?,
        node.start_pod(listening_pod("idle-2", "red"))?,
        node.start_pod(dpdk_pod("idle-3", "blue"))?,
        node.start_pod(listening_pod("idle-4", "blue"))?,
    ];
    for pod in &pods {
        node.vrouter()?.wait_up(&pod.sandbox, traffic::UP)?;
    }
    wait::pause(ASLEEP)?;
    let pid = node.vrouter()?.pid();
    let before = readback::cpu_time(pid)?;
    // Four handshakes and EAL's start: a reading of nothing would be a reading of the wrong thing.
    ensure!(before > Duration::from_millis(10), "only {before:?} of CPU time since the start");
    wait::pause(WATCHED)?;
    let used = readback::cpu_time(pid)?.saturating_sub(before);
    println!("    {used:?} of CPU time in {WATCHED:?} with four ports");
    ensure!(used < ALLOWED, "the idle vRouter used {used:?} in {WATCHED:?}");
    for pod in &pods {
        node.delete(pod)?;
    }
    Ok(())
}

pub fn first_packet_arrives(stage: &mut Stage) -> Result<()> {
    let node = stage.usual()?;
    let mut receiver = node.start_pod(dpdk_pod("waits", "red"))?;
    let mut sender = node.start_pod(listening_pod("speaks", "red"))?;
    traffic::become_receiver(node, &mut receiver)?;
    let to = address(node, &receiver)?;
    traffic::become_single_sender(node, &mut sender, &to)?;
    let vrouter = node.vrouter()?;
    let from_port = vrouter.port(&sender.sandbox)?.spec.unwrap_or_default().id;
    let to_port = vrouter.port(&receiver.sandbox)?.spec.unwrap_or_default().id;
    let before =
        (vrouter.port_stats(&from_port)?.rx_packets, vrouter.port_stats(&to_port)?.tx_packets);
    node.tell(&receiver, "start")?;
    wait::pause(ASLEEP)?;
    node.tell(&sender, SEND_ONE)?;
    // Nothing else will wake the worker: it arrives now or never.
    wait::until("the packet is delivered", Duration::from_secs(2), || {
        Ok((vrouter.port_stats(&to_port)?.tx_packets == before.1 + 1).then_some(()))
    })?;
    vrouter.settled_stats(Duration::from_secs(10))?;
    let sent = vrouter.port_stats(&from_port)?.rx_packets - before.0;
    ensure!(sent == 1, "{sent} packets were sent");
    node.tell(&receiver, "stop")?;
    let counters = node.quit(&receiver)?;
    ensure!(counters.rx_packets == 1, "{counters:?}");
    node.delete(&sender)?;
    node.delete(&receiver)
}
