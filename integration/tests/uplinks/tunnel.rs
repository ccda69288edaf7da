//! A pod and a plain Linux router with a VXLAN device.

use anyhow::{Context, Result, ensure};
use vrouter_api::v1::DropCount;

use crate::rig::Rig;
use integration::space::traffic;

/// Small and large packets, both protocols, started from either side.
pub fn both_ways(rig: &Rig) -> Result<()> {
    let before = rig.far.counter("vx0", "rx_packets")?;
    traffic::ping(&rig.pod, "10.99.0.1", 56).context("ping from the pod")?;
    // 1500 bytes of IP: the largest that the tunnel carries.
    traffic::ping(&rig.pod, "10.99.0.1", 1472).context("a large ping from the pod")?;
    traffic::ping(&rig.far, "10.66.0.2", 1472).context("a large ping to the pod")?;
    traffic::tcp(&rig.pod, &rig.far, "10.99.0.1:5001").context("from the pod")?;
    traffic::tcp(&rig.far, &rig.pod, "10.66.0.2:5001").context("to the pod")?;
    traffic::udp(&rig.pod, &rig.far, "10.99.0.1:5002", 1472, 3).context("datagrams")?;
    traffic::udp(&rig.far, &rig.pod, "10.66.0.2:5002", 4000, 3).context("in fragments")?;
    let seen = rig.far.counter("vx0", "rx_packets")? - before;
    ensure!(seen > 100, "the far end's tunnel has seen {seen} packets");
    for counter in ["rx_errors", "rx_dropped", "rx_frame_errors"] {
        let errors = rig.far.counter("vx0", counter)?;
        ensure!(errors == 0, "{counter} of the far end's tunnel: {errors}");
    }
    let stats = rig.uplink_stats("up0")?.port.context("no counters")?;
    // The pod's application may be slower than a burst of TCP, which then sends again; nothing else is lost.
    let full = |drop: &DropCount| drop.reason == "receiver_ring_full";
    ensure!(stats.drops.iter().all(full), "{:?}", stats.drops);
    let pod = rig.vrouter.port_stats("pod/0/net0")?;
    ensure!(pod.drops.iter().all(|drop| drop.reason.starts_with("arp_")), "{:?}", pod.drops);
    Ok(())
}
