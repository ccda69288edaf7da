//! The node's own traffic, through the host interface.

use anyhow::{Context, Result, ensure};

use crate::rig::Rig;
use crate::traffic;

/// Pings and transfers, started from either side; the kernel on both finds nothing wrong with any packet.
pub fn both_ways(rig: &Rig) -> Result<()> {
    let uplink = rig.vrouter.uplink("up0")?;
    ensure!(uplink.link && uplink.reason.is_empty(), "{uplink:?}");
    ensure!(uplink.mac == rig.node.mac("host0")?, "the host interface has another address");
    ensure!(uplink.mac == rig.node.mac("n0")?, "the uplink has not the device's address");
    traffic::ping(&rig.node, "192.0.2.2", 56).context("ping from the host")?;
    traffic::ping(&rig.far, "192.0.2.1", 1500).context("ping to the host")?;
    traffic::tcp(&rig.node, &rig.far, "192.0.2.2:5001").context("from the host")?;
    traffic::tcp(&rig.far, &rig.node, "192.0.2.1:5001").context("to the host")?;
    // In fragments.
    traffic::udp(&rig.far, &rig.node, "192.0.2.1:5002", 4000, 3).context("datagrams")?;

    let stats = rig.uplink_stats("up0")?;
    let punts = |class: &str| {
        stats.punts.iter().find(|count| count.name == class).map_or(0, |count| count.value)
    };
    ensure!(punts("local") > 100 && punts("control") > 0, "{:?}", stats.punts);
    let port = stats.port.context("no counters")?;
    let host = stats.host.context("no counters of the host interface")?;
    ensure!(port.drops.is_empty() && host.drops.is_empty(), "{port:?} {host:?}");
    // What the host sent went out, and what came in for it was delivered.
    ensure!(port.tx_packets == host.rx_packets, "{port:?} {host:?}");
    ensure!(host.tx_packets == punts("local") + punts("control"), "{host:?} {:?}", stats.punts);
    // The kernels count the same.
    ensure!(rig.far.counter("e0", "rx_packets")? >= port.tx_packets, "far: {port:?}");
    ensure!(rig.node.counter("host0", "rx_packets")? >= host.tx_packets, "host: {host:?}");
    ensure!(rig.node.counter("host0", "rx_errors")? == 0, "errors at the host interface");
    let device = |name: &str| {
        stats.device.iter().find(|count| count.name == name).map_or(0, |count| count.value)
    };
    ensure!(device("rx_good_packets") >= port.rx_packets, "{:?}", stats.device);
    Ok(())
}
