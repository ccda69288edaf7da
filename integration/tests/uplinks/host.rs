//! The node's own traffic, through the host interface.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::wait;
use vrouter_api::v1::UplinkStats;

use crate::rig::Rig;
use integration::space::traffic;

const PATIENCE: Duration = Duration::from_secs(30);

/// Pings and transfers, started from either side; the kernel on both finds nothing wrong with any packet.
pub fn both_ways(rig: &Rig) -> Result<()> {
    let uplink = rig.vrouter.uplink("up0")?;
    ensure!(uplink.link && uplink.reason.is_empty(), "{uplink:?}");
    ensure!(uplink.mac == rig.node.mac("host0")?, "the host interface has another address");
    ensure!(uplink.mac == rig.node.mac("n0")?, "the uplink has not the device's address");
    traffic::ping(&rig.node, "192.0.2.2", 56).context("ping from the host")?;
    // 1600 bytes of IP, which is what the wires carry.
    traffic::ping(&rig.far, "192.0.2.1", 1572).context("ping to the host")?;
    traffic::tcp(&rig.node, &rig.far, "192.0.2.2:5001").context("from the host")?;
    traffic::tcp(&rig.far, &rig.node, "192.0.2.1:5001").context("to the host")?;
    // The same over IPv6, whose Neighbor Discovery goes by groups.
    rig.node.ip("addr add 2001:db8:9::1/64 nodad dev host0")?;
    rig.far.ip("addr add 2001:db8:9::2/64 nodad dev e0")?;
    // Until the vRouter knows it as the host's, what comes for it counts as an exception, of which few are let through.
    wait::until("the host's new address is known", PATIENCE, || {
        let routes = rig.vrouter.routes("fabric")?;
        Ok(routes.iter().any(|route| route.prefix == "2001:db8:9::1/128").then_some(()))
    })?;
    traffic::tcp(&rig.node, &rig.far, "[2001:db8:9::2]:5003").context("from the host by IPv6")?;
    traffic::tcp(&rig.far, &rig.node, "[2001:db8:9::1]:5003").context("to the host by IPv6")?;
    // Not in fragments: DPDK's af_packet has the kernel put those together, and then cuts what is longer than its frames.
    traffic::udp(&rig.far, &rig.node, "192.0.2.1:5002", 1572, 3).context("datagrams")?;

    // Once nothing moves, what the host sent has gone out, and what came in for it was delivered.
    let punts = |stats: &UplinkStats, class: &str| {
        stats.punts.iter().find(|count| count.name == class).map_or(0, |count| count.value)
    };
    let (stats, port, host) = wait::until("both ports count the same", PATIENCE, || {
        let stats = rig.uplink_stats("up0")?;
        let port = stats.port.clone().context("no counters")?;
        let host = stats.host.clone().context("no counters of the host interface")?;
        // Reports of groups over IPv6 have an option for routers: they are exceptions.
        let punted: u64 = stats.punts.iter().map(|count| count.value).sum();
        let same = port.tx_packets == host.rx_packets && host.tx_packets == punted;
        Ok(same.then_some((stats, port, host)))
    })?;
    ensure!(punts(&stats, "local") > 100 && punts(&stats, "control") > 0, "{:?}", stats.punts);
    ensure!(port.drops.is_empty() && host.drops.is_empty(), "{port:?} {host:?}");
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
